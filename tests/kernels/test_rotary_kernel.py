"""The kernel of rotary positions in Triton's interpreter, against the reference; see conftest."""

import pytest
import torch

from kernels.rotary import rotary_angles, rotate_reference
from kernels.rotary_triton import rotate_rows
from tests.kernels.helpers import relative


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (torch.float16, 1e-3)])
@pytest.mark.parametrize("width", [2, 6, 64])
def test_kernel_is_the_reference(width: int, dtype: torch.dtype, close: float, interleaved: bool) -> None:
    """On the first heads of a wider row; what lies beside them stays as it was."""
    torch.manual_seed(0)
    rows = torch.randn(37, 5, 80).to(dtype)
    angles = rotary_angles(torch.arange(37) * 1001, width, 10_000.0)
    expected = rows.clone().float()
    rotate_reference(expected[:, :3], *angles, interleaved)
    found = rows.clone()
    rotate_rows(found[:, :3], *angles, interleaved)
    assert relative(found[:, :3], expected[:, :3]) < close
    assert torch.equal(found[:, 3:], rows[:, 3:])
    assert torch.equal(found[..., width:], rows[..., width:])
