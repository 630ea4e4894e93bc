"""A trained reference has learnt, loads everywhere, and has the same weights whether its training was killed or not."""

import dataclasses
import itertools
import json
import math
import multiprocessing
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from scorer.causal_lm.mamba2 import load_mamba2
from scorer.causal_lm.reference import load
from scorer.engine.score_texts import score_texts
from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import END_OF_TEXT as END
from scorer.training import loop
from scorer.training.batches import Layout
from scorer.training.initial import Saved
from scorer.training.names import PRESETS, OptimizerName, Preset
from scorer.training.presets import RECIPES, Gpt2Shape, Mamba2Shape, Recipe, TrainingModel
from scorer.training.summary import too_little
from scorer.training.tokens import Texts, tokenize, train_tokenizer
from scorer.training.train import OnProgress, train
from tests.scorer.model_folders import rows_nll

SENTENCE = "the quick brown fox jumps over a lazy dog while seven wizards brew strong potions for every queen"
WORDS = SENTENCE.split()
TOKENS = 24_000


def texts() -> Iterator[str]:
    """Sentences in which each word is followed by one of two others, so that there is something to learn."""
    draw = random.Random(0)
    for _ in range(300):
        at, words = draw.randrange(len(WORDS)), []
        for _ in range(draw.randrange(5, 40)):
            words.append(WORDS[at])
            at = (at + draw.choice((1, 5))) % len(WORDS)
        yield " ".join(words)


SMALL = Recipe(
    Mamba2Shape(hidden=64, layers=2, inner=64, state=8, tied=False),
    vocabulary=300,
    sequence=64,
    batch=4,
    budget=24_000,
    micro_cpu=2,
    micro_gpu=4,
    optimizer="adamw",
    learning_rate=1e-2,
    muon_learning_rates=(2e-2, 1e-2),
)


GPT2 = dataclasses.replace(SMALL, build=Gpt2Shape(hidden=32, layers=2, heads=2), optimizer="muon")


def ignore(done: int, total: int, loss: float | None, heldout: float | None) -> None:
    pass


def run(
    folder: Path,
    recipe: Recipe = SMALL,
    tokens: int = TOKENS,
    seed: int = 0,
    progress: OnProgress = ignore,
    of: Texts = texts,
    processes: int = 1,
    optimizer: OptimizerName | None = None,
    source: Path | None = None,
) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "tiny", recipe)
        out, work = folder / "model", folder / "work"
        preset: Preset | None = "tiny" if source is None else None
        more: dict[str, Any] = {"optimizer": optimizer, "processes": processes, "source": source}
        train(of, preset, tokens, seed, out, work, "cpu", progress, **more)
    return folder / "model"


def weights(model: Path) -> bytes:
    return (model / "model.safetensors").read_bytes()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(tmp_path_factory.mktemp("trained"))


@pytest.fixture(scope="module")
def trained_gpt2(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    """A trained GPT-2, and the held-out losses that were told."""
    told: list[float] = []

    def tell(_done: int, _total: int, _loss: float | None, heldout: float | None) -> None:
        told.extend([] if heldout is None else [heldout])

    return run(tmp_path_factory.mktemp("trained-gpt2"), GPT2, progress=tell), told


def test_it_has_learnt(trained: Path) -> None:
    tokenizer, model = AutoTokenizer.from_pretrained(trained), load_mamba2(trained, torch.float32, "cpu")

    def nll_per_word(text: str) -> float:
        ids = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text).input_ids]])
        return rows_nll(model, ids[:, :-1], ids[:, 1:]).sum().item() / len(text.split())

    along = " ".join(WORDS[i % len(WORDS)] for i in range(20))  # words in the order that the texts prefer
    against = " ".join(reversed(along.split()))
    assert nll_per_word(along) < 0.6 * math.log(len(WORDS))
    assert nll_per_word(against) > 2 * nll_per_word(along)
    said = json.loads((trained / "training.json").read_text())
    assert said["loss"] < 1.5
    assert said["tokens"] == TOKENS


def test_the_folder_loads_with_transformers_and_scores_the_same(trained: Path) -> None:
    model, info = AutoModelForCausalLM.from_pretrained(trained, output_loading_info=True)
    assert not any(info.values())
    tokenizer = AutoTokenizer.from_pretrained(trained)
    assert tokenizer.bos_token_id == tokenizer.eos_token_id == model.config.bos_token_id == 0
    text = "the lazy dog\n naïve 雪 <x>"
    ids = tokenizer(text, return_tensors="pt").input_ids
    assert tokenizer.decode(ids[0]) == text
    ids = torch.cat((torch.zeros(1, 1, dtype=torch.long), ids), dim=1)
    ours = rows_nll(load_mamba2(trained, torch.float32, "cpu"), ids[:, :-1], ids[:, 1:])
    torch.testing.assert_close(ours.mean(), model(ids, labels=ids).loss.detach(), rtol=0, atol=1e-5)


