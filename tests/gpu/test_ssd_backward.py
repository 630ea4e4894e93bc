"""On a GPU: the gradients of the SSD over a pack and of a whole model against float64, and bit for bit."""

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import Tensor

from kernels.nll import mean_nll
from kernels.pack import Pack
from kernels.ssd import packed_ssd
from kernels.ssd_backward import (
    SsdGradients,
    packed_ssd_backward,
    packed_ssd_backward_reference,
    packed_ssd_kept,
)
from scorer.causal_lm.mamba2 import Mamba2
from scorer.causal_lm.mamba2_config import Mamba2Config
from scorer.causal_lm.mamba2_training import training_hidden
from scorer.training.presets import initialise
from tests.gpu.test_ssd import inputs, rows_of
from tests.kernels.helpers import poisoned, relative

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

LENGTHS = [65, 1000, 1, 20_000, 64, 2, 127, 1, 63]
DTYPES = [(torch.float32, 1e-4), (torch.bfloat16, 2e-2), (torch.float16, 2e-2)]
SHAPES = [(24, 64, 1, 128), (8, 64, 2, 64), (4, 64, 4, 32), (3, 64, 1, 16)]


@pytest.fixture(autouse=True)
def empty_is_nan() -> Iterator[None]:
    """What a kernel does not write is NaN."""
    with poisoned():
        yield


def ungated(tokens: int, shape: tuple[int, int, int, int], dtype: torch.dtype) -> dict[str, Tensor]:
    given = inputs(tokens, *shape, dtype)
    return {"grad": given.pop("gate"), **given}


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "close"), DTYPES)
def test_gradients_are_those_of_the_float64_recurrence(
    dtype: torch.dtype, close: float, shape: tuple[int, int, int, int]
) -> None:
    given = ungated(sum(LENGTHS), shape, dtype)
    heads, width, _, states = shape
    state = torch.randn(len(LENGTHS), heads, width, states, device="cuda")
    pack = Pack.of(LENGTHS, "cuda")
    found = packed_ssd_backward(**given, pack=pack, initial_state=state)
    wide = {name: m.double() for name, m in given.items()}
    expected = packed_ssd_backward_reference(**wide, pack=pack, initial_state=state.double())
    off = {name: relative(getattr(found, name), getattr(expected, name)) for name in SsdGradients._fields}
    assert max(off.values()) < close, off
    by_document = zip(found.x.split(LENGTHS), expected.x.split(LENGTHS), strict=True)
    assert max(relative(a, b) for a, b in by_document) < close
    by_document = zip(found.dt.split(LENGTHS), expected.dt.split(LENGTHS), strict=True)
    assert max(relative(a, b) for a, b in by_document if len(a) > 1) < close


def test_a_document_has_the_same_bits_alone_and_twice() -> None:
    given = ungated(sum(LENGTHS), SHAPES[0], torch.bfloat16)
    pack = Pack.of(LENGTHS, "cuda")
    found = packed_ssd_backward(**given, pack=pack)
    for _ in range(20):
        again = packed_ssd_backward(**given, pack=pack)
        assert all(torch.equal(a, b) for a, b in zip(found, again, strict=True) if a is not None)
    rows = slice(65, 1065)
    alone = packed_ssd_backward(**rows_of(given, rows), pack=Pack.of([1000], "cuda"))
    assert torch.equal(alone.rows, found.rows[rows])
    assert torch.equal(alone.dt, found.dt[rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_forward_pass_leaves_what_its_gradients_need(dtype: torch.dtype) -> None:
    given = ungated(sum(LENGTHS), SHAPES[0], dtype)
    pack, grad = Pack.of(LENGTHS, "cuda"), given.pop("grad")
    y, kept = packed_ssd_kept(**given, pack=pack)
    assert torch.equal(y, packed_ssd(**given, pack=pack)[0])
    found = packed_ssd_backward(grad, **given, pack=pack, kept=kept)
    again = packed_ssd_backward(grad, **given, pack=pack)
    for name in ("rows", "dt", "a", "d", "dt_bias"):
        assert relative(getattr(found, name), getattr(again, name)) < 1e-2, name
    assert torch.equal(found.rows, packed_ssd_backward(grad, **given, pack=pack, kept=kept).rows)


def test_what_is_no_number_stays_in_its_document() -> None:
    lengths = [70, 10, 700, 1]
    given = ungated(sum(lengths), SHAPES[0], torch.bfloat16)
    for name in ("x", "b", "c", "dt", "grad"):
        given[name][70:80] = float("nan")
    found = packed_ssd_backward(**given, pack=Pack.of(lengths, "cuda"))
    well = torch.ones(sum(lengths), dtype=torch.bool, device="cuda")
    well[70:80] = False
    assert found.rows[well].isfinite().all()
    assert found.dt[well].isfinite().all()


@pytest.mark.parametrize(("narrow", "close"), [(False, 1e-4), (True, 3e-2)])
def test_a_model_has_the_gradients_of_its_plain_form(narrow: bool, close: float) -> None:
    lengths = [65, 1, 300, 2, 127]
    torch.manual_seed(0)
    plain = Mamba2(Mamba2Config(vocab_size=500, hidden=256, layers=2, heads=8, head_dim=64, state=32))
    initialise(plain)
    model = deepcopy(plain).cuda()
    ids, targets = torch.randint(500, (2, sum(lengths)))

    alone = torch.cat([plain(document[None])[0][0] for document in ids.split(lengths)])
    expected = mean_nll(alone, plain.head, targets)
    expected.backward()
    with torch.autocast("cuda", torch.bfloat16, enabled=narrow):
        hidden = training_hidden(model.backbone, ids.cuda(), Pack.of(lengths, "cuda"))
        found = mean_nll(hidden, model.head, targets.cuda())
    found.backward()
    assert abs(found.item() - expected.item()) < close
    for (name, p), q in zip(plain.named_parameters(), model.parameters(), strict=True):
        assert p.grad is not None
        assert q.grad is not None
        assert relative(q.grad.cpu(), p.grad) < close, name


def test_rows_of_several_documents_in_a_cuda_graph() -> None:
    torch.manual_seed(0)
    model = Mamba2(Mamba2Config(vocab_size=500, hidden=256, layers=2, heads=4, head_dim=64, state=128))
    initialise(model)
    model.cuda()
    parameters = list(model.parameters())
    ids, positions = torch.empty((2, 2, 512), dtype=torch.int64, device="cuda")

    def fill(lengths: list[int]) -> None:
        ids.copy_(torch.randint(500, (2, 512)))
        positions.copy_(torch.cat([torch.arange(n) for n in lengths]).view(2, 512))

    def work() -> list[Tensor]:
        with torch.autocast("cuda", torch.bfloat16):
            hidden = model(ids, positions=positions)[0].flatten(0, 1)
        return [hidden.detach(), *torch.autograd.grad(mean_nll(hidden, model.head, ids.flatten()), parameters)]

    torch.use_deterministic_algorithms(False)  # a graph's tensors are not filled
    fill([512, 512])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = work()
    lengths = [1, 63, 64, 200, 184, 2, 127, 1, 1, 381]
    fill(lengths)
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(captured, work(), strict=True))
    with torch.autocast("cuda", torch.bfloat16):
        apart = training_hidden(model.backbone, ids.flatten(), Pack.of(lengths, "cuda"))
    assert relative(captured[0], apart) < 1e-2
    expected = torch.autograd.grad(mean_nll(apart, model.head, ids.flatten()), parameters)
    for (name, _), a, b in zip(model.named_parameters(), captured[1:], expected, strict=True):
        assert relative(a, b) < 3e-2, name
