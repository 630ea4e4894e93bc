"""The names of the references that can be trained, and of their files. Imports no torch, as an API checks names."""

from typing import Literal, get_args

Preset = Literal["tiny", "mamba2-130m", "gpt2-124m", "nano", "4m", "10m", "30m", "124m"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
OptimizerName = Literal["muon", "adamw"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)

FILES = (
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "training.json",
    "config.json",
)  # in its folder
