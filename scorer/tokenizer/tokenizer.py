"""The tokenizer of a model folder: documents to token ids.

No special token is added, none is recognized in a document's text, nothing is truncated or padded. Knows no model.
"""

import json
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import tokenizers

from scorer.errors import BadReference, one_line
from scorer.fingerprint import SENTENCEPIECE, VOCABULARIES
from scorer.tokenizer.backends import Encoded, Encoder
from scorer.tokenizer.sentencepiece_model import SentencePieceEncoder, check_model, unread

END_OF_TEXT = "<|endoftext|>"  # BOS and EOS of state-spaces' models (GPT-NeoX's tokenizer) and of those trained here
_GENERAL = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes of transformers
_SETTINGS = ("tokenizer_config.json", "special_tokens_map.json")


class Tokenizer:
    """`bos` is the id before a document: BOS, else EOS, else None. `largest` is the largest id that a text can have."""

    bos: int | None
    largest: int

    def __init__(self, folder: Path) -> None:
        """Reads tokenizer.json, or else what AutoTokenizer reads. Raises BadReference."""
        check_vocabulary(folder)
        file = folder / "tokenizer.json"
        pieces = _sentencepiece_model(folder)
        auto: Any = None
        error = ""
        if not file.is_file() or not _is_plain(folder):  # transformers takes seconds to import
            auto, error = _load_auto(folder)
        if auto is None and pieces is not None:
            raise unread(pieces, error)
        if auto is None and not file.is_file():
            raise BadReference(f"{folder}: the tokenizer cannot be loaded ({error})")
        self._encoder: Encoder | SentencePieceEncoder | _PythonEncoder
        own_bos = None
        if file.is_file() or (auto.is_fast and pieces is None):
            fast = read_fast(file) if file.is_file() else auto.backend_tokenizer
            self.largest = _prepare(fast)
            self._encoder = Encoder(fast)
            id_of = fast.token_to_id
        elif auto.is_fast and pieces is not None:
            numbers = auto.get_vocab()
            self._encoder = encoder = SentencePieceEncoder(pieces, numbers)
            self.largest, own_bos = encoder.largest, encoder.bos
            named = {*encoder.pieces, *_special_tokens(folder)}
            id_of = {token: number for token, number in numbers.items() if token in named}.get
        else:
            self.largest = max(auto.get_vocab().values(), default=-1)
            self._encoder = _PythonEncoder(auto)
            id_of = auto.get_vocab().get
        if self.largest < 0:
            raise BadReference(f"{folder}: the tokenizer has no tokens")
        self.bos = own_bos if (bos := _bos(folder, auto, id_of)) is None else bos

    @property
    def library(self) -> str:
        """The library in use and its version, such as "tokenizers 0.22.0"."""
        return self._encoder.library

    def check(self, texts: list[str]) -> None:
        """Compares a fast library with the exact one on a sample of the texts; if they differ, it is not used again."""
        self._encoder.check(texts)

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of each text. A lone surrogate is read as `?`. Thread-safe."""
        try:
            return self._encoder.encode(texts)
        except (UnicodeEncodeError, TypeError):
            return self._encoder.encode([text.encode("utf-8", "replace").decode() for text in texts])

    def decode(self, index: int) -> str:
        """The text of one id; a part of a character becomes the replacement character U+FFFD."""
        return self._encoder.decode(index)


class _PythonEncoder:
    """A tokenizer that transformers has only in Python."""

    def __init__(self, auto: Any) -> None:
        self._auto = auto
        self.library = f"transformers {version('transformers')}"

    def check(self, texts: list[str]) -> None:
        """Does nothing: there is one library only."""

    def encode(self, texts: list[str]) -> Encoded:
        settings = {"add_special_tokens": False, "split_special_tokens": True, "verbose": False}
        return Encoded.of([self._auto.encode(text, **settings) for text in texts])

    def decode(self, index: int) -> str:
        text: str = self._auto.decode([index])
        return text


def check_vocabulary(folder: Path) -> None:
    """Raises BadReference if the folder has no vocabulary: AutoTokenizer may then make an empty one.

    Also if its only one is a SentencePiece model that cannot be read.
    """
    if not _vocabularies(folder):
        raise BadReference(
            f"{folder}: no tokenizer, such as tokenizer.json; put the one that the model was trained with there"
        )
    if (pieces := _sentencepiece_model(folder)) is not None:
        check_model(pieces)


def _vocabularies(folder: Path) -> list[tuple[str, ...]]:
    """Those of VOCABULARIES that the folder has."""
    return [names for names in VOCABULARIES if all((folder / name).is_file() for name in names)]


def _sentencepiece_model(folder: Path) -> Path | None:
    """The folder's SentencePiece model, if it has no other vocabulary."""
    found = _vocabularies(folder)
    return folder / found[0][0] if len(found) == 1 and found[0][0] in SENTENCEPIECE else None


