"""Tokenizers: BOS as the contract has it, text as plain data, and folders as they come."""

import json
from pathlib import Path

import pytest
import tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from scorer.errors import BadReference
from scorer.tokenizer.tokenizer import Tokenizer
from tests.scorer.model_folders import END, PROSE, add_tokenizer, byte_level, change_json


def config(folder: Path, **content: object) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(content))
    return folder


def saved(folder: Path, **special: str) -> Tokenizer:
    config(folder, model_type="llama")
    add_tokenizer(folder, **special)
    return Tokenizer(folder)


def test_bos_else_eos_else_none(tmp_path: Path) -> None:
    assert saved(tmp_path / "both", bos_token="a", eos_token=END).bos == byte_level().token_to_id("a")
    assert saved(tmp_path / "eos", eos_token=END).bos == 0
    assert saved(tmp_path / "none").bos is None


def test_the_models_own_ids_say_nothing_of_the_tokenizer(tmp_path: Path) -> None:
    folder = config(tmp_path, model_type="gpt_neox", bos_token_id=0, eos_token_id=0)
    add_tokenizer(folder)
    assert Tokenizer(folder).bos is None


def test_bos_written_in_full_beside_settings_that_nobody_knows(tmp_path: Path) -> None:
    saved(tmp_path, eos_token=END)
    token = {"__type": "AddedToken", "content": END, "lstrip": False, "normalized": False, "rstrip": False}
    change_json(tmp_path / "tokenizer_config.json", bos_token=token, eos_token=None, extra=[1, {"a": None}], wat="?")
    assert Tokenizer(tmp_path).bos == 0


def test_a_tokenizer_class_that_cannot_be_loaded_is_read_by_its_files(tmp_path: Path) -> None:
    saved(tmp_path, eos_token=END)
    remote = {"AutoTokenizer": ["code.Mine", None]}
    change_json(tmp_path / "tokenizer_config.json", tokenizer_class="Mine", auto_map=remote)
    assert Tokenizer(tmp_path).bos == 0


@pytest.mark.parametrize("kind", ["gpt2", "gpt_neox", "llama"])
def test_a_folder_with_nothing_but_tokenizer_json_agrees_with_autotokenizer(tmp_path: Path, kind: str) -> None:
    config(tmp_path, model_type=kind)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    auto = AutoTokenizer.from_pretrained(tmp_path)
    assert Tokenizer(tmp_path).bos == auto.bos_token_id


@pytest.mark.parametrize("bos", [None, "a", "<s>"])
@pytest.mark.parametrize("eos", [None, {"content": END, "__type": "AddedToken"}, ""])
def test_a_folder_that_names_its_tokens_agrees_with_autotokenizer(tmp_path: Path, bos: object, eos: object) -> None:
    config(tmp_path, model_type="qwen2")  # whose EOS is END where none is named
    byte_level().save(str(tmp_path / "tokenizer.json"))
    settings = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": bos, "eos_token": eos}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings))
    auto = AutoTokenizer.from_pretrained(tmp_path)
    ids = [byte_level().token_to_id(token) for token in (auto.bos_token, auto.eos_token) if token]
    assert Tokenizer(tmp_path).bos == next((number for number in ids if number is not None), None)


def test_a_native_folder_with_nothing_but_tokenizer_json_starts_at_its_end_of_text(tmp_path: Path) -> None:
    config(tmp_path, d_model=8, n_layer=1)
    byte_level().save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path).bos == 0
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": "a"}))
    assert Tokenizer(tmp_path).bos == byte_level().token_to_id("a")


def test_special_tokens_in_a_text_are_text(tmp_path: Path) -> None:
    tokenizer = saved(tmp_path, bos_token=END)
    (ids,) = tokenizer.encode([f"a{END}b"])
    assert 0 not in ids
    assert byte_level().decode(ids.tolist()) == f"a{END}b"


def test_nothing_is_added_cut_or_padded(tmp_path: Path) -> None:
    whole = byte_level()
    whole.enable_truncation(4)
    whole.enable_padding(length=8)
    whole.post_processor = tokenizers.processors.TemplateProcessing(single=f"{END} $A", special_tokens=[(END, 0)])
    PreTrainedTokenizerFast(tokenizer_object=whole, bos_token=END).save_pretrained(config(tmp_path, model_type="llama"))
    one, long = Tokenizer(tmp_path).encode(["a", PROSE])
    assert len(one) == 1
    assert byte_level().decode(long.tolist()) == PROSE


def test_vocab_and_merges_as_gpt2_has_them(tmp_path: Path) -> None:
    config(tmp_path, model_type="gpt2")
    byte_level().model.save(str(tmp_path))
    tokenizer = Tokenizer(tmp_path)
    assert tokenizer.bos == 0
    assert byte_level().encode(PROSE).ids == tokenizer.encode([PROSE])[0].tolist()
    assert 0 not in tokenizer.encode([END])[0]


@pytest.mark.parametrize("text", ["", "\0", "nul \0 in", "\ud800 lone", "é漢字🙂", "\r\n\t "])
def test_any_text_is_encoded(tmp_path: Path, text: str) -> None:
    (ids,) = saved(tmp_path, bos_token=END).encode([text])
    assert byte_level().decode(ids.tolist()) == text.replace("\ud800", "?")


def test_merges_left_out_at_random_are_not(tmp_path: Path) -> None:
    saved(tmp_path, bos_token=END)
    path = tmp_path / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["dropout"] = 0.5
    path.write_text(json.dumps(content))
    assert Tokenizer(tmp_path).encode([PROSE])[0].tolist() == byte_level().encode(PROSE).ids


@pytest.mark.parametrize("left", [[], ["tokenizer_config.json"], ["vocab.json"]])
def test_no_vocabulary_is_an_error_and_not_an_empty_tokenizer(tmp_path: Path, left: list[str]) -> None:
    config(tmp_path, model_type="gpt2")
    for name in left:
        (tmp_path / name).write_text("{}")
    with pytest.raises(BadReference, match="no tokenizer"):
        Tokenizer(tmp_path)


def test_a_broken_tokenizer_json_is_named(tmp_path: Path) -> None:
    config(tmp_path, model_type="gpt2")
    (tmp_path / "tokenizer.json").write_text('{"model": ')
    with pytest.raises(BadReference, match=r"tokenizer\.json: cannot be read"):
        Tokenizer(tmp_path)
