"""GELU in compiled bodies: a part of the product before it where cuBLAS has that, else by fewer instructions.

As a kernel of its own, a GPU reads and writes the widest tensor of a layer for it, and its own tanh and erf take longer
than that. The values are those of the model's own activation but for rounding: in the product, the numbers are not
rounded to 16 bits before it. Bodies that are not compiled keep theirs.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# erf by Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: at most 1.5e-7 off.
_P = 0.3275911
_A = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def gelu_tanh(x: Tensor) -> Tensor:
    """x float32 -> x (1 + tanh u) / 2 with u = √(2/π) (x + 0.044715 x³), which is x sigmoid(2 u)."""
    return x * torch.sigmoid(x * (1 + 0.044715 * x * x) * (2 * math.sqrt(2 / math.pi)))


def gelu_erf(x: Tensor) -> Tensor:
    """x float32 -> x Φ(x), Φ the normal distribution: the positive part of x, less |x| Φ(-|x|)."""
    size = x.abs()
    t = 1 / (1 + _P / math.sqrt(2) * size)
    polynomial = t * (_A[0] + t * (_A[1] + t * (_A[2] + t * (_A[3] + t * _A[4]))))
    return x.clamp(min=0) - size * (0.5 * polynomial * torch.exp(-0.5 * x * x))


class CompiledGelu(nn.Module):
    """An activation, and the same for compilers."""

    def __init__(self, own: nn.Module, compiled: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.own, self.compiled = own, compiled
        self.in_product = False  # of the linear layer before, which is a LinearGelu

    def forward(self, x: Tensor) -> Tensor:
        """x of any shape and floating dtype; the same of both."""
        if not torch.compiler.is_compiling():
            own: Tensor = self.own(x)
            return own
        return x if self.in_product else self.compiled(x.float()).to(x.dtype)


@torch.library.custom_op("winnow::linear_gelu", mutates_args=())
def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x [T, K], weight [K, N], bias [N] of one dtype -> `gelu_tanh` of x weight + bias, [T, N]; sums in float32.

    An operator, since compilers take torch's own apart. On a CPU, where torch's is the other form, the reference.
    """
    if x.is_cuda:
        return torch._addmm_activation(bias, x, weight, use_gelu=True)
    return gelu_tanh(torch.addmm(bias.float(), x.float(), weight.float())).to(x.dtype)


@linear_gelu.register_fake
def _(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(len(x), weight.shape[1])


class LinearGelu(nn.Module):
    """A linear layer before a GELU by tanh, and for compilers both in one product."""

    def __init__(self, own: Any) -> None:
        """`own` is an nn.Linear, or a Conv1D of transformers, whose weight is transposed; it has a bias."""
        super().__init__()
        self.own = own

    @property
    def weight(self) -> Tensor:
        """The layer's own weight."""
        weight: Tensor = self.own.weight
        return weight

    def forward(self, x: Tensor) -> Tensor:
        """x [..., K] -> [..., N]; for compilers with the activation."""
        if not torch.compiler.is_compiling():
            linear: Tensor = self.own(x)
            return linear
        weight = self.weight.T if isinstance(self.own, nn.Linear) else self.weight
        joined: Tensor = linear_gelu(x.reshape(-1, x.shape[-1]), weight, self.own.bias)
        return joined.reshape(*x.shape[:-1], -1)


def replace_gelu(body: nn.Module) -> None:
    """Replaces the GELU activations of a body of transformers, in both forms."""
    from transformers import activations

    forms: dict[type[nn.Module], Callable[[Tensor], Tensor]] = {
        activations.GELUActivation: gelu_erf,
        activations.NewGELUActivation: gelu_tanh,
        activations.FastGELUActivation: gelu_tanh,
        activations.GELUTanh: gelu_tanh,
    }
    replaced = {id(layer.own) for layer in body.modules() if isinstance(layer, CompiledGelu)}
    for path, layer in list(body.named_modules(remove_duplicate=False)):
        if type(layer) in forms and id(layer) not in replaced:
            body.set_submodule(path, CompiledGelu(layer, forms[type(layer)]))


def join_gelu(body: nn.Module, run: Callable[[], object]) -> None:
    """Joins the replaced GELUs by tanh to the linear layers before them, those with a bias, in 16-bit floats.

    `run` runs the body, and shows which layer's output an activation takes: the one that ran last, at each call.
    """
    from transformers.pytorch_utils import Conv1D

    layers = [layer for layer in body.modules() if type(layer) in (nn.Linear, Conv1D)]
    replaced = [each for each in body.modules() if isinstance(each, CompiledGelu) and not each.in_product]
    activations = [each for each in replaced if each.compiled is gelu_tanh]
    if not activations:
        return
    last: tuple[Any, Any] = (None, None)  # a layer and its output
    calls: Counter[Any] = Counter()  # of layers
    taken: dict[CompiledGelu, list[Any]] = {}  # the layers before the calls of an activation

    def after(layer: Any, _given: object, output: Tensor) -> None:
        nonlocal last
        last = layer, output
        calls[layer] += 1

    def before(activation: Any, given: tuple[Any, ...]) -> None:
        taken.setdefault(activation, []).append(last[0] if given[0] is last[1] else None)

    handles = [layer.register_forward_hook(after) for layer in layers]
    handles += [activation.register_forward_pre_hook(before) for activation in activations]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    joined = {}
    for activation, found in taken.items():
        layer = found[0]
        if layer is None or set(found) != {layer} or calls[layer] != len(found):
            continue
        if layer.bias is not None and layer.weight.dtype in (torch.bfloat16, torch.float16):
            joined[layer] = LinearGelu(layer)
            activation.in_product = True
    for path, layer in list(body.named_modules(remove_duplicate=False)):
        if layer in joined:
            body.set_submodule(path, joined[layer])
