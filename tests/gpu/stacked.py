"""Several GPT-2 models of one shape trained in one process, each layer one batched product over all of them.

The other way to share a GPU, beside several processes. Each model has its own data, and its gradients are clipped by
their own norm.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from kernels.document_attention import document_attention
from kernels.nll import mean_nll
from scorer.training import loop, optimizer
from scorer.training.batches import Batch, Batches, Layout
from scorer.training.micro_step import Gradients, MicroStep, run_hidden
from scorer.training.presets import Gpt2Shape, Recipe, TrainingModel
from scorer.training.readback import Readback
from scorer.training.schedule import Schedule
from tests.kernels.helpers import relative

_ERROR = {"cpu": 1e-5, "cuda": 0.1}  # of gradients: float32, and bfloat16 that is rounded in other places

Blocks = Callable[[dict[str, Tensor], Tensor, Tensor, Tensor, int, int], Tensor]


class Stack:
    """N models. Parameters are float32 [N, R, C]; norms and biases have R = 1."""

    def __init__(self, models: list[TrainingModel], device: str) -> None:
        """Takes the weights of models of `Gpt2Shape`, which stay as they are."""
        transformers: list[Any] = [model.module.transformer for model in models]
        named = [dict(each.named_parameters()) for each in transformers]
        self.parameters: dict[str, Tensor] = {}
        for name, first in named[0].items():
            stacked = torch.stack([each[name].detach() for each in named]).to(device)
            self.parameters[name] = (stacked[:, None] if first.dim() == 1 else stacked).requires_grad_()
        self.head = self.parameters["wte.weight"]
        self._sizes = transformers[0].config.n_layer, transformers[0].config.n_head
        self._compiled: Blocks | None = None

    def hidden(self, batch: Batch) -> Tensor:
        """The hidden states [N, B·T, D] of batches [N, B, T], whose ends are counted over all rows."""
        return self._run(batch, _blocks)

    def compiled(self, batch: Batch) -> Tensor:
        """`hidden` for a GPU."""
        if self._compiled is None:
            self._compiled = torch.compile(_blocks, dynamic=False, options={"deterministic": True})
        return self._run(batch, self._compiled)

    def _run(self, batch: Batch, blocks: Blocks) -> Tensor:
        x = _embed(self.head, batch.ids) + _embed(self.parameters["wpe.weight"], batch.positions)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        rows = batch.positions.flatten(0, 1), batch.ends.flatten(0, 1)  # to attention the models are more rows
        views = {
            name: p.view_as(p) for name, p in self.parameters.items()
        }  # torch.compile stumbles over their gradients
        return blocks(views, x.flatten(1, 2), *rows, *self._sizes)


def _embed(tables: Tensor, rows: Tensor) -> Tensor:
    """Rows [N, B, T] of tables [N, R, D], [N, B, T, D]."""
    first = torch.arange(0, tables.shape[0] * tables.shape[1], tables.shape[1], device=rows.device)
    return F.embedding(rows + first[:, None, None], tables.flatten(0, 1))


def _blocks(p: dict[str, Tensor], x: Tensor, positions: Tensor, ends: Tensor, layers: int, heads: int) -> Tensor:
    """All after the embeddings, [N, B·T, D] -> [N, B·T, D]; positions and ends are [N·B, T]."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:]) * p[f"{name}.weight"] + p[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        # Not baddbmm: it would first write the bias to all rows. So compiled, the bias is a part of what comes next.
        product = torch.bmm(x, p[f"{name}.weight"])
        return product + p[f"{name}.bias"].to(product.dtype)

    for layer in range(layers):
        at = f"h.{layer}"
        qkv = linear(norm(x, f"{at}.ln_1"), f"{at}.attn.c_attn")
        found = document_attention(qkv.view(*positions.shape, -1), positions, ends, heads)
        x = x + linear(found.view(x.shape), f"{at}.attn.c_proj")
        wide = F.gelu(linear(norm(x, f"{at}.ln_2"), f"{at}.mlp.c_fc"), approximate="tanh")
        x = x + linear(wide, f"{at}.mlp.c_proj")
    return norm(x, "ln_f")


class StackedStep(MicroStep):
    """The work on a micro-batch of each of N models, vectors [N, 4·B·T] on the host; `loss` is [N]."""

    def __init__(self, stack: Stack, gradients: Gradients, layout: Layout, share: float, device: str) -> None:
        model: Any = stack
        super().__init__(model, gradients, layout, share, device)
        self.loss = torch.zeros(len(stack.head), device=device)

    def _work(self, vector: Tensor) -> None:
        rows, sequence = self._layout
        ids, targets, positions, ends = vector.view(-1, 4, rows, sequence).unbind(1)
        first = torch.arange(len(ids), device=ids.device) * (rows * sequence)
        batch = Batch(ids, targets, positions, ends + first[:, None, None])
        hidden = run_hidden(self._model.compiled if self._on_gpu else self._model.hidden, batch)
        parts = zip(hidden.unbind(), self._model.head.unbind(), targets.flatten(1).unbind(), strict=True)
        losses = self._share * torch.stack([mean_nll(*part) for part in parts])
        self._gradients.add(losses.sum())
        self.loss += losses.detach()


