"""A compiled body lies on the disk for the next process, under a name that its code depends on."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from scorer.causal_lm.compiled import CompiledBody, Run, _path, compile_body

IDS = torch.arange(24)[None]

pytestmark = [
    pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile needs a C++ compiler on a CPU"),
    pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated"),  # torch's own call
]


def hidden_of(body: nn.Module, ids: Tensor, places: Tensor) -> Tensor:
    found: Tensor = body((ids + places).float()[..., None])
    return found


def compiled(body: nn.Module, ids: Tensor = IDS) -> CompiledBody:
    """In inference mode, as models are run; what was compiled has the values of the body."""

    def is_right(run: Run) -> bool:
        return torch.allclose(run(ids, ids), hidden_of(body, ids, ids))

    with torch.inference_mode():
        made = compile_body(hidden_of, body, ids, ids, is_right)
    assert made is not None
    assert made.tokens == ids.shape[1]
    return made


def test_the_next_process_compiles_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    compiled(nn.Linear(1, 4))
    (stored,) = tmp_path.glob("winnow/*")
    torch.compiler.reset()

    def no_compiler(*_args: Any, **_given: Any) -> Any:
        raise AssertionError("it is compiled again")

    with monkeypatch.context() as patch:
        patch.setattr(torch, "compile", no_compiler)
        compiled(nn.Linear(1, 4))  # other weights, the same code
    stored.write_bytes(stored.read_bytes()[:1000])
    compiled(nn.Linear(1, 4))
    assert [path.stat().st_size > 1000 for path in tmp_path.glob("winnow/*")] == [True]


def test_other_models_and_sizes_have_other_names() -> None:
    bodies = (nn.Linear(1, 4), nn.Linear(1, 5), nn.Linear(1, 4, dtype=torch.float64), nn.Bilinear(1, 1, 4))
    assert len({_path(body, ids) for body in bodies for ids in (IDS, IDS[:, :20])}) == 8
    assert _path(nn.Linear(1, 4), IDS) == _path(bodies[0], IDS)
