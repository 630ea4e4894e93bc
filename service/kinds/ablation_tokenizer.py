"""The tokenizer that all arms of an ablation share: learnt from `all`, it writes the tokens of documents and texts."""

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from service.kinds.ablation_plan import ITEMS, TEXTS, folder
from service.kinds.ablation_texts import MeasuredTexts
from service.kinds.node import Task
from service.store.records import WantedAblation

_TOKENIZER_CHARACTERS = 5_000  # to learn a token from
_TEXTS = 256  # at a time


class ArmsTokenizer:
    """The tokenizer of all arms."""

    def __init__(self, path: Path, vocabulary: int, beat: Callable[[], None]) -> None:
        self._path, self._vocabulary, self._beat = path, vocabulary, beat

    @property
    def rows(self) -> int:
        """The size of the vocabulary, padded for the matrix units of GPUs."""
        return -(-int(self._tokenizer.get_vocab_size()) // 16) * 16

    def learn(self, documents: pa.ChunkedArray, sample: np.ndarray) -> None:
        """Learns from documents of `all`, in the order in which its first run reads them."""
        from scorer.training.tokens import train_tokenizer

        def texts() -> Iterator[str]:
            left = _TOKENIZER_CHARACTERS * self._vocabulary
            for start in range(0, len(sample), _TEXTS):
                for text in documents.take(pa.array(sample[start : start + _TEXTS])).to_pylist():
                    if left <= 0:
                        return
                    left -= len(text)
                    yield text

        self._tokenizer = train_tokenizer(texts, self._vocabulary, self._path, self._beat)
        self._tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a document is text

    def write_tokens(self, task: Task, path: str, documents: pa.ChunkedArray) -> np.ndarray:
        """Writes the tokens of all documents; returns where each begins, int64 [documents + 1]."""
        from scorer.training.tokens import runs

        texts = (text for chunk in documents.iterchunks() for text in chunk.to_pylist())
        starts, written = [], 0
        with task.storage.create(path) as out:
            for tokens in runs(texts, self._tokenizer, 0):
                out.write(tokens.tobytes())
                starts.append(np.flatnonzero(tokens == 0) + written)
                written += len(tokens)
                self._beat()
        return np.concatenate([*starts, [written]])

    def write_texts(self, task: Task, wanted: WantedAblation, texts: MeasuredTexts) -> None:
        """Writes the items, and the tokens of their texts."""
        items = {name: getattr(texts, name) for name in ("name", "is_task", "n_bytes", "choices", "named")}
        _write_table(task, f"{folder(task.job, wanted)}/{ITEMS}", pa.table(items))
        tokens, scored = [], []
        for start in range(0, len(texts.texts), _TEXTS):
            piece = texts.texts[start : start + _TEXTS]
            contexts, answers = (
                self._tokenizer.encode_batch_fast([getattr(each, part) for each in piece])
                for part in ("context", "text")
            )
            for context, answer in zip(contexts, answers, strict=True):
                tokens.append([0, *context.ids, *answer.ids])
                scored.append(len(answer.ids))
            self._beat()
        columns = {
            "item": [each.item for each in texts.texts],
            "is_right": [each.is_right for each in texts.texts],
            "n_bytes": [len(each.text.strip().encode()) or 1 for each in texts.texts],
            "scored": scored,
            "tokens": pa.array(tokens, pa.list_(pa.uint16())),
        }
        _write_table(task, f"{folder(task.job, wanted)}/{TEXTS}", pa.table(columns))


def _write_table(task: Task, path: str, table: pa.Table) -> None:
    with task.storage.create(path) as out:
        pq.write_table(table, out, compression="zstd")
