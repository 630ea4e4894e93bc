"""Transformers models against their own `labels=` loss, and folders that are no whole model."""

import dataclasses
import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from kernels.pack import IGNORED, Pack
from scorer.causal_lm.capabilities import NO_LIMIT
from scorer.causal_lm.forward import head_logits
from scorer.causal_lm.head import OwnHead
from scorer.causal_lm.transformer import Transformer, load_transformer
from scorer.errors import BadReference
from tests.scorer.model_folders import GPT2, GROUPED, ROWS, SHAPE, change_json, make_folder, make_model, rows_nll

MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 2, "mamba_d_state": 8, "mamba_chunk_size": 8}
LONG_ROPE = {"rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 8, "factor": 3.0}
LONG_ROPE |= {"short_factor": [1.0] * 4, "long_factor": [1.5, 2.0, 3.0, 4.0]}
ROTARY = {"rope_type": "default", "rope_theta": 10_000.0}
# Each with the limit that its config says, in its own words, and the way its head is computed.
MODELS: dict[str, tuple[Any, int, str]] = {
    "gpt2": (tf.GPT2Config(**GPT2), 24, "LinearHead"),
    "gpt_neox": (tf.GPTNeoXConfig(**SHAPE), 24, "LinearHead"),
    "llama": (tf.LlamaConfig(**GROUPED), 24, "LinearHead"),
    "llama tied": (tf.LlamaConfig(**GROUPED, tie_word_embeddings=True), 24, "LinearHead"),
    "llama, long rope": (tf.LlamaConfig(**GROUPED, rope_parameters=LONG_ROPE), 24, "LinearHead"),
    "mistral, sliding": (tf.MistralConfig(**GROUPED, sliding_window=5), 24, "LinearHead"),
    "olmo, clipped": (tf.OlmoConfig(**GROUPED, clip_qkv=1.0), 24, "LinearHead"),
    "olmo2": (tf.Olmo2Config(**GROUPED), 24, "LinearHead"),
    "olmo3, sliding in part": (
        tf.Olmo3Config(**GROUPED, sliding_window=5, layer_types=["sliding_attention", "full_attention"]),
        24,
        "LinearHead",
    ),
    "qwen2, sliding in part": (
        tf.Qwen2Config(**GROUPED, use_sliding_window=True, sliding_window=5, max_window_layers=1),
        24,
        "LinearHead",
    ),
    "qwen3": (tf.Qwen3Config(**GROUPED, head_dim=8), 24, "LinearHead"),
    "qwen3, experts": (
        tf.Qwen3MoeConfig(**GROUPED, head_dim=8, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=16),
        24,
        "LinearHead",
    ),
    "gpt oss, sinks": (
        tf.GptOssConfig(
            **GROUPED, head_dim=8, num_local_experts=2, num_experts_per_tok=1, sliding_window=5, rope_parameters=ROTARY
        ),
        24,
        "LinearHead",
    ),
    "llama4": (
        tf.Llama4TextConfig(**GROUPED, head_dim=8, num_local_experts=2, intermediate_size_mlp=48),
        24,
        "NoneType",
    ),
    "phi, with a bias": (tf.PhiConfig(**SHAPE), 24, "LinearHead"),
    "bloom, alibi": (tf.BloomConfig(vocab_size=ROWS, hidden_size=32, n_layer=2, n_head=4), NO_LIMIT, "LinearHead"),
    "mpt, alibi": (tf.MptConfig(vocab_size=ROWS, d_model=32, n_heads=4, n_layers=2, max_seq_len=17), 17, "LinearHead"),
    "opt, projected": (tf.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=16), 24, "LinearHead"),
    "gemma2, capped": (tf.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=2.0), 24, "LinearHead"),
    "gemma2, barely": (tf.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=500.0), 24, "LinearHead"),
    "cohere, scaled": (tf.CohereConfig(**GROUPED, logit_scale=0.25), 24, "LinearHead"),
    "granite, scaled": (tf.GraniteConfig(**GROUPED, logits_scaling=3.0), 24, "LinearHead"),
    "bamba": (tf.BambaConfig(**GROUPED | MAMBA, attn_layer_indices=[1]), 24, "LinearHead"),
    "falcon h1, scaled": (
        tf.FalconH1Config(**GROUPED | MAMBA, mamba_d_ssm=64, lm_head_multiplier=0.5),
        24,
        "LinearHead",
    ),
    "granite hybrid, scaled": (
        tf.GraniteMoeHybridConfig(
            **GROUPED | MAMBA,
            layer_types=["mamba", "attention"],
            num_local_experts=4,
            num_experts_per_tok=2,
            shared_intermediate_size=16,
            logits_scaling=3.0,
        ),
        24,
        "LinearHead",
    ),
    "zamba2": (
        tf.Zamba2Config(
            **GROUPED,
            layers_block_type=["mamba", "hybrid"],
            mamba_d_state=8,
            n_mamba_heads=8,
            mamba_ngroups=2,
            mamba_headdim=8,
            chunk_size=8,
            num_mem_blocks=1,
        ),
        24,
        "LinearHead",
    ),
    "nemotron h": (
        tf.NemotronHConfig(
            **{name: value for name, value in GROUPED.items() if name != "num_hidden_layers"},
            layers_block_type=["mamba", "attention", "moe"],
            head_dim=8,
            mamba_num_heads=8,
            mamba_head_dim=8,
            n_groups=2,
            ssm_state_size=8,
            chunk_size=8,
            n_routed_experts=4,
            num_experts_per_tok=2,
            moe_intermediate_size=16,
            moe_shared_expert_intermediate_size=16,
        ),
        24,
        "LinearHead",
    ),
    "bert decoder": (tf.BertConfig(**SHAPE, is_decoder=True), 24, "OwnHead"),
    "roberta decoder": (
        tf.RobertaConfig(**SHAPE | {"max_position_embeddings": 26, "pad_token_id": 1}, is_decoder=True),
        24,
        "OwnHead",
    ),
}


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(ROWS, (rows, length), generator=torch.Generator().manual_seed(1))


