"""Hybrids of the Mamba-2 paper in state-spaces' layout, against the same model written out in float64."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from kernels import attention, conv
from kernels.pack import Pack
from kernels.ssd import ssd_recurrent
from scorer.causal_lm import budget, mamba2_config
from scorer.causal_lm.convert import convert
from scorer.causal_lm.mamba2 import Mamba2, load_mamba2
from scorer.causal_lm.mamba2_config import parse_config
from scorer.causal_lm.mamba2_packed import fold
from scorer.causal_lm.reference import Reference, load
from scorer.engine.scoring import score
from scorer.errors import BadReference
from scorer.training.initial import initial
from tests.scorer.mamba2_folders import native_config, random_weights
from tests.scorer.model_folders import PROSE, byte_level

ATTENTION = {"causal": True, "num_heads": 4, "head_dim": 16, "rotary_emb_dim": 8}
KINDS: dict[str, dict[str, Any]] = {
    "mlp": {"d_intermediate": 40},
    "attention": {"attn_layer_idx": [1], "attn_cfg": ATTENTION},
    "both": {"d_intermediate": 40, "attn_layer_idx": [0, 2], "attn_cfg": ATTENTION | {"d_conv": 4}},
    "all settings": {
        "attn_layer_idx": [1],
        "attn_cfg": {
            "causal": True,
            "num_heads": 6,
            "num_heads_kv": 2,
            "head_dim": 8,
            "qkv_proj_bias": False,
            "out_proj_bias": False,
            "softmax_scale": 0.3,
            "d_conv": 3,
            "rotary_emb_dim": 4,
            "rotary_emb_base": 500.0,
            "rotary_emb_interleaved": True,
        },
    },
    "few settings": {"attn_layer_idx": [2], "attn_cfg": {"causal": True, "num_heads": 2}},
    "short context": {
        "d_intermediate": 40,
        "attn_layer_idx": [0, 1],
        "attn_cfg": ATTENTION | {"d_conv": 4},
        "max_position_embeddings": 7,
    },
}


def hybrid(folder: Path, kind: str) -> dict[str, Tensor]:
    """A native folder of that kind. Returns its weights."""
    raw = native_config(**KINDS[kind], vocab_size=320, pad_vocab_size_multiple=16)
    weights = random_weights(parse_config(folder, raw))
    weights = {name.replace("embeddings", "embedding"): t for name, t in weights.items()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(raw))
    save_file(weights, folder / "model.safetensors")
    byte_level().save(str(folder / "tokenizer.json"))
    return weights


class ByHand:
    """The model of a native config, one document at a time, in float64, from the definitions alone."""

    def __init__(self, raw: dict[str, Any], weights: dict[str, Tensor]) -> None:
        self.raw, self.weights = raw, {name: t.double() for name, t in weights.items()}

    def norm(self, x: Tensor, name: str) -> Tensor:
        return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weights[f"{name}.weight"]

    def linear(self, x: Tensor, name: str) -> Tensor:
        return x @ self.weights[f"{name}.weight"].T + self.weights.get(f"{name}.bias", torch.zeros(()))

    def filtered(self, x: Tensor, name: str) -> Tensor:
        """A causal convolution of each channel: x [T, C]."""
        taps, bias = self.weights[f"{name}.weight"][:, 0], self.weights[f"{name}.bias"]
        width = taps.shape[1]
        out = []
        for t in range(len(x)):
            near = [x[t - k] * taps[:, width - 1 - k] for k in range(width) if t >= k]
            out.append(sum(near, bias))
        return torch.stack(out)

    def mixer(self, x: Tensor, name: str) -> Tensor:
        ssm = self.raw["ssm_cfg"]
        groups, state, width = ssm["ngroups"], ssm["d_state"], ssm["headdim"]
        inner = ssm["expand"] * self.raw["d_model"]
        sizes = (inner, inner + 2 * groups * state, inner // width)
        gate, xbc, dt = self.linear(x, f"{name}.in_proj").split(sizes, dim=-1)
        values, b, c = torch.nn.functional.silu(self.filtered(xbc, f"{name}.conv1d")).split(
            (inner, groups * state, groups * state), dim=-1
        )
        y, _ = ssd_recurrent(
            values.view(1, len(x), -1, width),
            dt[None],
            -self.weights[f"{name}.A_log"].exp(),
            b.view(1, len(x), groups, state),
            c.view(1, len(x), groups, state),
            self.weights[f"{name}.D"],
            self.weights[f"{name}.dt_bias"],
        )
        gated = (y.flatten(2)[0] * torch.nn.functional.silu(gate)).unflatten(-1, (groups, -1))
        normed = gated / (gated.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return self.linear(normed.flatten(1) * self.weights[f"{name}.norm.weight"], f"{name}.out_proj")

    def rotated(self, x: Tensor, t: int) -> Tensor:
        """One head at one position, x [D], as complex numbers."""
        width = self.raw["attn_cfg"].get("rotary_emb_dim", 0)
        if not width:
            return x
        base = self.raw["attn_cfg"].get("rotary_emb_base", 10_000.0)
        turned, half = x.clone(), width // 2
        for i in range(half):
            near = self.raw["attn_cfg"].get("rotary_emb_interleaved", False)
            a, b = (2 * i, 2 * i + 1) if near else (i, i + half)
            z = complex(x[a], x[b]) * complex(math.cos(t * base ** (-i / half)), math.sin(t * base ** (-i / half)))
            turned[a], turned[b] = z.real, z.imag
        return turned

    def attention(self, x: Tensor, name: str) -> Tensor:
        cfg = self.raw["attn_cfg"]
        heads = cfg["num_heads"]
        kv_heads, width = cfg.get("num_heads_kv", heads), cfg.get("head_dim", self.raw["d_model"] // heads)
        qkv = self.linear(x, f"{name}.in_proj")
        if cfg.get("d_conv"):
            qkv = self.filtered(qkv, f"{name}.conv1d")
        q, k, v = (
            m.unflatten(-1, (-1, width)) for m in qkv.split([width * n for n in (heads, kv_heads, kv_heads)], -1)
        )
        out = torch.zeros(len(x), heads, width, dtype=torch.float64)
        for t in range(len(x)):
            for h in range(heads):
                g = h // (heads // kv_heads)
                query = self.rotated(q[t, h], t)
                low = max(0, t + 1 - self.raw.get("max_position_embeddings", 8192))
                scores = torch.stack([query @ self.rotated(k[s, g], s) for s in range(low, t + 1)])
                out[t, h] = (scores * cfg.get("softmax_scale", width**-0.5)).softmax(0) @ v[low : t + 1, g]
        return self.linear(out.flatten(1), f"{name}.out_proj")

    def nll(self, ids: Tensor) -> Tensor:
        stream = self.weights["backbone.embedding.weight"][ids[:-1]]
        for layer in range(self.raw["n_layer"]):
            name = f"backbone.layers.{layer}"
            attends = layer in self.raw["attn_layer_idx"]
            mix = self.attention if attends else self.mixer
            stream = stream + mix(self.norm(stream, f"{name}.norm"), f"{name}.mixer")
            if self.raw["d_intermediate"]:
                y, gate = self.linear(self.norm(stream, f"{name}.norm2"), f"{name}.mlp.fc1").chunk(2, dim=-1)
                stream = stream + self.linear(y * torch.nn.functional.silu(gate), f"{name}.mlp.fc2")
        logits = self.norm(stream, "backbone.norm_f") @ self.weights["backbone.embedding.weight"].T
        return torch.nn.functional.cross_entropy(logits, ids[1:], reduction="none")


@pytest.mark.parametrize("kind", KINDS)
def test_scores_are_those_of_the_model_written_out(tmp_path: Path, kind: str) -> None:
    weights = hybrid(tmp_path, kind)
    by_hand = ByHand(json.loads((tmp_path / "config.json").read_text()), weights)
    documents = [torch.randint(0, 320, (n + 1,), generator=torch.Generator().manual_seed(n)) for n in (23, 1, 9)]
    ids, targets = torch.cat([d[:-1] for d in documents]), torch.cat([d[1:] for d in documents])
    model = load_mamba2(tmp_path, torch.float32, "cpu")
    nll, state = model.nll(ids, targets, Pack.of([23, 1, 9], "cpu"))
    assert state is None
    wanted = torch.cat([by_hand.nll(d) for d in documents])
    torch.testing.assert_close(nll.double(), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["attention", "short context"])
def test_a_hybrid_reads_documents_of_any_length(tmp_path: Path, kind: str) -> None:
    """In parts of the budget, and scores them as in one piece."""
    hybrid(tmp_path, kind)
    reference = load(tmp_path)
    assert reference.context is None
    reference.budget = 256
    texts = [PROSE * 50, "a", PROSE[:200], PROSE * 20]
    ((_, nll, n_tokens, _, tokens),) = score(reference, [(texts, None)], on_progress=lambda *_: None)
    assert n_tokens[0] > 4 * 256
    for found, ids in zip(nll, tokens, strict=True):
        stream = torch.tensor([reference.bos, *ids])
        alone, _ = reference.model.nll(stream[:-1], stream[1:], Pack.of([len(ids)], "cpu"))
        assert found == pytest.approx(float(alone.sum()), rel=1e-6)


@pytest.mark.parametrize("kind", ["both", "short context"])
def test_packs_of_long_and_short_documents_score_as_rows(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four long documents side by side, in parts, and the others in packs, through the whole engine."""
    hybrid(tmp_path, kind)
    texts = [PROSE[i:] + PROSE * (i % 5) * 9 + PROSE[: 3 * i] for i in range(18)]

    def nll(reference: Reference) -> np.ndarray:
        ((_, found, n_tokens, *_),) = score(reference, [(texts, None)], on_progress=lambda *_: None)
        assert (n_tokens > 256).sum() > 8
        return np.asarray(found / n_tokens)

    rows, packs = load(tmp_path), load(tmp_path)
    weights = dict(packs.model.state_dict())
    fold(weights, packs.model.config.layers)
    packs.model.load_state_dict(weights)
    packs.model.packed, packs.budget = True, 512
    monkeypatch.setattr(budget, "_PART", 128)
    np.testing.assert_allclose(nll(packs), nll(rows), rtol=0, atol=1e-5)


