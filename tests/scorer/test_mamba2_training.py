"""The forward pass for training has the values and the gradients of the plain one, document by document."""

import pytest
import torch

from kernels.pack import Pack
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import AttentionConfig, Mamba2Config
from scorer.causal_lm.mamba2_training import training_hidden, trains_packs
from scorer.training.presets import RECIPES, initialise

LENGTHS = [1, 5, 70, 130, 1]
SIZES = {"vocab_size": 50, "hidden": 64, "layers": 2, "heads": 4, "head_dim": 64, "state": 16}


def made(config: Mamba2Config) -> tuple[Mamba2, torch.Tensor, torch.Tensor]:
    """A model with weights of every kind, ids of a pack, and a direction in which its hidden states are measured."""
    torch.manual_seed(0)
    model = Mamba2(config)
    initialise(model)
    for name, p in model.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    return model, torch.randint(50, (sum(LENGTHS),)), torch.randn(sum(LENGTHS), config.hidden)


@pytest.mark.parametrize("more", [{}, {"groups": 2, "conv_bias": False}, {"dt_limit": (0.01, 0.05)}])
def test_it_has_the_gradients_of_the_plain_form(more: dict[str, object]) -> None:
    model, ids, direction = made(Mamba2Config(**SIZES, **more))
    plain = torch.cat([model(document[None])[0][0] for document in ids.split(LENGTHS)])
    expected = torch.autograd.grad((plain * direction).sum(), list(model.parameters()))
    hidden = training_hidden(model.backbone, ids, Pack.of(LENGTHS, "cpu"))
    torch.testing.assert_close(hidden, plain, rtol=1e-4, atol=1e-4)
    found = torch.autograd.grad((hidden * direction).sum(), list(model.parameters()))
    for (name, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
        assert (a - b).norm() < 1e-4 * b.norm(), name


def test_rows_of_several_documents_are_each_alone() -> None:
    model, ids, direction = made(Mamba2Config(**SIZES))
    rows = ids[:206].view(2, 103)
    positions = torch.cat([torch.arange(n) for n in (1, 5, 70, 27, 102, 1)])
    apart = training_hidden(model.backbone, ids[:206], Pack.of([1, 5, 70, 27, 102, 1], "cpu"))
    expected = torch.autograd.grad((apart * direction[:206]).sum(), list(model.parameters()))
    plain = model(rows, positions=positions.view(2, 103))[0].flatten(0, 1)
    packed = training_hidden(model.backbone, ids[:206], Pack.of([103, 103], "cpu"), positions)
    for hidden in (plain, packed):
        torch.testing.assert_close(hidden, apart, rtol=1e-3, atol=1e-4)
        found = torch.autograd.grad((hidden * direction[:206]).sum(), list(model.parameters()))
        for (name, _), a, b in zip(model.named_parameters(), found, expected, strict=True):
            assert (a - b).norm() < 1e-3 * b.norm(), name


def test_which_models_the_kernels_train() -> None:
    assert trains_packs(Mamba2Config(**SIZES))
    for preset in ("tiny", "mamba2-130m"):
        with torch.device("meta"):
            model = RECIPES[preset].build(64).module
        assert isinstance(model, Mamba2)
        assert trains_packs(model.config)
    attention = AttentionConfig(heads=1, kv_heads=1, head_dim=64)
    for other in (
        {"head_dim": 128},
        {"state": 256},
        {"mlp": 64},
        {"proj_bias": True},
        {"attention": attention, "attention_layers": (0,)},
    ):
        assert not trains_packs(Mamba2Config(**SIZES | other))
