"""How config.json says that a model is run changes no score, and a limit that no model has is none."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import transformers as tf

from scorer.causal_lm.capabilities import NO_LIMIT
from scorer.causal_lm.reference import Reference, load
from scorer.engine.batch_loader import BatchBuffer
from scorer.engine.score_texts import score_texts
from scorer.errors import BadReference
from tests.scorer.model_folders import GPT2, GROUPED, PROSE, ROWS, SHAPE, change_json, make_folder

MODELS = {"gpt2": tf.GPT2Config(**GPT2), "llama": tf.LlamaConfig(**GROUPED)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        make_folder(folder / name, config)
    return folder


@pytest.fixture
def llama(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "llama", tmp_path / "llama"))


def scores(reference: Reference) -> list[float | None]:
    return [score.total for score in score_texts(reference, ["A quick fox.", PROSE, PROSE * 3])]


@pytest.fixture(scope="module")
def clean(made: Path) -> dict[str, list[float | None]]:
    """The scores of each model."""
    return {model: scores(load(made / model)) for model in MODELS}


# -- how a model is run
@pytest.mark.parametrize("model", ["gpt2", "llama"])
@pytest.mark.parametrize(
    "settings",
    [
        {"return_dict": False},
        {"use_cache": True},
        {"torchscript": True},
        {"output_hidden_states": True},
        {"output_attentions": True},
        {"_attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_2"},
        {"attn_implementation": "flash_attention_3", "output_attentions": True},
        {"_attn_implementation": "made up", "_attn_implementation_autoset": True},
        {"attn_implementation": {"": "eager"}},
        {"_experts_implementation": "made up"},
        {"return_dict": False, "torchscript": True, "use_cache": True, "output_hidden_states": True},
        {"gradient_checkpointing": True, "chunk_size_feed_forward": 7, "pruned_heads": {}, "use_bfloat16": True},
        {"torch_dtype": "float16"},
        {"transformers_weights": "elsewhere.safetensors"},
    ],
    ids=str,
)
def test_how_others_ran_a_model_changes_no_score(
    made: Path, clean: dict[str, list[float | None]], tmp_path: Path, model: str, settings: Any
) -> None:
    folder = Path(shutil.copytree(made / model, tmp_path / model))
    change_json(folder / "config.json", **settings)
    assert scores(load(folder)) == clean[model]


def test_a_chunked_feed_forward_reads_any_length(tmp_path: Path) -> None:
    make_folder(tmp_path, tf.BertConfig(**SHAPE, is_decoder=True))
    clean = scores(load(tmp_path))
    change_json(tmp_path / "config.json", chunk_size_feed_forward=7)
    assert scores(load(tmp_path)) == clean


# -- limits
ABSURD = [2**20 + 1, 10**7, 10**9, 2**63, 10**18, 10**30]
SOME_ABSURD = [2**20 + 1, 10**18, 10**30]
# Models without a table of positions in their weights, each with its name of the limit.
UNLIMITED: dict[str, tuple[Any, str]] = {
    "llama": (MODELS["llama"], "max_position_embeddings"),
    "llama, dynamic": (
        tf.LlamaConfig(**GROUPED, rope_parameters={"rope_type": "dynamic", "rope_theta": 10_000.0, "factor": 2.0}),
        "max_position_embeddings",
    ),
    "gpt_neox": (tf.GPTNeoXConfig(**SHAPE), "max_position_embeddings"),
    "mistral": (tf.MistralConfig(**GROUPED, sliding_window=5), "max_position_embeddings"),
    "mpt": (tf.MptConfig(vocab_size=ROWS, d_model=32, n_heads=4, n_layers=2, max_seq_len=24), "max_seq_len"),
    "gptj": (tf.GPTJConfig(**GPT2, rotary_dim=4), "n_positions"),
    "codegen": (tf.CodeGenConfig(**GPT2, rotary_dim=4), "n_positions"),
    "bloom": (tf.BloomConfig(vocab_size=ROWS, hidden_size=32, n_layer=2, n_head=4), "seq_length"),
    "falcon": (tf.FalconConfig(**SHAPE, alibi=True), "max_position_embeddings"),
    "xglm": (
        tf.XGLMConfig(vocab_size=ROWS, d_model=32, ffn_dim=48, num_layers=2, attention_heads=4, pad_token_id=0),
        "max_position_embeddings",
    ),
}
# Models with such a table, and the table.
TABLES: dict[str, tuple[Any, str, str]] = {
    "gpt2": (MODELS["gpt2"], "n_positions", "transformer.wpe.weight"),
    "gpt_bigcode": (tf.GPTBigCodeConfig(**GPT2), "n_positions", "transformer.wpe.weight"),
    "gpt_neo": (
        tf.GPTNeoConfig(
            vocab_size=ROWS,
            hidden_size=32,
            num_layers=2,
            num_heads=4,
            attention_types=[[["global", "local"], 1]],
            max_position_embeddings=24,
            window_size=8,
        ),
        "max_position_embeddings",
        "transformer.wpe.weight",
    ),
    "opt": (
        tf.OPTConfig(**SHAPE, ffn_dim=48, word_embed_proj_dim=32),
        "max_position_embeddings",
        "model.decoder.embed_positions.weight",
    ),
    "bert": (
        tf.BertConfig(**SHAPE, is_decoder=True),
        "max_position_embeddings",
        "bert.embeddings.position_embeddings.weight",
    ),
    "roberta": (
        tf.RobertaConfig(**SHAPE | {"max_position_embeddings": 26, "pad_token_id": 1}, is_decoder=True),
        "max_position_embeddings",
        "roberta.embeddings.position_embeddings.weight",
    ),
}


@pytest.mark.parametrize("model", UNLIMITED)
def test_an_absurd_limit_is_none(tmp_path: Path, model: str, caplog: pytest.LogCaptureFixture) -> None:
    config, name = UNLIMITED[model]
    make_folder(tmp_path, config)
    short = ["A quick fox.", "a"]
    sane = [score.total for score in score_texts(load(tmp_path), short)]
    assert not caplog.records
    for limit in ABSURD if model == "llama" else SOME_ABSURD:
        change_json(tmp_path / "config.json", **{name: limit})
        found = load(tmp_path)
        assert found.context == found.provenance()["context"] == NO_LIMIT
        assert [score.total for score in score_texts(found, short)] == sane
        assert BatchBuffer(found).host.nbytes < 1 << 20
        assert f"{tmp_path}: config.json names a limit of {limit} tokens" in caplog.text
        caplog.clear()


def test_a_long_document_under_an_absurd_limit_is_read_in_windows(llama: Path) -> None:
    change_json(llama / "config.json", max_position_embeddings=10**18)
    (score,) = score_texts(load(llama), ["x" * (NO_LIMIT + 100)])
    assert score.n_tokens == NO_LIMIT + 100
    assert score.total is not None


@pytest.mark.parametrize("limit", [2048, 131_072, 2**20])
def test_a_limit_that_models_have_is_theirs(llama: Path, limit: int, caplog: pytest.LogCaptureFixture) -> None:
    change_json(llama / "config.json", max_position_embeddings=limit)
    assert load(llama).context == limit
    assert not caplog.records


@pytest.mark.parametrize("limit", SOME_ABSURD)
@pytest.mark.parametrize("name", ["n_ctx", "seq_length", "model_max_length", "max_length"])
def test_a_limit_that_the_model_does_not_know_is_no_matter(
    llama: Path, clean: dict[str, list[float | None]], name: str, limit: int
) -> None:
    change_json(llama / "config.json", **{name: limit})
    found = load(llama)
    assert found.context == 24
    assert scores(found) == clean["llama"]


@pytest.mark.parametrize("model", TABLES)
def test_a_table_of_positions_has_the_size_that_it_has_in_the_weights(tmp_path: Path, model: str) -> None:
    config, name, table = TABLES[model]
    make_folder(tmp_path, config)
    for limit in ABSURD:
        change_json(tmp_path / "config.json", **{name: limit})
        with pytest.raises(BadReference, match=f"tensor {table} has a different shape from that in config.json"):
            load(tmp_path)
