"""The fast way gives the ids of tokenizers or is left; long documents go through in parts and change no id."""

import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from scorer.tokenizer import backends
from scorer.tokenizer.backends import Encoded, Encoder
from tests.scorer.model_folders import END, PROSE, add_tokenizer, byte_level

SOURCE = Path(backends.__file__).read_text()
TEXTS = [
    SOURCE,
    PROSE,
    "",
    f"a {END} b{END}\n{END}",
    "é漢字🙂 \0 nul e\u0301 ﬁ",
    "12345 1 22 333  \t\n\n x",
    "can't WON'T it's",
    " lead and trail  ",
]


def trained(model: models.Model, trainer: trainers.Trainer) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator([SOURCE, PROSE], trainer)
    return tokenizer


def like_gpt4() -> Tokenizer:
    tokenizer = byte_level()
    pattern = r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    pieces = [
        pre_tokenizers.Split(pattern, "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(pieces)
    return tokenizer


def like_neox() -> Tokenizer:
    tokenizer = byte_level()
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.add_tokens(["   ", "  "])
    return tokenizer


def like_llama() -> Tokenizer:
    """BPE without a pre-tokenizer, that falls back to bytes and puts a space in front."""
    model = models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True)
    special = ["<unk>", *(f"<0x{i:02X}>" for i in range(256))]
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    words = [word for text in (SOURCE, PROSE) for word in text.split()]
    tokenizer.train_from_iterator(
        words, trainers.BpeTrainer(vocab_size=700, special_tokens=special, show_progress=False)
    )
    return tokenizer


def wordpiece() -> Tokenizer:
    trainer = trainers.WordPieceTrainer(vocab_size=300, special_tokens=["[UNK]"], show_progress=False)
    tokenizer = trained(models.WordPiece(unk_token="[UNK]"), trainer)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def unigram() -> Tokenizer:
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False)
    return trained(models.Unigram(), trainer)


KINDS: dict[str, Callable[[], Tokenizer]] = {
    "gpt-2": byte_level,
    "gpt-4": like_gpt4,
    "neox": like_neox,
    "llama": like_llama,
    "wordpiece": wordpiece,
    "unigram": unigram,
}


@pytest.fixture(params=KINDS)
def exact(request: pytest.FixtureRequest) -> Tokenizer:
    tokenizer = KINDS[request.param]()
    tokenizer.encode_special_tokens = True
    return tokenizer


def ids_of(exact: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [exact.encode(text, add_special_tokens=False).ids for text in texts]


def test_ids_are_those_of_tokenizers(exact: Tokenizer) -> None:
    encoder = Encoder(exact)
    for found in (encoder.encode(TEXTS), encoder._encode_exact(TEXTS)):
        assert (found.ids.dtype, found.starts.dtype, len(found)) == (np.int32, np.int64, len(TEXTS))
        assert [document.tolist() for document in found] == ids_of(exact, TEXTS)
    assert len(encoder.encode([])) == len(encoder._encode_exact([])) == 0


def test_what_gpus_are_fed_by_is_read_the_fast_way() -> None:
    pytest.importorskip("fastokens")
    for kind in ("gpt-2", "gpt-4", "neox"):
        exact = KINDS[kind]()
        exact.encode_special_tokens = True
        assert Encoder(exact).library.startswith("fastokens ")


def test_a_long_document_in_parts_has_the_ids_of_the_whole(exact: Tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "_PIECE", 1000)
    monkeypatch.setattr(backends, "_BATCH", 3000)
    chinese = "".join(f"第{i}行,没有空格。\n" for i in range(900))
    texts = [
        SOURCE,
        "x" * 9000,
        chinese,
        PROSE * 60,
        SOURCE.replace(" ", ""),
        " ".join("word" for _ in range(3000)),
        "",
    ]
    parts = [list(backends._pieces(text, lambda t: exact.encode(t, add_special_tokens=False).ids)) for text in texts]
    assert len(parts[0]) > 3
    assert len(parts[3]) > 3
    assert len(parts[1]) == 1  # nowhere to cut
    if isinstance(exact.decoder, decoders.ByteLevel):
        assert len(parts[2]) > 3
    assert [d.tolist() for d in Encoder(exact)._encode_exact(texts)] == ids_of(exact, texts)


def test_a_fast_way_that_differs_is_left_for_good(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = byte_level()
    odd = "a text of which the fast way makes something else"

    def wrong(_exact: Tokenizer) -> backends.Encode:
        return lambda texts: Encoded.of([[7] if text == odd else exact.encode(text).ids for text in texts])

    monkeypatch.setattr(backends, "_fastokens", wrong)
    encoder = Encoder(exact)
    encoder.check([PROSE])
    assert encoder.library.startswith("fastokens")
    encoder.check([PROSE, odd])
    assert encoder.library.startswith("tokenizers")
    assert encoder.encode([odd])[0].tolist() == exact.encode(odd).ids
    encoder.check([PROSE])
    assert encoder.library.startswith("tokenizers")


@pytest.mark.parametrize("fault", ["panics", "is not there"])
def test_without_a_fast_way_there_is_the_exact_one(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    class PanicException(BaseException):
        """As PyO3 raises it."""

    def panic(_texts: list[str]) -> Encoded:
        raise PanicException

    monkeypatch.setattr(backends, "_fastokens", lambda _: panic if fault == "panics" else None)
    encoder = Encoder(byte_level())
    assert encoder.library.startswith("tokenizers")
    assert encoder.encode([PROSE])[0].tolist() == byte_level().encode(PROSE).ids


def test_what_ends_the_call_is_no_fault_of_the_fast_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class Stop(BaseException):
        pass

    def encoded(texts: list[str]) -> Encoded:
        if texts == [PROSE]:
            raise Stop
        return Encoded.of([byte_level().encode(text).ids for text in texts])

    monkeypatch.setattr(backends, "_fastokens", lambda _: encoded)
    encoder = Encoder(byte_level())
    with pytest.raises(Stop):
        encoder.encode([PROSE])
    assert encoder.library.startswith("fastokens")


def test_a_text_that_the_fast_way_cannot_read_is_read_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = byte_level()

    def stumbles(texts: list[str]) -> Encoded:
        if "stumble" in texts:
            raise ValueError("too deep")
        return Encoded.of([exact.encode(text).ids for text in texts])

    monkeypatch.setattr(backends, "_fastokens", lambda _: stumbles)
    encoder = Encoder(exact)
    assert encoder.encode(["a", "stumble"])[1].tolist() == exact.encode("stumble").ids
    assert encoder.library.startswith("tokenizers")


def test_threads_may_encode_at_once(exact: Tokenizer) -> None:
    encoder = Encoder(exact)
    wanted = encoder.encode(TEXTS).ids.tobytes()
    found: list[bytes] = []
    threads = [threading.Thread(target=lambda: found.append(encoder.encode(TEXTS).ids.tobytes())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [wanted] * 8


@pytest.mark.parametrize("way", ["encode", "_encode_exact"])
def test_a_long_document_takes_little_more_memory_than_its_text(tmp_path: Path, way: str) -> None:
    """16 MB in a process of its own; tokenizers alone would take 800."""
    add_tokenizer(tmp_path)
    code = f"""
import resource, tokenizers
from scorer.tokenizer.backends import Encoder
encoder = Encoder(tokenizers.Tokenizer.from_file({str(tmp_path / "tokenizer.json")!r}))
text = {PROSE!r} * 200_000
encoder.{way}([text[:1_000_000]])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert len(encoder.{way}([text]).ids) > 4_000_000
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1000)
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert float(ran.stdout) < 250
