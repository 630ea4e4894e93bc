"""Gradients on one GPU, ours beside the public ones: of the SSD of a layer, and whole steps of training mamba2-130m.

`python3 tests/gpu/bench_backward.py --peers DIR` prints a line for each; `tests/gpu/peers.py` says what DIR holds.
Times are medians of CUDA events, of calls from Python. What fails prints its reason, and the table goes on.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from kernels.nll import mean_nll
from kernels.pack import Pack
from kernels.ssd_backward import packed_ssd_backward, packed_ssd_backward_reference, packed_ssd_kept
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.training.presets import initialise
from tests.gpu import peers
from tests.gpu.bench_inputs import WIDTH, chosen, model_of, normal, views
from tests.gpu.bench_kernels import median_ms, say, short
from tests.gpu.lengths import EQUAL, MIXED

MODEL = Mamba2Config(vocab_size=50_304, hidden=768, layers=24, heads=24, head_dim=64, state=128)
WARM_UP, STEPS = 5, 15


def ssd_rows(others: bool) -> None:
    """Forward and backward of one layer's SSD; the gradient of x beside float64."""
    mixer = model_of(1).backbone.layers[0].mixer
    a = -torch.exp(mixer.A_log.float())
    for name, lengths in (("64x1024", EQUAL), ("mixed, 65,536", MIXED)):
        tokens, pack = sum(lengths), Pack.of(lengths, "cuda")
        x, dt, b, c = views(normal(tokens, WIDTH))
        grad = normal(*x.shape, seed=1)
        given = (x, dt, a, b, c)

        def call(given: tuple[Tensor, ...] = given, pack: Pack = pack, grad: Tensor = grad) -> Tensor:
            _, kept = packed_ssd_kept(*given, pack, mixer.D, mixer.dt_bias)
            return packed_ssd_backward(grad, *given, pack, mixer.D, mixer.dt_bias, kept=kept).x

        entries: dict[str, Callable[[], peers.Call]] = {"ours": lambda call=call: call}
        if others:
            entries["mamba_ssm"] = lambda given=given, grad=grad, lengths=lengths: peers.mamba_ssd_gradients(
                *given, mixer.D, mixer.dt_bias, grad, lengths
            )
        speed = {}
        for who, build in entries.items():
            try:
                call = build()
                found = call()
                errors = []
                for rows in chosen(lengths):
                    some = (grad[rows], x[rows], dt[rows], a, b[rows], c[rows])
                    alone = Pack.of([rows.stop - rows.start], "cuda")
                    wide = (mixer.D.double(), mixer.dt_bias.double())
                    exact = packed_ssd_backward_reference(*(m.double() for m in some), alone, *wide)
                    errors.append(((found[rows].double() - exact.x).norm() / exact.x.norm()).item())
                speed[who] = median_ms(call)
                note = f"; {speed[who] / speed['ours']:.2f} times ours" if who != "ours" else ""
                say(f"SSD forward and backward, {name:14} {who:10} {speed[who]:7.3f} ms  {max(errors):.1e} off{note}")
            except Exception as problem:
                say(f"SSD forward and backward, {name:14} {who:10} skipped: {short(problem)}")


def training_row(who: str, sequences: int, hidden: Callable[[Mamba2, Tensor], Tensor], captured: bool) -> None:
    """Steps on random tokens: forward and backward in bfloat16 products, in a CUDA graph or not, then AdamW."""
    torch.cuda.empty_cache()
    torch.manual_seed(0)
    model = Mamba2(MODEL)
    initialise(model)
    model.cuda().train()
    parameters = list(model.parameters())
    for p in parameters:
        p.grad = torch.zeros_like(p)
    optimizer = torch.optim.AdamW(parameters, lr=6e-4, fused=True)
    ids, targets = torch.randint(MODEL.vocab_size, (2, sequences, 1024), device="cuda")
    torch.cuda.reset_peak_memory_stats()

    def micro_step() -> Tensor:
        with torch.autocast("cuda", torch.bfloat16):
            rows = hidden(model, ids).flatten(0, 1)
        loss = mean_nll(rows.bfloat16(), model.head, targets.flatten())
        torch._foreach_add_([p.grad for p in parameters], list(torch.autograd.grad(loss, parameters)))
        return loss.detach()

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        micro_step()
        micro_step()
    torch.cuda.current_stream().wait_stream(stream)
    torch.cuda.empty_cache()
    run: Callable[[], object] = micro_step
    if captured:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, capture_error_mode="thread_local"):
            micro_step()
        run = graph.replay
    times = []
    for _ in range(WARM_UP + STEPS):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        run()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    ms = statistics.median(times[WARM_UP:])
    peak = torch.cuda.max_memory_allocated() / 2**30
    rate = f"{sequences * 1024 / ms / 1e3:.3f} M tokens/s"
    say(f"mamba2-130m, {sequences} x 1024  {who:20} {ms:8.1f} ms {rate} {peak:6.2f} GiB  loss {micro_step():.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder of the peers' checkouts; without it ours alone")
    parser.add_argument("--only", choices=("ssd", "training"))
    given = parser.parse_args()
    if given.peers:
        peers.use(given.peers)
    import triton

    say(f"{torch.cuda.get_device_name()}; torch {torch.__version__}; triton {triton.__version__}")
    if given.only != "training":
        with torch.no_grad():
            ssd_rows(given.peers is not None)
    for sequences in () if given.only == "ssd" else (64, 16):
        rows: dict[str, tuple[Callable[[Mamba2, Tensor], Tensor], bool]] = {
            "ours": (lambda model, ids: model(ids)[0], False),
            "ours, CUDA graph": (lambda model, ids: model(ids)[0], True),
        }
        if given.peers:
            rows["mamba_ssm, fla"] = (peers.mamba_hidden, False)
        for who, (hidden, captured) in rows.items():
            try:
                training_row(who, sequences, hidden, captured)
            except Exception as problem:
                say(f"mamba2-130m, {sequences} x 1024  {who:20} skipped: {short(problem)}")


if __name__ == "__main__":
    main()
