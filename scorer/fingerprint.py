"""What a reference's files hold, as SHA-256: the identity of a model and of its tokenizer. Imports no torch."""

import hashlib
from collections.abc import Iterable
from pathlib import Path

# Files that make a vocabulary, and files that say more of it.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    ("tokenizer.model",),
    ("spiece.model",),
    ("sentencepiece.bpe.model",),
    ("vocab.txt",),
    ("tekken.json",),
)
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def reference_sha256(folder: Path) -> str:
    """Of config.json and every safetensors file (and index) in the folder: hex, the same wherever the folder lies."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    return _digest([folder / "config.json", *sorted(weights)])


def tokenizer_sha256(folder: Path) -> str:
    """Of the folder's tokenizer files: hex."""
    names = [name for names in VOCABULARIES for name in names]
    return _digest(path for name in (*names, *_TOKENIZER_SETTINGS) if (path := folder / name).is_file())


def _digest(paths: Iterable[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        digest.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()
