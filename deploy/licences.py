"""Prints the licence notices of an environment: each distribution, its licence, and the licence texts in its wheel."""

from importlib.metadata import Distribution, PackageMetadata, distributions

_HEAD = """\
Software in this image and its licences. The texts are at the paths below the name of a package, which count from
site-packages of /opt/winnow. Debian's packages have theirs in /usr/share/doc/*/copyright.
"""
_TEXTS = ("licen", "copying", "notice", "author")  # parts of the names of such files


def licence(about: PackageMetadata) -> str:
    """The licence that a distribution's metadata state: an SPDX expression, a line of text or classifiers."""
    lines = (about.get("License-Expression") or about.get("License") or "").strip().splitlines()
    if lines and not lines[0].startswith("Copyright"):
        return lines[0]
    classifiers = about.get_all("Classifier") or []
    named = [text.rpartition(" :: ")[2] for text in classifiers if text.startswith("License :: ")]
    return ", ".join(named) or "not in the metadata; see the texts"


def notice(distribution: Distribution) -> str:
    """The lines about a distribution."""
    about = distribution.metadata
    paths = [str(path) for path in distribution.files or [] if any(word in path.name.lower() for word in _TEXTS)]
    texts = sorted(path for path in paths if ".dist-info/" in path) or ["(no text in its wheel)"]
    return "\n    ".join([f"{about['Name']} {distribution.version}: {licence(about)}", *texts])


if __name__ == "__main__":
    found = {distribution.metadata["Name"].lower(): distribution for distribution in distributions()}
    print("\n".join([_HEAD, *(notice(found[name]) for name in sorted(found))]))
