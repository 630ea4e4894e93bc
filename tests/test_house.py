"""The shape of the house: which room may import which, and what stays out of a process that needs no torch."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOMS = ("kernels", "scorer", "pruner", "service")
ALLOWED = {
    "kernels": {"kernels"},
    "scorer": {"scorer", "kernels"},
    "pruner": {"pruner"},
    "service": {"service", "scorer", "pruner"},
}
LONGEST_FILE = 500


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; name the room"
            names.add((node.module or "").split(".")[0])
    return names & set(ROOMS)


@pytest.mark.parametrize("room", ROOMS)
def test_imports_follow_the_arrows(room: str) -> None:
    assert sources(room)
    wrong = {str(p.relative_to(ROOT)): bad for p in sources(room) if (bad := imported_rooms(p) - ALLOWED[room])}
    assert wrong == {}


def modules_after(statement: str) -> set[str]:
    """The modules that a fresh interpreter holds after `statement`."""
    code = f"{statement}\nimport sys; print(*sys.modules)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(ran.stdout.split())


def test_pruner_needs_no_torch() -> None:
    names = [".".join(p.relative_to(ROOT).with_suffix("").parts) for p in sources("pruner")]
    assert not {"torch", "transformers"} & modules_after("import " + ", ".join(names))


def test_the_api_process_needs_no_torch() -> None:
    assert not {"torch", "transformers"} & modules_after(
        "import service.run.app, service.run.supervisor, service.commands.cli"
    )


def test_transformers_works_with_our_kernels_on_the_path() -> None:
    # transformers looks for a distribution called `kernels`; the room of that name must not be taken for it.
    found = modules_after("import kernels, transformers; transformers.GPT2Config(); transformers.Mamba2Config()")
    assert "transformers" in found


def test_files_stay_small() -> None:
    lengths = {str(p.relative_to(ROOT)): len(p.read_text().splitlines()) for r in ROOMS for p in sources(r)}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_each_file_says_what_it_is_for() -> None:
    silent = [p for r in ROOMS for p in sources(r) if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []
