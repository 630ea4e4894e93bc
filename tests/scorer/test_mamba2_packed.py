"""The packed forward pass of Mamba-2 says what the plain one says of each document alone."""

from dataclasses import replace

import pytest
import torch

from kernels.pack import Pack
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import AttentionConfig, Mamba2Config
from scorer.causal_lm.mamba2_packed import fold, packed_hidden
from scorer.causal_lm.mamba2_trial import packs_as_alone
from scorer.causal_lm.recurrent_state import State
from scorer.training.presets import initialise

LENGTHS = [1, 5, 70, 130]


def models(config: Mamba2Config) -> tuple[Mamba2, Mamba2]:
    """A model with weights of every kind, and the same one folded."""
    torch.manual_seed(0)
    plain, folded = Mamba2(config), Mamba2(config)
    initialise(plain)
    for name, p in plain.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    weights = dict(plain.state_dict())
    fold(weights, config.layers)
    folded.load_state_dict(weights)
    return plain.requires_grad_(False), folded.requires_grad_(False)


SHAPE = Mamba2Config(vocab_size=50, hidden=64, layers=3, heads=4, head_dim=64, state=16)
ATTENTION = AttentionConfig(heads=4, kv_heads=2, head_dim=16, conv_kernel=4, rotary=8, out_bias=False)
HYBRID = replace(SHAPE, attention=ATTENTION, attention_layers=(1,), attention_context=50)
BOTH = replace(HYBRID, mlp=96, attention=replace(ATTENTION, conv_kernel=0, rotary=0), attention_layers=(0, 2))
CONFIGS = {
    "mamba2": SHAPE,
    "groups": replace(SHAPE, groups=2),
    "bias": replace(SHAPE, proj_bias=True),
    "mlp": replace(SHAPE, mlp=96),
    "attention": HYBRID,
    "both": BOTH,
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_a_pack_is_its_documents_alone(config: Mamba2Config) -> None:
    plain, folded = models(config)
    ids = torch.randint(50, (sum(LENGTHS),))
    hidden, _ = packed_hidden(folded.backbone, ids, Pack.of(LENGTHS, "cpu"))
    alone = torch.cat([plain(document[None])[0][0] for document in ids.split(LENGTHS)])
    torch.testing.assert_close(hidden, alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [SHAPE, HYBRID, BOTH], ids=["mamba2", "attention", "both"])
def test_a_document_goes_on_from_its_state(config: Mamba2Config) -> None:
    plain, folded = models(config)
    ids = torch.randint(50, (150,))
    state, parts = None, []
    for part in ids.split([1, 66, 83]):
        hidden, state = packed_hidden(folded.backbone, part, Pack.of([len(part)], "cpu"), state, keep_state=True)
        parts.append(hidden)
    torch.testing.assert_close(torch.cat(parts), plain(ids[None])[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [SHAPE, HYBRID, BOTH], ids=["mamba2", "attention", "both"])
def test_documents_go_on_beside_others_that_begin_and_end(config: Mamba2Config) -> None:
    plain, folded = models(config)
    documents = [torch.randint(50, (length,)) for length in (150, 70, 40)]
    found: list[list[torch.Tensor]] = [[], [], []]
    at, places = [0, 0, 0], [None, None, None]
    for sizes in ({0: 64, 1: 70}, {2: 8, 0: 64}, {0: 22, 2: 32}):
        parts = [documents[d][at[d] : at[d] + size] for d, size in sizes.items()]
        before = State.gather([places[d] for d in sizes])
        pack = Pack.of(list(sizes.values()), "cpu")
        hidden, after = packed_hidden(folded.backbone, torch.cat(parts), pack, before, keep_state=True)
        for row, (d, part) in enumerate(zip(sizes, hidden.split(list(sizes.values())), strict=True)):
            found[d].append(part)
            at[d] += len(part)
            places[d] = (after, row)
    for ids, parts in zip(documents, found, strict=True):
        torch.testing.assert_close(torch.cat(parts), plain(ids[None])[0][0], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("config", [HYBRID, BOTH], ids=["attention", "both"])
def test_the_trial_finds_whether_packs_score_as_alone(config: Mamba2Config) -> None:
    plain, folded = models(config)
    assert packs_as_alone(folded.backbone, lambda ids: plain(ids)[0])
    assert packs_as_alone(folded.backbone, lambda ids: folded(ids)[0])
    assert not packs_as_alone(plain.backbone, lambda ids: plain(ids)[0])  # what is not folded, packs lose
