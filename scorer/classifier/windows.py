"""Documents to windows of token ids, as the tokenizer of a classifier makes them, special tokens included."""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from scorer.errors import BadReference, one_line
from scorer.tokenizer.backends import HARD_TEXTS, Encode, Encoded, FastEncode

# Of a long text only the first characters are tokenized, if they give enough tokens more than are kept.
_CHARACTERS_A_TOKEN, _MORE = 6, 512
_MOST_TOKENS = 20  # of a character, which may be normalized to as many
_THREADS = 4  # with libraries that free Python's lock while they work
_CACHE_ENTRIES = 1 << 17  # in each of nanotoken's two caches of a thread: 16 MiB
_SAMPLE = "Some words, by which the special tokens before and after a text are found."


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
        self._before, self._after = _special_ids(self._auto, folder)
        self._size = self.limit - len(self._before) - len(self._after)  # ids of the text in a window
        if self._size <= 0:
            raise BadReference(
                f"{folder}: the tokenizer cuts texts to {self.limit} tokens, {self.limit - self._size} of them special"
                " ones; set model_max_length in tokenizer_config.json"
            )
        self._from_left = self._auto.truncation_side == "left"
        self._fast: Any = None
        self._spaces = ""
        self._quick = FastEncode(None)
        self.threads = _THREADS if self._auto.is_fast else 1
        if self._auto.is_fast:
            self._fast = self._auto.backend_tokenizer
            self._fast.no_truncation()  # versions of tokenizers that truncate lose the windows after the second
            self._fast.no_padding()
            self._spaces = "" if self._from_left else _word_ends(self._fast)
            self._quick = FastEncode(_nanotoken(self._fast))
            self.check(HARD_TEXTS)

    @property
    def largest(self) -> int:
        """The largest id that a window can have."""
        return max(self._auto.get_vocab().values(), default=-1)

    @property
    def library(self) -> str:
        """The library in use and its version."""
        name = "transformers" if self._fast is None else "nanotoken" if self._quick.is_used else "tokenizers"
        return f"{name} {version(name)}"

    def check(self, texts: list[str]) -> None:
        """Compares nanotoken with tokenizers on these texts; if an id differs, nanotoken is not used any more."""
        self._quick.check(texts, self._exact)

    def encode(self, texts: list[str], all_windows: bool) -> Windows:
        """The first window of each text, or all of them. A lone surrogate is read as `?`."""
        try:
            found = self._encode(texts, all_windows)
        except (UnicodeEncodeError, TypeError):
            found = self._encode([text.encode("utf-8", "replace").decode() for text in texts], all_windows)
        return self._cut(found, all_windows)

    def _encode(self, texts: list[str], whole: bool) -> Encoded:
        """The ids of each text, or at least those of its first window, without the special tokens around it."""
        return self._quick(texts, self._exact if whole or not self._spaces else self._beginnings)

    def _exact(self, texts: list[str]) -> Encoded:
        """By the library that transformers uses."""
        if self._fast is None:
            settings = {"add_special_tokens": False, "verbose": False}
            return Encoded.of([self._auto(text, **settings)["input_ids"] for text in texts])
        # Without offsets, which takes a third less time.
        return Encoded.of([made.ids for made in self._fast.encode_batch_fast(texts, add_special_tokens=False)])

    def _beginnings(self, texts: list[str]) -> Encoded:
        """At least the ids of the first window of each text: of long texts from a part, where the rest has no say."""
        longest = _CHARACTERS_A_TOKEN * self.limit + _MORE
        found = [ids.tolist() for ids in self._exact([text[:longest] for text in texts])]
        again = [
            number
            for number, (text, ids) in enumerate(zip(texts, found, strict=True))
            if len(text) > longest and not _is_settled(text[:longest], self._spaces, len(ids) - self._size)
        ]
        for number, ids in zip(again, self._exact([texts[number] for number in again]), strict=True):
            found[number] = ids.tolist()
        return Encoded.of(found)

    def _cut(self, texts: Encoded, all_windows: bool) -> Windows:
        """Windows from the ids of each text, one after the other, or the first alone. One without an id is left out."""
        around = len(self._before) + len(self._after)
        counts = np.maximum(1, -(-texts.lengths // self._size)) if all_windows else np.ones(len(texts), np.int64)
        document = np.repeat(np.arange(len(texts)), counts)
        number = np.arange(len(document)) - np.repeat(np.cumsum(counts) - counts, counts)  # in the text
        start = texts.starts[:-1][document] + number * self._size
        if self._from_left and not all_windows:
            start = np.maximum(start, texts.starts[1:] - self._size)
        inner = np.minimum(texts.starts[1:][document] - start, self._size)
        kept = inner + around > 0
        document, start, inner = document[kept], start[kept], inner[kept]
        ends = np.cumsum(inner + around)
        begins = ends - inner - around
        within = np.arange(inner.sum()) - np.repeat(np.cumsum(inner) - inner, inner)  # the window
        ids = np.empty(int(ends[-1]) if len(ends) else 0, np.int32)
        ids[np.repeat(begins + len(self._before), inner) + within] = texts.ids[np.repeat(start, inner) + within]
        for at, special in enumerate(self._before):
            ids[begins + at] = special
        for at, special in enumerate(self._after):
            ids[ends - len(self._after) + at] = special
        return Windows(Encoded(ids, np.concatenate(([0], ends))), document, len(texts))


def _special_ids(auto: Any, folder: Path) -> tuple[list[int], list[int]]:
    """The ids that a tokenizer adds before and after a text. Raises BadReference."""
    whole, bare = (auto(_SAMPLE, add_special_tokens=added, verbose=False)["input_ids"] for added in (True, False))
    for start in range(len(whole) - len(bare) + 1):
        if whole[start : start + len(bare)] == bare:
            return whole[:start], whole[start + len(bare) :]
    raise BadReference(f"{folder}: the tokenizer does not add its special tokens before and after a text alone")


def _nanotoken(exact: Any) -> Encode | None:
    """The same tokenizer in nanotoken, or None if that is not installed or does not support it: it reads WordPiece."""
    try:
        import nanotoken

        nanotoken.set_cache_entries(_CACHE_ENTRIES)
        tokenizer: Any = nanotoken.Tokenizer.from_json(exact.to_str())
    except Exception:  # not installed, or not for this tokenizer
        return None

    def encode(texts: list[str]) -> Encoded:
        found = tokenizer.encode_batch(texts, add_special_tokens=False)
        return Encoded(found.ids.astype(np.int32), found.offsets)

    return encode


def _word_ends(tokenizer: Any) -> str:
    """The white space at which a tokenizer always cuts texts, so that no token depends on the text beyond it."""
    normalizer, pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    if pre_tokenizer is None:
        return ""

    def pieces(text: str) -> int:
        return len(pre_tokenizer.pre_tokenize_str(text if normalizer is None else normalizer.normalize_str(text)))

    return "".join(space for space in " \n\t" if pieces(f"a{space}b{space}c") >= pieces("a") + 2)


def _is_settled(cut: str, spaces: str, more: int) -> bool:
    """Whether no text after a cut, which has `more` ids than a window, could change it: its last word ends later.

    The white space before and after the word counts as part of it: a special token may take it away.
    """
    word = cut.rstrip()
    word = word[: max(map(word.rfind, spaces)) + 1].rstrip()
    return more > _MOST_TOKENS * (len(cut) - len(word))


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    from scorer.hf_logging import silent

    try:
        with silent():
            return AutoTokenizer.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    except Exception as error:  # the folder's files decide what is raised
        raise BadReference(f"{folder}: the tokenizer cannot be loaded ({one_line(error)})") from None
