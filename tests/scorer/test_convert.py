"""A converted checkpoint scores as before and loads everywhere; a source that cannot be converted is named."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from scorer.causal_lm.convert import convert
from scorer.causal_lm.mamba2 import load_mamba2
from scorer.errors import BadReference
from scorer.tokenizer import tokenizer as tokens
from tests.scorer.mamba2_folders import SMALL, native, native_config, native_weights
from tests.scorer.model_folders import rows_nll


def tokenizer_file(folder: Path, size: int = 90) -> Path:
    """A word-level tokenizer.json of `size` tokens, the last of them the end of text."""
    folder.mkdir(parents=True, exist_ok=True)
    vocabulary = {f"w{i}": i for i in range(size - 1)} | {"<|endoftext|>": size - 1}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder / "tokenizer.json"


def native_bin(folder: Path, **changes: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(native_config(**changes)))
    torch.save(native_weights(), folder / "pytorch_model.bin")
    return folder


def scores(folder: Path) -> torch.Tensor:
    ids = torch.randint(0, SMALL.vocab_size, (2, 70), generator=torch.Generator().manual_seed(0))
    return rows_nll(load_mamba2(folder, torch.float32, "cpu"), ids[:, :-1], ids[:, 1:])


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = native_bin(tmp_path / "source")
    tokenizer_file(folder)
    return folder


def test_scores_stay_the_same(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "out")
    expected = scores(native(tmp_path / "native"))  # the same weights, already in safetensors
    assert torch.equal(scores(tmp_path / "out"), expected)


def test_transformers_loads_all_of_it(tmp_path: Path, source: Path) -> None:
    convert(source, tmp_path / "out")
    model, info = AutoModelForCausalLM.from_pretrained(tmp_path / "out", output_loading_info=True)
    assert not any(info.values())
    assert (model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id) == (89, 89, None)
    assert model.lm_head.weight.data_ptr() == model.get_input_embeddings().weight.data_ptr()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("w3 w5").input_ids == [3, 5]
    assert tokenizer.bos_token_id == 89


def test_a_native_folder_of_safetensors_converts_too(tmp_path: Path) -> None:
    source = native(tmp_path / "native")
    convert(source, tmp_path / "out", tokenizer_file(tmp_path / "elsewhere"))
    assert torch.equal(scores(tmp_path / "out"), scores(source))


def test_the_tokenizers_own_settings_are_kept(tmp_path: Path, source: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    fast = PreTrainedTokenizerFast(tokenizer_file=str(source / "tokenizer.json"), bos_token="w1", eos_token="w2")
    fast.save_pretrained(elsewhere)
    convert(source, tmp_path / "out", elsewhere)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("w1", "w2")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["bos_token_id"], config["eos_token_id"]) == (1, 2)


def test_special_tokens_that_only_their_map_names_are_kept(tmp_path: Path) -> None:
    source = native(tmp_path / "native")
    tokenizer_file(source)
    (source / "special_tokens_map.json").write_text(json.dumps({"bos_token": "w1"}))
    convert(source, tmp_path / "out")
    assert tokens.Tokenizer(source).bos == tokens.Tokenizer(tmp_path / "out").bos == 1


def test_a_source_without_tokenizer_asks_for_one(tmp_path: Path) -> None:
    with pytest.raises(BadReference, match="--tokenizer"):
        convert(native_bin(tmp_path / "source"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, source: Path) -> None:
    with pytest.raises(BadReference, match="97 tokens"):
        convert(source, tmp_path / "out", tokenizer_file(tmp_path / "large", size=97))
    broken = tmp_path / "broken.json"
    broken.write_text("{}")
    with pytest.raises(BadReference, match=r"broken\.json"):
        convert(source, tmp_path / "out", broken)


def test_mamba1_is_refused(tmp_path: Path) -> None:
    source = native_bin(tmp_path / "source", ssm_cfg={})
    tokenizer_file(source)
    with pytest.raises(BadReference, match="Mamba-1"):
        convert(source, tmp_path / "out")


def test_a_missing_tensor_is_named(tmp_path: Path, source: Path) -> None:
    weights = native_weights()
    del weights["backbone.layers.0.mixer.D"]
    torch.save(weights, source / "pytorch_model.bin")
    with pytest.raises(BadReference, match=r"layers\.0\.mixer\.D is missing"):
        convert(source, tmp_path / "out")


class _Runs:
    """Pickles as a call, as a hostile checkpoint would."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("content", ["code", "noise", "list", "nothing", "cut"])
def test_a_pickle_that_is_not_weights_is_refused_and_never_run(tmp_path: Path, source: Path, content: str) -> None:
    path, trap = source / "pytorch_model.bin", tmp_path / "trap"
    if content == "cut":
        path.write_bytes(path.read_bytes()[:-500])
    elif content in ("noise", "nothing"):
        path.write_bytes(b"not weights" if content == "noise" else b"")
    else:
        torch.save({"x": _Runs(trap)} if content == "code" else [torch.ones(1)], path)
    with pytest.raises(BadReference, match=r"pytorch_model\.bin") as caught:
        convert(source, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert content != "code" or "other objects than tensors" in str(caught.value)
    assert not trap.exists()


def test_a_checkpoint_is_not_written_over(source: Path) -> None:
    before = (source / "config.json").read_bytes()
    with pytest.raises(BadReference, match="give another folder to --out"):
        convert(source, source / ".." / source.name)
    assert (source / "config.json").read_bytes() == before
