"""How many positions a model reads at once, by fixed rules: scores then depend on no measurement. Imports no torch."""

from __future__ import annotations

_GPU_TOKENS = 65_536
_GPU_TOKENS_RECURRENT = 131_072  # its kernels are launched from Python, layer by layer: a batch must outlast that
_CPU_TOKENS = (256, 4_096)  # least, most
_CPU_WORK = 2 * 10**11  # parameters x tokens of a batch: about a second on two cores
_LEAST = 1_024  # tokens: no budget is halved below this
_PART = 5_952  # tokens: 22 parts fill a GPU's budget, and the SSD kernel does not cut one (see `kernels.ssd_tables`)


def token_budget(on_gpu: bool, parameters: int, recurrent: bool) -> int:
    """Positions of a batch, padding included. On a CPU few enough for a batch to take about a second."""
    if on_gpu:
        return _GPU_TOKENS_RECURRENT if recurrent else _GPU_TOKENS
    low, high = _CPU_TOKENS
    return max(low, min(high, 1 << (_CPU_WORK // max(1, parameters)).bit_length() - 1))


def halved(budget: int) -> int | None:
    """The next smaller budget for a device with too little memory; None if a smaller one would not help."""
    return budget // 2 if budget // 2 >= _LEAST else None


def long_documents_per_pack(budget: int) -> int:
    """How many long documents a recurrent model reads side by side in a pack, a part of each."""
    return max(1, budget // _PART)
