"""Documents to windows of token ids, as the tokenizer of a classifier makes them, special tokens included."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scorer.classifier.wordpiece import WordPieceWindows
from scorer.errors import BadReference, one_line
from scorer.tokenizer.backends import HARD_TEXTS, Encoded, is_fault

# Of a long text only the first characters are tokenized, if they give enough tokens more than are kept.
_CHARACTERS_A_TOKEN, _MORE = 6, 512
_MOST_TOKENS = 20  # of a character, which may be normalized to as many
_THREADS = 4  # with tokenizers, which frees Python's lock while it works


@dataclass(frozen=True)
class Windows:
    """Windows of D documents, in order: their ids, and the document of each window [W] int64."""

    ids: Encoded
    document: NDArray[np.int64]
    documents: int


class WindowTokenizer:
    """Cuts texts into windows of up to `limit` ids. `threads` may call it at once.

    By nanotoken where it is installed, reads the tokenizer, and gives the ids of the library that transformers uses.
    """

    def __init__(self, folder: Path, context: int) -> None:
        """`context` is the most positions that the model reads. Raises BadReference."""
        self._auto = _load(folder)
        length = self._auto.model_max_length
        if not isinstance(length, (int, float)) or length != length:
            raise BadReference(f"{folder}: model_max_length in tokenizer_config.json is {length!r}; set it to a number")
        self.limit = int(min(length, context))
        self.pad: int = self._auto.pad_token_id if self._auto.pad_token_id is not None else 0
        special = self._auto.num_special_tokens_to_add(pair=False)
        if self.limit <= special:
            raise BadReference(
                f"{folder}: the tokenizer cuts texts to {self.limit} tokens, {special} of them special ones;"
                " set model_max_length in tokenizer_config.json"
            )
        self._fast: Any = None
        self._wordpiece: WordPieceWindows | None = None
        self.threads = _THREADS if self._auto.is_fast else 1
        if self._auto.is_fast:
            self._fast = self._auto.backend_tokenizer
            side = self._auto.truncation_side
            self._fast.enable_truncation(self.limit, stride=0, strategy="longest_first", direction=side)
            self._fast.no_padding()
            self._spaces = _word_ends(self._fast) if side == "right" else ""
            self._wordpiece = _wordpiece(self._fast, self.limit) if side == "right" else None
            self.check([*HARD_TEXTS, " ".join(HARD_TEXTS) * (1 + self.limit // 512)])

    @property
    def largest(self) -> int:
        """The largest id that a window can have."""
        return max(self._auto.get_vocab().values(), default=-1)

    @property
    def library(self) -> str:
        """The library in use and its version."""
        name = "transformers" if self._fast is None else "tokenizers" if self._wordpiece is None else "nanotoken"
        return f"{name} {version(name)}"

    def check(self, texts: list[str]) -> None:
        """Compares nanotoken with tokenizers on these texts; if an id differs, nanotoken is not used any more."""
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        for all_windows in (False, True):
            if self._wordpiece is not None:
                found, exact = self._encode(texts, all_windows), _flat(self._exact(texts, all_windows), len(texts))
                pairs = ((found.ids.ids, exact.ids.ids), (found.ids.starts, exact.ids.starts))
                if not all(np.array_equal(*pair) for pair in (*pairs, (found.document, exact.document))):
                    self._wordpiece = None

    def encode(self, texts: list[str], all_windows: bool) -> Windows:
        """The first window of each text, or all of them. A lone surrogate is read as `?`."""
        try:
            return self._encode(texts, all_windows)
        except (UnicodeEncodeError, TypeError):
            return self._encode([text.encode("utf-8", "replace").decode() for text in texts], all_windows)

    def _encode(self, texts: list[str], all_windows: bool) -> Windows:
        if (wordpiece := self._wordpiece) is None:
            return _flat(self._exact(texts, all_windows), len(texts))
        try:
            ids, document = wordpiece.all(texts) if all_windows else wordpiece.first(texts)
        except UnicodeEncodeError:
            raise
        except BaseException as error:  # a text that it cannot read
            if not is_fault(error):
                raise
            self._wordpiece = None
            return self._encode(texts, all_windows)
        return Windows(ids, document, len(texts))

    def _exact(self, texts: list[str], all_windows: bool) -> list[list[list[int]]]:
        """The windows of each text by the library that transformers uses."""
        if self._fast is None:
            return [self._by_python(text, all_windows) for text in texts]
        encode = self._fast.encode_batch_fast  # without offsets, which takes a third less time
        if all_windows:
            return [[made.ids, *(more.ids for more in made.overflowing)] for made in encode(texts)]
        longest = _CHARACTERS_A_TOKEN * self.limit + _MORE
        if not self._spaces:
            return [[made.ids] for made in encode(texts)]
        encoded = encode([text[:longest] for text in texts])
        again = [
            number
            for number, (text, made) in enumerate(zip(texts, encoded, strict=True))
            if len(text) > longest and not _is_settled(text[:longest], self._spaces, made)
        ]
        for number, made in zip(again, encode([texts[number] for number in again]), strict=True):
            encoded[number] = made
        return [[made.ids] for made in encoded]

    def _by_python(self, text: str, all_windows: bool) -> list[list[int]]:
        settings = {"add_special_tokens": True, "verbose": False}
        first: list[int] = self._auto(text, truncation=True, max_length=self.limit, **settings)["input_ids"]
        if not all_windows:
            return [first]
        ids = self._auto(text, add_special_tokens=False, verbose=False)["input_ids"]
        size = self.limit - self._auto.num_special_tokens_to_add(pair=False)
        build = self._auto.build_inputs_with_special_tokens
        return [build(ids[start : start + size]) for start in range(0, max(1, len(ids)), size)]


def _wordpiece(exact: Any, limit: int) -> WordPieceWindows | None:
    """The same tokenizer in nanotoken, or None if that is not installed or does not support it."""
    try:
        return WordPieceWindows(exact, limit)
    except Exception:  # not installed, or not for this tokenizer
        return None


def _flat(found: list[list[list[int]]], documents: int) -> Windows:
    """Windows from the ids of each window of each document; those without an id are left out."""
    windows = [(document, ids) for document, made in enumerate(found) for ids in made if ids]
    document = np.fromiter((number for number, _ in windows), np.int64, len(windows))
    return Windows(Encoded.of([ids for _, ids in windows]), document, documents)


def _word_ends(tokenizer: Any) -> str:
    """The white space at which a tokenizer always cuts texts, so that no token depends on the text beyond it."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    if pre_tokenizer is None:
        return ""

    def pieces(text: str) -> int:
        return len(pre_tokenizer.pre_tokenize_str(text if normalizer is None else normalizer.normalize_str(text)))

    return "".join(space for space in " \n\t" if pieces(f"a{space}b{space}c") >= pieces("a") + 2)


def _is_settled(cut: str, spaces: str, made: Any) -> bool:
    """Whether no text after a cut could change the first window: the last word of the cut ends in a later one.

    The white space before and after the word counts as part of it: a special token may take it away.
    """
    word = cut.rstrip()
    word = word[: max(map(word.rfind, spaces)) + 1].rstrip()
    return sum(map(len, made.overflowing)) > _MOST_TOKENS * (len(cut) - len(word))


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from scorer.hf_logging import silent

    try:
        with silent():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the folder's files decide what is raised
        raise BadReference(f"{folder}: the tokenizer cannot be loaded ({one_line(error)})") from None
