"""Start-up check: Winnow's package `kernels` is not mixed up with Hugging Face's distribution of the same name."""

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from scorer.errors import BadInstallation


def check_kernels() -> None:
    """Raises BadInstallation if a distribution `kernels` is installed, or `import kernels` finds a package of others.

    The distribution does harm even if Winnow's package is found first: transformers imports names of the distribution
    from Winnow's package, and pip overwrites or removes the files of one with those of the other. Imports neither.
    """
    try:
        problem = f"the distribution kernels {version('kernels')} is installed"
    except PackageNotFoundError:
        own = Path(__file__).parent.parent / "kernels"
        spec = find_spec("kernels")
        folders = list(spec.submodule_search_locations or ()) if spec is not None else []
        if folders and Path(folders[0]).resolve() == own.resolve():
            return
        problem = f"`import kernels` does not find {own}" + (f", but {folders[0]}" if folders else "")
    raise BadInstallation(
        f"{problem}; Winnow has a package of the same name: install Winnow in an environment of its own (a new venv, "
        "pipx, uv tool or a container), or remove the other one: pip uninstall kernels, then install Winnow again"
    )