class StackedTraining:
    """Trains N models of a recipe from seeds 0 to N - 1, as `Training` trains one."""

    def __init__(self, recipe: Recipe, plan: Schedule, count: int, data: NDArray[np.uint16], device: str) -> None:
        """Two models or more. The first micro-batch is compared with what each gives alone.

        Raises RuntimeError if they differ.
        """
        if not isinstance(recipe.build, Gpt2Shape) or recipe.optimizer != "adamw":
            raise ValueError("only models of GPT-2's shape that take AdamW are stacked")
        self._plan, self._rate = plan, recipe.learning_rate
        models = []
        for seed in range(count):
            torch.default_generator.manual_seed(seed)
            models.append(recipe.build(recipe.vocabulary))
        self._batches = [Batches(data, plan.sequence, plan.micro, 0, seed) for seed in range(count)]
        layout, share = self._batches[0].layout, plan.micro / plan.batch
        expected = [
            _alone(model, layout.split(vector.to(device)), share, device)
            for model, vector in zip(models, self._vectors(0), strict=True)
        ]
        if device == "cuda":  # memory is measured from here
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        stack = Stack(models, device)
        self._parameters = list(stack.parameters.values())
        self._gradients = Gradients(self._parameters, device)
        matrices = [p for p in self._parameters if p.shape[1] > 1]
        others = [p for p in self._parameters if p.shape[1] == 1]
        groups = [{"params": matrices, "weight_decay": plan.weight_decay}, {"params": others, "weight_decay": 0.0}]
        self._adam = torch.optim.AdamW(groups, betas=optimizer._BETAS, fused=True)
        for p in self._parameters:  # as its first step would: here it counts in the peak of memory
            zeros = {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            self._adam.state[p] = {"step": torch.zeros((), device=device)} | zeros
        self._micro = StackedStep(stack, self._gradients, layout, share, device)
        self._readback = Readback(lambda: None)
        self.error = self._compare(expected)  # of the loss or the gradients of a model, relative to them
        if not self.error < _ERROR[device]:
            raise RuntimeError(f"stacked models differ from single ones by {self.error:.1e}")

    def step(self, step: int) -> None:
        """One step of all models. On a GPU it returns before the work is done."""
        plan = self._plan
        for at in range(0, plan.batch, plan.micro):
            self._micro(self._vectors(step * plan.batch + at))
            self._readback.add(self._micro.loss.sum(), lambda _: None)
            self._readback.drain(ahead=1)
        self._clip()
        for group in self._adam.param_groups:
            group["lr"] = self._rate * plan.factor(step)
        self._adam.step()
        self._clear()

    def _vectors(self, first: int) -> Tensor:
        return torch.stack([batches.vector(first) for batches in self._batches])

    def _clear(self) -> None:
        self._gradients.clear()
        self._micro.loss.zero_()

    def _of_each(self) -> list[tuple[Tensor, ...]]:
        """The gradients of each model, in the order of parameters."""
        return list(zip(*[g.unbind() for p in self._parameters if (g := p.grad) is not None], strict=True))

    def _clip(self) -> None:
        """Scales the gradients of each model down to a norm, if theirs is above it."""
        models = self._of_each()
        norms = torch.stack(torch._foreach_norm([part for model in models for part in model])).view(len(models), -1)
        factors = (loop._CLIP / (torch.linalg.vector_norm(norms, dim=1) + 1e-6)).clamp(max=1.0)
        for model, factor in zip(models, factors.unbind(), strict=True):
            torch._foreach_mul_(model, factor)

    def _compare(self, expected: list[Tensor]) -> float:
        self._micro(self._vectors(0))
        errors: list[float] = []
        for gradients, loss, right in zip(self._of_each(), self._micro.loss, expected, strict=True):
            found = _flat(loss, gradients)
            errors += [relative(found[:1], right[:1]), relative(found[1:], right[1:])]
        self._clear()
        return float(np.max(errors))  # NaN if one is


def _alone(model: TrainingModel, batch: Batch, share: float, device: str) -> Tensor:
    """The loss of a single model and its gradients, laid end to end on the host."""
    model.module.to(device)
    loss = share * mean_nll(run_hidden(model.hidden, batch), model.head, batch.targets.flatten())
    found = _flat(loss, torch.autograd.grad(loss, list(model.module.parameters())))
    model.module.to("cpu")
    return found


def _flat(loss: Tensor, gradients: tuple[Tensor, ...]) -> Tensor:
    return torch.cat([loss.detach().flatten(), *(g.flatten() for g in gradients)]).cpu()
