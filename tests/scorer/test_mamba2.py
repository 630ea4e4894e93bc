"""Mamba-2 scores as transformers' model does, whole or in pieces, padded or alone; a wrong checkpoint is refused."""

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from transformers import Mamba2ForCausalLM

from kernels.pack import Pack
from scorer.causal_lm.mamba2 import Mamba2, load_mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config, is_mamba, parse_config
from scorer.errors import BadReference
from tests.scorer.mamba2_folders import SMALL, hugging_face, native, native_config, native_weights, random_weights
from tests.scorer.model_folders import rows_nll


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Mamba2:
    return load_mamba2(folder, dtype, "cpu")


def tokens(batch: int, length: int, seed: int = 0) -> Tensor:
    return torch.randint(0, SMALL.vocab_size, (batch, length), generator=torch.Generator().manual_seed(seed))


def transformers_nll(folder: Path, ids: Tensor) -> Tensor:
    model, info = Mamba2ForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not any(info.values())
    with torch.no_grad():
        logits = model.eval()(ids[:, :-1]).logits
    return F.cross_entropy(logits.mT, ids[:, 1:], reduction="none")


def nll(model: Mamba2, ids: Tensor) -> Tensor:
    return rows_nll(model, ids[:, :-1], ids[:, 1:])


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"groups": 1},
        {"groups": 4},
        {"tied": False},
        {"proj_bias": True, "conv_bias": False, "conv_kernel": 3},
        {"dt_limit": (0.05, 0.2), "eps": 1e-3},
        {"heads": 2},  # expand 1
    ],
    ids=str,
)
def test_scores_are_those_of_transformers(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = hugging_face(tmp_path, dataclasses.replace(SMALL, **change))
    ids = tokens(2, 132)
    torch.testing.assert_close(nll(load(folder), ids), transformers_nll(folder, ids), rtol=0, atol=1e-5)


@pytest.mark.parametrize("length", [2, 3, 5, 64, 65, 66, 301])
def test_scores_are_those_of_transformers_at_odd_lengths(tmp_path: Path, length: int) -> None:
    folder = hugging_face(tmp_path)
    ids = tokens(1, length)
    torch.testing.assert_close(nll(load(folder), ids), transformers_nll(folder, ids), rtol=0, atol=1e-5)


def test_reads_a_folder_that_transformers_saved(tmp_path: Path) -> None:
    model = Mamba2ForCausalLM.from_pretrained(hugging_face(tmp_path / "ours"))
    model.save_pretrained(tmp_path / "theirs", max_shard_size="5KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 1
    ids = tokens(2, 50)
    assert torch.equal(nll(load(tmp_path / "theirs"), ids), nll(load(tmp_path / "ours"), ids))


def test_both_layouts_are_one_model(tmp_path: Path) -> None:
    for tied in (True, False):
        config = dataclasses.replace(SMALL, tied=tied)
        ids = tokens(2, 50)
        ours = nll(load(hugging_face(tmp_path / f"hf-{tied}", config)), ids)
        assert torch.equal(nll(load(native(tmp_path / f"native-{tied}", config)), ids), ours)


def test_neighbours_change_no_score(tmp_path: Path) -> None:
    model = load(hugging_face(tmp_path))
    lengths = (1, 2, 63, 200, 64, 65, 127)
    documents = [tokens(1, n + 1, seed=n)[0] for n in lengths]
    pack = Pack.of(lengths, "cpu")
    ids, targets = torch.cat([d[:-1] for d in documents]), torch.cat([d[1:] for d in documents])
    targets[5] = -100
    together, _ = model.nll(ids, targets, pack)
    assert together[5] == 0
    for part, document in zip(together.split(lengths), documents, strict=True):
        alone = nll(model, document[None])[0].clone()
        alone[part == 0] = 0
        torch.testing.assert_close(part, alone, rtol=0, atol=1e-5)


def test_a_document_in_pieces_scores_as_whole(tmp_path: Path) -> None:
    model = load(hugging_face(tmp_path))
    ids = tokens(1, 301)
    state, parts = None, []
    for start, stop in ((0, 1), (1, 3), (3, 130), (130, 300)):
        pack = Pack.of([stop - start], "cpu")
        part, state = model.nll(ids[0, start:stop], ids[0, start + 1 : stop + 1], pack, state, keep_state=True)
        parts.append(part)
    torch.testing.assert_close(torch.cat(parts), nll(model, ids)[0], rtol=0, atol=1e-5)
    assert model.nll(ids[0], ids[0], Pack.of([301], "cpu"))[1] is None


def test_bfloat16_products_stay_near_float32(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path, dataclasses.replace(SMALL, proj_bias=True, tied=False))
    ids = tokens(2, 200)
    wide, narrow = nll(load(folder), ids), nll(load(folder, torch.bfloat16), ids)
    assert narrow.dtype == torch.float32
    assert (wide - narrow).abs().mean() < 0.03 * wide.mean()


def test_config_of_state_spaces_130m() -> None:
    raw = {
        "d_model": 768,
        "d_intermediate": 0,
        "n_layer": 24,
        "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [],
        "attn_cfg": {},
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }
    assert is_mamba(raw)
    expected = Mamba2Config(vocab_size=50288, hidden=768, layers=24, heads=24, head_dim=64, state=128)
    assert parse_config(Path("m"), raw) == expected


def test_a_configuration_survives_its_json() -> None:
    for config in (SMALL, dataclasses.replace(SMALL, dt_limit=(0.1, 0.5), tied=False, proj_bias=True, eps=1e-6)):
        assert parse_config(Path("m"), json.loads(json.dumps(config.to_json()))) == config
    assert parse_config(Path("m"), SMALL.to_json() | {"time_step_limit": [0.0, math.inf]}) == SMALL
    assert not is_mamba({"model_type": "gpt2"})


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({"model_type": "mamba"}, "Mamba-1"),
        (native_config(ssm_cfg={}), "Mamba-1"),
        (native_config(ssm_cfg={"layer": "Mamba3"}), "Mamba-3"),
        ({"model_type": "gpt2"}, "gpt2"),
        (native_config(attn_layer_idx=[1]), "causal"),
        (native_config(attn_layer_idx=[1], attn_cfg={"causal": True}), "num_heads"),
        (native_config(attn_layer_idx=[1], attn_cfg={"causal": True, "num_heads": 4, "mlp_dim": 8}), "mlp_dim"),
        (native_config(attn_layer_idx=[1], attn_cfg={"causal": True, "num_heads": 4, "wat": 8}), "wat"),
        (
            native_config(attn_layer_idx=[1], attn_cfg={"causal": True, "num_heads": 4, "num_heads_kv": 3}),
            "not possible for attention",
        ),
        (native_config(attn_layer_idx=[3], attn_cfg={"causal": True, "num_heads": 4}), "sizes"),
        (native_config(rms_norm=False), "LayerNorm"),
        (native_config(ssm_cfg={"layer": "Mamba2", "rmsnorm": False}), "rmsnorm"),
        (native_config(ssm_cfg={"layer": "Mamba2", "surprise": 1}), "surprise"),
        ({"model_type": "mamba2", "vocab_size": 9}, "hidden_size"),
        (SMALL.to_json() | {"num_heads": "many"}, "many"),
        (SMALL.to_json() | {"num_heads": 3}, "num_heads"),
        (SMALL.to_json() | {"num_hidden_layers": 0}, "sizes"),
        (SMALL.to_json() | {"hidden_act": "gelu"}, "gelu"),
    ],
)
def test_what_is_not_mamba2_is_refused(raw: dict[str, Any], says: str) -> None:
    with pytest.raises(BadReference, match=says) as caught:
        parse_config(Path("some/model"), raw)
    assert str(caught.value).startswith("some/model: ")
    assert "\n" not in str(caught.value)


