"""Our kernels beside the public ones on one GPU: the same inputs, the same run, medians of CUDA events.

`python3 tests/gpu/bench_kernels.py --peers DIR` prints a line for each implementation; `tests/gpu/peers.py` says what
DIR holds. A line counts the work that the operation needs at least, whatever an implementation does: the floor is the
time of that work at the two rates measured first, of a large matrix product and of a large copy. What is missing,
fails, or computes something else than the float32 reference prints its reason, and the table goes on.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
import traceback
from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[2]))

from kernels.linear import _PAD
from kernels.pack import Pack
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_layers import Mixer
from scorer.causal_lm.mamba2_packed import fold
from tests.gpu import peers
from tests.gpu.bench_inputs import (
    ATTENTION,
    SHAPE,
    VOCABULARY,
    WIDTH,
    XBC,
    Work,
    attention_work,
    chosen,
    head_work,
    layer_work,
    model_of,
    model_work,
    normal,
    plain_layer,
    plain_model,
    plain_nll,
    plain_ssd,
    ssd_work,
    views,
)
from tests.gpu.lengths import EQUAL, LONG, MIXED

HEAD_TOKENS = 32_768
SETS = {"64x1024": EQUAL, "mixed, 65,536": MIXED, "mixed, 262,144": LONG}
Build = Callable[[], peers.Call]
Parts = list[tuple[slice, Tensor]]  # some rows of the result, and what they should be


# Ours. Imported where they are used, so that one that is missing takes no other row with it.


def ours_ssd(x: Tensor, dt: Tensor, a: Tensor, b: Tensor, c: Tensor, mixer: Mixer, pack: Pack) -> peers.Call:
    from kernels.ssd import packed_ssd

    return lambda: packed_ssd(x, dt, a, b, c, pack, mixer.D, mixer.dt_bias)[0]


class Unscaled(NamedTuple):
    """Rows whose norm is known and not applied: it is left, with its weight, to out_proj, which does it for nothing."""

    rows: Tensor
    scale: Tensor
    weight: Tensor

    def __getitem__(self, rows: Any) -> Tensor:
        return self.rows[rows].flatten(1) * self.scale[rows, None] * self.weight


def ours_layer(zxbcdt: Tensor, mixer: Mixer, pack: Pack, silu: bool = True) -> Callable[[], Unscaled]:
    """Without `silu` the gate has been through it, as where in_proj's product is ours too."""
    from kernels.conv import packed_conv1d
    from kernels.norm import row_scale
    from kernels.ssd import packed_ssd

    gate, xbc, dt = zxbcdt.split((SHAPE.inner, XBC, SHAPE.heads), dim=1)
    if not silu:
        gate = F.silu(gate.float()).to(gate.dtype)
    a = -torch.exp(mixer.A_log)

    def call() -> Unscaled:
        filtered, _ = packed_conv1d(xbc, mixer.conv1d.weight.squeeze(1), mixer.conv1d.bias, pack)
        x, b, c = filtered.split((SHAPE.inner, SHAPE.groups * SHAPE.state, SHAPE.groups * SHAPE.state), dim=1)
        x = x.unflatten(1, (SHAPE.heads, SHAPE.head_dim))
        b, c = (m.unflatten(1, (SHAPE.groups, SHAPE.state)) for m in (b, c))
        z = gate.unflatten(1, (SHAPE.heads, SHAPE.head_dim))
        y, squares, _ = packed_ssd(x, dt, a, b, c, pack, mixer.D, mixer.dt_bias, gate=z, silu=silu)
        return Unscaled(y, row_scale(squares, SHAPE.inner, SHAPE.eps), mixer.norm.weight)

    return call


def ours_model(model: Mamba2, ids: Tensor, targets: Tensor, pack: Pack) -> peers.Call:
    from kernels.nll import token_nll
    from scorer.causal_lm.mamba2_packed import packed_hidden

    return lambda: token_nll(packed_hidden(model.backbone, ids, pack)[0], model.head, targets)


