"""Reads a model folder's config.json and safetensors, and checks tensors against the shapes that a model expects.

Imports no torch until a tensor is read, so that a folder can be inspected without it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError, safe_open

from scorer.errors import BadReference

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "model.safetensors"
_MERGE = "merge it with peft (`merge_and_unload`, then `save_pretrained`) and give the folder of the result"
# What tensors' names have before or between the model's own parts if a wrapper of it was saved.
_WRAPPERS = re.compile(
    r"^((module|_forward_module|_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.)+"
    r"|\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\."
)
# Parts of tensors' names in a model with an adapter that is not merged.
_ADAPTERS = {"base_layer", "lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "modules_to_save"}


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in the folder's config.json. Raises BadReference, also if the folder holds an adapter."""
    _check_adapter(folder)
    try:
        return read_object(folder / "config.json")
    except FileNotFoundError:
        raise BadReference(f"{folder}: no config.json; give a model folder") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file of a model folder. Raises BadReference, and FileNotFoundError if there is no file."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise BadReference(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise BadReference(f"{path}: is not a JSON object")
    return found


def _check_adapter(folder: Path) -> None:
    """Raises BadReference for an adapter: transformers adds it to the model if peft is installed, and else does not."""
    found = sorted(path.name for pattern in ("adapter_config.json", "adapter_model*") for path in folder.glob(pattern))
    if not found:
        return
    weights = [*folder.glob("*.safetensors"), *folder.glob("pytorch_model*.bin")]
    if any(not path.name.startswith("adapter_") for path in weights):
        raise BadReference(
            f"{folder}: holds an adapter ({found[0]}) beside the model's weights; {_MERGE}, or move the adapter's files"
            " away to score without it"
        )
    try:
        base = read_object(folder / "adapter_config.json").get("base_model_name_or_path")
    except (BadReference, FileNotFoundError):
        base = None
    name = repr(base[:200]) if base and isinstance(base, str) else "another model"
    raise BadReference(f"{folder}: holds only an adapter ({found[0]}) of {name}, no model; {_MERGE}")


def check_quantization(folder: Path, config: Mapping[str, Any]) -> None:
    """Raises BadReference if config.json says that the weights are quantized."""
    parts = [config, *(part for part in config.values() if isinstance(part, dict))]
    found = next((part["quantization_config"] for part in parts if part.get("quantization_config") is not None), None)
    if found is not None:
        kind = found.get("quant_method") if isinstance(found, dict) else found
        raise BadReference(
            f"{folder}: quantized weights ({kind}) are not supported; save the model after transformers'"
            " `model.dequantize()`, or take quantization_config out of config.json if they are not quantized"
        )


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, else the files in its index, else every safetensors file. Raises BadReference."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise BadReference(f"{index}: cannot be read as an index of safetensors files") from None
        if absent := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
            raise BadReference(f"{folder}: weight file {absent[0]} is missing; fetch the whole checkpoint")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        hint = "; convert them first, those of Mamba-2 with `winnow convert`" if any(folder.glob("*.bin")) else ""
        raise BadReference(f"{folder}: no weights in safetensors{hint}")
    return found


def check_weights(folder: Path) -> None:
    """Raises BadReference if a weight file is missing, cannot be read, or holds tensors of a wrapped model."""
    for path in weight_files(folder):
        try:
            with safe_open(path, framework="numpy") as file:
                names = list(file.keys())
        except (SafetensorError, OSError) as error:
            raise BadReference(f"{path}: cannot be read as safetensors ({error})") from None
        _check_names(path, names)


def _check_names(source: Path, names: Iterable[str]) -> None:
    """Raises BadReference for tensors of a wrapped model, or of an adapter that is not merged."""
    for name in names:
        if _ADAPTERS.intersection(name.split(".")):
            raise BadReference(f"{source}: tensor {name} is that of an adapter inside the model; {_MERGE}")
        if found := _WRAPPERS.search(name):
            wrapper = found.group()
            raise BadReference(
                f"{source}: tensor {name} was saved from a wrapper of the model (torch.compile, DDP, FSDP); save the"
                f" model inside, `model.{wrapper[:-1]}`, or take `{wrapper}` out of the tensors' names"
            )


def read_weights(folder: Path) -> dict[str, Tensor]:
    """Every tensor of the folder's safetensors by name, on the CPU, as stored. Raises BadReference."""
    tensors: dict[str, Tensor] = {}
    for path in weight_files(folder):
        tensors.update(_read_file(path))
    return tensors


def _read_file(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)  # type: ignore[no-any-return]
    except (SafetensorError, OSError) as error:
        raise BadReference(f"{path}: cannot be read as safetensors ({error})") from None


def check_tensors(source: Path, tensors: Mapping[str, Tensor], expected: Mapping[str, torch.Size]) -> None:
    """Raises BadReference if a tensor is missing, misshapen, not floating-point, or not among the expected ones."""
    _check_names(source, tensors)
    if missing := [name for name in expected if name not in tensors]:
        raise BadReference(
            f"{source}: tensor {missing[0]} is missing ({len(missing)} in all); the checkpoint is not whole"
        )
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise BadReference(
                f"{source}: tensor {name} has shape {list(tensors[name].shape)}, config.json asks for {list(shape)}"
            )
        if not tensors[name].is_floating_point():
            raise BadReference(f"{source}: tensor {name} holds {tensors[name].dtype}, not floating-point weights")
    if extra := [name for name in tensors if name not in expected]:
        raise BadReference(
            f"{source}: tensor {extra[0]} is not part of the model that config.json describes ({len(extra)} in all)"
        )
