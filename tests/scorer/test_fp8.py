"""8-bit products of loaded models, their trial on real text and the refusals, on a CPU by the references in torch."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import GPT2Config, LlamaConfig

from kernels.pack import Pack
from scorer.causal_lm import fp8_trial
from scorer.causal_lm.fp8 import Fp8Linear, _quantize_rows, replace_linear
from scorer.causal_lm.fp8_trial import LEAST_CORRELATION, Fp8Trial, agreement
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.reference import load
from scorer.causal_lm.transformer import Transformer
from scorer.causal_lm.trial_texts import trial_texts
from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import Tokenizer
from scorer.training.presets import initialise
from tests.kernels.helpers import relative
from tests.scorer.model_folders import GPT2, GROUPED, add_tokenizer, make_folder, make_model

LENGTHS = [1, 5, 24, 13]


def test_the_trial_has_prose_and_code() -> None:
    texts = trial_texts()
    assert set(texts) == {"prose", "code"}
    assert all(len(found) >= 100 for found in texts.values())
    assert texts == trial_texts()


@pytest.mark.parametrize("groups", [1, 2])
def test_mamba2_scores_about_the_same(groups: int) -> None:
    torch.manual_seed(0)
    config = Mamba2Config(vocab_size=100, hidden=64, layers=2, heads=4, head_dim=64, state=16, groups=groups, mlp=96)
    model = Mamba2(config)
    initialise(model)
    with torch.no_grad():
        model.head.mul_(30)
    model.requires_grad_(False).bfloat16().packed = True
    ids, targets = torch.randint(100, (2, sum(LENGTHS)))
    before, _ = model.nll(ids, targets, Pack.of(LENGTHS, "cpu"))
    model.quantize()
    after, _ = model.nll(ids, targets, Pack.of(LENGTHS, "cpu"))
    assert isinstance(model.backbone.layers[0].mixer.in_proj, Fp8Linear)
    assert 0 < relative(after, before) < 0.1


def test_mamba2_that_reads_no_packs_is_refused() -> None:
    config = Mamba2Config(vocab_size=100, hidden=64, layers=1, heads=4, head_dim=16, state=8)
    with pytest.raises(BadReference, match="heads of 64 or 128"):
        Mamba2(config).quantize()


@pytest.mark.parametrize("config", [GPT2Config(**GPT2), LlamaConfig(**GROUPED)], ids=["gpt2", "llama"])
def test_transformers_score_about_the_same(config: object) -> None:
    model = Transformer(make_model(config).bfloat16())
    ids, targets = torch.randint(300, (2, sum(LENGTHS)))
    before, _ = model.nll(ids, targets, Pack.of(LENGTHS, "cpu"))
    model.quantize()
    after, _ = model.nll(ids, targets, Pack.of(LENGTHS, "cpu"))
    assert 0 < relative(after, before) < 0.2


def test_layers_whose_sizes_do_not_fit_stay_and_a_shared_one_is_replaced_everywhere() -> None:
    shared = torch.nn.Linear(32, 32)
    body = torch.nn.Sequential(shared, shared, torch.nn.Linear(32, 40), torch.nn.Linear(40, 16)).bfloat16()
    assert replace_linear(body) == 1
    assert body[0] is body[1]
    assert [type(layer) for layer in body[1:]] == [Fp8Linear, torch.nn.Linear, torch.nn.Linear]


def test_wide_rows_are_rounded_by_an_operator_that_a_compiler_can_trace() -> None:
    torch.library.opcheck(_quantize_rows, (torch.randn(5, 48).bfloat16(),))


def test_a_model_without_such_layers_is_refused() -> None:
    config = GPT2Config(**(GPT2 | {"n_embd": 24, "n_inner": 40}))
    with pytest.raises(BadReference, match="multiples of 16"):
        Transformer(make_model(config).bfloat16()).quantize()


def test_another_device_than_a_hopper_gpu_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, GPT2Config(**GPT2))
    with pytest.raises(BadReference, match=r"dtype fp8 needs a Hopper GPU.* the device is cpu"):
        load(tmp_path, "cpu", "fp8")


def test_agreement() -> None:
    draw = np.random.default_rng(0)
    scores = draw.normal(size=400)
    assert agreement(scores, 2 * scores + 3) == pytest.approx(1)
    assert agreement(scores, scores + 0.01 * draw.normal(size=400)) > LEAST_CORRELATION
    assert agreement(scores, scores + 0.1 * draw.normal(size=400)) < LEAST_CORRELATION
    assert agreement(scores, np.where(scores > 2, np.nan, scores)) == -1


@pytest.fixture
def few_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = {kind: [text[:300] for text in found[:120]] for kind, found in trial_texts().items()}
    monkeypatch.setattr(fp8_trial, "trial_texts", lambda: texts)


def test_the_trial_refuses_where_ranks_change_and_names_the_text(tmp_path: Path, few_texts: None) -> None:
    add_tokenizer(tmp_path, bos_token="<|endoftext|>")
    model = Transformer(make_model(LlamaConfig(**GROUPED)).bfloat16())
    trial = Fp8Trial(model, Tokenizer(tmp_path), "cpu")
    trial.check(tmp_path, 4096)  # as it was, in other packs
    changed = copy.deepcopy(model.model.lm_head.weight)
    model.model.lm_head.weight.data = changed + 0.1 * changed.std() * torch.randn_like(changed)
    with pytest.raises(BadReference, match=r"change the order of documents: on real text \((prose|code)\).*bfloat16"):
        trial.check(tmp_path, 4096)