def ours_head(hidden: Tensor, weight: Tensor, targets: Tensor) -> peers.Call:
    from kernels.nll import token_nll

    return lambda: token_nll(hidden, weight, targets)


def ours_head8(hidden: Tensor, weight: Tensor, targets: Tensor) -> peers.Call:
    from kernels.nll_fp8 import quantize_head, token_nll8

    head = quantize_head(weight)
    return lambda: token_nll8(hidden, head, targets)


def ours_model8(model: Mamba2, ids: Tensor, targets: Tensor, pack: Pack) -> peers.Call:
    model = deepcopy(model)
    model.packed = True
    model.quantize()
    return lambda: model.nll(ids, targets, pack)[0]


def ours_linear(x: Tensor, weight: Tensor, scale: Tensor | None = None, gate: int = 0) -> peers.Call:
    from kernels.linear import linear

    return lambda: linear(x, weight, scale, gate)


def torch_linear(x: Tensor, weight: Tensor) -> peers.Call:
    return lambda: F.linear(x, weight)


def ours_linear8(x: Tensor, weight: Tensor) -> peers.Call:
    from kernels.fp8 import linear8, quantize_normed, quantize_weight

    columns, scale = quantize_weight(weight), torch.ones(len(x), device=x.device)
    return lambda: linear8(quantize_normed(x, scale), columns)


def product8(x: Tensor, weight: Tensor, kind: str) -> peers.Call:
    """Of rows that are quantized before: by our kernel, or by torch's."""
    from kernels import fp8

    rows, columns = fp8.quantize_rows(x, columns=128), fp8.quantize_weight(weight)
    if kind == "ours":
        return lambda: fp8.linear8(rows, columns)

    def call() -> Tensor:
        fp8.FAST = kind == "fast"
        return fp8.scaled_product(rows, columns)[:, : len(weight)]

    return call


def ours_added(x: Tensor, weight: Tensor, residual: Tensor, eight: bool) -> peers.Call:
    from kernels.fp8 import add_linear8, quantize_normed, quantize_weight
    from kernels.linear import add_linear

    scale = torch.ones(len(x), device=x.device)
    if not eight:
        return lambda: add_linear(x, weight, residual, scale)[0]
    columns = quantize_weight(weight)
    return lambda: add_linear8(quantize_normed(x, scale), columns, residual)[0]


def ours_attention(q: Tensor, k: Tensor, v: Tensor, pack: Pack) -> peers.Call:
    from kernels.attention import packed_attention

    return lambda: packed_attention(q, k, v, pack, 1 / math.sqrt(q.shape[-1]))


def off(out: Tensor, expected: Parts, centred: bool) -> float:
    """The largest relative norm of a difference, of what varies where `centred`: NLLs share a large mean."""
    errors = []
    for rows, wanted in expected:
        size = (wanted - wanted.mean() if centred else wanted).norm()
        errors.append(((out[rows].float() - wanted).norm() / size).item())
    return max(errors) if all(map(math.isfinite, errors)) else math.inf


