"""GELU for compiled bodies: the values of torch's own, in both forms; without a compiler the model's own runs."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import ACT2FN

from scorer.causal_lm.gelu import CompiledGelu, gelu_erf, gelu_tanh, replace_gelu

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
    assert torch.equal(found, wanted.bfloat16()) or (found.double() - wanted).abs().max() < 4e-3


def test_other_activations_stay() -> None:
    body = nn.Sequential(ACT2FN["quick_gelu"], ACT2FN["silu"])
    before = list(body)
    replace_gelu(body)
    assert list(body) == before
