"""On a GPU: the SSD over a pack against float64, bit for bit alone and in any order, and on large arrays."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from kernels.pack import Pack
from kernels.ssd import packed_ssd, ssd_chunked
from kernels.ssd_tables import CUT
from tests.kernels.helpers import poisoned, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LENGTHS = [65, 1000, 1, 70_000, 64, 2, 127, 63]
DTYPES = [(torch.float32, 1e-4), (torch.bfloat16, 5e-3), (torch.float16, 1e-3)]
SHAPES = [(24, 64, 1, 128), (8, 64, 2, 64), (6, 64, 2, 256), (4, 128, 1, 128), (4, 64, 4, 32), (3, 128, 1, 64)]


@pytest.fixture(autouse=True)
def empty_is_nan() -> Iterator[None]:
    """What a kernel does not write is NaN."""
    with poisoned():
        yield


@pytest.fixture(params=["chosen", "portable"], autouse=True)
def kernel(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "portable":
        monkeypatch.setattr("kernels.ssd_hopper.supports", lambda *_: False)


def inputs(
    tokens: int, heads: int, width: int, groups: int, states: int, dtype: torch.dtype, seed: int = 0
) -> dict[str, Tensor]:
    """As slices of a projection's output; time steps and decays of the size that a trained model has."""
    draw = torch.Generator("cuda").manual_seed(seed)
    inner, bc = heads * width, groups * states
    whole = -(-(2 * inner + 2 * bc + heads) // 8) * 8
    rows = torch.randn(tokens, whole, generator=draw, device="cuda").to(dtype)
    gate, x, b, c, dt = rows[:, : 2 * inner + 2 * bc + heads].split((inner, inner, bc, bc, heads), dim=1)
    step = torch.exp(torch.empty(heads, device="cuda").uniform_(-6.9, -2.3, generator=draw))
    return {
        "x": x.unflatten(1, (heads, width)),
        "dt": dt,
        "a": -torch.empty(heads, device="cuda").uniform_(1, 16, generator=draw),
        "b": b.unflatten(1, (groups, states)),
        "c": c.unflatten(1, (groups, states)),
        "d": torch.randn(heads, generator=draw, device="cuda"),
        "dt_bias": step + torch.log(-torch.expm1(-step)),
        "gate": gate.unflatten(1, (heads, width)),
    }


def rows_of(given: dict[str, Tensor], rows: slice | Tensor) -> dict[str, Tensor]:
    """The inputs of some tokens."""
    by_token = ("x", "dt", "b", "c", "gate", "scale", "grad")
    return {name: m[rows] if name in by_token else m for name, m in given.items()}


@pytest.mark.parametrize(("shape", "silu"), [*((shape, True) for shape in SHAPES), (SHAPES[0], False)])
@pytest.mark.parametrize(("dtype", "close"), DTYPES)
def test_a_pack_is_the_float64_recurrence_of_each_document(
    dtype: torch.dtype, close: float, shape: tuple[int, int, int, int], silu: bool
) -> None:
    lengths = [n for n in LENGTHS if n < 10_000] + [CUT.segment + 4_000] * (shape == SHAPES[0])
    heads, width, _, states = shape
    given = inputs(sum(lengths), *shape, dtype)
    scale = torch.empty(sum(lengths), device="cuda").uniform_(0.5, 2)
    state = torch.randn(len(lengths), heads, width, states, device="cuda")
    y, squares, final = packed_ssd(
        **given, pack=Pack.of(lengths, "cuda"), silu=silu, scale=scale, initial_state=state, keep_state=True
    )
    assert squares is not None
    assert final is not None
    start = 0
    for i, length in enumerate(lengths):
        rows = slice(start, start + length)
        wide = {name: m.double() for name, m in rows_of(given, rows).items()}
        gate = wide.pop("gate") * scale[rows, None, None].double()
        wide["dt"] *= scale[rows, None].double()
        batched = {n: m[None] if n in ("x", "dt", "b", "c") else m for n, m in wide.items()}
        expected, last = ssd_chunked(**batched, initial_state=state[i, None].double())
        gated = expected[0] * (torch.nn.functional.silu(gate) if silu else gate)
        assert relative(y[rows], gated) < close
        assert relative(final[i], last[0]) < close
        assert relative(squares[:, rows], gated.square().sum(2).T) < 2 * close
        start += length


def test_a_document_has_the_same_bits_alone_and_in_any_order_and_twice() -> None:
    shape = SHAPES[0]
    given = inputs(sum(LENGTHS), *shape, torch.bfloat16)
    pack = Pack.of(LENGTHS, "cuda")
    y, squares, final = packed_ssd(**given, pack=pack, keep_state=True)
    again = packed_ssd(**given, pack=pack, keep_state=True)
    assert squares is not None
    assert final is not None
    assert all(torch.equal(a, b) for a, b in zip((y, squares, final), again, strict=True) if b is not None)
    spans = [torch.arange(e - n, e, device="cuda") for n, e in zip(LENGTHS, pack.cu_seqlens[1:].tolist(), strict=True)]
    order = list(range(len(LENGTHS)))[::-1]
    shuffled = rows_of(given, torch.cat([spans[i] for i in order]))
    y_shuffled, _, final_shuffled = packed_ssd(
        **shuffled, pack=Pack.of([LENGTHS[i] for i in order], "cuda"), keep_state=True
    )
    assert final_shuffled is not None
    for place, (i, found) in enumerate(zip(order, y_shuffled.split([LENGTHS[i] for i in order]), strict=True)):
        alone, _, last = packed_ssd(**rows_of(given, spans[i]), pack=Pack.of([LENGTHS[i]], "cuda"), keep_state=True)
        assert last is not None
        assert torch.equal(alone, y[spans[i]])
        assert torch.equal(found, alone)
        assert torch.equal(last[0], final[i])
        assert torch.equal(final_shuffled[place], final[i])


def test_many_runs_give_the_same_bits() -> None:
    """Busy programs with several items each, with and without states: 100 runs of each."""
    lengths = [1500, 830, 2999, 64, 200, 5000] * 11
    given = inputs(sum(lengths), *SHAPES[0], torch.bfloat16)
    pack = Pack.of(lengths, "cuda")
    heads, channels, _, size = SHAPES[0]
    state = torch.randn(len(lengths), heads, channels, size, device="cuda")
    for initial_state, keep_state in ((None, True), (None, False), (state, True), (state, False)):
        first = packed_ssd(**given, pack=pack, initial_state=initial_state, keep_state=keep_state)[0]
        for _ in range(100):
            again = packed_ssd(**given, pack=pack, initial_state=initial_state, keep_state=keep_state)[0]
            assert torch.equal(again, first)


def test_a_document_goes_on_from_its_state() -> None:
    given = inputs(16_000, *SHAPES[0], torch.bfloat16)
    whole, _, last = packed_ssd(**given, pack=Pack.of([16_000], "cuda"), keep_state=True)
    state, parts = None, []
    for start, stop in ((0, 1), (1, 8193), (8193, 16_000)):
        y, _, state = packed_ssd(
            **rows_of(given, slice(start, stop)),
            pack=Pack.of([stop - start], "cuda"),
            initial_state=state,
            keep_state=True,
        )
        parts.append(y)
    assert state is not None
    assert last is not None
    assert relative(torch.cat(parts), whole) < 5e-3
    assert relative(state, last) < 5e-3


def test_what_is_no_number_stays_in_its_document() -> None:
    lengths = [70, 10, 7000, 1, 64]
    given = inputs(sum(lengths), *SHAPES[0], torch.bfloat16)
    ill = slice(70, 80)
    for name in ("x", "b", "c", "dt", "gate"):
        given[name][ill] = float("nan")
    y, squares, _ = packed_ssd(**given, pack=Pack.of(lengths, "cuda"))
    assert squares is not None
    well = torch.ones(sum(lengths), dtype=torch.bool, device="cuda")
    well[ill] = False
    assert y[well].isfinite().all()
    assert squares[:, well].isfinite().all()
    assert y[ill].isnan().any()


def test_more_elements_than_32_bits_count() -> None:
    tokens, shape = 700_000, SHAPES[0]
    if torch.cuda.mem_get_info()[0] < 24 * 2**30:
        pytest.skip("needs 24 GiB of free memory")
    given = inputs(tokens, *shape, torch.bfloat16)
    assert tokens * given["x"].stride(0) > 2**31
    lengths = [1000] * (tokens // 1000)
    y, _, _ = packed_ssd(**given, pack=Pack.of(lengths, "cuda"))
    end = slice(tokens - 1000, tokens)
    alone, _, _ = packed_ssd(**rows_of(given, end), pack=Pack.of([1000], "cuda"))
    assert torch.equal(y[end], alone)
