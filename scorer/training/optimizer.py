"""The optimizer of a training: AdamW, or Muon for the hidden matrices and AdamW for the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from scorer.training.muon import Muon
from scorer.training.names import OptimizerName
from scorer.training.presets import Recipe, TrainingModel

_BETAS = (0.9, 0.95)
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


class Optimizer:
    """Takes steps with the gradients that the model's parameters have."""

    def __init__(self, model: TrainingModel, name: OptimizerName, recipe: Recipe, weight_decay: float) -> None:
        self.parameters = dict(model.module.named_parameters())
        self._muon: Muon | None = None
        self._muon_rate = 0.0
        self._adam_rate = recipe.learning_rate
        taken: set[int] = set()
        if name == "muon":
            self._muon = Muon(model.matrices, weight_decay)
            self._muon_rate, self._adam_rate = recipe.muon_learning_rates
            taken = {id(parameter) for parameter, _ in model.matrices}
        self._left = {name: p for name, p in self.parameters.items() if id(p) not in taken}
        matrices = [p for p in self._left.values() if p.dim() == 2]
        others = [p for p in self._left.values() if p.dim() != 2]  # norms, biases, convolutions, decay rates
        groups = [{"params": matrices, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW([g for g in groups if g["params"]], betas=_BETAS, fused=True)
        for p in self._left.values():  # as its first step would: a checkpoint may come before that
            zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self._adam.state[p] = {"step": torch.zeros((), device=p.device)} | zeros

    def step(self, factor: float) -> None:
        """One step, at the recipe's learning rates times a factor."""
        for group in self._adam.param_groups:
            group["lr"] = factor * self._adam_rate
        self._adam.step()
        if self._muon is not None:
            self._muon.step(factor * self._muon_rate)

    def state(self) -> dict[str, Tensor]:
        """All that the next steps depend on besides the parameters, by name."""
        found = {f"{key}.{name}": self._adam.state[p][key] for name, p in self._left.items() for key in _MOMENTS}
        if self._muon is not None:
            found |= {f"muon.{number}": momentum for number, momentum in enumerate(self._muon.momenta)}
        return found

    def state_names(self) -> list[str]:
        """The names of `state`, also before the first step."""
        muon = range(len(self._muon.momenta)) if self._muon is not None else ()
        return [f"{key}.{name}" for name in self._left for key in _MOMENTS] + [f"muon.{number}" for number in muon]

    @torch.no_grad()
    def load(self, state: dict[str, Tensor]) -> None:
        """Goes on from what `state` gave."""
        for name, p in self._left.items():
            self._adam.state[p] = {key: state[f"{key}.{name}"].to(p.device) for key in _MOMENTS}
        for number, momentum in enumerate(self._muon.momenta if self._muon is not None else ()):
            momentum.copy_(state[f"muon.{number}"])
