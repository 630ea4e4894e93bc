"""The kernel of an MLP's gate in Triton's interpreter, against the reference; see conftest."""

import pytest
import torch

from kernels.gate import gated
from kernels.gate_triton import gated_rows
from tests.kernels.helpers import relative


@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
@pytest.mark.parametrize("width", [1, 40, 1500])
def test_kernel_is_the_reference(width: int, dtype: torch.dtype, close: float) -> None:
    torch.manual_seed(0)
    x = (4 * torch.randn(5, 2 * width)).to(dtype)
    assert relative(gated_rows(x), gated(x.float())) < close
