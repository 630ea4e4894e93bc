"""The shape of the house: which room, part and module may import which, and what a process may load."""

import ast
import re
import subprocess
import sys
from functools import cache
from graphlib import CycleError, TopologicalSorter
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
# The parts of a room, folders and single modules: a part may import itself and the parts before it.
PARTS = {
    "scorer": (
        "errors",
        "kernels_check",
        "fingerprint",
        "hf_logging",
        "process",
        "tokenizer",
        "causal_lm",
        "engine",
        "classifier",
        "prior",
        "training",
        "spec",
    ),
    "pruner": (
        "errors",
        "validation",
        "spec",
        "tables",
        "corpus",
        "ranks",
        "select",
        "score_tables",
        "report",
        "export",
        "ablation",
    ),
    "service": ("contract", "client", "queue", "store", "kinds", "jobs", "work", "http", "page", "run", "commands"),
}
# Packages of others, and the parts of `service` that may import them; no other part does, not even in a function.
OUTSIDE = {
    "fastapi": {"http", "page", "run"},
    "starlette": {"http", "page"},
    "uvicorn": {"run"},
    "redis": {"queue", "jobs", "http", "work", "run", "commands"},
    "ray": {"run"},
    "torch": set[str](),
    "transformers": set[str](),
}
LONGEST_FILE = 500


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_of(path): path for room in ROOMS for path in sources(room)}


@cache
def imported(module: str) -> frozenset[str]:
    """What a module of ours imports, at its top, in functions and for types alone: modules of ours, names of others."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{MODULES[module]}: relative import; name the room"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            found.update(name if name in MODULES else str(node.module) for name in names)
    return frozenset(found)


def of_room(room: str) -> list[str]:
    return [module for module in MODULES if module.partition(".")[0] == room]


def part(module: str) -> str:
    """The part of its room that a module lies in; "" for the room itself."""
    return f"{module}.".split(".")[1]


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_import_only_the_rooms_below(room: str) -> None:
    assert of_room(room)
    rooms = {module: {name.partition(".")[0] for name in imported(module)} & set(ROOMS) for module in of_room(room)}
    assert {module: bad for module, names in rooms.items() if (bad := names - ALLOWED[room])} == {}


@pytest.mark.parametrize("room", PARTS)
def test_parts_of_a_room_import_only_the_parts_before_them(room: str) -> None:
    order = ["", *PARTS[room]]
    assert {part(module) for module in of_room(room)} == set(order)
    wrong = {
        (module, name)
        for module in of_room(room)
        for name in imported(module) & set(of_room(room))
        if order.index(part(name)) > order.index(part(module))
    }
    assert wrong == set()


@pytest.mark.parametrize("room", ROOMS)
def test_modules_have_no_import_cycle(room: str) -> None:
    graph = {module: imported(module) & set(MODULES) for module in of_room(room)}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


@pytest.mark.parametrize("package", OUTSIDE)
def test_only_some_parts_of_the_service_import_a_package(package: str) -> None:
    users = {m for m in of_room("service") if package in {name.partition(".")[0] for name in imported(m)}}
    assert {module for module in users if part(module) not in OUTSIDE[package]} == set()


def loaded_by(*modules: str) -> set[str]:
    """The modules in a fresh interpreter that has imported these. Fails if that changes the environment variables."""
    code = f"""
import importlib, os, sys
before = dict(os.environ)
for name in {modules}:
    importlib.import_module(name)
assert dict(os.environ) == before, "importing changes os.environ"
print(*sys.modules)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_pruner_loads_no_torch() -> None:
    assert not {"torch", "transformers"} & loaded_by(*of_room("pruner"))


def test_service_loads_no_torch_until_a_model_is_needed() -> None:
    assert not {"torch", "transformers", "ray"} & loaded_by(*of_room("service"))


def test_scorer_itself_loads_nothing_else_of_scorer() -> None:
    assert not [name for name in loaded_by("scorer") if name.startswith(("scorer.", "kernels"))]


def test_contract_store_and_kinds_load_neither_fastapi_nor_the_redis_client() -> None:
    parts = ("contract", "store", "kinds")
    assert not {"fastapi", "redis"} & loaded_by(*(name for name in of_room("service") if part(name) in parts))


def test_the_client_loads_neither_torch_nor_fastapi_nor_the_redis_client() -> None:
    assert not {"torch", "transformers", "fastapi", "redis"} & loaded_by("service.client")


def test_workers_and_commands_without_a_server_load_no_fastapi() -> None:
    assert "fastapi" not in loaded_by("service.work.local", "service.run.worker_process", "service.commands.cli")


def test_transformers_works_with_our_kernels_on_the_path() -> None:
    # transformers looks for a distribution called `kernels`; the room of that name must not be taken for it.
    code = "import kernels, transformers; transformers.GPT2Config(); transformers.Mamba2Config()"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 0, ran.stderr


def test_nothing_needs_pandas() -> None:
    # The wheel asks for none, and PyArrow imports it in calls with this name, in some versions only.
    assert [name for name, path in MODULES.items() if re.search(r"\.to_pandas|import pandas", path.read_text())] == []


def test_times_with_z_are_read_on_every_python() -> None:
    # Python 3.10 reads no `Z`, with which the API writes times.
    calls = (line for path in MODULES.values() for line in path.read_text().splitlines() if "fromisoformat(" in line)
    assert [line for line in calls if '.replace("Z", "+00:00")' not in line] == []


def test_every_kind_is_registered() -> None:
    from service.kinds import KINDS

    defining = {
        module
        for module in of_room("service")
        if part(module) == "kinds"
        for node in ast.parse(MODULES[module].read_text()).body
        if isinstance(node, ast.FunctionDef) and node.name == "nodes"
    }
    assert {f"service.kinds.{name}" for name in KINDS} == defining


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python reads no TOML")
def test_the_wheel_has_every_file_of_a_room() -> None:
    import tomllib

    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    missing = [
        path
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and path.suffix not in (".py", ".pyc", ".md")
        if not any(path in (ROOT / room).glob(pattern) for pattern in (*patterns["*"], *patterns.get(room, ())))
    ]
    assert missing == []


def test_files_stay_small() -> None:
    lengths = {name: len(path.read_text().splitlines()) for name, path in MODULES.items()}
    assert {name: n for name, n in lengths.items() if n > LONGEST_FILE} == {}


def test_each_file_says_what_it_is_for() -> None:
    assert [name for name, path in MODULES.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []
