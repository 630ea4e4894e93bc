"""The documents cannot drift: what users and developers rely on is in them, and what they name is there."""

import importlib
import re
from pathlib import Path

import pytest

import service
from pruner.select.manifest import MANIFEST
from service.commands.cli import COMMANDS
from service.commands.options import Parser
from service.http.routes import ablations, corpora, events, explore, exports, files, health, jobs, score, selections
from service.kinds import KINDS
from service.run.settings import Settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
PAGES = sorted((ROOT / "docs").glob("*.md"))
MANUAL = "".join(path.read_text() for path in PAGES)
ARCHITECTURE = (ROOT / "ARCHITECTURE.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
FOLDERS = ("kernels", "scorer", "pruner", "service", "tests", "deploy", "docs", ".ci")
DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")),
    *PAGES,
    *(ROOT / "tests").rglob("*.md"),
    *(path for room in FOLDERS[:4] for path in (ROOT / room).rglob("*.md")),
]
PARTS = (jobs, selections, files, exports, ablations, events, explore, score, corpora, health)
ROUTES = sorted({route.path for part in PARTS for route in part.router.routes})
# Files that only the guide's example and a user's own settings would make.
NOT_THERE = {"service/kinds/sizes.py", "service/kinds/<kind>.py", "deploy/winnow.env"}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


# -- the manual
def test_the_readme_is_short_and_leads_to_each_page() -> None:
    assert len(README.splitlines()) <= 150
    assert {f"docs/{path.name}" for path in PAGES} - {"docs/index.md"} <= set(re.findall(r"\]\(([^)#]+)", README))


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_explained(command: str) -> None:
    assert f"`winnow {command}" in MANUAL or f"`{command}`" in MANUAL


@pytest.mark.parametrize("command", COMMANDS)
def test_each_option_is_explained(command: str) -> None:
    parser = Parser()
    getattr(importlib.import_module(f"service.commands.{COMMANDS[command].module}"), f"add_{command}")(parser)
    options = {option for action in parser._actions for option in action.option_strings if option.startswith("--")}
    assert {option for option in options - {"--help"} if not re.search(rf"{option}\b", MANUAL)} == set()


@pytest.mark.parametrize("path", ROUTES)
def test_each_endpoint_is_explained(path: str) -> None:
    assert path.replace("job_id", "id").replace(":path}", "}") in MANUAL


@pytest.mark.parametrize("setting", Settings.model_fields)
def test_each_setting_is_explained(setting: str) -> None:
    assert f"`WINNOW_{setting.upper()}`" in MANUAL
    assert f"`--{setting.replace('_', '-')}`" in MANUAL


@pytest.mark.parametrize("column", MANIFEST.names)
def test_each_column_is_explained(column: str) -> None:
    assert f"`{column}`" in MANUAL


def test_every_metric_is_explained() -> None:
    board = (ROOT / "deploy" / "monitoring" / "grafana.json").read_text()
    assert all(f"`{found}`" in MANUAL for found in re.findall(r"winnow_[a-z_]+(?=_bucket)|winnow_[a-z_]+(?={)", board))


def test_the_version_is_the_same_everywhere() -> None:
    chart = (ROOT / "deploy" / "helm" / "winnow" / "Chart.yaml").read_text()
    values = (ROOT / "deploy" / "helm" / "winnow" / "values.yaml").read_text()
    found = [
        *re.findall(r"^(?:version|appVersion): (\S+)", chart, re.MULTILINE),
        *re.findall(r"image: winnow-\w+:(\S+)", values),
        *re.findall(r"registry/winnow-\w+:([\w.]+)", MANUAL),
    ]
    assert found == [service.__version__] * 7
    assert 'version = {attr = "service.__version__"}' in (ROOT / "pyproject.toml").read_text()
    compose = "".join(path.read_text() for path in (ROOT / "deploy").glob("compose*.yaml"))
    assert set(re.findall(r"image: (winnow-\S+)", compose)) == {"winnow-api", "winnow-worker"}  # built here, no version


def test_the_changelog_has_the_version_with_its_date_after_what_is_not_released() -> None:
    first, *released = re.findall(r"^## (.+)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert first == "Unreleased"
    assert all(re.fullmatch(r"\d+\.\d+\.\d+ - 20\d\d-\d\d-\d\d", title) for title in released)
    versions = [tuple(map(int, title.partition(" ")[0].split("."))) for title in released]
    assert versions == sorted(versions, reverse=True)
    assert released[0].partition(" ")[0] == service.__version__


# -- ARCHITECTURE, CONTRIBUTING and the rooms' own pages
def test_the_table_of_kinds_is_the_registry() -> None:
    assert re.findall(r"^\| `(\w+)` \|", ARCHITECTURE, re.MULTILINE) == list(KINDS)


def test_each_part_of_the_service_is_explained() -> None:
    table = re.findall(r"^\| `(\w+)/` \|", (ROOT / "service" / "README.md").read_text(), re.MULTILINE)
    folders = {path.parent.name for path in (ROOT / "service").glob("*/__init__.py")}
    assert (len(table), set(table)) == (len(folders), folders)


def test_each_make_target_is_explained() -> None:
    targets = set(re.findall(r"^([a-z][\w-]*):", MAKEFILE, re.MULTILINE))
    assert targets >= {"demo", "test", "gpu"}
    assert {target for target in targets if f"`make {target}`" not in CONTRIBUTING} == set()
    named = {
        target for path in DOCUMENTS for target in re.findall(r"(?:`|^)make ([a-z][\w-]*)", path.read_text(), re.M)
    }
    assert named - targets == set()


# -- what they name
@pytest.mark.parametrize("document", [*DOCUMENTS, ROOT / "Makefile"], ids=name)
def test_every_path_that_is_named_is_there(document: Path) -> None:
    """Paths from the root, and in a room's page files of the room. `*` and `<…>` stand for any part of a name."""
    text, room = document.read_text(), document.parent
    named = set(re.findall(rf"(?<![\w/.:-])(?:{'|'.join(FOLDERS)})/[\w/.*<>-]*[\w>*]", text))
    named |= set(re.findall(r"\]\((?!\w+:|#)([^)#]+)", text))
    if room not in (ROOT, ROOT / "docs"):  # the manual names files of other projects
        named |= set(re.findall(r"`([\w/.*<>-]+(?:\.(?:py|lua|sh|md)|/))`", text))
    patterns = {path: re.sub("<[^>]*>", "*", path).rstrip("/") for path in named - NOT_THERE}
    missing = {path for path, pattern in patterns.items() if not any(ROOT.glob(pattern))}
    assert {path for path in missing if room == ROOT or not any(room.rglob(patterns[path]))} == set()
