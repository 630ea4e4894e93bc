"""Texts to token ids, as arrays: by fastokens if it is installed and gives the same ids, else by tokenizers.

Both give the ids of the text alone: no special token is added, and none is recognized in a text.
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

_PIECE = 1 << 18  # characters of a document given to tokenizers at once: it takes some 50 bytes for each
_BATCH = 1 << 20  # characters of a batch of pieces
_CONTEXT = 256  # characters before and after a cut that are tokenized to check it
_TRIES = 8  # cuts to try in a piece's length of text
# A single space between two letters, or the start of a line that begins with a letter: words do not cross these.
_GAP = re.compile(r"(?<=[^\W\d_]) (?=[^\W\d_])|(?<=\n)(?=[^\W\d_])")
# Texts on which two tokenizers differ, if they differ at all.
HARD_TEXTS = [
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
    """The ids of D documents, one after the other: `ids` [N] int32; document d has ids[starts[d]:starts[d+1]]."""

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
        """The number of ids of each document, [D] int64."""
        return np.diff(self.starts)

    @classmethod
    def of(cls, documents: Sequence[Sequence[int]]) -> Encoded:
        """From a list of ids for each document."""
        lengths = np.fromiter(map(len, documents), np.int64, len(documents))
        ids = np.fromiter(chain.from_iterable(documents), np.int32, int(lengths.sum()))
        return cls(ids, np.concatenate(([0], np.cumsum(lengths))).astype(np.int64))


class FastEncode:
    """Encodes by a fast library, which is left for good once it fails or gives another id than the exact one."""

    def __init__(self, encode: Encode | None) -> None:
        """None where the library is not installed, or does not read the tokenizer."""
        self._encode = encode

    @property
    def is_used(self) -> bool:
        """Whether the fast library is at work."""
        return self._encode is not None

    def check(self, texts: list[str], exact: Encode) -> None:
        """Compares both on these texts."""
        if self._encode is None:
            return
        texts = [text.encode("utf-8", "replace").decode() for text in texts]
        found, wanted = self(texts, exact), exact(texts)
        if not (np.array_equal(found.starts, wanted.starts) and np.array_equal(found.ids, wanted.ids)):
            self._encode = None

    def __call__(self, texts: list[str], exact: Encode) -> Encoded:
        """The ids of each text, by `exact` if need be. Raises UnicodeEncodeError for a lone surrogate."""
        if (encode := self._encode) is not None:
            try:
                return encode(texts)
            except UnicodeEncodeError:
                raise
            except BaseException as error:  # a text that it cannot read; a Rust panic is not an Exception
                if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                    raise
                self._encode = None
        return exact(texts)


class Encoder:
    """Encodes as a tokenizer of `tokenizers` does, by fastokens as long as that gives the same ids."""

    def __init__(self, exact: tokenizers.Tokenizer) -> None:
        """`exact` must be set to recognize no special tokens."""
        self._exact = exact
        self._fast = FastEncode(_fastokens(exact))
        self.check(HARD_TEXTS)

    @property
    def library(self) -> str:
        """The library in use and its version, such as "fastokens 0.3.5"."""
        name = "fastokens" if self._fast.is_used else "tokenizers"
        return f"{name} {version(name)}"

    def check(self, texts: list[str]) -> None:
        """Compares fastokens with tokenizers on these texts; if an id differs, fastokens is not used any more."""
        self._fast.check(texts, self._encode_exact)

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of each text. Raises UnicodeEncodeError or TypeError for a lone surrogate. Thread-safe."""
        return self._fast(texts, self._encode_exact)

    def decode(self, index: int) -> str:
        """The text of one id."""
        text: str = self._exact.decode([index], skip_special_tokens=False)
        return text

    def _encode_exact(self, texts: list[str]) -> Encoded:
        """By tokenizers."""
        return encode_in_pieces(texts, self._batch)

    def _batch(self, texts: list[str]) -> Encoded:
        return Encoded.of([e.ids for e in self._exact.encode_batch_fast(texts, add_special_tokens=False)])


def _fastokens(exact: tokenizers.Tokenizer) -> Encode | None:
    """The same tokenizer in fastokens, or None if that is not installed or does not support it."""
    try:
        import fastokens

        fast: Any = fastokens.Tokenizer.from_json_str(exact.to_str())
    except Exception:  # not installed, not for this tokenizer, or not for this machine
        return None

    def encode(texts: list[str]) -> Encoded:
        ids, starts = fast.encode_batch_flat(texts, split_special_tokens=True)
        return Encoded(np.frombuffer(ids, np.int32), np.frombuffer(starts, np.int64))

    return encode


def encode_in_pieces(texts: list[str], encode: Encode) -> Encoded:
    """The ids of each text. `encode` gets long documents in pieces, and few at a time, which bounds its memory."""
    parts: list[Encoded] = []
    counts: list[int] = []  # pieces of each document
    batch: list[str] = []
    size = 0
    for text in texts:
        counts.append(0)
        for piece in _pieces(text, lambda text: encode([text]).ids.tolist()):
            counts[-1] += 1
            batch.append(piece)
            size += len(piece)
            if size >= _BATCH:
                parts.append(encode(batch))
                batch, size = [], 0
    parts.append(encode(batch))
    lengths = np.concatenate([part.lengths for part in parts])
    ends = np.concatenate(([0], np.cumsum(lengths)))[np.concatenate(([0], np.cumsum(counts))).astype(np.int64)]
    return Encoded(np.concatenate([part.ids for part in parts]), ends.astype(np.int64))


def _pieces(text: str, ids: Callable[[str], list[int]]) -> Iterator[str]:
    """Pieces of a long text whose ids, one after the other, are those of the whole text."""
    start = 0
    while len(text) - start > 2 * _PIECE and (cut := _find_cut(text, start + _PIECE, ids)) is not None:
        yield text[start : cut[0]]
        start = cut[1]
    yield text[start:]


def _find_cut(text: str, start: int, ids: Callable[[str], list[int]]) -> tuple[int, int] | None:
    """(end of a piece, start of the next), not before `start`; None if there is no place to cut.

    Both are before a gap. For a tokenizer that puts a space before each piece, the next one starts after the gap. The
    text around the cut must have the same ids whole and in two pieces.
    """
    for search in range(start, len(text) - _CONTEXT, _PIECE):
        for tries, gap in enumerate(_GAP.finditer(text, search, min(search + _PIECE, len(text) - _CONTEXT))):
            if tries == _TRIES:
                break
            left, right = text[gap.start() - _CONTEXT : gap.start()], text[gap.start() : gap.start() + _CONTEXT]
            whole, first = ids(left + right), ids(left)
            for skipped in (0, 1):
                if first + ids(right[skipped:]) == whole:
                    return gap.start(), gap.start() + skipped
    return None