HYBRIDS = {"bamba", "falcon h1, scaled", "granite hybrid, scaled", "zamba2", "nemotron h"}
ROWS_ONLY = {"bloom, alibi", "mpt, alibi", "gpt oss, sinks", "llama4", "llama, long rope", "roberta decoder"}
# How many of a pack's tokens an expert gets depends on others: where a library's products then differ, in their last
# bits, it takes no packs.
EITHER = {"qwen3, experts"}
PACKED = set(MODELS) - HYBRIDS - ROWS_ONLY - EITHER


def documents(*lengths: int) -> tuple[torch.Tensor, torch.Tensor, Pack]:
    """A pack of random documents: ids [T], targets [T]."""
    ids = [random_ids(1, n + 1)[0].roll(n) for n in lengths]
    return torch.cat([d[:-1] for d in ids]), torch.cat([d[1:] for d in ids]), Pack.of(lengths, "cpu")


@pytest.mark.parametrize("packs", [False, True], ids=["rows", "packs"])
@pytest.mark.parametrize("name", MODELS)
def test_nll_is_that_of_the_labels_loss(name: str, packs: bool) -> None:
    config, limit, head = MODELS[name]
    model = make_model(config)
    model.config.use_cache = False
    ours = Transformer(model, packs)
    assert (ours.context, ours.vocab_size) == (limit, ROWS)
    assert ours.packed == (packs and name in PACKED) or (packs and name in EITHER)
    assert type(ours.capabilities.head).__name__ == head
    ids, targets, pack = documents(16, 3, 15, 1)
    nll, _ = ours.nll(ids, targets, pack)
    again = make_model(config)
    for x, y, found in zip(*(m.split(pack.lengths.tolist()) for m in (ids, targets, nll)), strict=True):
        x = torch.cat((x, y[-1:]))[None]
        with torch.no_grad():
            wanted = float(again(input_ids=x, labels=x).loss)
        assert float(found.mean()) == pytest.approx(wanted, abs=1e-5)
    assert float(nll.mean()) > 1  # and not of a model that says nothing


@pytest.mark.parametrize("name", MODELS)
def test_a_window_of_the_whole_context_is_read(name: str) -> None:
    ours = Transformer(make_model(MODELS[name][0]))
    ids, targets, pack = documents(min(ours.context, 64))
    assert ours.nll(ids, targets, pack)[0].isfinite().all()


