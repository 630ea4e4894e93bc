"""Rounds matrices to 8-bit numbers (e4m3) with a float32 factor for each row, and multiplies them. For Hopper GPUs.

A row is its e4m3 numbers times its factor. e4m3 has 4 exponent and 3 mantissa bits: a number between 2^-6 and 448 is
off by at most a sixteenth of itself, whatever its size, so the factor only has to bring the row's largest number into
the range. Products are summed in the float32 registers of the tensor cores (`FAST` says how exactly).
"""

from __future__ import annotations

import torch
from torch import Tensor

from kernels.e4m3 import E4M3, LARGEST, SMALLEST, Fp8Rows

# Whether torch's product leaves all sums to the tensor cores, which add 32 products at a time to a float32 register and
# keep 14 bits of each. Otherwise sums of 128 products are added by float32 instructions, which takes longer. The error
# of the first is a tenth of that of rounding the factors to e4m3, or less. The Gluon kernels have no registers left for
# the second.
FAST = True
_GPU_ROWS = 64  # rows of a weight are filled up to a multiple of this, so that the product's rows are whole lines
_GPU_COLUMNS = 128  # and its columns to a multiple of this, a step of the Gluon kernels


def quantize_rows(x: Tensor, rows: int = 1, columns: int = 16) -> Fp8Rows:
    """x [T, K], each row with the factor that makes its largest magnitude 448. Forward only.

    Rows and columns are filled up with zeros to multiples of `rows` and `columns`. A row with NaN or an infinity
    becomes a row with NaN.
    """
    shape = -(-len(x) // rows) * rows, -(-x.shape[1] // columns) * columns
    if x.is_cuda:
        from kernels.fp8_triton import quantize

        return Fp8Rows(*quantize(x, None, shape), len(x))
    top = x.float().abs().amax(1, keepdim=True).clamp(min=SMALLEST)
    return _filled(x.float() * (LARGEST / top), top[:, 0] / LARGEST, shape)


def quantize_normed(x: Tensor, scale: Tensor, columns: int = _GPU_COLUMNS) -> Fp8Rows:
    """The rows scale · x, where `scale` [T] float32 is that of an RMS norm (`kernels.norm.row_scale`); x [T, K].

    No number of a normed row exceeds √K, so the factor is known without a look at the row: √K / 448 for all.
    """
    shape = len(x), -(-x.shape[1] // columns) * columns
    if x.is_cuda:
        from kernels.fp8_triton import quantize

        return Fp8Rows(*quantize(x, scale, shape), len(x))
    factor = LARGEST / x.shape[1] ** 0.5
    return _filled(x.float() * (scale * factor)[:, None], torch.full_like(scale, 1 / factor), shape)


def quantize_weight(weight: Tensor) -> Fp8Rows:
    """A weight [N, K] with a factor for each output channel, filled up as the Gluon kernels need it."""
    return quantize_rows(weight, _GPU_ROWS, _GPU_COLUMNS)


def linear8(x: Fp8Rows, weight: Fp8Rows) -> Tensor:
    """x @ weight.T in bfloat16: [T, N], of rows that may have a stride above N. Forward only."""
    return _product(x, weight)[:, : weight.n_rows]


def add_linear8(x: Fp8Rows, weight: Fp8Rows, residual: Tensor) -> tuple[Tensor, Tensor]:
    """residual + x @ weight.T in residual's dtype, and the sums of squares of its rows, [parts, T] float32.

    As `kernels.linear.add_linear`, of quantized factors: residual [T, N].
    """
    if not x.values.is_cuda:
        total = (residual.float() + x.dequantize() @ weight.dequantize().T).to(residual.dtype)
        return total, total.float().square().sum(1)[None]
    from kernels import linear_hopper, tiles_hopper
    from kernels.norm_triton import add_rows

    if tiles_hopper.supports8(x.values, weight.values) and tiles_hopper.supports(residual):
        out = torch.empty(residual.shape, dtype=residual.dtype, device=residual.device)
        return out, linear_hopper.linear(x.values, weight.values, out, residual, x.scale, weight.scale)
    return add_rows(linear8(x, weight), residual, torch.ones_like(x.scale))


def _product(x: Fp8Rows, weight: Fp8Rows) -> Tensor:
    """x @ weight.T [T, R] in bfloat16, the weight's rows of zeros included."""
    if not x.values.is_cuda:
        return (x.dequantize() @ (weight.values.float() * weight.scale[:, None]).T).bfloat16()
    from kernels import linear_hopper, tiles_hopper

    if tiles_hopper.supports8(x.values, weight.values):
        out = torch.empty((len(x.values), len(weight.values)), dtype=torch.bfloat16, device=x.values.device)
        linear_hopper.linear(x.values, weight.values, out, None, x.scale, weight.scale)
        return out
    return scaled_product(x, weight)


def scaled_product(x: Fp8Rows, weight: Fp8Rows, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias [T, R] in bfloat16 by torch's own product of a GPU, which a compiler can trace.

    All rows of both take part, zeros too; bias [R] bfloat16. Rows and columns of the weight must be multiples of 16.
    """
    return torch._scaled_mm(
        x.values,
        weight.values.t(),
        scale_a=x.scale[:, None],
        scale_b=weight.scale[None, :],
        bias=bias,
        out_dtype=torch.bfloat16,
        use_fast_accum=FAST,
    )


def _filled(values: Tensor, scale: Tensor, shape: tuple[int, int]) -> Fp8Rows:
    """Scaled numbers, rounded to e4m3, with rows and columns of zeros up to a shape."""
    count, width = values.shape
    rounded = torch.zeros(shape, dtype=torch.float32, device=values.device)
    rounded[:count, :width] = values
    scales = torch.ones(shape[0], dtype=torch.float32, device=values.device)
    scales[:count] = scale
    return Fp8Rows(rounded.to(E4M3), scales, count)
