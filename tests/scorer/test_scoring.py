"""The scoring loop: sums by hand, documents that never see each other, progress, and bounds."""

import dataclasses
import sys
import threading
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as tf

from kernels.pack import Pack
from scorer.causal_lm.reference import Reference, load
from scorer.causal_lm.transformer import Transformer
from scorer.engine import batch_loader, executor, packing
from scorer.engine.scoring import score
from scorer.errors import BadReference, OutOfMemory
from tests.scorer import mamba2_folders
from tests.scorer.model_folders import (
    END,
    GPT2,
    GROUPED,
    PROSE,
    ROWS,
    SHAPE,
    add_tokenizer,
    make_folder,
    make_model,
    windowed_nll,
)

TEXTS = [PROSE, "x", "", PROSE * 5, f"a {END} b", "é漢字🙂 \0 nul", "    \n" * 30, "no", PROSE[:40]]
MAMBA2 = mamba2_folders.Mamba2Config(vocab_size=ROWS, hidden=32, layers=2, heads=4, head_dim=16, state=8, groups=2)


def silent(_documents: int, _tokens: int) -> None:
    pass


def score_one_block(reference: Reference, texts: list[str], **options: Any) -> tuple[np.ndarray, np.ndarray]:
    ((_, nll, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=silent, **options)
    return nll, n_tokens


def mamba2(folder: Path, **special: str) -> Any:
    """A folder of Mamba-2. Returns transformers' model of it."""
    mamba2_folders.hugging_face(folder, MAMBA2)
    add_tokenizer(folder, **special)
    return tf.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("gpt2")
    make_folder(folder, tf.GPT2Config(**GPT2))
    return load(folder)


@pytest.fixture(scope="module")
def recurrent(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    folder = tmp_path_factory.mktemp("mamba2")
    mamba2(folder, bos_token=END)
    return load(folder)


@pytest.mark.parametrize("special", [{"bos_token": END}, {"eos_token": END}, {}], ids=["bos", "eos", "neither"])
@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama", "mamba2"])
def test_scores_are_the_labels_loss_window_after_window(tmp_path: Path, kind: str, special: dict[str, str]) -> None:
    if kind == "mamba2":
        if sys.version_info < (3, 11):
            pytest.skip("transformers for Python 3.10 normalizes the groups of Mamba-2 together, unlike later versions")
        model = mamba2(tmp_path, **special)
    else:
        config = {
            "gpt2": tf.GPT2Config(**GPT2),
            "gpt_neox": tf.GPTNeoXConfig(**SHAPE),
            "llama": tf.LlamaConfig(**GROUPED),
        }[kind]
        model = make_folder(tmp_path, config)
        (tmp_path / "tokenizer_config.json").unlink()
        add_tokenizer(tmp_path, **special)
    reference = load(tmp_path)
    nll, n_tokens = score_one_block(reference, TEXTS)
    assert (nll.dtype, n_tokens.dtype) == (np.float64, np.int64)
    for ids, total, count in zip(reference.tokenizer.encode(TEXTS), nll, n_tokens, strict=True):
        assert count == max(0, len(ids) - (0 if special else 1))
        if count:
            wanted = windowed_nll(model, ids.tolist(), 0 if special else None, reference.context)
            assert total / count == pytest.approx(wanted / count, abs=1e-5)
        else:
            assert np.isnan(total)


@pytest.mark.parametrize("more", [-1, 0, 1])
def test_documents_about_as_long_as_a_window(gpt2: Reference, more: int) -> None:
    text = "x" * (gpt2.context - 1 + more)  # a token each
    nll, n_tokens = score_one_block(gpt2, [text])
    assert n_tokens.tolist() == [len(text)]
    ids = gpt2.tokenizer.encode([text])[0].tolist()
    assert nll[0] == pytest.approx(windowed_nll(gpt2.model.model, ids, 0, gpt2.context), abs=1e-4)


@pytest.mark.parametrize("stride", [1, 7, 22])
@pytest.mark.parametrize("special", [{"bos_token": END}, {}], ids=["bos", "none"])
def test_a_stride_as_in_the_guide(tmp_path: Path, special: dict[str, str], stride: int) -> None:
    """transformers' guide to perplexity of models with a fixed length, with BOS before each window if there is one."""
    model = make_folder(tmp_path, tf.GPT2Config(**GPT2))
    add_tokenizer(tmp_path, **special)
    reference, text = load(tmp_path), PROSE * 3
    ids = reference.tokenizer.encode([text])[0].tolist()
    stream = [0, *ids] if special else ids
    targets = len(stream) - 1
    total, before = 0.0, 0
    for begin in range(0, targets, stride):
        end = min(begin + reference.context - 1, targets)
        x = torch.tensor([[0 if special else stream[begin], *stream[begin + 1 : end + 1]]])
        labels = x.clone()
        labels[:, : 1 + before - begin] = -100
        with torch.no_grad():
            total += float(model(input_ids=x, labels=labels).loss.double()) * (end - before)
        before = end
        if end == targets:
            break
    nll, n_tokens = score_one_block(reference, [text], stride=stride)
    assert n_tokens.tolist() == [targets]
    assert nll[0] / targets == pytest.approx(total / targets, abs=1e-5)
    assert nll[0] != score_one_block(reference, [text])[0][0]


@pytest.mark.parametrize("stride", [0, 24, 1000])
def test_a_stride_that_does_not_fit(gpt2: Reference, stride: int) -> None:
    with pytest.raises(BadReference, match="take 1 to 23"):
        score_one_block(gpt2, ["a"], stride=stride)


def test_a_stride_is_nothing_to_a_model_of_any_length(recurrent: Reference) -> None:
    assert score_one_block(recurrent, [PROSE], stride=3) == score_one_block(recurrent, [PROSE])


@pytest.mark.parametrize("kind", ["gpt2", "recurrent"])
def test_batched_is_alone(kind: str, request: pytest.FixtureRequest) -> None:
    reference = request.getfixturevalue(kind)
    draw = np.random.default_rng(0)
    texts = [PROSE[draw.integers(40) :] * int(draw.integers(1, 9)) for _ in range(60)] + TEXTS
    nll, n_tokens = score_one_block(reference, texts)
    for text, total, count in zip(texts, nll, n_tokens, strict=True):
        (alone,), (n,) = score_one_block(reference, [text])
        assert n == count
        assert count == 0 or abs(alone - total) / count < 1e-5


@pytest.mark.parametrize("kind", ["gpt2", "recurrent"])
def test_bfloat16_where_it_was_asked_for(kind: str, request: pytest.FixtureRequest) -> None:
    exact = request.getfixturevalue(kind)
    rough = load(exact.folder, "cpu", "bfloat16")
    assert (exact.dtype, rough.dtype) == ("float32", "bfloat16")
    (a, n), (b, _) = score_one_block(exact, [PROSE * 3]), score_one_block(rough, [PROSE * 3])
    assert 0 < abs(a[0] - b[0]) / n[0] < 0.1


@pytest.mark.parametrize("kind", ["gpt2", "recurrent"])
def test_the_same_shard_gives_the_same_bits(kind: str, request: pytest.FixtureRequest) -> None:
    """After another one and in other blocks too."""
    reference = request.getfixturevalue(kind)
    texts = [PROSE * n for n in range(1, 30)]
    first = score_one_block(reference, texts)[0]
    score_one_block(reference, ["something else"])
    blocks = [(texts[:7], "a"), ([], "b"), (texts[7:], "c")]
    again = list(score(reference, blocks, on_progress=silent))
    assert [(tag, len(nll)) for tag, nll, *_ in again] == [("a", 7), ("b", 0), ("c", 22)]
    assert first.tobytes() == np.concatenate([nll for _, nll, *_ in again]).tobytes()


def test_a_long_document_goes_through_in_pieces(recurrent: Reference) -> None:
    text = "xyz " * (recurrent.budget // 2) + "and the rest"
    ids = recurrent.tokenizer.encode([text])[0].astype(np.int64)
    assert len(ids) > 1.5 * recurrent.budget
    assert len(ids) % recurrent.budget
    stream = torch.from_numpy(np.concatenate(([0], ids)))
    whole = float(recurrent.model.nll(stream[:-1], stream[1:], Pack.of([len(ids)], "cpu"))[0].double().sum())
    told: list[tuple[int, int]] = []
    ((_, nll, n_tokens, *_),) = score(recurrent, [([text, "a"], None)], on_progress=lambda *done: told.append(done))
    assert n_tokens.tolist() == [len(ids), 1]
    assert nll[0] / len(ids) == pytest.approx(whole / len(ids), abs=1e-5)
    assert len(told) >= 3
    assert told[-1] == (2, len(ids) + 1)


def test_progress_counts_up_to_everything(gpt2: Reference) -> None:
    told: list[tuple[int, int]] = []
    small = dataclasses.replace(gpt2, budget=64)
    counts = [n for _, _, n, *_ in score(small, [(TEXTS, 0), (TEXTS, 1)], on_progress=lambda *done: told.append(done))]
    assert told[-1] == (2 * len(TEXTS), int(sum(n.sum() for n in counts)))
    assert len(told) > 12
    assert all(a[0] <= b[0] and a[1] <= b[1] for a, b in pairwise(told))


def test_what_is_under_way_has_the_scores_that_it_ends_with(gpt2: Reference) -> None:
    seen: dict[int, list[np.ndarray]] = {0: [], 1: []}

    def look(*_done: int) -> None:
        for tag, nll, _ in scoring.under_way():
            seen[tag].append(nll)

    scoring = score(dataclasses.replace(gpt2, budget=64), [(TEXTS, 0), (TEXTS, 1)], on_progress=look)
    for tag, nll, *_ in scoring:
        for before in seen[tag]:
            there = ~np.isnan(before)
            assert np.array_equal(before[there], nll[there])
    assert any(0 < np.isfinite(nll).sum() < len(TEXTS) - 1 for nll in seen[0])
    assert scoring.under_way() == []


def test_what_takes_long_is_told_of_meanwhile(gpt2: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (batch_loader, executor):
        monkeypatch.setattr(module, "_WAIT_SECONDS", 1e-4)
    told: list[tuple[int, int]] = []
    list(score(gpt2, [([PROSE * 300], None)], on_progress=lambda *done: told.append(done)))
    assert len(told) > len(set(told)) > 1


def test_progress_may_stop_it(gpt2: Reference) -> None:
    def stop(_documents: int, tokens: int) -> None:
        if tokens:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        list(score(gpt2, [(TEXTS, None)], on_progress=stop))


def test_a_reader_that_hangs_is_not_covered_for(gpt2: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a worker whose disk has gone would keep its shard for ever."""
    monkeypatch.setattr(batch_loader, "_WAIT_SECONDS", 1e-3)
    monkeypatch.setattr(batch_loader, "_HUNG_SECONDS", 0.0)
    asked, told = threading.Event(), list[tuple[int, int]]()

    def blocks() -> Iterator[tuple[list[str], None]]:
        asked.wait(0.1)
        yield [PROSE], None

    list(score(gpt2, blocks(), on_progress=lambda *done: told.append(done)))
    assert (0, 0) not in told


def test_reading_goes_no_further_ahead_than_a_few_batches(gpt2: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that memory is that of a few blocks and batches, whatever the shard."""
    monkeypatch.setattr(packing, "_ROWS_WAIT", 100)
    taken: list[int] = []

    def blocks() -> Iterator[tuple[list[str], None]]:
        for i in range(1000):
            taken.append(i)
            yield [PROSE], None

    scores = iter(score(dataclasses.replace(gpt2, budget=32), blocks(), on_progress=silent))
    for done, _scores in enumerate(scores):
        assert len(taken) < done + 50
        if done == 100:
            break
    scores.close()
    assert len(taken) < 200


def test_the_reader_ends_when_scoring_ends_early(gpt2: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "_ROWS_WAIT", 100)

    def stop(_documents: int, tokens: int) -> None:
        if tokens:
            raise InterruptedError

    before = threading.active_count()
    with pytest.raises(InterruptedError):
        list(score(gpt2, (([PROSE], None) for _ in range(100_000)), on_progress=stop))
    assert threading.active_count() <= before + 1


def test_what_reading_raises_is_raised(gpt2: Reference) -> None:
    def blocks() -> Iterator[tuple[list[str], None]]:
        yield [PROSE], None
        raise OSError("the disk has gone")

    with pytest.raises(OSError, match="the disk has gone"):
        list(score(gpt2, blocks(), on_progress=silent))


def test_a_twenty_megabyte_document_is_told_of_while_it_is_read(
    recurrent: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_loader, "_WAIT_SECONDS", 1e-2)

    class Enough(Exception):
        pass

    told: list[tuple[int, int]] = []

    def stop_at_the_first_batch(documents: int, tokens: int) -> None:
        told.append((documents, tokens))
        if tokens:
            raise Enough

    text = PROSE * (20_000_000 // len(PROSE))
    with pytest.raises(Enough):
        list(score(recurrent, [([text], None)], on_progress=stop_at_the_first_batch))
    assert told[0] == (0, 0)
    assert told[-1][0] == 0


@pytest.mark.parametrize("kind", ["gpt2", "packed", "recurrent"])
def test_blocks_tokenizing_threads_and_earlier_scorings_change_no_bit(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = request.getfixturevalue("gpt2" if kind == "packed" else kind)
    if kind == "packed":
        model = Transformer(make_model(tf.GPT2Config(**GPT2)), packs=True)
        reference = dataclasses.replace(reference, model=model)
        assert model.packed
    reference = dataclasses.replace(reference, budget=256)
    texts = [PROSE[n % 50 :] * (n % 7) for n in range(150)] + ["long " * 400]

    def bits(size: int, tokenizing: int) -> bytes:
        monkeypatch.setattr(batch_loader, "_TOKENIZING", tokenizing)
        blocks = [(texts[i : i + size], i) for i in range(0, len(texts), size)]
        found = list(score(reference, blocks, on_progress=silent))
        assert [tag for tag, *_ in found] == [tag for _, tag in blocks]
        return b"".join(nll.tobytes() for _, nll, *_ in found)

    first = bits(len(texts), 1)
    score_one_block(reference, ["something else"] * 9)
    assert bits(len(texts), 4) == bits(7, 1) == bits(7, 4) == bits(1, 4) == first


@pytest.mark.parametrize("kind", ["gpt2", "packed", "recurrent"])
def test_budgets_change_no_score_but_for_rounding(kind: str, request: pytest.FixtureRequest) -> None:
    reference = request.getfixturevalue("gpt2" if kind == "packed" else kind)
    if kind == "packed":
        reference = dataclasses.replace(reference, model=Transformer(make_model(tf.GPT2Config(**GPT2)), packs=True))
    texts = [PROSE[n % 50 :] * (n % 40) for n in range(80)]
    found = [
        score_one_block(dataclasses.replace(reference, budget=budget), texts)[0]
        for budget in (1 << 8, 1 << 13, 1 << 18)
    ]
    n_tokens = score_one_block(reference, texts)[1]
    for nll in found[1:]:
        assert np.nanmax(np.abs(nll - found[0]) / np.maximum(n_tokens, 1)) < 1e-5


def test_waste_is_the_padding_of_rows_and_of_full_packs(gpt2: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = ["x" * 10, "x" * 5, "x"]
    rows = score(gpt2, [(texts, None)], on_progress=silent)
    list(rows)
    assert (rows.window_positions, rows.computed_positions, rows.batches) == (16, 30, 1)
    model = Transformer(make_model(tf.GPT2Config(**GPT2)), packs=True)
    monkeypatch.setattr(torch, "compile", lambda body, dynamic: body)
    model.compile(100)
    assert model.full_packs
    packs = score(dataclasses.replace(gpt2, model=model, budget=100), [(texts, None)], on_progress=silent)
    (_, nll, *_), (wanted, _) = *packs, score_one_block(gpt2, texts)
    assert (packs.window_positions, packs.computed_positions, packs.waste) == (16, 100, 0.84)
    np.testing.assert_allclose(nll, wanted, atol=1e-4)


def test_too_little_memory_is_told_from_other_faults(gpt2: Reference, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: Any, **_named: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(gpt2.model, "nll", full)
    with pytest.raises(OutOfMemory, match=f"{gpt2.budget:,} tokens"):
        score_one_block(gpt2, TEXTS)


def test_halving_ends(gpt2: Reference) -> None:
    smaller = dataclasses.replace(gpt2, budget=4096)
    assert [smaller.halve() for _ in range(3)] == [True, True, False]
    assert (smaller.budget, smaller.provenance()["budget"]) == (1024, 1024)


def test_a_score_that_is_no_number_is_left_so(gpt2: Reference, tmp_path: Path) -> None:
    model = make_folder(tmp_path, tf.GPT2Config(**GPT2))
    with torch.no_grad():
        model.transformer.wte.weight[gpt2.tokenizer.encode(["q"])[0][0]] = float("nan")
    model.save_pretrained(tmp_path)
    nll, n_tokens = score_one_block(load(tmp_path), ["no such letter", "a q b"])
    assert n_tokens.tolist()[1] > 0
    assert np.isnan(nll[1])


def test_nothing_is_printed(gpt2: Reference, capfd: pytest.CaptureFixture[str]) -> None:
    score_one_block(gpt2, [PROSE * 200])
    assert capfd.readouterr() == ("", "")
