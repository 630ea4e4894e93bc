"""Finding, looking at and loading a reference; each wrong one is an error of one line."""

import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import torch
import transformers as tf

from scorer.causal_lm.reference import inspect, load, resolve
from scorer.errors import BadReference, OutOfMemory
from scorer.fingerprint import tokens_sha256
from tests.scorer import mamba2_folders
from tests.scorer.model_folders import END, GPT2, add_tokenizer, change_json, make_folder, wrong


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "my gpt2"
    make_folder(folder, tf.GPT2Config(**GPT2))
    return folder


@pytest.fixture
def gpt2(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / made.name))


def test_a_folder_is_itself(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert resolve(str(gpt2)) == gpt2
    monkeypatch.chdir(gpt2.parent)
    assert resolve("my gpt2").samefile(gpt2)
    assert resolve("./my gpt2").samefile(gpt2)
    monkeypatch.setenv("HOME", str(gpt2.parent))
    assert resolve("~/my gpt2") == gpt2


@pytest.mark.parametrize(
    "model", ["/no/such/folder", "./none", "no/such/folder", "a b", "~nobody-here/x", "a\0b", "x" * 5000]
)
def test_what_is_neither_a_folder_nor_a_hub_id(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "..")
    with pytest.raises(BadReference, match="reference '"):
        resolve(model)


def test_a_file_is_no_folder(gpt2: Path) -> None:
    with pytest.raises(BadReference, match="is a file; give the model's folder"):
        resolve(str(gpt2 / "config.json"))


def test_a_hub_id_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadReference, match="'nobody/nothing' is not a folder here and cannot be fetched from the hub"):
        resolve("nobody/nothing")


def test_provenance_names_what_scores_come_from(gpt2: Path) -> None:
    loaded = load(gpt2)
    assert (loaded.context, loaded.bos, loaded.dtype, loaded.device) == (24, 0, "float32", "cpu")
    said = loaded.provenance()
    found = inspect(gpt2)
    assert (said["sha256"], said["tokenizer_sha256"]) == (found.sha256, found.tokenizer_sha256)
    assert said["architecture"] == "GPT2LMHeadModel"
    assert said["parameters"] == sum(p.numel() for p in tf.AutoModelForCausalLM.from_pretrained(gpt2).parameters())
    assert said["versions"] == {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    assert str(gpt2) not in str(said)


def test_hashes_are_of_the_content(gpt2: Path, tmp_path: Path) -> None:
    before = inspect(gpt2)
    assert inspect(Path(shutil.copytree(gpt2, tmp_path / "copy"))) == before
    (gpt2 / "README.md").write_text("of no matter")
    assert inspect(gpt2) == before
    change_json(gpt2 / "config.json", n_layer=1)
    assert inspect(gpt2).sha256 != before.sha256
    assert inspect(gpt2).tokenizer_sha256 == before.tokenizer_sha256
    change_json(gpt2 / "tokenizer_config.json", bos_token="a")
    assert inspect(gpt2).tokenizer_sha256 != before.tokenizer_sha256


def test_what_cuts_texts_has_a_hash_without_settings(gpt2: Path) -> None:
    before, tokenizer = tokens_sha256(gpt2), json.loads((gpt2 / "tokenizer.json").read_text())
    special = {"id": 999, "content": "<special>", "special": True}
    same = {"truncation": {"max_length": 8}, "post_processor": None, "added_tokens": [special]}
    (gpt2 / "tokenizer.json").write_text(json.dumps(tokenizer | same, indent=4))
    change_json(gpt2 / "tokenizer_config.json", model_max_length=77, bos_token="a")
    assert tokens_sha256(gpt2) == before
    for changed in ({"normalizer": {"type": "NFC"}}, {"added_tokens": [special | {"special": False}]}):
        (gpt2 / "tokenizer.json").write_text(json.dumps(tokenizer | changed))
        assert tokens_sha256(gpt2) != before


def test_the_quick_look_needs_no_torch(gpt2: Path) -> None:
    code = (
        "import sys, pathlib, scorer.causal_lm.reference as r; r.inspect(r.resolve(sys.argv[1]));"
        "sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code, str(gpt2)]).returncode == 0


@pytest.mark.parametrize("make", [mamba2_folders.hugging_face, mamba2_folders.native])
def test_mamba2_in_both_layouts(tmp_path: Path, make: type) -> None:
    config = mamba2_folders.SMALL.__class__(vocab_size=320, hidden=32, layers=1, heads=4, head_dim=16, state=8)
    make(tmp_path, config)
    add_tokenizer(tmp_path, bos_token=END)
    loaded = load(tmp_path)
    assert (loaded.context, loaded.bos) == (None, 0)
    assert loaded.provenance()["parameters"] > 0


def test_no_config(gpt2: Path) -> None:
    (gpt2 / "config.json").unlink()
    assert "no config.json" in wrong(gpt2)


def test_a_config_that_says_nothing(gpt2: Path) -> None:
    (gpt2 / "config.json").write_text("{}")
    assert "neither a model_type nor" in wrong(gpt2)


def test_a_model_that_the_device_has_no_room_for(gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("scorer.causal_lm.transformer.load_transformer", full)
    with pytest.raises(OutOfMemory, match="too little memory for this model"):
        load(gpt2)


def test_mamba1(gpt2: Path) -> None:
    change_json(gpt2 / "config.json", model_type="mamba")
    assert "Mamba-1, not Mamba-2" in wrong(gpt2)


def test_weights_in_a_pickle_only(gpt2: Path) -> None:
    (gpt2 / "model.safetensors").rename(gpt2 / "pytorch_model.bin")
    message = wrong(gpt2)
    assert "no weights in safetensors" in message
    assert "winnow convert" in message


def test_no_tokenizer(gpt2: Path) -> None:
    for path in gpt2.glob("tokenizer*"):
        path.unlink()
    assert "no tokenizer" in wrong(gpt2)


def test_a_tokenizer_of_another_model(gpt2: Path) -> None:
    model = tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2 | {"vocab_size": 250}))
    model.save_pretrained(gpt2)
    with pytest.raises(BadReference, match=r"ids up to 2\d\d, the model only 250 rows"):
        load(gpt2)


def test_a_context_of_one(gpt2: Path) -> None:
    tf.GPT2LMHeadModel(tf.GPT2Config(**GPT2 | {"n_positions": 1})).save_pretrained(gpt2)
    with pytest.raises(BadReference, match="too few to predict one"):
        load(gpt2)


def test_load_refuses_a_model_that_is_not_the_expected_one(gpt2: Path) -> None:
    expected = inspect(gpt2)
    assert load(gpt2, expected=expected).fingerprint == expected
    weights = bytearray((gpt2 / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (gpt2 / "model.safetensors").write_bytes(weights)
    with pytest.raises(BadReference, match="my gpt2: the model has changed since it was chosen"):
        load(gpt2, expected=expected)
