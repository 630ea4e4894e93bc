"""Reads a model folder's config.json and safetensors, and checks tensors against the shapes that a model expects.

Imports no torch until a tensor is read, so that a folder can be inspected without it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import SafetensorError

from scorer.errors import BadReference

if TYPE_CHECKING:
    import torch
    from torch import Tensor

WEIGHTS = "model.safetensors"


def read_config(folder: Path) -> dict[str, Any]:
    """The JSON object in the folder's config.json. Raises BadReference."""
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
    except (OSError, ValueError) as error:
        raise BadReference(f"{path}: cannot be read as JSON ({error})") from None
    if not isinstance(found, dict):
        raise BadReference(f"{path}: is not a JSON object")
    return found


def weight_files(folder: Path) -> list[Path]:
    """`model.safetensors`, else the files in its index, else every safetensors file. Raises BadReference."""
    if (folder / WEIGHTS).is_file():
        return [folder / WEIGHTS]
    index = folder / f"{WEIGHTS}.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_bytes())["weight_map"].values()))
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            raise BadReference(f"{index}: cannot be read as an index of safetensors files") from None
        if absent := [name for name in names if Path(name).name != name or not (folder / name).is_file()]:
            raise BadReference(f"{folder}: weight file {absent[0]} is missing; fetch the whole checkpoint")
        return [folder / name for name in names]
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        hint = "; convert them first, those of Mamba-2 with `winnow convert`" if any(folder.glob("*.bin")) else ""
        raise BadReference(f"{folder}: no weights in safetensors{hint}")
    return found


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