def test_gpt2_trains_and_loads(trained_gpt2: tuple[Path, list[float]]) -> None:
    folder, _ = trained_gpt2
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    assert model.config.architectures == ["GPT2LMHeadModel"]
    ids = torch.tensor([[0, *AutoTokenizer.from_pretrained(folder)(" ".join(WORDS)).input_ids]])
    assert model(ids, labels=ids).loss.item() < 2.5


def test_few_texts_are_not_learnt_by_heart(tmp_path: Path) -> None:
    """They are read four times at most, however many tokens are asked for."""
    totals: set[int] = set()
    few = list(itertools.islice(texts(), 20))
    folder = run(tmp_path, tokens=1_000_000, of=lambda: few, progress=lambda _done, total, *_: totals.add(total))
    said = json.loads((folder / "training.json").read_text())
    assert said["tokens"] == 4 * said["distinct_tokens"] < 20_000
    assert said["tokens"] in totals


def test_same_inputs_give_the_same_weights_and_another_seed_others(tmp_path: Path, trained: Path) -> None:
    assert weights(run(tmp_path / "again")) == weights(trained)
    assert weights(run(tmp_path / "other", seed=1, tokens=2_000)) != weights(run(tmp_path / "one", tokens=2_000))


class Killed(Exception):
    """What stands for a kill: raised from the progress call, between two steps."""


@pytest.mark.parametrize("recipe", [SMALL, GPT2], ids=["mamba2", "gpt2"])
def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recipe: Recipe
) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(time, "monotonic", itertools.count().__next__)  # a checkpoint after every few steps
    seen: list[int] = []

    def die_at(limit: float) -> OnProgress:
        def progress(done: int, total: int, loss: float | None, heldout: float | None) -> None:
            seen.append(done)
            if done >= limit:
                raise Killed

        return progress

    unkilled = run(tmp_path / "unkilled", recipe, tokens=8_000)
    for limit in (-1.0, 3_000.0, 6_000.0):
        with pytest.raises(Killed):
            run(tmp_path / "killed", recipe, tokens=8_000, progress=die_at(limit))
        assert not (tmp_path / "killed" / "model").exists()
    seen.clear()
    killed = run(tmp_path / "killed", recipe, tokens=8_000, progress=die_at(math.inf))
    assert min(n for n in seen if n) > 3_000  # it went on, and did not start again
    for name in ("model.safetensors", "tokenizer.json", "training.json", "config.json"):
        assert (killed / name).read_bytes() == (unkilled / name).read_bytes()


def test_a_checkpoint_of_other_settings_is_not_taken_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_SAVE_SECONDS", 0.0)
    monkeypatch.setattr(time, "monotonic", itertools.count().__next__)
    run(tmp_path / "reused", seed=1, tokens=2_000)
    assert weights(run(tmp_path / "reused", tokens=2_000)) == weights(run(tmp_path / "fresh", tokens=2_000))


def test_progress_rises_to_the_total(tmp_path: Path) -> None:
    calls: list[tuple[int, int, float | None, float | None]] = []
    run(tmp_path, tokens=2_000, progress=lambda *call: calls.append(call))
    done = [call[0] for call in calls]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, 2_000)
    assert {call[1] for call in calls} == {2_000}
    assert calls[0][2] is None  # while the tokenizer is made
    assert all(loss is not None and 0 < loss < 10 for n, _, loss, _ in calls if n)
    assert calls[-1][3] is not None


def test_every_document_starts_after_an_end_and_its_text_is_data(tmp_path: Path) -> None:
    documents = ["the fox", "", f"a {END} b", "\ud800 lone", "word " * 30_000]
    tokenizer = train_tokenizer(lambda: documents, 300, tmp_path / "tokenizer.json", lambda: None)
    packed = tokenize(lambda: documents, tokenizer, 10**6, tmp_path, lambda: None).trained
    assert packed.dtype.name == "uint16"
    starts = [i for i, token in enumerate(packed) if token == 0] + [len(packed)]
    found = [tokenizer.decode(packed[i + 1 : j].tolist()) for i, j in itertools.pairwise(starts)]
    assert found == ["the fox", f"a {END} b", "? lone", "word " * 30_000]
    (tmp_path / "cut").mkdir()
    cut = tokenize(lambda: documents, tokenizer, 10, tmp_path / "cut", lambda: None)
    assert cut.trained.tolist() == packed[:11].tolist()


