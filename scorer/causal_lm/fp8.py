"""Linear layers and heads with 8-bit products, in the place of a loaded model's own. For Hopper GPUs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from kernels.e4m3 import E4M3, LARGEST, SMALLEST, Fp8Rows
from kernels.fp8 import linear8, quantize_rows, quantize_weight, scaled_product
from kernels.nll_fp8 import quantize_head, token_nll8
from scorer.causal_lm.head import Head, LinearHead
from scorer.errors import BadReference

_HOPPER = 9  # major compute capability
_MULTIPLE = 16  # inputs and outputs of a layer that can be replaced: torch's product needs it
# Inputs of a layer whose rows the compiler rounds in the kernel that makes them. It computes wider ones twice, for the
# largest number and for the rounding: they take a kernel of their own.
_WIDEST_FUSED = 1024


@torch.library.custom_op("winnow::quantize_rows", mutates_args=())
def _quantize_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """The values and the scale of `quantize_rows`, x [T, K], K a multiple of 16. An operator for the compiler."""
    made = quantize_rows(x)
    return made.values, made.scale


@_quantize_rows.register_fake
def _(x: Tensor) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape, dtype=E4M3), x.new_empty(len(x), dtype=torch.float32)


class Fp8Linear(nn.Module):
    """A linear layer whose weight and inputs are e4m3, with a factor for each output channel and each input row."""

    values: Tensor
    scale: Tensor
    bias: Tensor | None

    def __init__(self, rows: Fp8Rows, inputs: int, bias: Tensor | None) -> None:
        """`rows` is the weight [N, inputs], quantized; bias [N]."""
        super().__init__()
        self.inputs, self.outputs = inputs, rows.n_rows
        self.register_buffer("values", rows.values)
        self.register_buffer("scale", rows.scale)
        self.register_buffer("bias", bias)

    @property
    def weight(self) -> Fp8Rows:
        """The weight."""
        return Fp8Rows(self.values, self.scale, self.outputs)

    def forward(self, x: Tensor) -> Tensor:
        """x [..., inputs] bfloat16 -> [..., outputs] bfloat16."""
        rows = x.reshape(-1, self.inputs)
        if torch.compiler.is_compiling():
            if self.inputs > _WIDEST_FUSED:
                values, scale = _quantize_rows(rows)
            else:  # torch's own operations, which the compiler fuses with the norm or activation before
                wide = rows.float()
                top = wide.abs().amax(1, keepdim=True).clamp(min=SMALLEST)
                values, scale = (wide * (LARGEST / top)).to(E4M3), top[:, 0] / LARGEST
            y = scaled_product(Fp8Rows(values, scale, len(rows)), self.weight, self.bias)
        else:
            y = linear8(quantize_rows(rows, columns=self.values.shape[1]), self.weight)
            y = y if self.bias is None else y + self.bias
        return y.reshape(*x.shape[:-1], self.outputs)


class Fp8LinearHead:
    """A `LinearHead` with 8-bit logits of all entries but the target's."""

    def __init__(self, head: LinearHead) -> None:
        self._head = head
        self._rows = quantize_head(head.linear.weight, centred=head.softcap is None)

    def __call__(self, hidden: Tensor, targets: Tensor) -> Tensor:
        """hidden [N, D], targets [N] int64 -> NLL [N] float32, 0 where a target is -100."""
        head = self._head
        return token_nll8(hidden, self._rows, targets, head.linear.bias, head.scale, head.softcap)


def check_device(device: str) -> None:
    """Raises BadReference for a device without the 8-bit products, which are those of Hopper GPUs."""
    if not device.startswith("cuda"):
        raise BadReference(f"dtype fp8 needs a Hopper GPU, such as an H100; the device is {device}: choose auto")
    if torch.cuda.get_device_capability(device)[0] != _HOPPER:
        name = torch.cuda.get_device_name(device)
        raise BadReference(f"dtype fp8 needs a Hopper GPU, such as an H100; the device is {name}: choose auto")


def replace_projection(layer: Any, name: str) -> None:
    """Replaces a projection of a Mamba-2 layer, `nn.Linear`, by one for the Gluon kernels."""
    linear = getattr(layer, name)
    bias = None if linear.bias is None else linear.bias.detach()
    setattr(layer, name, Fp8Linear(quantize_weight(linear.weight), linear.in_features, bias))


def replace_linear(body: nn.Module) -> int:
    """Replaces the linear layers of a body of transformers, where inputs and outputs are multiples of 16. How many."""
    from transformers.pytorch_utils import Conv1D

    made: dict[int, Fp8Linear] = {}  # by layer: one may have several places
    for path, layer in list(body.named_modules(remove_duplicate=False)):
        if type(layer) not in (nn.Linear, Conv1D):  # a class derived from one may do more
            continue
        given: Any = layer
        weight: Tensor = given.weight if type(layer) is nn.Linear else given.weight.T
        if weight.dtype != torch.bfloat16 or any(size % _MULTIPLE for size in weight.shape):
            continue
        if id(layer) not in made:
            bias = None if given.bias is None else given.bias.detach()
            made[id(layer)] = Fp8Linear(quantize_rows(weight.detach()), weight.shape[1], bias)
        body.set_submodule(path, made[id(layer)])
    return len(made)


def quantized_head(head: Head) -> Head:
    """The head with 8-bit logits; a model's own that is no plain product stays as it is."""
    return Fp8LinearHead(head) if isinstance(head, LinearHead) else head