def read_fast(path: Path) -> tokenizers.Tokenizer:
    """Reads a tokenizer.json. Raises BadReference."""
    try:
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # tokenizers raises no narrower class
        raise BadReference(f"{path}: cannot be read as a tokenizer ({one_line(error)})") from None


def _prepare(fast: tokenizers.Tokenizer) -> int:
    """Switches off truncation, padding, special tokens and dropout. Returns the largest id that a text can have."""
    fast.no_truncation()
    fast.no_padding()
    fast.encode_special_tokens = True
    if getattr(fast.model, "dropout", None):
        fast.model.dropout = None  # with BPE dropout each encoding of a text differs
    added = fast.get_added_tokens_decoder()
    plain = [index for index, token in added.items() if not token.special]
    return int(max([*fast.get_vocab(with_added_tokens=False).values(), *plain], default=-1))


def _load_auto(folder: Path) -> tuple[Any, str]:
    """The folder's tokenizer by AutoTokenizer, or None and the error."""
    from transformers import AutoTokenizer

    from scorer.hf_logging import silent

    try:
        with silent():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False), ""
    except Exception as error:  # the folder's files decide what is raised
        return None, one_line(error)


def _bos(folder: Path, auto: Any, id_of: Callable[[str], int | None]) -> int | None:
    """The id of BOS, else of EOS, else None: as AutoTokenizer names them, if they are in the vocabulary.

    AutoTokenizer takes a token that the folder does not name from its class' defaults, and adds it to a vocabulary
    that lacks it.
    """
    if _names_no_tokens(folder):
        return id_of(END_OF_TEXT)  # `convert` takes the same
    names = [auto.bos_token, auto.eos_token] if auto is not None else _special_tokens(folder)
    found = (id_of(name) for name in names if name is not None)
    return next((index for index in found if index is not None), None)


def _names_no_tokens(folder: Path) -> bool:
    """Whether it is a native state-spaces folder, which names no special token."""
    has_settings = any((folder / name).is_file() for name in _SETTINGS)
    return "model_type" not in _read_json(folder / "config.json") and not has_settings


def _is_plain(folder: Path) -> bool:
    """Whether a folder with a tokenizer.json has no other BOS and EOS than those that its files name.

    Classes of transformers have defaults for what is not named, the general ones by the kind of the model.
    """
    config = _read_json(folder / _SETTINGS[0])
    named = config.get("tokenizer_class") in _GENERAL and "bos_token" in config and "eos_token" in config
    return (named and not (folder / _SETTINGS[1]).is_file()) or _names_no_tokens(folder)


def _special_tokens(folder: Path) -> list[str | None]:
    """BOS and EOS as the folder's files name them: each as text or as {"content": text}."""
    files = [_read_json(folder / name) for name in _SETTINGS]
    named: list[str | None] = []
    for key in ("bos_token", "eos_token"):
        tokens = [token["content"] if isinstance(token, dict) else token for file in files if (token := file.get(key))]
        named.append(next((token for token in tokens if isinstance(token, str)), None))
    return named


def _read_json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