@pytest.mark.parametrize("kind", ["mlp", "both", "short context"])
def test_a_document_goes_on_from_its_state(tmp_path: Path, kind: str) -> None:
    hybrid(tmp_path, kind)
    model = load_mamba2(tmp_path, torch.float32, "cpu")
    ids = torch.randint(0, 320, (201,), generator=torch.Generator().manual_seed(0))
    whole, _ = model.nll(ids[:-1], ids[1:], Pack.of([200], "cpu"))
    state, parts, at = None, [], 0
    for size in (1, 3, 86, 110):
        part = slice(at, at + size)
        nll, state = model.nll(ids[part], ids[1:][part], Pack.of([size], "cpu"), state, keep_state=True)
        parts.append(nll)
        at += size
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=1e-5)


def test_a_hybrid_cannot_be_trained_on(tmp_path: Path) -> None:
    hybrid(tmp_path, "mlp")
    with pytest.raises(BadReference, match="a hybrid of Mamba-2 cannot be trained on"):
        initial(tmp_path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_converted_hybrid_scores_the_same(tmp_path: Path, kind: str) -> None:
    hybrid(tmp_path / "source", kind)
    convert(tmp_path / "source", tmp_path / "out")
    found = [
        next(iter(score(load(tmp_path / name), [([PROSE], None)], on_progress=lambda *_: None)))[1]
        for name in ("source", "out")
    ]
    assert found[0].tobytes() == found[1].tobytes()


def test_configs_as_state_spaces_publishes_them() -> None:
    raw = {
        "d_model": 2560,
        "d_intermediate": 0,
        "n_layer": 64,
        "vocab_size": 50277,
        "ssm_cfg": {"layer": "Mamba2"},
        "attn_layer_idx": [9, 18, 27, 36, 45, 56],
        "attn_cfg": {
            "causal": True,
            "d_conv": 4,
            "head_dim": 128,
            "num_heads": 30,
            "out_proj_bias": False,
            "qkv_proj_bias": False,
            "rotary_emb_dim": 64,
        },
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 16,
        "tie_embeddings": True,
    }
    config = parse_config(Path("m"), raw)
    with torch.device("meta"):
        model = Mamba2(config)
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}
    assert shapes["backbone.layers.9.mixer.in_proj.weight"] == (11520, 2560)
    assert shapes["backbone.layers.9.mixer.conv1d.weight"] == (11520, 1, 4)
    assert shapes["backbone.layers.9.mixer.out_proj.weight"] == (2560, 3840)
    assert shapes["backbone.layers.10.mixer.in_proj.weight"] == (2 * 5120 + 2 * 128 + 80, 2560)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"attn_cfg": ATTENTION | {"d_conv": 9}}, "d_conv = 9 is not supported; 0 and 2 to 8 are"),
        ({"attn_cfg": ATTENTION | {"head_dim": 320}}, "heads of 320 are not supported; 256 at most are"),
        ({"attn_cfg": ATTENTION | {"softmax_scale": 0.0}}, r"softmax_scale = 0.0 is not supported"),
        ({"attn_cfg": ATTENTION, "max_position_embeddings": 1}, "max_position_embeddings = 1 leaves attention"),
    ],
)
def test_what_attention_does_not_support_is_named(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadReference, match=f"some/model: .*{message}"):
        parse_config(Path("some/model"), native_config(attn_layer_idx=[1], **change))


def test_limits_of_attention() -> None:
    for limit, context in ((None, 8192), (2048, 2048), (1 << 30, 8192)):
        raw = native_config(attn_layer_idx=[1], attn_cfg=ATTENTION, max_position_embeddings=limit)
        assert parse_config(Path("m"), raw).attention_context == context
    assert mamba2_config.WIDEST_HEAD == attention.WIDEST  # written again there, where torch is not imported
    assert max(mamba2_config.TAPS) == conv.WIDEST
