"""One run of an ablation: trains a proxy on the documents of its arm, and measures its loss on each item."""

import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pruner.ablation.compare import SHARES, Items, Run, RunKey
from pruner.tables.records import Record
from pruner.tables.storage import Storage
from service.kinds.ablation_plan import (
    ITEMS,
    READINGS,
    TEXTS,
    TOKENS,
    AblationPlan,
    RunTime,
    folder,
    run_path,
)
from service.kinds.job_files import JobFiles
from service.kinds.model_files import training_folder
from service.kinds.node import Counts, Task
from service.store.records import WantedAblation

_SILENCE_SECONDS = 600.0  # while torch is loaded, or a model compiled
_COLUMNS = [f"{kind}_{share:g}" for kind in ("bits", "correct") for share in SHARES]


class _RunMetadata(Record):
    """What the file of a run holds beside its rows, the items."""

    tokens: tuple[int, ...]
    bytes_seen: int
    passes: float


def run(task: Task, wanted: WantedAblation, plan: AblationPlan, key: RunKey) -> Counts:
    """Trains and measures; goes on from the checkpoint of an earlier attempt. Raises BadReference, Busy."""
    if task.storage.exists(task.path):
        return Counts({"tokens": plan.settings.tokens})
    name = task.path.removesuffix(".parquet").replace("/", "-")
    with training_folder(task.storage, name) as work:
        if not task.storage.exists(task.path):  # else the process that had the folder before has made it
            started = time.monotonic()
            found = _train(task, wanted, plan, key, work)
            seconds = time.monotonic() - started
            job = task.job
            job.workspace.records.write(task.path.replace(".parquet", ".json"), RunTime(seconds=seconds))
            _write(task.storage, task.path, found)
    return Counts({"tokens": plan.settings.tokens}, fresh=True)


def read_items(job: JobFiles, wanted: WantedAblation) -> Items:
    """The items of an ablation."""
    with job.workspace.storage.open(f"{folder(job, wanted)}/{ITEMS}") as source:
        table = pq.read_table(source)
    return Items(
        name=table["name"].to_pylist(),
        is_task=table["is_task"].to_numpy(),
        n_bytes=table["n_bytes"].to_numpy().astype(np.float64),
        choices=table["choices"].to_numpy(),
        named=table["named"].to_numpy(),
    )


def read_run(job: JobFiles, wanted: WantedAblation, plan: AblationPlan, key: RunKey) -> Run | None:
    """A run, or None while it is not there."""
    storage, path = job.workspace.storage, run_path(job, wanted, plan, key)
    try:
        with storage.open(path) as source:
            table = pq.read_table(source)
    except FileNotFoundError:
        return None
    about = _RunMetadata.model_validate_json(table.schema.metadata[b"winnow"])
    columns = np.stack([table[name].to_numpy() for name in _COLUMNS])
    took = job.workspace.records.read(RunTime, path.replace(".parquet", ".json"))
    return Run(
        bits=columns[: len(SHARES)].astype(np.float64),
        correct=columns[len(SHARES) :].astype(bool),
        tokens=about.tokens,
        bytes_seen=about.bytes_seen,
        passes=about.passes,
        seconds=0.0 if took is None else took.seconds,
    )


def _train(task: Task, wanted: WantedAblation, plan: AblationPlan, key: RunKey, work: Path) -> Run:
    with task.beat.allow(_SILENCE_SECONDS):
        device = task.models.device()
        from scorer.training.evaluation import Text
        from scorer.training.proxy import ProxySpec, schedule_of, steps_of, train_proxy

    job, settings = task.job, plan.settings
    storage, base = task.storage, folder(job, wanted)
    work.mkdir(parents=True, exist_ok=True)
    with storage.open(f"{base}/{READINGS}") as source:
        stored = np.load(source)
        starts, sizes, reading = stored["starts"], stored["n_bytes"], stored[f"{key.arm}/{key.seed}"]
        pool_bytes = int(stored[f"{key.arm}/{key.seed}/pool_bytes"])
    _gather(storage, f"{base}/{TOKENS}", starts, reading, settings.tokens, work)
    with storage.open(f"{base}/{TEXTS}") as source:
        table = pq.read_table(source)
    texts = [
        Text(np.array(tokens, np.uint16), scored)
        for tokens, scored in zip(table["tokens"].to_pylist(), table["scored"].to_pylist(), strict=True)
    ]
    spec = ProxySpec(
        settings.preset,
        settings.optimizer,
        tokens=settings.tokens,
        distinct=settings.distinct,
        rows=settings.vocabulary,
        start=0,
        seed=key.seed,
        factor=key.factor,
    )
    steps = steps_of(schedule_of(spec, device), SHARES)

    def progress(taken: int) -> None:
        if taken:
            compiling.close()
        task.beat(tokens=settings.tokens * taken // steps, tokens_total=settings.tokens)

    with ExitStack() as compiling:
        compiling.enter_context(task.beat.allow(_SILENCE_SECONDS))
        points = train_proxy(spec, texts, SHARES, work, device, progress)
    bits, correct = zip(*(_of_items(table, point.nll) for point in points), strict=True)
    bytes_seen = settings.tokens * float(sizes[reading].sum() / np.diff(starts)[reading].sum())
    return Run(
        bits=np.stack(bits),
        correct=np.stack(correct),
        tokens=tuple(point.tokens for point in points),
        bytes_seen=round(bytes_seen),
        passes=bytes_seen / pool_bytes,
    )


def _gather(storage: Storage, path: str, starts: np.ndarray, reading: np.ndarray, tokens: int, work: Path) -> None:
    """Writes the tokens that a run reads to `tokens.bin`, at most those of the budget and a last target."""
    local = storage.local(path)
    if local is None:
        local = work / "all.bin"
        if not local.exists():
            storage.copy(path, Storage(str(work)), "all.bin")
    everything = np.memmap(local, dtype=np.uint16, mode="r")
    partial, left = work / "tokens.part", tokens + 1
    with partial.open("wb") as out:
        for document in reading:
            piece = everything[starts[document] : starts[document + 1]][:left]
            out.write(piece.tobytes())
            left -= len(piece)
    partial.replace(work / "tokens.bin")


def _of_items(table: pa.Table, nll: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Bits of each item's document or right answer, and whether it is likelier by byte than the other choices."""
    item, right = table["item"].to_numpy(), table["is_right"].to_numpy()
    items = int(item.max()) + 1
    bits = nll / np.log(2)
    by_byte = bits / table["n_bytes"].to_numpy()
    found, best_wrong = np.zeros(items), np.full(items, np.inf)
    found[item[right]] = bits[right]
    np.minimum.at(best_wrong, item[~right], by_byte[~right])
    of_right = np.zeros(items)
    of_right[item[right]] = by_byte[right]
    return found, (of_right < best_wrong) & np.isfinite(best_wrong)


def _write(storage: Storage, path: str, found: Run) -> None:
    columns = dict(zip(_COLUMNS, [*found.bits, *found.correct], strict=True))
    about = _RunMetadata(tokens=found.tokens, bytes_seen=found.bytes_seen, passes=found.passes)
    table = pa.table(columns).replace_schema_metadata({"winnow": about.model_dump_json()})
    with storage.create(path) as out:
        pq.write_table(table, out, compression="zstd")
