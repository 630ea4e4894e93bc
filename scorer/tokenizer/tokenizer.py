"""Documents to token ids: the tokenizer of a model folder, as data and nothing else.

No special token is added, none is read out of a document's text, nothing is cut or padded. Knows no model.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers

from scorer.errors import BadReference, one_line
from scorer.fingerprint import VOCABULARIES
from scorer.tokenizer.backends import Encoded, Encoder

END_OF_TEXT = "<|endoftext|>"  # of GPT-NeoX's tokenizer, with which state-spaces trained, and of those trained here
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


class Tokenizer:
    """`bos` is the id a document starts after: BOS, else EOS, else None. `largest` is the largest id of any text."""

    bos: int | None
    largest: int

    def __init__(self, folder: Path) -> None:
        """Reads tokenizer.json, else what AutoTokenizer can make of the folder. Raises BadReference."""
        check_vocabulary(folder)
        bare = folder / "tokenizer.json"
        auto, error = _load_auto(folder)
        if auto is None and not bare.is_file():
            raise BadReference(f"{folder}: the tokenizer cannot be loaded ({error})")
        self._encoder: Encoder | _InPython
        if bare.is_file() or getattr(auto, "is_fast", False):
            fast = read_fast(bare) if bare.is_file() else auto.backend_tokenizer
            self.largest = _prepare(fast)
            self._encoder = Encoder(fast)
            id_of = fast.token_to_id
        else:
            self.largest = max(auto.get_vocab().values(), default=-1)
            self._encoder = _InPython(auto)
            id_of = auto.get_vocab().get
        if self.largest < 0:
            raise BadReference(f"{folder}: the tokenizer has no tokens")
        self.bos = _bos(folder, auto, id_of)

    @property
    def engine(self) -> str:
        """The library that tokenizes, and its version."""
        return self._encoder.engine

    def check(self, texts: list[str]) -> None:
        """Has a fast library prove itself on a sample of what it is going to read; one that fails is left for good."""
        self._encoder.check(texts)

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of each text. A lone surrogate, which is no character of any text, is read as `?`."""
        try:
            return self._encoder.encode(texts)
        except (UnicodeEncodeError, TypeError):
            return self._encoder.encode([text.encode("utf-8", "replace").decode() for text in texts])

    def decode(self, index: int) -> str:
        """The text of one id; what is no whole character by itself is shown as the replacement character."""
        return self._encoder.decode(index)


class _InPython:
    """A tokenizer that transformers has in Python only."""

    def __init__(self, auto: Any) -> None:
        self._auto = auto
        self.engine = f"transformers {version('transformers')}"

    def check(self, texts: list[str]) -> None:
        """There is nothing faster to check."""

    def encode(self, texts: list[str]) -> Encoded:
        settings = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return Encoded.of([self._auto.encode(text, **settings) for text in texts])

    def decode(self, index: int) -> str:
        text: str = self._auto.decode([index])
        return text


def check_vocabulary(folder: Path) -> None:
    """Raises BadReference where the folder has no vocabulary: AutoTokenizer may then invent an empty one."""
    if not any(all((folder / name).is_file() for name in names) for names in VOCABULARIES):
        raise BadReference(
            f"{folder}: no tokenizer (tokenizer.json, say); put the one the model was trained with there"
        )


def read_fast(path: Path) -> tokenizers.Tokenizer:
    """A tokenizer.json. Raises BadReference."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises nothing narrower
        raise BadReference(f"{path}: cannot be read as a tokenizer ({one_line(error)})") from None


def _prepare(fast: tokenizers.Tokenizer) -> int:
    """Makes text plain data to the tokenizer. Returns the largest id that text can become."""
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    if getattr(fast.model, "dropout", None):
        fast.model.dropout = None  # else every reading of a text would differ
    added = fast.get_added_tokens_decoder()
    plain = [index for index, token in added.items() if not token.special]
    return int(max([*fast.get_vocab(with_added_tokens=False).values(), *plain], default=-1))


def _load_auto(folder: Path) -> tuple[Any, str]:
    """What AutoTokenizer makes of the folder, or None and what it says against it."""
    from transformers import AutoTokenizer

    from scorer.hf_logging import silent

    try:
        with silent():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False), ""
    except Exception as error:  # whatever a foreign folder makes it stumble over
        return None, one_line(error)


def _bos(folder: Path, auto: Any, id_of: Callable[[str], int | None]) -> int | None:
    """BOS, else EOS, else None: AutoTokenizer's, where the vocabulary has them.

    AutoTokenizer fills what a folder leaves open with its class' defaults, and adds those that the vocabulary lacks.
    """
    told = any((folder / name).is_file() for name in _SETTINGS)
    if "model_type" not in _read_json(folder / "config.json") and not told:
        return id_of(END_OF_TEXT)  # a native state-spaces folder says nothing of tokens; `convert` takes the same
    names = [auto.bos_token, auto.eos_token] if auto is not None else _named(folder)
    found = (id_of(name) for name in names if name is not None)
    return next((index for index in found if index is not None), None)


def _named(folder: Path) -> list[str | None]:
    """BOS and EOS as the folder's files name them, each as text or as {"content": text}."""
    files = [_read_json(folder / name) for name in _SETTINGS]
    named: list[str | None] = []
    for key in ("bos_token", "eos_token"):
        tokens = [token["content"] if isinstance(token, dict) else token for file in files if (token := file.get(key))]
        named.append(next((token for token in tokens if isinstance(token, str)), None))
    return named


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
