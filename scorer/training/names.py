"""The names of the references that can be trained. Imports no torch, so that an API can check a name."""

from typing import Literal, get_args

Preset = Literal["tiny", "mamba2-130m", "gpt2-124m"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
