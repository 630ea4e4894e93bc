"""Scores of a few texts, token by token: they add up to the scores that the scoring loop gives the texts."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import transformers as tf

from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.reference import Reference, load
from scorer.engine.score_texts import score_texts
from scorer.engine.scoring import score
from scorer.errors import BadReference
from tests.scorer import mamba2_folders
from tests.scorer.model_folders import END, GPT2, PROSE, ROWS, add_tokenizer, make_folder

TEXTS = [PROSE * 5, "", "x", f"a {END} b", PROSE[:40]]


@pytest.fixture(params=["bos", "no bos", "recurrent"])
def reference(request: pytest.FixtureRequest, tmp_path: Path) -> Reference:
    if request.param == "recurrent":
        config = Mamba2Config(vocab_size=ROWS, hidden=32, layers=2, heads=4, head_dim=16, state=8, groups=2)
        mamba2_folders.hugging_face(tmp_path, config)
        add_tokenizer(tmp_path, bos_token=END)
        return dataclasses.replace(load(tmp_path), budget=64)  # so that a document is read in parts
    make_folder(tmp_path, tf.GPT2Config(**GPT2))
    if request.param == "no bos":
        (tmp_path / "tokenizer_config.json").unlink()
        add_tokenizer(tmp_path)
    return load(tmp_path)


@pytest.mark.parametrize("stride", [None, 5])
def test_the_tokens_of_each_text_add_up_to_its_score(reference: Reference, stride: int | None) -> None:
    ((_, nll, n_tokens, *_),) = score(reference, [(TEXTS, None)], on_progress=lambda *_: None, stride=stride)
    found = score_texts(reference, TEXTS, stride)
    assert [text.n_tokens for text in found] == n_tokens.tolist()
    assert [text.ids.tolist() for text in found] == [ids.tolist() for ids in reference.tokenizer.encode(TEXTS)]
    for text, total in zip(found, nll, strict=True):
        assert len(text.nll) == text.n_tokens
        assert text.n_tokens == 0 or text.nll.sum() == pytest.approx(total, abs=1e-4)
        assert np.isnan(total) == (text.n_tokens == 0)


def test_a_stride_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, tf.GPT2Config(**GPT2))
    with pytest.raises(BadReference, match="take 1 to 23"):
        score_texts(load(tmp_path), ["a"], stride=24)
