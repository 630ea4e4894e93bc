"""The tokens of a training: a byte-level BPE tokenizer learned from the texts, and the texts' tokens in files.

Every 20th document is held out: neither the tokenizer nor the model learns from it.
"""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import END_OF_TEXT

_PIECE = 50_000  # characters given to the tokenizer at once, so that a huge document does not delay the heartbeat
_BATCH = 500_000  # characters tokenized between two heartbeats
_TEXT_PER_TOKEN = 5_000  # characters to learn from, at most, for each token of the vocabulary
_BEAT_SECONDS = 0.5
_HELDOUT_EVERY = 20
_HELDOUT_CHARACTERS = 1_000_000  # measured at most
_HELDOUT_EACH = 20_000  # of a document, so that no long one outweighs the others

Texts = Callable[[], Iterable[str]]
Beat = Callable[[], None]


def train_tokenizer(texts: Texts, vocabulary: int, path: Path, beat: Beat) -> Tokenizer:
    """Learns a byte-level BPE of at most `vocabulary` tokens and saves it at `path`; a file that exists is used as is.

    END_OF_TEXT has id 0. `beat` is called at least once a second and may raise to abort.
    """
    if path.exists():
        return Tokenizer.from_file(str(path))
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        min_frequency=2,
        special_tokens=[END_OF_TEXT],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    stopped = threading.Event()
    errors: list[BaseException] = []

    def sample() -> Iterator[str]:
        left = _TEXT_PER_TOKEN * vocabulary
        for _, piece in _pieces(_trained(texts())):
            if stopped.is_set():
                raise InterruptedError  # leaves the trainer at once: the caller has gone
            if left <= 0:
                return
            left -= len(piece)
            yield piece

    def learn() -> None:
        try:
            tokenizer.train_from_iterator(sample(), trainer)
        except BaseException as error:  # raised again below
            errors.append(error)

    # Merging is one long call without a callback. It runs in a thread of its own so that this one can call `beat`.
    thread = threading.Thread(target=learn, name="tokenizer-training", daemon=True)
    thread.start()
    try:
        while thread.is_alive():
            beat()
            thread.join(_BEAT_SECONDS)
    finally:
        stopped.set()
    if errors:
        raise errors[0]
    partial = path.with_suffix(".part")
    tokenizer.save(str(partial))
    partial.replace(path)
    return tokenizer


class TrainingTokens(NamedTuple):
    """Runs of tokens, a start token before each document."""

    trained: NDArray[np.uint16]  # [N], a memory map
    heldout: NDArray[np.uint16]  # [H]
    heldout_sizes: list[int]  # of each of its documents, in bytes of UTF-8


def tokenize(
    texts: Texts, tokenizer: Tokenizer, tokens: int, folder: Path, beat: Beat, start: int = 0
) -> TrainingTokens:
    """Writes at most `tokens` + 1 tokens of the texts to files in `folder`, and those of the held-out documents.

    `start` is the token before each document.

    Files that exist are used as they are. `beat` is called between batches of text and may raise to abort. Raises
    BadReference if there is no text.
    """
    path, heldout_path = folder / "tokens.bin", folder / "heldout.json"
    if tokenizer.get_vocab_size() > 1 << 16:
        raise ValueError(f"{tokenizer.get_vocab_size():,} token ids do not fit in 16 bits")
    tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a document is text
    if not path.exists():
        held: list[str] = []
        partial = path.with_suffix(".part")
        left = tokens + 1
        with partial.open("wb") as out:
            for run in runs(_trained(texts(), held), tokenizer, start):
                beat()
                out.write(run[:left].tobytes())
                left -= min(left, len(run))
                if not left:
                    break
            out.flush()
            os.fsync(out.fileno())
        heldout_path.write_text(json.dumps(held))
        partial.replace(path)
    if path.stat().st_size < 4:
        raise BadReference("there is no text to train a reference on: check the text field, or raise the fraction")
    held = json.loads(heldout_path.read_text())
    heldout = np.concatenate([np.zeros(0, np.uint16), *runs(held, tokenizer, start)])
    return TrainingTokens(tokens_in(path), heldout, [len(text.encode()) for text in held])


def tokens_in(path: Path) -> NDArray[np.uint16]:
    """The tokens of a file, a memory map."""
    return np.memmap(path, dtype=np.uint16, mode="r")


def is_held_out(number: int) -> bool:
    """Whether a document is not learnt from, by its place in the texts: the second of few, but not the only one."""
    return number % _HELDOUT_EVERY == 1


def _trained(texts: Iterable[str], held: list[str] | None = None) -> Iterator[str]:
    """The documents to learn from; the others are added to `held`, as far as they are to be measured."""
    size = 0
    for number, text in enumerate(texts):
        if not is_held_out(number):
            yield text
        elif held is not None and text and size < _HELDOUT_CHARACTERS:
            held.append(_valid(text[:_HELDOUT_EACH]))
            size += len(held[-1])


def runs(texts: Iterable[str], tokenizer: Tokenizer, start: int) -> Iterator[NDArray[np.uint16]]:
    """The tokens of the texts, `start` before each document, a batch of text at a time.

    No text has the token `start` if the tokenizer takes special tokens as text (`encode_special_tokens`).
    """
    for batch in _batches(texts):
        encodings = tokenizer.encode_batch_fast([piece for _, piece in batch])
        ids = itertools.chain.from_iterable(
            [start, *encoding.ids] if first else encoding.ids
            for (first, _), encoding in zip(batch, encodings, strict=True)
        )
        yield np.fromiter(ids, dtype=np.uint16)


def save_tokenizer(tokenizer_file: Path, folder: Path) -> None:
    """Writes tokenizer.json and tokenizer_config.json so that AutoTokenizer loads them."""
    (folder / "tokenizer.json").write_bytes(tokenizer_file.read_bytes())
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": END_OF_TEXT,
        "eos_token": END_OF_TEXT,
        "unk_token": None,
        "clean_up_tokenization_spaces": False,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


def _pieces(texts: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """The pieces of each document, with whether a piece is the document's first. Lone surrogates become `?`."""
    for text in texts:
        clean = _valid(text)
        for start in range(0, len(clean), _PIECE):
            yield start == 0, clean[start : start + _PIECE]


def _valid(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def _batches(texts: Iterable[str]) -> Iterator[list[tuple[bool, str]]]:
    """The pieces in groups of about _BATCH characters."""
    batch: list[tuple[bool, str]] = []
    size = 0
    for first, piece in _pieces(texts):
        batch.append((first, piece))
        size += len(piece)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
