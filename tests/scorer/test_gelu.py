"""GELU for compiled bodies: the values of torch's own, in both forms; without a compiler the model's own runs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from scorer.causal_lm.gelu import CompiledGelu, LinearGelu, gelu_erf, gelu_tanh, join_gelu, replace_gelu

FORMS = {"gelu": "none", "gelu_python": "none", "gelu_new": "tanh", "gelu_fast": "tanh", "gelu_pytorch_tanh": "tanh"}


@pytest.mark.parametrize(("ours", "form"), [(gelu_erf, "none"), (gelu_tanh, "tanh")])
def test_values_are_as_exact_as_torchs(ours: Callable[[Tensor], Tensor], form: str) -> None:
    x = torch.linspace(-12, 12, 100_001, dtype=torch.float64)
    wanted = F.gelu(x, approximate=form)
    off, torchs = (
        (found.double() - wanted).abs().max() for found in (ours(x.float()), F.gelu(x.float(), approximate=form))
    )
    assert off < 1.2 * torchs
    assert ours(torch.tensor([float("nan")])).isnan()


@pytest.mark.parametrize("name", FORMS)
def test_activations_of_transformers_are_replaced(name: str) -> None:
    x, own = torch.randn(100, 8).bfloat16(), ACT2FN[name]
    body = nn.Sequential(nn.Identity(), own)
    replace_gelu(body)
    replace_gelu(body)
    replaced = body[1]
    assert isinstance(replaced, CompiledGelu)
    assert replaced.own is own
    assert torch.equal(body(x), own(x))
    wanted = F.gelu(x.double(), approximate=FORMS[name])
    found = torch.compile(body, fullgraph=True, backend="eager")(x)
    assert found.dtype == torch.bfloat16
    assert ((found.double() - wanted).abs() <= wanted.abs() * 2**-8 + 1e-6).all()  # rounded to bfloat16


def test_other_activations_stay() -> None:
    body = nn.Sequential(ACT2FN["quick_gelu"], ACT2FN["silu"])
    before = list(body)
    replace_gelu(body)
    assert list(body) == before


class _Mlp(nn.Module):
    """Two layers and an activation; `first` may be used for something else as well."""

    def __init__(self, first: nn.Module, name: str, *, twice: bool = False) -> None:
        super().__init__()
        self.first, self.act, self.last, self.twice = first, ACT2FN[name], nn.Linear(16, 4).bfloat16(), twice

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.last(self.act(self.first(x)))
        return found + self.first(x).sum() if self.twice else found


def _joined(body: nn.Module, x: torch.Tensor) -> nn.Module:
    replace_gelu(body)
    join_gelu(body, lambda: body(x))
    return body


@pytest.mark.parametrize("first", [nn.Linear(8, 16), Conv1D(16, 8)])
@pytest.mark.parametrize("name", ["gelu_new", "gelu_pytorch_tanh"])
def test_a_gelu_by_tanh_is_joined_to_the_product_before(first: nn.Module, name: str) -> None:
    x, mlp = torch.randn(2, 50, 8).bfloat16(), _Mlp(first.bfloat16(), name)
    own = mlp(x)
    body = nn.Sequential(nn.Linear(8, 8).bfloat16(), mlp)
    _joined(_joined(body, x), x)  # twice, as a body may be compiled
    assert isinstance(mlp.first, LinearGelu)
    assert isinstance(mlp.last, nn.Linear)
    assert isinstance(body[0], nn.Linear)
    assert torch.equal(mlp(x), own)  # without a compiler the layers' own
    found = torch.compile(mlp, fullgraph=True, backend="eager")(x)
    exact = mlp.last.double()(F.gelu(mlp.first.own.double()(x.double()), approximate="tanh"))
    assert found.shape == own.shape
    assert (found - exact).norm() < 4e-3 * exact.norm()


@pytest.mark.parametrize(
    "mlp",
    [
        _Mlp(nn.Linear(8, 16, bias=False).bfloat16(), "gelu_new"),
        _Mlp(nn.Linear(8, 16).bfloat16(), "gelu"),
        _Mlp(nn.Linear(8, 16).bfloat16(), "silu"),
        _Mlp(nn.Sequential(nn.Linear(8, 16), nn.LayerNorm(16)).bfloat16(), "gelu_new"),
        _Mlp(nn.Linear(8, 16).bfloat16(), "gelu_new", twice=True),
    ],
    ids=["no bias", "by erf", "no GELU", "a norm between", "used twice"],
)
def test_other_layers_stay_as_they_are(mlp: _Mlp) -> None:
    x = torch.randn(50, 8).bfloat16()
    own = mlp(x)
    assert not any(isinstance(layer, LinearGelu) for layer in _joined(mlp, x).modules())
    assert torch.equal(mlp(x), own)


def test_float32_layers_stay_as_they_are() -> None:
    body = _joined(_Mlp(nn.Linear(8, 16), "gelu_new").float(), torch.randn(50, 8))
    assert not any(isinstance(layer, LinearGelu) for layer in body.modules())
