"""Folders whose only vocabulary is a SentencePiece model: ids are those of sentencepiece, and errors say what to do."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
import torch
import transformers as tf

from scorer.causal_lm.reference import inspect, load
from scorer.engine.score_texts import score_texts
from scorer.errors import BadReference
from scorer.tokenizer import backends
from scorer.tokenizer.tokenizer import Tokenizer
from tests.scorer.mamba2_folders import native_config
from tests.scorer.model_folders import GROUPED, PROSE, byte_level, change_json, make_folder, windowed_nll, wrong

CORPUS = [PROSE, "Été à la plage : 12 345,67 € ½ naïve", "漢字かな交じり文", "def f(x):\n\treturn x + 1"] * 20
TEXTS = [
    PROSE,
    "",
    " ",
    "  two  spaces,\ttabs \n\n and lines \r\n",
    "<s> a </s> <unk> <pad>",
    "é e\u0301 ﬁ ㍿ ½ \u2581 \u00a0\u3000",
    "nul \0 漢字 🙂 12345",
    "the user's <|im_start|>quick fox",
    "x" * 700,
]
# As Llama's tokenizer.model and T5's spiece.model are trained.
LLAMA: dict[str, Any] = {
    "model_type": "bpe",
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "vocab_size": 400,
}
T5: dict[str, Any] = {"model_type": "unigram", "pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "vocab_size": 150}


def train(path: Path, **settings: Any) -> sentencepiece.SentencePieceProcessor:
    path.parent.mkdir(exist_ok=True)
    settings |= {"hard_vocab_limit": False, "minloglevel": 2}
    with path.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(CORPUS), model_writer=file, **settings)
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def write(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content))


# Each with its file, how it is trained, config.json, tokenizer_config.json if there is one, and its BOS, else EOS.
KINDS: dict[str, tuple[str, dict[str, Any], dict[str, Any], dict[str, Any] | None, int]] = {
    "llama": ("tokenizer.model", LLAMA, {"model_type": "llama"}, {"tokenizer_class": "LlamaTokenizer"}, 1),
    "llama, no settings": ("tokenizer.model", LLAMA, {"model_type": "llama"}, None, 1),
    "mistral": ("tokenizer.model", LLAMA, {"model_type": "mistral"}, None, 1),
    "normalized": ("tokenizer.model", {"model_type": "bpe", "vocab_size": 200}, {"model_type": "llama"}, None, 1),
    "no space in front": ("tokenizer.model", LLAMA | {"add_dummy_prefix": False}, {"model_type": "llama"}, None, 1),
    "unigram": ("tokenizer.model", {"byte_fallback": True, "vocab_size": 400}, {"model_type": "llama"}, None, 1),
    "with symbols": (
        "tokenizer.model",
        LLAMA | {"user_defined_symbols": ["<|im_start|>", "quick"], "control_symbols": ["<pad>"]},
        {"model_type": "olmo"},
        {"bos_token": "<s>", "eos_token": "</s>"},
        1,
    ),
    "other names in the class": ("tokenizer.model", LLAMA, {"model_type": "gemma"}, None, 1),
    "a class of byte-level BPE": ("tokenizer.model", LLAMA, {"model_type": "gpt_neox"}, None, 1),
    "only an end": ("tokenizer.model", LLAMA | {"bos_id": -1, "eos_id": 1}, {"model_type": "qwen2"}, None, 1),
    "an end that the folder names": (
        "tokenizer.model",
        LLAMA,
        {"model_type": "llama"},
        {"tokenizer_class": "LlamaTokenizer", "bos_token": None, "eos_token": "</s>"},
        2,
    ),
    "a BOS that the folder adds": (
        "tokenizer.model",
        LLAMA,
        {"model_type": "llama"},
        {
            "tokenizer_class": "LlamaTokenizer",
            "bos_token": "<|begin|>",
            "added_tokens_decoder": {"400": {"content": "<|begin|>", "special": True}},
        },
        400,
    ),
    "t5": ("spiece.model", T5, {"model_type": "t5"}, None, 1),
    "t5's, of gpt-2": (
        "spiece.model",
        {"vocab_size": 150},
        {"model_type": "gpt2"},
        {"tokenizer_class": "T5Tokenizer", "extra_ids": 0},
        2,
    ),
    "mamba2": ("tokenizer.model", LLAMA, {"model_type": "mamba2"}, None, 1),
    "mamba2, native": ("tokenizer.model", LLAMA, native_config(), None, 1),
}


@pytest.mark.parametrize("kind", KINDS)
def test_ids_are_those_of_sentencepiece(tmp_path: Path, kind: str) -> None:
    file, training, config, settings, bos = KINDS[kind]
    model = train(tmp_path / file, **training)
    write(tmp_path / "config.json", config)
    if settings is not None:
        write(tmp_path / "tokenizer_config.json", settings)
    tokenizer = Tokenizer(tmp_path)
    assert [ids.tolist() for ids in tokenizer.encode(TEXTS)] == model.encode(TEXTS)
    assert (tokenizer.bos, tokenizer.library) == (bos, f"sentencepiece {sentencepiece.__version__}")
    assert max(i for ids in model.encode(TEXTS) for i in ids) <= tokenizer.largest < model.get_piece_size()


def test_a_kind_of_model_that_counts_in_its_own_way_keeps_its_numbers(tmp_path: Path) -> None:
    """XLM-R's: four special tokens, and then the file's pieces from its fourth one on."""
    model = train(tmp_path / "sentencepiece.bpe.model", vocab_size=150)
    write(tmp_path / "config.json", {"model_type": "xlm-roberta", "is_decoder": True})
    tokenizer = Tokenizer(tmp_path)
    own = {model.unk_id(): 3}
    wanted = [[own.get(i, i + 1) for i in ids] for ids in model.encode(TEXTS)]
    assert [ids.tolist() for ids in tokenizer.encode(TEXTS)] == wanted
    assert tokenizer.bos == 0


def test_a_model_is_scored_on_them(tmp_path: Path) -> None:
    model = make_folder(tmp_path, tf.LlamaConfig(**GROUPED | {"vocab_size": 400}))
    (tmp_path / "tokenizer.json").unlink()
    write(tmp_path / "tokenizer_config.json", {"tokenizer_class": "LlamaTokenizer"})
    pieces = train(tmp_path / "tokenizer.model", **LLAMA)
    before = inspect(tmp_path)
    reference = load(tmp_path, expected=before)
    (score,) = score_texts(reference, [PROSE])
    assert score.total == pytest.approx(windowed_nll(model, pieces.encode(PROSE), 1, 24), abs=1e-3)
    assert reference.provenance()["tokenizer"] == f"sentencepiece {sentencepiece.__version__}"
    train(tmp_path / "tokenizer.model", **LLAMA | {"vocab_size": 390})
    assert inspect(tmp_path).tokenizer_sha256 != before.tokenizer_sha256


def test_tokens_are_shown_as_text(tmp_path: Path) -> None:
    train(tmp_path / "tokenizer.model", **LLAMA)
    write(tmp_path / "config.json", {"model_type": "llama"})
    tokenizer = Tokenizer(tmp_path)
    (ids,) = tokenizer.encode(["The dog\0, the é"])
    assert "".join(map(tokenizer.decode, ids.tolist())) == " The dog\0, the é"
    assert tokenizer.decode(tokenizer.encode(["🙂"])[0].tolist()[-1]) == "\ufffd"


def test_half_a_surrogate_pair_is_a_question_mark(tmp_path: Path) -> None:
    model = train(tmp_path / "tokenizer.model", **LLAMA)
    write(tmp_path / "config.json", {"model_type": "llama"})
    assert Tokenizer(tmp_path).encode(["a\ud800b"])[0].tolist() == model.encode("a?b")


@pytest.mark.parametrize("training", [LLAMA, T5, LLAMA | {"add_dummy_prefix": False}, {"vocab_size": 150}], ids=str)
def test_a_long_document_in_parts_has_the_ids_of_the_whole(
    tmp_path: Path, training: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = train(tmp_path / "tokenizer.model", **training)
    write(tmp_path / "config.json", {"model_type": "llama"})
    monkeypatch.setattr(backends, "_PIECE", 1000)
    monkeypatch.setattr(backends, "_BATCH", 4000)
    texts = [PROSE * 200, "\n".join(CORPUS) * 5, "x" * 20_000, PROSE]
    assert [ids.tolist() for ids in Tokenizer(tmp_path).encode(texts)] == model.encode(texts)


# -- errors
@pytest.fixture
def llama(tmp_path: Path) -> Path:
    make_folder(tmp_path, tf.LlamaConfig(**GROUPED | {"vocab_size": 400}))
    for path in tmp_path.glob("tokenizer*"):
        path.unlink()
    return tmp_path


@pytest.mark.parametrize("file", ["tokenizer.model", "spiece.model", "sentencepiece.bpe.model"])
@pytest.mark.parametrize("absent", ["sentencepiece", "google.protobuf", "sentencepiece.sentencepiece_model_pb2"])
def test_without_its_library_it_says_what_to_install(
    llama: Path, file: str, absent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(llama / file, **LLAMA)
    monkeypatch.delitem(sys.modules, "sentencepiece.sentencepiece_model_pb2", raising=False)
    monkeypatch.setitem(sys.modules, absent, None)
    message = wrong(llama)
    assert f"{file}: a SentencePiece model needs its library: pip install 'winnow[sentencepiece]' (" in message
    assert "tiktoken" not in message


def test_a_tokenizer_json_beside_it_needs_no_library(llama: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train(llama / "tokenizer.model", **LLAMA)
    byte_level().save(str(llama / "tokenizer.json"))
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    assert load(llama).tokenizer.encode([PROSE])[0].tolist() == byte_level().encode(PROSE).ids


@pytest.mark.parametrize("content", [b"", b"not a model", b"IQ== 0\nIg== 1\n", "cut"], ids=str)
def test_a_file_that_is_no_sentencepiece_model(llama: Path, content: bytes | str) -> None:
    train(llama / "tokenizer.model", **LLAMA)
    whole = (llama / "tokenizer.model").read_bytes()
    (llama / "tokenizer.model").write_bytes(whole[:1000] if isinstance(content, str) else content)
    message = wrong(llama)
    assert "tokenizer.model: cannot be read as a SentencePiece model (" in message
    assert "put a tokenizer.json there" in message
    assert "tiktoken" not in message


@pytest.mark.parametrize(("kind", "file"), [("gpt2", "spiece.model"), ("xglm", "sentencepiece.bpe.model")])
def test_a_file_that_transformers_does_not_read_for_this_kind(tmp_path: Path, kind: str, file: str) -> None:
    train(tmp_path / file, vocab_size=150)
    write(tmp_path / "config.json", {"model_type": kind})
    with pytest.raises(BadReference, match=rf"{file}: transformers does not read it .* put a tokenizer\.json there"):
        Tokenizer(tmp_path)


def test_a_tokenizer_of_another_model(llama: Path) -> None:
    train(llama / "tokenizer.model", **LLAMA)
    tf.LlamaForCausalLM(tf.LlamaConfig(**GROUPED)).save_pretrained(llama)
    with pytest.raises(BadReference, match=r"ids up to 399, the model only 320 rows"):
        load(llama)


def test_an_unreadable_class_is_named(llama: Path) -> None:
    train(llama / "tokenizer.model", **LLAMA)
    remote = {"AutoTokenizer": ["code.Mine", None]}
    write(llama / "tokenizer_config.json", {"tokenizer_class": "Mine", "auto_map": remote})
    with pytest.raises(BadReference, match=r"tokenizer\.model: transformers does not read it .*put a tokenizer\.json"):
        load(llama)
    change_json(llama / "tokenizer_config.json", tokenizer_class="LlamaTokenizer", auto_map=None)
    assert torch.isfinite(torch.tensor(score_texts(load(llama), [PROSE])[0].total))
