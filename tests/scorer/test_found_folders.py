"""Folders that do not hold the plain weights of one model: adapters, weights of wrapped models, quantized weights."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file

from scorer.causal_lm.convert import convert
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.reference import Reference, load
from scorer.engine.score_texts import score_texts
from scorer.errors import BadReference
from tests.scorer.mamba2_folders import hugging_face, native, native_weights
from tests.scorer.model_folders import GPT2, GROUPED, PROSE, ROWS, add_tokenizer, change_json, make_folder, wrong

MAMBA = Mamba2Config(vocab_size=ROWS, hidden=32, layers=2, heads=4, head_dim=16, state=8)
MODELS = {"gpt2": tf.GPT2Config(**GPT2), "llama": tf.LlamaConfig(**GROUPED)}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for name, config in MODELS.items():
        make_folder(folder / name, config)
    hugging_face(folder / "mamba2", MAMBA)
    add_tokenizer(folder / "mamba2")
    return folder


@pytest.fixture
def gpt2(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "gpt2", tmp_path / "gpt2"))


@pytest.fixture
def llama(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made / "llama", tmp_path / "llama"))


def scores(reference: Reference) -> list[float | None]:
    return [score.total for score in score_texts(reference, ["A quick fox.", PROSE, PROSE * 3])]


# -- adapters
def add_adapter(folder: Path, **config: Any) -> None:
    """As peft saves one."""
    folder.mkdir(exist_ok=True)
    content = {"peft_type": "LORA", "r": 2, "target_modules": ["c_attn"], "task_type": "CAUSAL_LM"} | config
    (folder / "adapter_config.json").write_text(json.dumps(content))
    name = "base_model.model.transformer.h.0.attn.c_attn.lora_{}.weight"
    tensors = {name.format("A"): torch.ones(2, 32), name.format("B"): torch.ones(96, 2)}
    save_file(tensors, folder / "adapter_model.safetensors")


@pytest.mark.parametrize("left", ["both", "adapter_config.json", "adapter_model.safetensors"])
def test_an_adapter_beside_the_weights_is_never_left_to_chance(gpt2: Path, left: str) -> None:
    add_adapter(gpt2, base_model_name_or_path="gpt2")
    for path in gpt2.glob("adapter_*"):
        if left not in ("both", path.name):
            path.unlink()
    message = wrong(gpt2)
    assert "holds an adapter (adapter_" in message
    assert "beside the model's weights" in message
    assert "merge_and_unload" in message
    for path in gpt2.glob("adapter_*"):
        path.unlink()
    load(gpt2)


def test_an_adapter_beside_shards_or_a_pickle(made: Path, tmp_path: Path) -> None:
    tf.AutoModelForCausalLM.from_pretrained(made / "gpt2").save_pretrained(tmp_path / "shards", max_shard_size="40KB")
    native(tmp_path / "native", MAMBA)
    (tmp_path / "native" / "model.safetensors").unlink()
    torch.save(native_weights(MAMBA), tmp_path / "native" / "pytorch_model.bin")
    for name in ("shards", "native"):
        add_adapter(tmp_path / name)
        assert "beside the model's weights" in wrong(tmp_path / name)
    with pytest.raises(BadReference, match="holds an adapter"):
        convert(tmp_path / "native", tmp_path / "out", made / "gpt2")


@pytest.mark.parametrize("kept", [[], ["config.json", "tokenizer.json", "tokenizer_config.json"]])
def test_a_folder_of_nothing_but_an_adapter_names_its_model(gpt2: Path, kept: list[str]) -> None:
    for path in gpt2.iterdir():
        if path.name not in kept:
            path.unlink()
    add_adapter(gpt2, base_model_name_or_path="org/the-base")
    (gpt2 / "training_args.bin").write_bytes(b"of the trainer")
    message = wrong(gpt2)
    assert "holds only an adapter (adapter_config.json) of 'org/the-base'" in message
    assert "merge_and_unload" in message


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"base_model_name_or_path": null}'])
def test_an_adapter_that_does_not_say_of_what(tmp_path: Path, content: str) -> None:
    add_adapter(tmp_path / "adapter")
    (tmp_path / "adapter" / "adapter_config.json").write_text(content)
    assert "holds only an adapter (adapter_config.json) of another model" in wrong(tmp_path / "adapter")


# -- names of tensors
def rename(folder: Path, change: Callable[[str], str]) -> None:
    path = folder / "model.safetensors"
    save_file({change(name): tensor for name, tensor in load_file(path).items()}, path, {"format": "pt"})


WRAPPERS = ["_orig_mod.", "module.", "_forward_module.", "_fsdp_wrapped_module.", "module._orig_mod."]


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("model", ["gpt2", "llama", "mamba2"])
def test_weights_of_a_wrapped_model(made: Path, tmp_path: Path, model: str, prefix: str) -> None:
    folder = Path(shutil.copytree(made / model, tmp_path / model))
    rename(folder, lambda name: prefix + name)
    message = wrong(folder)
    assert "model.safetensors: tensor " in message
    assert f"save the model inside, `model.{prefix[:-1]}`, or take `{prefix}` out" in message


def test_weights_of_a_model_with_wrapped_layers(llama: Path) -> None:
    rename(llama, lambda name: name.replace("layers.1.", "layers.1._checkpoint_wrapped_module."))
    assert "take `_checkpoint_wrapped_module.` out" in wrong(llama)


def test_a_wrapped_shard_among_others(llama: Path) -> None:
    weights = load_file(llama / "model.safetensors")
    (llama / "model.safetensors").unlink()
    named = {name if "layers.1" not in name else f"_orig_mod.{name}": tensor for name, tensor in weights.items()}
    index = {name: f"model-{int('layers.1' in name)}.safetensors" for name in named}
    for file in set(index.values()):
        save_file({name: t for name, t in named.items() if index[name] == file}, llama / file, {"format": "pt"})
    (llama / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    message = wrong(llama)
    assert "model-1.safetensors: tensor _orig_mod." in message


@pytest.mark.parametrize("prefix", WRAPPERS)
@pytest.mark.parametrize("pickled", [True, False])
def test_a_wrapped_checkpoint_is_not_converted(made: Path, tmp_path: Path, prefix: str, pickled: bool) -> None:
    source = tmp_path / "source"
    native(source, MAMBA)
    rename(source, lambda name: prefix + name)
    if pickled:
        torch.save(load_file(source / "model.safetensors"), source / "pytorch_model.bin")
        (source / "model.safetensors").unlink()
    with pytest.raises(BadReference, match=rf"source: tensor {prefix}backbone.* take `{prefix}` out"):
        convert(source, tmp_path / "out", made / "mamba2")
    assert not (tmp_path / "out").exists()


def test_weights_with_an_adapter_inside(llama: Path) -> None:
    rename(llama, lambda name: f"base_model.model.{name}".replace("q_proj.", "q_proj.base_layer."))
    message = wrong(llama)
    assert "q_proj.base_layer.weight is that of an adapter inside the model" in message
    assert "merge_and_unload" in message


def test_weights_that_are_cut_short_are_told_at_a_glance(llama: Path) -> None:
    path = llama / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    assert "model.safetensors: cannot be read as safetensors" in wrong(llama)


# -- quantized weights
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "gptq", "bits": 4}, "gptq"),
        ({"quant_method": "fp8"}, "fp8"),
        ({"bits": 4}, "None"),
        ("awq", "awq"),
    ],
    ids=str,
)
@pytest.mark.parametrize("inside", [False, True])
def test_quantized_weights(llama: Path, settings: Any, said: str, inside: bool) -> None:
    entry = {"quantization_config": settings}
    change_json(llama / "config.json", **({"text_config": entry} if inside else entry))
    message = wrong(llama)
    assert f"quantized weights ({said}) are not supported" in message
    assert "take quantization_config out" in message


def test_weights_that_are_not_quantized_may_say_so(llama: Path) -> None:
    clean = scores(load(llama))
    path = llama / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": None}))
    assert scores(load(llama)) == clean