def say(line: str) -> None:
    """A line of the table, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def median_ms(call: Callable[[], object]) -> float:
    """Of a whole run as it is called."""
    from triton.testing import do_bench

    return float(do_bench(call, warmup=50, rep=1000, return_mode="median"))


def graph_ms(call: Callable[[], object]) -> tuple[float, str]:
    """Of an operation in a CUDA graph, so that no kernel waits for the host; of a plain call where none can be made."""
    from triton.testing import do_bench_cudagraph

    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            return float(do_bench_cudagraph(call, rep=100, return_mode="median")), ""
    except Exception:
        torch.cuda.synchronize()
        return median_ms(call), "; no graph"


@dataclass
class Table:
    """The two rates that make the floor, and the lines."""

    flops: float  # a second, of the matrix product
    bandwidth: float  # bytes a second, of the copy

    @classmethod
    def measure(cls) -> Table:
        """Measures the rates and prints the heading."""
        a, b, source = normal(8192, 8192), normal(8192, 8192, seed=1), normal(1 << 30)
        into = torch.empty_like(source)
        product, copy = median_ms(lambda: a @ b), median_ms(lambda: into.copy_(source))
        table = cls(2e3 * 8192**3 / product, 2e3 * source.nbytes / copy)
        say(f"8192^3 bf16: {table.flops / 1e12:.0f} TFLOP/s; copy of 2 GiB: {table.bandwidth / 1e12:.2f} TB/s")
        say(f"{'what':24} {'who':26} {'ms':>8} {'TFLOP/s':>8} {'TB/s':>6} {'floor ms':>9} {'of floor':>9}  note")
        return table

    def rows(
        self,
        what: str,
        tokens: int,
        work: Work,
        expected: Parts,
        entries: dict[str, Build],
        centred: bool = False,
        whole: bool = False,
        beside: dict[str, float] | None = None,
        limit: float | None = None,
    ) -> dict[str, float]:
        """A line for each entry whose result is near enough to what is expected, or why not; returns ns a token.

        `whole` marks a whole model, with its rate, its memory beyond weights and inputs, and a wider limit; `beside`
        holds the ns a token of another set; `limit` is that of 8-bit products.
        """
        floor = sum(max(f / self.flops, b / self.bandwidth) for f, b in work) * 1e3
        flops, moved = (sum(kind) for kind in zip(*work, strict=True))
        limit = limit or (0.1 if whole else 0.02)
        speed = {}
        for who, build in entries.items():
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            try:
                call = build()
                out = call()
                torch.cuda.synchronize()
                peak = torch.cuda.max_memory_allocated() - before
                if not (error := off(out, expected, centred)) <= limit:
                    raise ArithmeticError(f"{error:.1e} off the float32 reference, more than {limit}")
                del out
                ms, how = (median_ms(call), "") if whole else graph_ms(call)
            except Exception as problem:
                say(f"{what:24} {who:26} skipped: {short(problem)}")
                continue
            speed[who] = ms * 1e6 / tokens
            note = f"{error:.1e} off{how}"
            if whole:
                note += f"; {tokens / ms / 1e3:.3f} Mtok/s; {peak / 2**30:.2f} GiB"
            if beside and who in beside:
                note += f"; {speed[who] / beside[who]:.2f} x {next(iter(SETS))} a token"
            rates = f"{flops / ms / 1e9:8.1f} {moved / ms / 1e9:6.2f} {floor:9.3f} {floor / ms:9.1%}"
            say(f"{what:24} {who:26} {ms:8.3f} {rates}  {note}")
        return speed


def short(problem: Exception) -> str:
    """What went wrong and where, on a line."""
    text = " ".join(f"{type(problem).__name__}: {problem}".split())
    text = text if len(text) <= 220 else f"{text[:110]} … {text[-110:]}"
    frames = traceback.extract_tb(problem.__traceback__)
    return f"{text} ({Path(frames[-1].filename).name}:{frames[-1].lineno})"


def ssd_rows(table: Table, others: bool) -> None:
    mixer = model_of(1).backbone.layers[0].mixer
    a = -torch.exp(mixer.A_log.float())
    first: dict[str, float] | None = None
    for name, lengths in SETS.items():
        tokens, pack = sum(lengths), Pack.of(lengths, "cuda")
        x, dt, b, c = views(normal(tokens, WIDTH))
        expected = [(rows, plain_ssd(x[rows], dt[rows], b[rows], c[rows], mixer)) for rows in chosen(lengths)]
        entries: dict[str, Build] = {"ours": partial(ours_ssd, x, dt, a, b, c, mixer, pack)}
        if others:
            entries["mamba_ssm"] = partial(peers.mamba_ssd, x, dt, a, b, c, mixer.D, mixer.dt_bias, lengths)
        speed = table.rows(f"SSD {name}", tokens, [ssd_work(tokens)], expected, entries, beside=first)
        first = first or speed


def layer_rows(table: Table, others: bool) -> None:
    mixer = model_of(1).backbone.layers[0].mixer
    for name, lengths in list(SETS.items())[:2]:
        tokens, pack = sum(lengths), Pack.of(lengths, "cuda")
        zxbcdt = normal(tokens, -(-WIDTH // _PAD) * _PAD)[:, :WIDTH]  # as our product leaves them
        expected = [(rows, plain_layer(zxbcdt[rows], mixer)) for rows in chosen(lengths)]
        entries: dict[str, Build] = {
            "ours": partial(ours_layer, zxbcdt, mixer, pack),
            "ours, SiLU in in_proj": partial(ours_layer, zxbcdt, mixer, pack, silu=False),
        }
        if others:
            entries["fla conv, mamba_ssm"] = partial(peers.mamba_layer, zxbcdt.contiguous(), mixer, lengths)
        table.rows(f"layer {name}", tokens, [layer_work(tokens)], expected, entries)


def linear_rows(table: Table, _others: bool) -> None:
    tokens, some = sum(EQUAL), slice(0, 2048)
    for name, inner, outer in (("in_proj", SHAPE.hidden, WIDTH), ("MLP", SHAPE.hidden, 4 * SHAPE.hidden)):
        x, weight = normal(tokens, inner), normal(outer, inner, seed=1) * 0.05
        expected = [(some, x[some].float() @ weight.float().T)]
        entries: dict[str, Build] = {
            "ours": partial(ours_linear, x, weight),
            "torch": partial(torch_linear, x, weight),
            "ours, fp8": partial(ours_linear8, x, weight),
            "ours, fp8, product alone": partial(product8, x, weight, "ours"),
            "torch, fp8, product alone": partial(product8, x, weight, "fast"),
            "torch, fp8, float32 sums": partial(product8, x, weight, "exact"),
        }
        work = 2.0 * tokens * inner * outer, 2.0 * tokens * (inner + outer)
        table.rows(f"{name} 65,536", tokens, [work], expected, entries, limit=0.06)
        if name == "in_proj":
            gated, scale = expected[0][1].clone(), torch.ones(tokens, device=x.device)
            gated[:, : SHAPE.inner] = F.silu(gated[:, : SHAPE.inner])
            scaled: dict[str, Build] = {"ours, scale and SiLU": partial(ours_linear, x, weight, scale, SHAPE.inner)}
            table.rows(f"{name} 65,536", tokens, [work], [(some, gated)], scaled)
    x, residual = normal(tokens, SHAPE.inner), normal(tokens, SHAPE.hidden, seed=2)
    weight = normal(SHAPE.hidden, SHAPE.inner, seed=1) * 0.05
    expected = [(some, residual[some].float() + x[some].float() @ weight.float().T)]
    sums: dict[str, Build] = {
        "ours": partial(ours_added, x, weight, residual, False),
        "ours, fp8": partial(ours_added, x, weight, residual, True),
    }
    work = 2.0 * tokens * SHAPE.inner * SHAPE.hidden, 2.0 * tokens * (SHAPE.inner + 2 * SHAPE.hidden)
    table.rows("out_proj 65,536", tokens, [work], expected, sums, limit=0.06)


def head_rows(table: Table, others: bool) -> None:
    hidden, weight = normal(HEAD_TOKENS, SHAPE.hidden), normal(VOCABULARY, SHAPE.hidden, seed=1) * 0.05
    targets = torch.randint(VOCABULARY, (HEAD_TOKENS,), device="cuda")
    some = [slice(0, 2048), slice(HEAD_TOKENS - 2048, HEAD_TOKENS)]
    expected = [(rows, plain_nll(hidden[rows], weight, targets[rows])) for rows in some]
    entries: dict[str, Build] = {"ours": partial(ours_head, hidden, weight, targets)}
    if others:
        entries["torch.compile, 4,096 rows"] = partial(peers.compiled_head, hidden, weight, targets)
        entries["cut-cross-entropy"] = partial(peers.cut_cross_entropy, hidden, weight, targets)
        entries["Liger, Triton"] = partial(peers.liger_head, hidden, weight, targets)
    table.rows("head 32,768", HEAD_TOKENS, [head_work(HEAD_TOKENS)], expected, entries, centred=True)
    eight: dict[str, Build] = {"ours, fp8": partial(ours_head8, hidden, weight, targets)}
    table.rows("head 32,768", HEAD_TOKENS, [head_work(HEAD_TOKENS)], expected, eight, centred=True, limit=0.06)
    logits = [(some[0], F.linear(hidden[some[0]].float(), weight.float()))]
    product: dict[str, Build] = {"matrix product alone": lambda: lambda: F.linear(hidden, weight)}
    table.rows("head 32,768", HEAD_TOKENS, [head_work(HEAD_TOKENS)], logits, product)


def model_rows(table: Table, others: bool) -> None:
    model = model_of(SHAPE.layers)
    folded = deepcopy(model)
    weights = folded.state_dict()
    fold(weights, SHAPE.layers)
    folded.load_state_dict(weights)  # copies, in the model's own dtypes
    for name, lengths in list(SETS.items())[:2]:
        tokens, pack = sum(lengths), Pack.of(lengths, "cuda")
        ids, targets = torch.randint(VOCABULARY, (2, tokens), device="cuda")
        expected = [(rows, plain_model(model, ids[rows], targets[rows])) for rows in chosen(lengths)]
        entries: dict[str, Build] = {"ours": partial(ours_model, folded, ids, targets, pack)}
        if others:
            entries["mamba_ssm, fla, logits, CE"] = partial(peers.mamba_model, model, ids, targets, lengths)
        table.rows(f"model {name}", tokens, model_work(tokens), expected, entries, centred=True, whole=True)
        eight: dict[str, Build] = {"ours, fp8": partial(ours_model8, folded, ids, targets, pack)}
        table.rows(f"model {name}", tokens, model_work(tokens), expected, eight, centred=True, whole=True, limit=0.3)


def attention_rows(table: Table, others: bool) -> None:
    for name, lengths in list(SETS.items())[:2]:
        tokens, pack = sum(lengths), Pack.of(lengths, "cuda")
        q, k, v = normal(tokens, 3, *ATTENTION).unbind(1)
        expected = []
        for rows in chosen(lengths):
            alone = (m[rows].float().transpose(0, 1)[None] for m in (q, k, v))
            expected.append((rows, F.scaled_dot_product_attention(*alone, is_causal=True)[0].transpose(0, 1)))
        entries: dict[str, Build] = {"ours": partial(ours_attention, q, k, v, pack)}
        if others:
            if lengths is EQUAL:
                entries["SDPA cuDNN"] = partial(peers.sdpa, q, k, v, lengths, "CUDNN_ATTENTION")
                entries["SDPA flash"] = partial(peers.sdpa, q, k, v, lengths, "FLASH_ATTENTION")
            entries["torch varlen_attn"] = partial(peers.varlen, q, k, v, lengths)
        table.rows(f"attention {name}", tokens, [attention_work(lengths)], expected, entries)


ROWS = {
    "linear": linear_rows,
    "ssd": ssd_rows,
    "layer": layer_rows,
    "head": head_rows,
    "model": model_rows,
    "attention": attention_rows,
}


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", type=Path, help="folder of the peers' checkouts; without it only torch's own run")
    parser.add_argument("--no-peers", action="store_true", help="ours alone")
    parser.add_argument("--only", default=",".join(ROWS), help="the rows wanted, with commas between")
    given = parser.parse_args()
    if unknown := set(given.only.split(",")) - set(ROWS):
        parser.error(f"--only knows {', '.join(ROWS)}, not {', '.join(sorted(unknown))}")
    if given.peers:
        peers.use(given.peers)
    import triton

    start = time.monotonic()
    say(f"{torch.cuda.get_device_name()}; torch {torch.__version__}; triton {triton.__version__}")
    table = Table.measure()
    for name in given.only.split(","):
        peers.tune_again()
        try:
            ROWS[name](table, not given.no_peers)
        except Exception as problem:
            say(f"{name}: stopped: {short(problem)}")
    say(f"{time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