def with_held_out(text: str, documents: int = 60) -> list[str]:
    """The texts, every 20th replaced."""
    return [text if i % 20 == 1 else other for i, other in enumerate(itertools.islice(texts(), documents))]


def test_held_out_documents_teach_nothing(tmp_path: Path) -> None:
    along = " ".join(WORDS[i % len(WORDS)] for i in range(20))  # words in the order that the texts prefer
    against = "".join(reversed(along))
    folders = []
    for text in (along, against):
        documents = with_held_out(text)
        folders.append(run(tmp_path / str(len(folders)), tokens=4_000, of=lambda documents=documents: documents))
    assert weights(folders[0]) == weights(folders[1])
    assert (folders[0] / "tokenizer.json").read_bytes() == (folders[1] / "tokenizer.json").read_bytes()
    said = [json.loads((folder / "training.json").read_text()) for folder in folders]
    assert [about["heldout_documents"] for about in said] == [3, 3]
    assert said[0]["heldout_bits_per_byte"] < 0.5 * said[1]["heldout_bits_per_byte"]


def test_the_held_out_loss_is_that_of_the_saved_model(tmp_path: Path) -> None:
    text = f"{' '.join(WORDS[:9])} naïve"
    folder = run(tmp_path, tokens=2_000, of=lambda: with_held_out(text, 20))
    reference = load(folder)
    (score,) = score_texts(reference, [text])
    said = json.loads((folder / "training.json").read_text())
    assert score.total is not None
    assert said["heldout_bits_per_byte"] == pytest.approx(score.total / math.log(2) / len(text.encode()), rel=1e-4)


def test_a_reference_that_read_too_little_for_its_size_is_said(tmp_path: Path, trained: Path) -> None:
    said = json.loads((trained / "training.json").read_text())
    assert "too little for its size" in said["warning"]
    assert said["passes"] == said["tokens"] / said["distinct_tokens"] > 1
    assert too_little(1_000_000, 200_000) is None


def test_the_tokenizer_is_the_same_each_time(tmp_path: Path) -> None:
    for name in ("a", "b"):
        train_tokenizer(texts, 400, tmp_path / name, lambda: None)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_an_abort_stops_the_reading_of_text(tmp_path: Path) -> None:
    ended = threading.Event()

    def endless() -> Iterator[str]:
        try:
            while True:
                yield "word " * 100
        finally:
            ended.set()

    def beat() -> None:
        raise Killed

    with pytest.raises(Killed):
        train_tokenizer(endless, 10**6, tmp_path / "tokenizer.json", beat)
    assert ended.wait(30)
    assert list(tmp_path.iterdir()) == []


def test_little_text_still_trains_and_none_is_refused(tmp_path: Path) -> None:
    model = run(tmp_path / "little", tokens=1_000, of=lambda: ["one short document"])
    load_mamba2(model, torch.float32, "cpu")
    for name, nothing in {"none": [], "empty": [""]}.items():
        with pytest.raises(BadReference, match="no text"):
            run(tmp_path / name, of=lambda nothing=nothing: nothing)


def test_a_failing_source_of_text_fails_the_training(tmp_path: Path) -> None:
    def broken() -> Iterator[str]:
        yield "a"
        raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        run(tmp_path, of=broken)


def test_the_presets_have_the_published_shapes() -> None:
    assert tuple(RECIPES) == PRESETS
    with torch.device("meta"):
        sizes = {
            name: sum(p.numel() for p in recipe.build(recipe.vocabulary).module.parameters())
            for name, recipe in RECIPES.items()
        }
    assert 1e6 < sizes["tiny"] < 5e6
    assert 125e6 < sizes["mamba2-130m"] < 135e6
    assert 120e6 < sizes["gpt2-124m"] < 128e6
    assert sizes["124m"] == sizes["gpt2-124m"]
    bodies = {name: sizes[name] - RECIPES[name].vocabulary * RECIPES[name].build.hidden for name in PRESETS}
    assert bodies["nano"] < 2e6
    assert 3.5e6 < sizes["4m"] < 4.7e6
    assert 9e6 < bodies["10m"] < 11e6
    assert 28e6 < bodies["30m"] < 33e6


def test_mamba2_starts_as_its_authors_start_it() -> None:
    torch.manual_seed(0)
    model = SMALL.build(320).module
    mixer = model.backbone.layers[0].mixer
    assert torch.equal(mixer.D, torch.ones(1))
    assert 1 <= mixer.A_log.exp().item() <= 16
    assert 1e-3 <= torch.nn.functional.softplus(mixer.dt_bias).item() <= 0.1