def without(weights: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {k: v for k, v in weights.items() if k != name}


WEIGHTS = random_weights(SMALL)
EMBEDDING = "backbone.embeddings.weight"


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        (without(WEIGHTS, EMBEDDING), EMBEDDING),
        (without(WEIGHTS, "backbone.layers.1.mixer.A_log"), "layers.1.mixer.A_log"),
        (WEIGHTS | {"backbone.norm_f.weight": torch.ones(31)}, "norm_f.weight"),
        (WEIGHTS | {EMBEDDING: WEIGHTS[EMBEDDING][:93].clone()}, EMBEDDING),
        (WEIGHTS | {"backbone.layers.3.norm.weight": torch.ones(32)}, "layers.3"),
        (WEIGHTS | {"backbone.norm_f.weight": torch.ones(32, dtype=torch.int32)}, "int32"),
        (WEIGHTS | {"lm_head.weight": torch.zeros(96, 32)}, "lm_head"),
    ],
    ids=["no embedding", "no A_log", "short norm", "few rows", "a layer too many", "integers", "untied head"],
)
def test_every_tensor_is_accounted_for(tmp_path: Path, weights: dict[str, Tensor], says: str) -> None:
    with pytest.raises(BadReference, match=says):
        load(hugging_face(tmp_path, SMALL, weights))


def test_an_untied_model_needs_its_head(tmp_path: Path) -> None:
    untied = dataclasses.replace(SMALL, tied=False)
    with pytest.raises(BadReference, match=r"lm_head\.weight is missing"):
        load(hugging_face(tmp_path, untied, WEIGHTS))


def test_folders_that_hold_no_whole_model(tmp_path: Path) -> None:
    folder = hugging_face(tmp_path)
    weights = folder / "model.safetensors"

    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(BadReference, match=r"model\.safetensors: cannot be read"):
        load(folder)
    weights.unlink()
    with pytest.raises(BadReference, match="no weights"):
        load(folder)
    torch.save(native_weights(), folder / "pytorch_model.bin")
    with pytest.raises(BadReference, match="winnow convert"):
        load(folder)
    index = folder / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {EMBEDDING: "model-00001-of-00002.safetensors"}}))
    with pytest.raises(BadReference, match=r"model-00001-of-00002\.safetensors is missing"):
        load(folder)
    save_file({"x": torch.ones(1)}, tmp_path.parent / "outside.safetensors")
    index.write_text(json.dumps({"weight_map": {EMBEDDING: "../outside.safetensors"}}))
    with pytest.raises(BadReference, match="missing"):
        load(folder)
    for damaged in ("[]", "[" * 100_000):
        index.write_text(damaged)
        with pytest.raises(BadReference, match="cannot be read as an index"):
            load(folder)
    for damaged in ("{", "[" * 100_000):
        (folder / "config.json").write_text(damaged)
        with pytest.raises(BadReference, match=r"config\.json: cannot be read"):
            load(folder)
    (folder / "config.json").unlink()
    with pytest.raises(BadReference, match=r"no config\.json"):
        load(folder)
