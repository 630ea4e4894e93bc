"""The identity of a model folder: SHA-256 of its weights and config, and of its tokenizer. Imports no torch."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")  # SentencePiece models
# Files that hold a vocabulary: one of these groups is enough.
VOCABULARIES = (
    ("tokenizer.json",),
    ("vocab.json", "merges.txt"),
    *((name,) for name in SENTENCEPIECE),
    ("vocab.txt",),
    ("tekken.json",),
)
_UNUSED = ("truncation", "padding", "post_processor", "decoder")  # parts of a tokenizer.json
_TOKENIZER_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


@dataclass(frozen=True)
class ModelFingerprint:
    """Two SHA-256 digests, in hex, that do not depend on where the folder is."""

    sha256: str  # of config.json and the weights
    tokenizer_sha256: str


def fingerprint(folder: Path) -> ModelFingerprint:
    """Reads config.json, every safetensors file and index, and the tokenizer's files once. Raises OSError."""
    weights = [*folder.glob("*.safetensors"), *folder.glob("*.safetensors.index.json")]
    return ModelFingerprint(_digest([folder / "config.json", *sorted(weights)]), tokenizer_sha256(folder))


def tokenizer_sha256(folder: Path) -> str:
    """The digest of the tokenizer's files alone. Raises OSError."""
    names = [*(name for group in VOCABULARIES for name in group), *_TOKENIZER_SETTINGS]
    return _digest([path for name in names if (path := folder / name).is_file()])


def tokens_sha256(folder: Path) -> str:
    """The digest of what decides into which tokens a text is cut: settings such as `model_max_length` have no say.

    Without a tokenizer.json it is `tokenizer_sha256`. Raises OSError, and ValueError for one that is no JSON object.
    """
    file = folder / "tokenizer.json"
    if not file.is_file():
        return tokenizer_sha256(folder)
    parts = json.loads(file.read_bytes())
    parts = {name: part for name, part in parts.items() if name not in _UNUSED and part is not None}
    # Special tokens are not recognized in texts.
    parts["added_tokens"] = [token for token in parts.get("added_tokens") or [] if not token.get("special")]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _digest(paths: Iterable[Path]) -> str:
    """Of the files' names and contents, in this order."""
    digest = hashlib.sha256()
    for path in paths:
        content = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                content.update(chunk)
        digest.update(f"{path.name}\0{content.hexdigest()}\n".encode())
    return digest.hexdigest()
