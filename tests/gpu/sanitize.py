"""Every kernel once on a small pack, for compute-sanitizer to watch: both ways through those that have two.

With the argument `portable` those for Hopper are left out, for racecheck: it takes the byte by which Triton's compiler
hands work to a kernel's groups of warps, written and read around named barriers, for a race.
"""

import sys

import torch

from kernels import ssd_hopper, ssd_triton, tiles_hopper
from kernels.attention import packed_attention
from kernels.norm import add_rms_norm, gated_rms_norm
from kernels.pack import Pack
from kernels.ssd import NO_LIMIT
from kernels.ssd_tables import Cut
from scorer.causal_lm import mamba2_config
from scorer.causal_lm.hybrid import Attention, Mlp, Span
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.mamba2_training import training_hidden
from scorer.training.presets import initialise

LENGTHS = [1, 65, 2, 300, 64, 127]
CUT = Cut(segment=128, pieces=2)  # so that a document of 300 is cut


def draw(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device="cuda").to(torch.bfloat16)


def long_documents(pack: Pack) -> None:
    """The SSD with states that pass from segment to segment, from documents' first to their final ones."""
    x, gate = draw(2, pack.tokens, 4, 64)
    b, c = draw(2, pack.tokens, 1, 128)
    dt, a, d = draw(pack.tokens, 4), -torch.rand(4, device="cuda"), torch.rand(4, device="cuda")
    before = torch.randn(len(LENGTHS), 4, 64, 128, device="cuda")
    by = ssd_hopper if ssd_hopper.supports(x, b, gate) else ssd_triton
    made = ssd_triton.prepare(dt, a, b, c, pack, None, NO_LIMIT, None)
    states = by.shares(x, made, pack, CUT)
    ssd_triton.pass_states(states, made, pack, before, CUT)
    squares = torch.empty(4, pack.tokens, device="cuda")
    outputs = ssd_triton.Outputs(torch.empty_like(x), squares, torch.empty_like(before))
    by.scan(x, made, states, pack, ssd_triton.Optional(d, gate, initial_state=before), outputs, CUT)
    assert all(m.isfinite().all() for m in (outputs.y, outputs.squares, outputs.final_state) if m is not None)


def whole_model(pack: Pack, eight: bool = False) -> None:
    """A Mamba-2 of two layers to the NLL of each token, twice, going on: convolution, products, norms, SSD, head."""
    model = Mamba2(Mamba2Config(vocab_size=500, hidden=256, layers=2, heads=8, head_dim=64, state=128))
    initialise(model)
    for p in model.parameters():
        p.data = p.data.cuda().to(torch.bfloat16 if p.dim() == 2 else torch.float32)
    ids = torch.randint(500, (pack.tokens,), device="cuda")
    model.requires_grad_(False).packed = True
    if eight:
        model.quantize()
    state = None
    for _ in range(2):
        nll, state = model.nll(ids, ids, pack, state, keep_state=True)
        assert nll.isfinite().all()


def gradients(pack: Pack) -> None:
    """Those of a model of one layer: norms, convolution, SSD."""
    model = Mamba2(Mamba2Config(vocab_size=500, hidden=256, layers=1, heads=8, head_dim=64, state=128)).cuda()
    initialise(model)
    ids = torch.randint(500, (pack.tokens,), device="cuda")
    with torch.enable_grad(), torch.autocast("cuda", torch.bfloat16):
        hidden = training_hidden(model.backbone, ids, pack)
    hidden.backward(torch.randn_like(hidden))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def hybrid(pack: Pack) -> None:
    """A hybrid's attention, in a document's beginning and going on, with rotary positions; its MLP."""
    config = mamba2_config.AttentionConfig(heads=4, kv_heads=2, head_dim=64, conv_kernel=4, rotary=32)
    layer = Attention(256, config).cuda().to(torch.bfloat16)
    layer.conv1d.float()
    conv = past = None
    for read in (0, 90):
        span = Span.of(pack, [read] * len(LENGTHS), True, config, 100)
        y, conv, past = layer(draw(pack.tokens, 256), span, conv, past)
        assert y.isfinite().all()
    assert Mlp(256, 150).cuda().to(torch.bfloat16)(draw(pack.tokens, 256)).isfinite().all()


@torch.no_grad()
def main() -> None:
    torch.manual_seed(0)
    pack = Pack.of(LENGTHS, "cuda")
    on_hopper = torch.cuda.get_device_capability()[0] == 9
    chosen, portable = (tiles_hopper.supports, tiles_hopper.supports8), (lambda *_: False, lambda *_: False)
    for way in (portable,) if "portable" in sys.argv else (chosen, portable):
        tiles_hopper.supports, tiles_hopper.supports8 = way  # the SSD asks it too
        long_documents(pack)
        whole_model(pack)
        if on_hopper:
            whole_model(pack, eight=True)
        gradients(pack)
    x, weight = draw(pack.tokens, 256), torch.rand(256, device="cuda")
    add_rms_norm(x, x, weight, 1e-5)
    gated_rms_norm(x, x, weight, 1e-5, 64)
    q, k, v = draw(pack.tokens, 3, 4, 64).unbind(1)
    assert packed_attention(q, k, v, pack).isfinite().all()
    hybrid(pack)
    torch.cuda.synchronize()


if __name__ == "__main__":
    main()
