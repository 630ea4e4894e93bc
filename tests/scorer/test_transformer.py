"""Transformers models against their own `labels=` loss, and folders that are no whole model."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from kernels.nll import IGNORED
from scorer.errors import BadReference
from scorer.transformer import NO_LIMIT, Transformer, load_transformer
from tests.scorer.model_folders import GPT2, GROUPED, ROWS, SHAPE, change_json, make_folder, make_model

# Each with the limit that its config says, in its own words, and the way its head is computed.
MODELS: dict[str, tuple[Any, int, str]] = {
    "gpt2": (tf.GPT2Config(**GPT2), 24, "linear_head"),
    "gpt_neox": (tf.GPTNeoXConfig(**SHAPE), 24, "linear_head"),
    "llama": (tf.LlamaConfig(**GROUPED), 24, "linear_head"),
    "llama tied": (tf.LlamaConfig(**GROUPED, tie_word_embeddings=True), 24, "linear_head"),
    "mistral, sliding": (tf.MistralConfig(**GROUPED, sliding_window=5), 24, "linear_head"),
    "phi, with a bias": (tf.PhiConfig(**SHAPE), 24, "linear_head"),
    "bloom, alibi": (tf.BloomConfig(vocab_size=ROWS, hidden_size=32, n_layer=2, n_head=4), NO_LIMIT, "linear_head"),
    "mpt, alibi": (tf.MptConfig(vocab_size=ROWS, d_model=32, n_heads=4, n_layers=2, max_seq_len=17), 17, "linear_head"),
    "opt, projected": (tf.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=16), 24, "linear_head"),
    "gemma2, capped": (tf.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=2.0), 24, "own_head"),
    "gemma2, barely": (tf.Gemma2Config(**GROUPED, head_dim=8, final_logit_softcapping=500.0), 24, "own_head"),
    "cohere, scaled": (tf.CohereConfig(**GROUPED, logit_scale=0.25), 24, "own_head"),
    "granite, scaled": (tf.GraniteConfig(**GROUPED, logits_scaling=3.0), 24, "own_head"),
    "bert decoder": (tf.BertConfig(**SHAPE, is_decoder=True), 24, "own_head"),
}


def random_ids(rows: int, length: int) -> torch.Tensor:
    return torch.randint(ROWS, (rows, length), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("name", MODELS)
def test_nll_is_that_of_the_labels_loss(name: str) -> None:
    config, limit, head = MODELS[name]
    model = make_model(config)
    model.config.use_cache = False
    ours = Transformer(model)
    assert (ours.context, ours.vocab_size) == (limit, ROWS)
    assert ours._nll.__name__ == f"_by_{head}"
    x = random_ids(3, 16)
    nll, _ = ours.nll(x[:, :-1], x[:, 1:])
    for row, ids in zip(nll, x, strict=True):
        with torch.no_grad():
            wanted = float(model(input_ids=ids[None], labels=ids[None]).loss)
        assert float(row.mean()) == pytest.approx(wanted, abs=1e-5)
    assert float(nll.mean()) > 1  # and not of a model that says nothing


@pytest.mark.parametrize("name", ["gpt2", "bloom, alibi", "gemma2, capped"])
def test_the_ways_to_the_logits_agree(name: str) -> None:
    ours = Transformer(make_model(MODELS[name][0]))
    x = random_ids(4, 12)
    targets = torch.where(torch.arange(11) < torch.tensor([[11], [5], [0], [8]]), x[:, 1:], IGNORED)
    ways = [
        ours.nll(x[:, :-1], targets)[0],
        ours._by_own_head(x[:, :-1], targets),
        ours._by_whole_rows(x[:, :-1], targets),
    ]
    for nll in ways:
        assert torch.equal(nll == 0, targets == IGNORED)
        torch.testing.assert_close(nll, ways[0], atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str) -> None:
    ours = Transformer(make_model(MODELS[name][0]))
    x = random_ids(2, 17)
    targets = x[:, 1:].clone()
    targets[0, 9:] = IGNORED
    padded = x[:, :-1].clone()
    padded[0, 9:] = 0
    batched, _ = ours.nll(padded, targets)
    alone, _ = ours.nll(x[:1, :9], x[:1, 1:10])
    torch.testing.assert_close(batched[:1, :9], alone, atol=1e-5, rtol=0)
    assert not batched[0, 9:].any()


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
    assert float(ours.nll(x[:, :-1], x[:, 1:])[0].mean()) == pytest.approx(wanted.item(), abs=1e-5)


def test_shards_are_read_whole_and_one_that_is_missing_is_named(tmp_path: Path) -> None:
    model = make_model(tf.LlamaConfig(**GROUPED))
    model.save_pretrained(tmp_path, max_shard_size="40KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 1
    x = random_ids(1, 10)
    with torch.no_grad():
        wanted = float(model(input_ids=x, labels=x).loss)
    assert float(load(tmp_path).nll(x[:, :-1], x[:, 1:])[0].mean()) == pytest.approx(wanted, abs=1e-5)
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
    with pytest.raises(BadReference, match=f"{name} has another shape"):
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
    assert load(llama).nll(x[:, :-1], x[:, 1:])[0].isnan().all()


def test_the_context_is_the_text_models(tmp_path: Path) -> None:
    make_folder(tmp_path, tf.GPT2Config(**GPT2))
    assert json.loads((tmp_path / "config.json").read_text())["n_positions"] == load(tmp_path).context