# -- optimizers
def losses_of(folder: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads((folder / "training.json").read_text())
    return said


def test_both_optimizers_learn(tmp_path: Path, trained_gpt2: tuple[Path, list[float]]) -> None:
    adamw = run(tmp_path, GPT2, tokens=12_000, optimizer="adamw")
    for folder, optimizer in ((adamw, "adamw"), (trained_gpt2[0], "muon")):
        said = losses_of(folder)
        assert said["optimizer"] == optimizer
        assert said["loss"] < 2.5


def test_held_out_loss_is_told_as_it_falls(trained_gpt2: tuple[Path, list[float]]) -> None:
    folder, told = trained_gpt2
    curve = losses_of(folder)["heldout_curve"]
    assert [tokens for tokens, _ in curve] == sorted(tokens for tokens, _ in curve)
    assert len(curve) == 10
    assert curve[-1][1] < 0.8 * curve[0][1]
    assert set(told) <= {bits for _, bits in curve}
    assert len(set(told)) == 10


# -- documents
def test_a_gpt2_document_in_training_sees_no_other(trained_gpt2: tuple[Path, list[float]]) -> None:
    model = load_gpt2(trained_gpt2[0])
    layout = Layout(1, 12)
    first, second = [0, 5, 6, 7, 8], [0, 9, 10, 11, 12, 13, 14]
    row = np.array([[*first, *second]])
    other = np.array([[0, 50, 60, 70, 80, *second]])
    hidden = [model.hidden(layout.split(layout.join(ids, ids, 0))) for ids in (row, other)]
    torch.testing.assert_close(hidden[0][5:], hidden[1][5:])
    assert not torch.allclose(hidden[0][:5], hidden[1][:5])
    alone = model.module(torch.tensor([second]), output_hidden_states=True).hidden_states[-1][0]
    torch.testing.assert_close(hidden[0][5:], alone, rtol=1e-4, atol=1e-5)


def load_gpt2(folder: Path) -> TrainingModel:
    return Saved(folder)(0)


# -- on from a given reference
@pytest.mark.parametrize("recipe", [SMALL, GPT2], ids=["mamba2", "gpt2"])
def test_a_reference_is_trained_on(
    tmp_path: Path, recipe: Recipe, trained: Path, trained_gpt2: tuple[Path, list[float]]
) -> None:
    before = trained if recipe is SMALL else trained_gpt2[0]
    after = run(tmp_path, recipe, tokens=4_000, source=before)
    said = losses_of(after)
    assert said["preset"] == "tiny"
    assert said["source"] is not None
    assert said["heldout_curve"][0][1] < losses_of(before)["heldout_curve"][0][1]  # it starts from what was learnt
    assert weights(after) != weights(before)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (after / name).read_bytes() == (before / name).read_bytes()
    _, info = AutoModelForCausalLM.from_pretrained(after, output_loading_info=True)
    assert not any(info.values())
    assert load(after).tokenizer.bos == 0


def test_what_cannot_be_trained_on_is_refused(tmp_path: Path, trained: Path) -> None:
    (tmp_path / "other").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / "other" / name).write_bytes((trained / name).read_bytes())
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": 300}))
    with pytest.raises(BadReference, match="llama"):
        run(tmp_path, source=tmp_path / "other")


# -- several processes
@pytest.mark.parametrize("recipe", [SMALL, GPT2], ids=["mamba2", "gpt2"])
def test_two_processes_have_the_losses_of_one(tmp_path: Path, recipe: Recipe, request: pytest.FixtureRequest) -> None:
    if recipe is GPT2:  # the other is a new interpreter, as for users
        request.getfixturevalue("fork_not_spawn")
    found = [losses_of(run(tmp_path / str(n), recipe, tokens=3_000, processes=n)) for n in (1, 2)]
    assert found[0]["loss"] == pytest.approx(found[1]["loss"], abs=1e-5)
    assert found[0]["heldout_bits_per_byte"] == pytest.approx(found[1]["heldout_bits_per_byte"], abs=1e-5)
    assert [said["processes"] for said in found] == [1, 2]


@pytest.mark.usefixtures("fork_not_spawn")
def test_other_processes_end_with_a_training_that_is_aborted(tmp_path: Path) -> None:
    def die(done: int, _total: int, _loss: float | None, _heldout: float | None) -> None:
        if done:
            raise Killed

    with pytest.raises(Killed):
        run(tmp_path, processes=2, progress=die)
    assert multiprocessing.active_children() == []
