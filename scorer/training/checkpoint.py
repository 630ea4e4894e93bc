"""The state of a training in a file: written whole or not at all, and taken up only by the same training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from scorer.training.optimizer import Optimizer


class Checkpoint:
    """A checkpoint of a training with these settings."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self._settings = path, json.dumps(settings)

    def store(self, module: nn.Module, optimizer: Optimizer, progress: dict[str, Any]) -> None:
        """Writes weights, optimizer and what else the steps that are left depend on."""
        tensors: dict[str, Tensor] = {f"weight.{name}": p.detach() for name, p in module.named_parameters()}
        tensors |= {f"optimizer.{name}": value for name, value in optimizer.state().items()}
        partial = self.path.with_suffix(".part")
        save_file(tensors, partial, {"settings": self._settings, "progress": json.dumps(progress)})
        partial.replace(self.path)

    @torch.no_grad()
    def restore(self, module: nn.Module, optimizer: Optimizer) -> dict[str, Any] | None:
        """Loads what was stored and returns its progress; None where there is nothing, or of other settings."""
        if not self.path.exists():
            return None
        with safe_open(self.path, "pt") as stored:
            metadata: dict[str, str] = stored.metadata()
            if metadata.get("settings") != self._settings:
                return None
            for name, p in module.named_parameters():
                p.copy_(stored.get_tensor(f"weight.{name}"))
            optimizer.load({name: stored.get_tensor(f"optimizer.{name}") for name in optimizer.state_names()})
        progress: dict[str, Any] = json.loads(metadata["progress"])
        return progress
