"""Imports inside scorer and kernels go one way: no cycle between modules, and an order of scorer's rooms."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
# A room may import itself and those before it. Modules directly in scorer/ are a room of their own, the lowest.
ORDER = ["scorer", "scorer.tokenizer", "scorer.causal_lm", "scorer.engine", "scorer.training"]


def module_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(folder: str) -> dict[str, set[str]]:
    """For each module of a folder the modules there that it imports, at the top, in a function or for types only."""
    paths = {module_of(path): path for path in (ROOT / folder).rglob("*.py")}
    assert paths
    found: dict[str, set[str]] = {}
    for module, path in paths.items():
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names.update(alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.update({node.module} | {f"{node.module}.{alias.name}" for alias in node.names})
        found[module] = names & set(paths)
    return found


@pytest.mark.parametrize("folder", ["kernels", "scorer"])
def test_modules_have_no_import_cycle(folder: str) -> None:
    graph = {module: names - {folder} for module, names in imports(folder).items()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(f"import cycle: {' -> '.join(error.args[1])}")


def test_rooms_of_scorer_import_only_lower_rooms() -> None:
    def room(module: str) -> int:
        parent = module if module in ORDER else module.rpartition(".")[0]
        return ORDER.index(parent)

    upward = {
        (module, name) for module, names in imports("scorer").items() for name in names if room(name) > room(module)
    }
    assert upward == set()