@pytest.mark.parametrize("name", ["gpt2", "bloom, alibi", "gemma2, capped"])
def test_the_ways_to_the_logits_agree(name: str) -> None:
    ours = Transformer(make_model(MODELS[name][0]))
    ids, targets, pack = documents(11, 5, 8)
    targets[[0, 7, 12]] = IGNORED
    found = [ours.nll(ids, targets, pack)[0]]
    own_head = OwnHead(partial(head_logits, ours.model, ours.capabilities.body), 7 << 20)
    for head in (own_head, None):
        ours.capabilities = dataclasses.replace(ours.capabilities, head=head)
        found.append(ours.nll(ids, targets, pack)[0])
    for nll in found:
        assert torch.equal(nll == 0, targets == IGNORED)
        torch.testing.assert_close(nll, found[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("packs", [False, True], ids=["rows", "packs"])
@pytest.mark.parametrize("name", MODELS)
def test_neighbours_change_nothing(name: str, packs: bool) -> None:
    ours = Transformer(make_model(MODELS[name][0]), packs)
    ids, targets, pack = documents(9, 16, 2)
    together, _ = ours.nll(ids, targets, pack)
    for x, y, nll in zip(*(m.split(pack.lengths.tolist()) for m in (ids, targets, together)), strict=True):
        alone, _ = ours.nll(x, y, Pack.of([len(x)], "cpu"))
        torch.testing.assert_close(nll, alone, atol=1e-5, rtol=0)


def test_a_window_that_only_a_mask_knows_is_not_packed() -> None:
    """Attention of Llama 4 ends at chunks, which it tells by its mask and not to the attention function."""
    shape = GROUPED | {"head_dim": 8, "attention_chunk_size": 5, "intermediate_size_mlp": 48, "num_local_experts": 1}
    config = tf.Llama4TextConfig(**shape, attn_temperature_tuning=False, interleave_moe_layer_step=99)
    ours = Transformer(make_model(config), packs=True)
    assert not ours.packed
    ids, targets, pack = documents(16, 9)
    nll, _ = ours.nll(ids, targets, pack)
    x = torch.cat((ids[:16], targets[15:16]))[None]
    with torch.no_grad():
        wanted = float(make_model(config)(input_ids=x, labels=x).loss)
    assert float(nll[:16].mean()) == pytest.approx(wanted, abs=1e-5)


def test_full_packs_are_compiled_once_and_for_that_size(monkeypatch: pytest.MonkeyPatch) -> None:
    ours = Transformer(make_model(MODELS["llama"][0]), packs=True)
    ids, targets, pack = documents(20, 12)
    eager, _ = ours.nll(ids, targets, pack)
    made: list[Any] = []

    def compiled(body: Any, dynamic: bool) -> Any:
        assert dynamic is False
        return lambda *given: made.append(given) or body(*given)

    monkeypatch.setattr(torch, "compile", compiled)
    ours.compile(pack.tokens)
    assert ours.full_packs
    before = len(made)
    assert torch.equal(ours.nll(ids, targets, pack)[0], eager)
    assert len(made) == before + 1
    ours.nll(ids[:20], targets[:20], Pack.of([20], "cpu"))
    assert len(made) == before + 1


@pytest.mark.parametrize("fault", ["wrong", "broken"])
def test_a_compiled_body_that_is_wrong_is_not_used(monkeypatch: pytest.MonkeyPatch, fault: str) -> None:
    ours = Transformer(make_model(MODELS["llama"][0]), packs=True)
    ids, targets, pack = documents(20, 12)
    eager, _ = ours.nll(ids, targets, pack)

    def compiled(body: Any, dynamic: bool) -> Any:
        def run(module: Any, ids: torch.Tensor, places: torch.Tensor) -> Any:
            if fault == "broken":
                raise NotImplementedError
            return body(module, ids.roll(1), places)

        return run

    monkeypatch.setattr(torch, "compile", compiled)
    ours.compile(pack.tokens)
    assert not ours.full_packs
    assert torch.equal(ours.nll(ids, targets, pack)[0], eager)


def test_a_model_that_looks_ahead_is_refused(tmp_path: Path) -> None:
    make_folder(tmp_path, tf.BertConfig(**SHAPE, is_decoder=True))
    change_json(tmp_path / "config.json", is_decoder=False)
    with pytest.raises(BadReference, match="not causal"):
        load(tmp_path)


def load(folder: Path) -> Transformer:
    return load_transformer(folder, torch.float32, "cpu")


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    folder = tmp_path / "a folder, with spaces"
    make_folder(folder, tf.LlamaConfig(**GROUPED))
    return folder


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = load_file(folder / "model.safetensors") | changes
    save_file({k: v for k, v in weights.items() if v is not None}, folder / "model.safetensors", {"format": "pt"})


def test_loading_says_nothing(llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load(llama)
    assert capfd.readouterr() == ("", "")


def test_bfloat16_weights_are_scored_in_float32(llama: Path) -> None:
    halves = {name: t.bfloat16() for name, t in load_file(llama / "model.safetensors").items()}
    change_weights(llama, **halves)
    change_json(llama / "config.json", dtype="bfloat16")
    ours = load(llama)
    assert {p.dtype for p in ours.model.parameters()} == {torch.float32}
    x = random_ids(1, 10)
    wanted = tf.AutoModelForCausalLM.from_pretrained(llama, dtype=torch.float32)(input_ids=x, labels=x).loss
    assert float(rows_nll(ours, x[:, :-1], x[:, 1:]).mean()) == pytest.approx(wanted.item(), abs=1e-5)


def test_shards_are_read_whole_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    model = make_model(tf.LlamaConfig(**GROUPED))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    x = random_ids(1, 10)
    with torch.no_grad():
        wanted = float(model(input_ids=x, labels=x).loss)
    assert float(rows_nll(load(tmp_path), x[:, :-1], x[:, 1:]).mean()) == pytest.approx(wanted, abs=1e-5)
    min(tmp_path.glob("*.safetensors")).unlink()
    with pytest.raises(BadReference):
        load(tmp_path)


def test_a_tied_head_needs_no_tensor_and_an_untied_one_does(tmp_path: Path) -> None:
    make_folder(tmp_path, tf.LlamaConfig(**GROUPED, tie_word_embeddings=True))
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    load(tmp_path)
    change_json(tmp_path / "config.json", tie_word_embeddings=False)
    with pytest.raises(BadReference, match=r"lm_head\.weight is missing"):
        load(tmp_path)


def test_a_tensor_that_is_missing_misshapen_or_left_over_is_named(llama: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    whole = load_file(llama / "model.safetensors")[name]
    change_weights(llama, **{name: None})
    with pytest.raises(BadReference, match=f"{name} is missing"):
        load(llama)
    change_weights(llama, **{name: whole[:5].clone()})
    with pytest.raises(BadReference, match=f"{name} has a different shape"):
        load(llama)
    change_weights(llama, **{name: whole})
    change_json(llama / "config.json", num_hidden_layers=1)
    with pytest.raises(BadReference, match=r"model\.layers\.1\..* is not part of the model"):
        load(llama)


def test_buffers_of_old_checkpoints_are_no_matter(llama: Path) -> None:
    change_weights(llama, **{"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)})
    load(llama)


def test_a_type_that_nobody_knows_and_code_of_its_own_are_errors(llama: Path) -> None:
    change_json(llama / "config.json", model_type="made-up", auto_map={"AutoModelForCausalLM": "code.Model"})
    (llama / "code.py").write_text("raise SystemExit('this ran')")
    with pytest.raises(BadReference, match="cannot be loaded"):
        load(llama)


def test_weights_cut_short_are_an_error(llama: Path) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(BadReference, match="cannot be loaded"):
        load(llama)


def test_weights_that_are_no_numbers_give_scores_that_are_none(llama: Path) -> None:
    change_weights(llama, **{"model.norm.weight": torch.full((32,), float("nan"))})
    x = random_ids(1, 10)
    assert rows_nll(load(llama), x[:, :-1], x[:, 1:]).isnan().all()


def test_the_context_is_the_text_models(tmp_path: Path) -> None:
    make_folder(tmp_path, tf.GPT2Config(**GPT2))
    assert json.loads((tmp_path / "config.json").read_text())["n_positions"] == load(tmp_path).context
