"""The names of the presets, without torch."""

from typing import Literal, get_args

Preset = Literal["tiny", "mamba2-130m", "gpt2-124m"]
PRESETS: tuple[Preset, ...] = get_args(Preset)
