"""Bodies of transformers, compiled for packs of one size. The compiled code lies on the disk for the next process.

torch.compile's own caches keep the kernels, but each process traces the model anew, which takes it some 10 s. What
`aot_compile` makes is loaded in a second. It is experimental in torch: where it fails, torch.compile does without it.
"""

from __future__ import annotations

import hashlib
import json
import logging
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from scorer.causal_lm.gelu import join_gelu, replace_gelu

Run = Callable[[Tensor, Tensor], Tensor]  # ids [1, T] and positions [1, T] -> hidden states [1, T, D]
HiddenOf = Callable[[nn.Module, Tensor, Tensor], Tensor]  # the same of a body

log = logging.getLogger(__name__)

_PACKAGES = ("torch", "transformers", "triton")
_TRACED = ("kernels", "scorer/causal_lm", "scorer/classifier")  # our code that may be part of a traced model


@dataclass(frozen=True)
class CompiledBody:
    """A body compiled for packs of exactly `tokens` tokens."""

    run: Run
    tokens: int


def compile_body(
    hidden_of: HiddenOf, body: nn.Module, ids: Tensor, places: Tensor, is_right: Callable[[Run], bool]
) -> CompiledBody | None:
    """`hidden_of(body, ids, places)` for arguments of these shapes; None if it cannot be compiled.

    `is_right` compares what was compiled with the model: the next way is tried if it says no, or raises. Raises
    torch.OutOfMemoryError.
    """
    replace_gelu(body)
    join_gelu(body, lambda: hidden_of(body, ids, places))
    path = _path(body, ids)
    ways: list[Callable[[], Run]] = [
        lambda: partial(_load(path), body),
        lambda: partial(_make(hidden_of, body, ids, places, path), body),
        lambda: partial(torch.compile(hidden_of, dynamic=False), body),
    ]
    for way in ways:
        try:
            run = way()
            if is_right(run):
                return CompiledBody(run, ids.shape[1])
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the compiler raises anything
            log.debug("not compiled: %s", error)
    return None


def _load(path: Path) -> Any:
    with path.open("rb") as file:
        return torch.compiler.load_compiled_function(file)


def _make(hidden_of: HiddenOf, body: nn.Module, ids: Tensor, places: Tensor, path: Path) -> Any:
    """Compiles ahead of the first call, and stores what was made."""
    # Guards would look for changes of the model; there are none, and the path names all that the code depends on.
    options: dict[str, Any] = {"guard_filter_fn": lambda guards: [False] * len(guards)}
    with torch._dynamo.config.patch(enable_aot_compile=True):
        compiled: Any = torch.compile(hidden_of, fullgraph=True, dynamic=False, options=options)
        made = compiled.aot_compile(((body, ids, places), {}))
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:  # another process sees the whole file or none
            made.save_compiled_function(f"{folder}/code")
            Path(folder, "code").replace(path)
    except Exception as error:  # a full disk, or a part that cannot be pickled
        log.debug("compiled code is not stored: %s", error)
    return made


def _path(body: nn.Module, ids: Tensor) -> Path:
    """Beside torch.compile's caches; the name depends on all that the compiled code does."""
    from torch._inductor.runtime.cache_dir_utils import cache_dir

    root, config = Path(__file__).parents[2], getattr(body, "config", None)
    sources = [path.read_bytes() for folder in _TRACED for path in sorted((root / folder).glob("*.py"))]
    tensors = [*body.named_parameters(), *body.named_buffers()]
    device = torch.cuda.get_device_name(ids.device) if ids.is_cuda else ids.device.type
    about = {
        "versions": [_version(name) for name in _PACKAGES],
        "sources": hashlib.sha256(b"\0".join(sources)).hexdigest(),
        "device": [device, torch.cuda.get_device_capability(ids.device) if ids.is_cuda else None],
        "config": None if config is None else config.to_dict() | {"_name_or_path": None},
        "attention": getattr(config, "_attn_implementation", None),
        "modules": [(name, str(type(module))) for name, module in body.named_modules()],
        "tensors": [(name, str(t.dtype), list(t.shape), list(t.stride())) for name, t in tensors],
        "tokens": ids.shape[1],
    }
    digest = hashlib.sha256(json.dumps(about, sort_keys=True, default=str).encode()).hexdigest()
    return Path(cache_dir()) / "winnow" / f"{digest[:32]}.bin"


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
