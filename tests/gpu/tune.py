"""Finds the configurations that the kernels' tables hold, on the GPU at hand: `python3 tests/gpu/tune.py [NAME ...]`.

Each kernel runs in every configuration of its sweep on the shapes of a model of 130M. The fastest are printed beside
the one in the code, which is changed by hand: a score's bits are not to depend on a measurement. What does not fit the
device, or gives something else than the configuration in the code, is left out.
"""

from __future__ import annotations

import argparse
import itertools
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from kernels import (
    attention_hopper,
    attention_triton,
    conv_triton,
    linear_hopper,
    nll_hopper,
    nll_triton,
    ssd,
    ssd_hopper,
    ssd_triton,
    tiles_hopper,
)
from kernels.attention import packed_attention
from kernels.conv import packed_conv1d
from kernels.linear import add_linear
from kernels.nll import token_nll
from kernels.pack import Pack
from kernels.ssd_tables import Cut
from tests.gpu.bench_inputs import SHAPE, VOCABULARY, WIDTH, XBC, normal, views
from tests.gpu.bench_kernels import graph_ms, say, short
from tests.gpu.lengths import EQUAL, LONG, MIXED

BEST = 5  # that are printed
NEAR = 0.02  # of the norm of what the configuration in the code gives
Patch = tuple[Any, str, Any]  # an attribute of a module, and what it is to be


class Sweep(NamedTuple):
    """A call that returns a tensor, and its configurations, each with its name; none for the one in the code."""

    call: Callable[[], Tensor]
    configurations: Iterator[tuple[str, list[Patch]]]


def constants(module: Any, **values: list[int]) -> Iterator[tuple[str, list[Patch]]]:
    """All combinations of a module's constants."""
    for chosen in itertools.product(*values.values()):
        named = dict(zip(values, chosen, strict=True))
        text = ", ".join(f"{name} {value}" for name, value in named.items())
        yield text, [(module, name, value) for name, value in named.items()]


