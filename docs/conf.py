"""Sphinx builds the manual and the developers' pages as one site: `make docs`. The source folder is the root."""

project = "Winnow"
author = "The Winnow developers"
extensions = ["myst_parser"]
root_doc = "docs/index"
include_patterns = [
    "docs/*.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "CHANGELOG.md",
    "kernels/README.md",
    "pruner/README.md",
    "scorer/README.md",
    "service/README.md",
    "tests/*/RESULTS.md",
]
html_theme = "furo"
html_title = "Winnow"
myst_heading_anchors = 3
