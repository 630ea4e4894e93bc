"""A SentencePiece model as the only vocabulary of a folder: ids as the library sentencepiece gives them.

transformers makes a tokenizer of its own of such a file. It takes over the file's settings only in part, and then its
ids are not those that the model was trained on. Only the numbers of the pieces are taken from it: for some kinds of
model they are not the file's.
"""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from scorer.errors import BadReference, one_line
from scorer.tokenizer.backends import Encoded, encode_in_pieces

_SPACE = "\u2581"  # in pieces
_INSTALL = "pip install 'winnow[sentencepiece]'"


class SentencePieceEncoder:
    """Encodes by a SentencePiece model; control symbols in a text are text.

    `pieces` has the id of each piece, `largest` is the largest id that a text can have, and `bos` that of the model's
    own BOS, else of its EOS, else None.
    """

    def __init__(self, path: Path, numbers: dict[str, int]) -> None:
        """`numbers` has the id of each piece that a text can have. Raises BadReference if it does not."""
        self._model = _read(path)
        self.library = f"sentencepiece {version('sentencepiece')}"
        names = [self._model.id_to_piece(i) for i in range(self._model.get_piece_size())]
        texts = [i for i in range(len(names)) if not (self._model.is_control(i) or self._model.is_unused(i))]
        if unknown := [names[i] for i in texts if names[i] not in numbers]:
            raise unread(path, f"it does not know the piece {unknown[0]!r}")
        self.pieces = {name: numbers[name] for name in names if name in numbers}
        self.largest = max((numbers[names[i]] for i in texts), default=-1)
        ends = [names[i] for i in (self._model.bos_id(), self._model.eos_id()) if i >= 0]
        self.bos = next((self.pieces[name] for name in ends if name in self.pieces), None)
        self._ids = np.array([self.pieces.get(name, -1) for name in names], np.int32)

    def check(self, texts: list[str]) -> None:
        """Does nothing: there is one library only."""

    def encode(self, texts: list[str]) -> Encoded:
        """The ids of each text. Raises UnicodeEncodeError or TypeError for a lone surrogate. Thread-safe."""
        return encode_in_pieces(texts, self._batch)

    def decode(self, index: int) -> str:
        """The text of one id."""
        at = int(np.flatnonzero(self._ids == index)[0])
        text: str = self._model.decode([at]) if self._model.is_byte(at) else self._model.id_to_piece(at)
        return text.replace(_SPACE, " ")

    def _batch(self, texts: list[str]) -> Encoded:
        found = Encoded.of(self._model.encode(texts, out_type=int))
        return Encoded(self._ids[found.ids], found.starts)


def unread(path: Path, why: str) -> BadReference:
    """The error for a SentencePiece model that transformers makes no tokenizer of."""
    return BadReference(
        f"{path}: transformers does not read it for this kind of model ({why}); put a tokenizer.json there, or, if the"
        " model's ids are those of the file, name T5Tokenizer as tokenizer_class in tokenizer_config.json"
    )


def check_model(path: Path) -> None:
    """Raises BadReference if the file is no SentencePiece model, or the library that reads it is not there."""
    try:
        # Its code for protobuf, which transformers needs, may be there without a protobuf that is new enough.
        import sentencepiece.sentencepiece_model_pb2  # noqa: F401
    except Exception as error:  # protobuf's are of classes of its own
        raise BadReference(f"{path}: a SentencePiece model needs its library: {_INSTALL} ({one_line(error)})") from None
    _read(path)


def _read(path: Path) -> Any:
    from sentencepiece import SentencePieceProcessor

    try:
        return SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise BadReference(
            f"{path}: cannot be read as a SentencePiece model ({one_line(error)}); put a tokenizer.json there"
        ) from None
