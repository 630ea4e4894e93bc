"""Ways from texts to token ids, as arrays: fastokens where it is there and agrees, else tokenizers.

Each way gives the ids of the text alone: no special token is added, and none is read out of a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from itertools import chain
from typing import Any

import numpy as np
import tokenizers
from numpy.typing import NDArray

Ids = NDArray[np.int32]
Encode = Callable[[list[str]], "Encoded"]

_PIECE = 1 << 18  # characters of a document that tokenizers reads at once: an encoding takes some 50 bytes for each
_AT_ONCE = 1 << 20  # characters in all
_AROUND = 256  # characters on both sides of a cut that are tokenized to see whether it may be there
_TRIES = 8  # cuts that are tried in a piece's length of text
# One space between two letters, or where a line begins with a letter: no tokenizer's word goes across.
_GAP = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])|(?<=\n)(?=[^\W\d_])")
# What tokenizers treat differently, if they do.
_TRICKY = [
    "",
    " ",
    "I'll can't WE'D 's 'S it\u2019s",
    "x  y   z \t\t\n\n  \r\n end \u00a0\u2003\u3000.",
    "1 12 123 1234567890 3.14159 ٣٤٥ ½ Ⅷ",
    "é e\u0301 \u1e9b\u0323 ﬁ ㍿ ß İ ǅ",
    "漢字かな交じり文 한국어 🙂👩\u200d👩\u200d👧\ufe0f \U0001f1e9\U0001f1ea",
    "nul \0 bell \a bom \ufeff soft\u00adhyphen \ufffd",
    "def f(x):\n\tif x:\n\t\treturn {'a': [1, 2]}  # done\n" * 3,
    "<s></s><unk>[CLS][MASK]<|endoftext|><|im_start|>user<pad> </s> <s>",
    "a" * 600 + " " * 300 + "-" * 200 + "\n" * 100,
]


@dataclass(frozen=True)
class Encoded:
    """The ids of some documents, one after the other: `ids` [N] int32; document d has ids[starts[d]:starts[d+1]]."""

    ids: Ids
    starts: NDArray[np.int64]  # [D+1]

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, document: int) -> Ids:
        if not 0 <= document < len(self):
            raise IndexError(document)
        return self.ids[self.starts[document] : self.starts[document + 1]]

    def __iter__(self) -> Iterator[Ids]:
        return map(self.__getitem__, range(len(self)))

    @property
    def lengths(self) -> NDArray[np.int64]:
        """How many ids each document has, [D]."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]]) -> Encoded:
        """From a list of ids for each document."""
        lengths = np.fromiter(map(len, documents), np.int64, len(documents))
        ids = np.fromiter(chain.from_iterable(documents), np.int32, int(lengths.sum()))
        return cls(ids, np.concatenate(([0], np.cumsum(lengths))).astype(np.int64))


class Encoder:
    """Encodes with a tokenizer of `tokenizers`, by fastokens as long as that gives the same ids.

    `engine` names the library at work and its version.
    """

    def __init__(self, exact: tokenizers.Tokenizer) -> None:
        """`exact` is prepared to read text as plain data."""
        self._exact = exact
        self._fast = _fastokens(exact)
        self.check(_TRICKY)

    @property
    def engine(self) -> str:
        """Such as "fastokens 0.3.5"."""
        name = "tokenizers" if self._fast is None else "fastokens"
        return f"{name} {version(name)}"

    def check(self, texts: list[str]) -> None:
        """Compares the two ways on these texts, and leaves the fast one for good where an id differs."""
        if self._fast is None:
            return
        texts = [text for text in texts if not _strange(text)]
        fast, exact = self.encode(texts), self._slowly(texts)
        if not (np.array_equal(fast.starts, exact.starts) and np.array_equal(fast.ids, exact.ids)):
            self._fast = None

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of each text. Raises UnicodeEncodeError or TypeError where there is a lone surrogate."""
        if (fast := self._fast) is not None:
            try:
                return fast(texts)
            except UnicodeEncodeError:
                raise
            except BaseException as error:  # a text it cannot read; a panic in Rust is no Exception
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                self._fast = None
        return self._slowly(texts)

    def decode(self, index: int) -> str:
        """The text of one id."""
        text: str = self._exact.decode([index], skip_special_tokens=False)
        return text

    def _slowly(self, texts: list[str]) -> Encoded:
        """By `tokenizers`, with memory bounded by making pieces of long documents."""
        parts: list[Encoded] = []
        counts: list[int] = []  # pieces of each document
        batch: list[str] = []
        size = 0
        for text in texts:
            counts.append(0)
            for piece in _pieces(text, self._ids):
                counts[-1] += 1
                batch.append(piece)
                size += len(piece)
                if size >= _AT_ONCE:
                    parts.append(self._batch(batch))
                    batch, size = [], 0
        parts.append(self._batch(batch))
        lengths = np.concatenate([part.lengths for part in parts])
        ends = np.concatenate(([0], np.cumsum(lengths)))[np.concatenate(([0], np.cumsum(counts))).astype(np.int64)]
        return Encoded(np.concatenate([part.ids for part in parts]), ends.astype(np.int64))

    def _batch(self, texts: list[str]) -> Encoded:
        return Encoded.of([e.ids for e in self._exact.encode_batch_fast(texts, add_special_tokens=False)])

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._exact.encode(text, add_special_tokens=False).ids
        return ids


def _fastokens(exact: tokenizers.Tokenizer) -> Encode | None:
    """The same tokenizer by fastokens, or None where that is not installed or does not read it."""
    try:
        import fastokens

        fast: Any = fastokens.Tokenizer.from_json_str(exact.to_str())
    except Exception:  # not there, not for this tokenizer, or not for this machine
        return None

    def encode(texts: list[str]) -> Encoded:
        ids, starts = fast.encode_batch_flat(texts, split_special_tokens=True)
        return Encoded(np.frombuffer(ids, np.int32), np.frombuffer(starts, np.int64))

    return encode


def _strange(text: str) -> bool:
    """Whether there is a lone surrogate, which no tokenizer reads."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def _pieces(text: str, ids: Callable[[str], list[int]]) -> Iterator[str]:
    """Parts of a long text whose ids, one after the other, are those of the whole."""
    start = 0
    while len(text) - start > 2 * _PIECE and (found := _gap(text, start + _PIECE, ids)) is not None:
        yield text[start : found[0]]
        start = found[1]
    yield text[start:]


def _gap(text: str, start: int, ids: Callable[[str], list[int]]) -> tuple[int, int] | None:
    """Where a part may end and the next begin: before a gap, or, if each part is given a space in front, around it.

    The text there, whole and in the two parts, must have the same ids. None if there is no such place up to the end.
    """
    for search in range(start, len(text) - _AROUND, _PIECE):
        for tries, gap in enumerate(_GAP.finditer(text, search, min(search + _PIECE, len(text) - _AROUND))):
            if tries == _TRIES:
                break
            left, right = text[gap.start() - _AROUND : gap.start()], text[gap.start() : gap.start() + _AROUND]
            whole, first = ids(left + right), ids(left)
            for skipped in (0, 1):
                if first + ids(right[skipped:]) == whole:
                    return gap.start(), gap.start() + skipped
    return None
