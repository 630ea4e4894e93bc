"""The tokens of a training: a byte-level BPE tokenizer learned from the texts, and the texts' tokens in one file."""

import itertools
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import END_OF_TEXT

_PIECE = 50_000  # characters given to the tokenizer at once, so that a huge document does not delay the heartbeat
_BATCH = 500_000  # characters tokenized between two heartbeats
_TEXT_PER_TOKEN = 5_000  # characters to learn from, at most, for each token of the vocabulary
_BEAT_SECONDS = 0.5

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
        for _, piece in _pieces(texts()):
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


def tokenize(texts: Texts, tokenizer: Tokenizer, tokens: int, path: Path, beat: Beat) -> NDArray[np.uint16]:
    """Writes the texts as one run of at most `tokens` + 1 tokens to `path`, END_OF_TEXT before each document.

    Returns it as a memory map [N] uint16; a file that exists is used as it is. `beat` is called between batches of text
    and may raise to abort. Raises BadReference if there is no text.
    """
    if not path.exists():
        if tokenizer.get_vocab_size() > 1 << 16:
            raise ValueError(f"{tokenizer.get_vocab_size():,} token ids do not fit in 16 bits")
        tokenizer.encode_special_tokens = True  # "<|endoftext|>" inside a document is text
        partial = path.with_suffix(".part")
        left = tokens + 1
        with partial.open("wb") as out:
            for batch in _batches(texts()):
                beat()
                encodings = tokenizer.encode_batch_fast([piece for _, piece in batch])
                run = np.fromiter(
                    itertools.chain.from_iterable(
                        [0, *encoding.ids] if first else encoding.ids
                        for (first, _), encoding in zip(batch, encodings, strict=True)
                    ),
                    dtype=np.uint16,
                )
                out.write(run[:left].tobytes())
                left -= min(left, len(run))
                if not left:
                    break
            out.flush()
            os.fsync(out.fileno())
        partial.replace(path)
    if path.stat().st_size < 4:
        raise BadReference("there is no text to train a reference on: check the text field, or raise the fraction")
    return np.memmap(path, dtype=np.uint16, mode="r")


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
        clean = text.encode("utf-8", "replace").decode()
        for start in range(0, len(clean), _PIECE):
            yield start == 0, clean[start : start + _PIECE]


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
