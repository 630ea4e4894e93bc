"""The work on a micro-batch: forward and backward pass, adding to the gradients. On a GPU it is one CUDA graph.

From Python the launches of such a pass of GPT-2 small take 30 ms of a core, as long as the GPU works on them; a graph
is launched in one call.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor

from kernels.nll import mean_nll
from scorer.training.batches import Batch, Layout
from scorer.training.presets import TrainingModel


class Gradients:
    """The gradients of a model's parameters. On a GPU they are parts of one tensor, and stay where they are."""

    def __init__(self, parameters: list[Tensor], device: str) -> None:
        self.parameters = parameters
        self._flat: Tensor | None = None
        if device.startswith("cuda"):
            self._flat = torch.zeros(sum(p.numel() for p in parameters), device=device)
            parts = self._flat.split([p.numel() for p in parameters])
            self._parts = [part.view_as(p) for p, part in zip(parameters, parts, strict=True)]
            for p, part in zip(parameters, self._parts, strict=True):
                p.grad = part

    def add(self, loss: Tensor) -> None:
        """Adds those of a loss."""
        if self._flat is None:
            loss.backward()
        else:  # all at once; torch would add one parameter's after the other
            found = torch.autograd.grad(loss, self.parameters)
            torch._foreach_add_(self._parts, list(found))

    def tensors(self) -> list[Tensor]:
        """What holds them."""
        return [self._flat] if self._flat is not None else [p.grad for p in self.parameters if p.grad is not None]

    def clip(self, norm: float) -> None:
        """Scales them down to a norm, if theirs is above it."""
        tensors = self.tensors()
        total = torch.linalg.vector_norm(torch.stack([torch.linalg.vector_norm(t) for t in tensors]))
        torch._foreach_mul_(tensors, (norm / (total + 1e-6)).clamp(max=1.0))

    def clear(self) -> None:
        """Sets them to zero."""
        if self._flat is not None:
            self._flat.zero_()
        else:
            for p in self.parameters:
                p.grad = None


class MicroStep:
    """Adds the gradients of micro-batches, and their loss to `loss`."""

    def __init__(self, model: TrainingModel, gradients: Gradients, layout: Layout, share: float, device: str) -> None:
        """A micro-batch's mean NLL counts as `share` of the loss."""
        self.loss = torch.zeros((), device=device)
        self._model, self._gradients, self._layout = model, gradients, layout
        self._share, self._device = share, device
        self._input: Tensor | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._on_gpu = device.startswith("cuda")

    def __call__(self, vector: Tensor) -> None:
        """Takes a micro-batch, a vector of the layout on the host. On a GPU it returns before the work is done."""
        if not self._on_gpu:
            self._work(vector)
            return
        vector = vector.pin_memory()
        if self._input is None:
            self._input = torch.empty_like(vector, device=self._device)
        self._input.copy_(vector, non_blocking=True)
        if self._graph is None:
            self._graph = self._capture(self._input)
        self._graph.replay()

    def _work(self, vector: Tensor) -> None:
        batch = self._layout.split(vector)
        hidden = run_hidden(self._model.compiled if self._on_gpu else self._model.hidden, batch)
        loss = self._share * mean_nll(hidden, self._model.head, batch.targets.flatten())
        self._gradients.add(loss)
        self.loss += loss.detach()

    def _capture(self, vector: Tensor) -> torch.cuda.CUDAGraph:
        """Compiles, and records the work, before the first step: gradients and loss are zero then and afterwards."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):  # the first call compiles
                self._work(vector)
        torch.cuda.current_stream().wait_stream(stream)
        torch.cuda.synchronize()
        torch.cuda.empty_cache()  # the graph has memory of its own
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            self._work(vector)
        self._gradients.clear()
        self.loss.zero_()
        return graph


def run_hidden(hidden: Callable[[Batch], Tensor], batch: Batch) -> Tensor:
    """The hidden states of a batch, [B·T, D]: in bfloat16 products on a GPU, in float32 on a CPU."""
    narrow = batch.ids.is_cuda
    with torch.autocast(batch.ids.device.type, torch.bfloat16, enabled=narrow):
        found = hidden(batch)
    return found.bfloat16() if narrow else found


@contextlib.contextmanager
def deterministic(device: str) -> Iterator[None]:
    """Inside, torch takes its deterministic kernels on a GPU and fills no new tensor; then its settings are as before.

    On a CPU its kernels are deterministic anyway. cuBLAS is so on one stream, whatever its workspace, so the warning
    that CUBLAS_WORKSPACE_CONFIG is not set is ignored.
    """
    if not device.startswith("cuda"):
        yield
        return
    enabled = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    filled = settings.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    settings.fill_uninitialized_memory = False
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*deterministic.*")
            yield
    finally:
        settings.fill_uninitialized_memory = filled
        torch.use_deterministic_algorithms(enabled, warn_only=warn_only)