def attention(width: int) -> Sweep:
    """The portable kernel for heads of one width, over documents of mixed lengths."""
    pack = Pack.of(MIXED, "cuda")
    q, k, v = normal(pack.tokens, 3, SHAPE.hidden // width, width).unbind(1)

    def configurations() -> Iterator[tuple[str, list[Patch]]]:
        for shape in itertools.product((64, 128), (32, 64, 128), (4, 8), (2, 3)):
            tile = attention_triton.Tile(*shape)
            yield str(tile), [(attention_triton, "fixed_tile", lambda _, tile=tile: tile)]

    def call() -> Tensor:
        with mock.patch.object(attention_hopper, "supports", return_value=False):
            return packed_attention(q, k, v, pack)

    return Sweep(call, configurations())


def head(dtype: torch.dtype) -> Sweep:
    """The portable kernel of the NLL head."""
    hidden, weight = normal(8192, SHAPE.hidden, dtype=dtype), normal(VOCABULARY, SHAPE.hidden, seed=1, dtype=dtype)
    weight *= 0.05
    targets = torch.randint(VOCABULARY, (len(hidden),), device="cuda")

    def configurations() -> Iterator[tuple[str, list[Patch]]]:
        rows, channels = ((64, 128), (32, 64)) if dtype != torch.float32 else ((32, 64), (16, 32))
        for shape in itertools.product(rows, (64, 128, 256), channels, (4, 8), (3, 4)):
            tile = nll_triton.Tile(*shape)
            yield str(tile), [(nll_triton, "_tile", lambda _, tile=tile: tile)]

    def call() -> Tensor:
        with mock.patch.object(tiles_hopper, "supports", return_value=False):
            return token_nll(hidden, weight, targets)

    return Sweep(call, configurations())


def head_on_hopper() -> Sweep:
    """The NLL head's kernel for Hopper."""
    hidden, weight = normal(8192, SHAPE.hidden), normal(VOCABULARY, SHAPE.hidden, seed=1) * 0.05
    targets = torch.randint(VOCABULARY, (len(hidden),), device="cuda")
    return Sweep(lambda: token_nll(hidden, weight, targets), constants(nll_hopper, _STAGES=[2, 3, 4]))


def product_on_hopper() -> Sweep:
    """out_proj's product with the residual stream."""
    x, weight = normal(sum(EQUAL), SHAPE.inner), normal(SHAPE.hidden, SHAPE.inner, seed=1)
    residual, scale = normal(len(x), SHAPE.hidden, seed=2), torch.rand(len(x), device="cuda")
    return Sweep(lambda: add_linear(x, weight, residual, scale)[0], constants(linear_hopper, _STAGES=[2, 3, 4]))


def convolution() -> Sweep:
    """The convolution of a layer, on the slice of in_proj's output."""
    pack = Pack.of(MIXED, "cuda")
    x = normal(pack.tokens, WIDTH)[:, SHAPE.inner : SHAPE.inner + XBC]
    weight, bias = normal(XBC, SHAPE.conv_kernel, dtype=torch.float32), normal(XBC, dtype=torch.float32)
    sizes = constants(conv_triton, _TOKENS=[64, 128], _ROWS=[4, 8], _CHANNELS=[128, 256], _REGISTERS=[128, 168, 255])
    return Sweep(lambda: packed_conv1d(x, weight, bias, pack)[0], sizes)


def long_documents() -> Sweep:
    """How the SSD cuts documents that are longer than a segment."""
    pack = Pack.of(LONG, "cuda")
    x, dt, b, c = views(normal(pack.tokens, WIDTH))
    a = -torch.rand(SHAPE.heads, device="cuda")

    def configurations() -> Iterator[tuple[str, list[Patch]]]:
        users = [ssd_hopper.scan, ssd_hopper.shares, ssd_triton.scan, ssd_triton.shares, ssd_triton.pass_states]
        for segment, pieces, wave in itertools.product((4096, 6144, 8192), (2, 4, 8), (1, 11)):
            cut = Cut(segment, pieces, wave)
            yield str(cut), [(ssd, "CUT", cut), *((user, "__defaults__", (cut,)) for user in users)]

    return Sweep(lambda: ssd.packed_ssd(x, dt, a, b, c, pack)[0], configurations())


SWEEPS: dict[str, Callable[[], Sweep]] = {
    "attention-64": lambda: attention(64),
    "attention-128": lambda: attention(128),
    "head": lambda: head(torch.bfloat16),
    "head-float32": lambda: head(torch.float32),
    "head-hopper": head_on_hopper,
    "product-hopper": product_on_hopper,
    "convolution": convolution,
    "long-documents": long_documents,
}


def run(name: str) -> None:
    """One sweep, and the lines about it."""
    sweep = SWEEPS[name]()
    wanted = sweep.call().float()
    present, _ = graph_ms(sweep.call)
    found: list[tuple[float, str]] = []
    left = 0
    for text, patches in sweep.configurations:
        with ExitStack() as stack:
            for place, attribute, value in patches:
                stack.enter_context(mock.patch.object(place, attribute, value))
            try:
                difference = (sweep.call().float() - wanted).norm() / wanted.norm()
                if not difference <= NEAR:
                    raise ArithmeticError(f"{difference:.1e} off")
                found.append((graph_ms(sweep.call)[0], text))
            except Exception as problem:  # most of them need more shared memory than there is
                left += 1
                why = short(problem)
    say(
        f"{name}: {present:.3f} ms as it is; {len(found)} configurations run, {left} do not{f': {why}' if left else ''}"
    )
    for ms, text in sorted(found)[:BEST]:
        say(f"    {ms:.3f} ms  {text}")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(SWEEPS)}; all by default")
    names = parser.parse_args().names or list(SWEEPS)
    if unknown := set(names) - set(SWEEPS):
        parser.error(f"there is no sweep {', '.join(sorted(unknown))}")
    say(f"{torch.cuda.get_device_name()}; torch {torch.__version__}")
    hopper = torch.cuda.get_device_capability()[0] == 9
    for name in names:
        if name.endswith("hopper") and not hopper:
            say(f"{name}: not a kernel for this device")
        else:
            run(name)


if __name__ == "__main__":
    main()
