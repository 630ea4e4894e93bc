"""Prepares the data that all runs of an ablation share: tokens, the documents of each run, and texts to measure."""

import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa

from pruner.ablation.compare import AGAIN, ALL, Arm
from pruner.ablation.overlap import Overlap
from pruner.ablation.pool import SPARE, Budget, Pool, Reading, Readings, check_kept, make_arms, read_pool
from pruner.corpus.sandbox import read_shard
from pruner.errors import InputError
from pruner.select.index_files import read_shard_rows
from pruner.select.selection import MANIFEST_FILE
from pruner.spec import SelectionSpec
from service.contract.ablations import REPETITIONS, TOKENS_PER_PARAMETER, AblationEstimate, AblationOptions
from service.kinds import ablation_texts, index, selection
from service.kinds.ablation_plan import (
    READINGS,
    TOKENIZER,
    TOKENS,
    AblationPlan,
    AblationSettings,
    folder,
)
from service.kinds.ablation_tokenizer import ArmsTokenizer
from service.kinds.node import Counts, Task
from service.store.records import EVERY_DOCUMENT, WantedAblation

_SILENCE_SECONDS = 600.0  # while torch is loaded
_SEEDS_MAX = 8  # of an arm, with a budget
_CHARACTERS = (40_000, 1_000_000)  # of each held-out set: at least, where it has them, and at most
_MEASURED = 1 / 3  # characters of held-out text for each token that a run reads, so that measuring takes a sixth of it
_CPU_FLOPS, _GPU_FLOPS = 4e10, 1.2e14  # a second, of a core and of a GPU: about, as proxies reach them
_FEW = 200  # documents
_PASSES_MAX = 4.0  # over all documents, beyond which repeated text is clearly worse than new (2305.16264)
_REPEATS = 1.5  # passes up to which repeated text is nearly as good as new, so that a random arm is like `all`


def prepare(task: Task, wanted: WantedAblation) -> Counts:
    """Writes the tokens, readings and texts, and the plan last. Raises InputError."""
    with task.beat.allow(_SILENCE_SECONDS):
        device = task.models.device()
        from scorer.training.presets import RECIPES
        from scorer.training.proxy import parameters

    job, options = task.job, wanted.options
    device_kind = "cuda" if device.startswith("cuda") else "cpu"
    preset = options.preset or ("10m" if device_kind == "cuda" else "nano")
    size = parameters(preset)
    usual = TOKENS_PER_PARAMETER[options.regime] * size
    tokens = options.tokens or usual
    numbers = {file.url: number for number, file in enumerate(job.plan.files)}

    def pool_of(spec: SelectionSpec) -> Pool:
        return read_pool(task.storage, f"{selection.folder(job, spec)}/{MANIFEST_FILE}", numbers, task.beat)

    everything = pool_of(EVERY_DOCUMENT)
    kept = {spec.id: everything.has(pool_of(spec)) for spec in wanted.specs}
    check_kept(kept)
    share, _ = sub_pool_share(options, tokens, everything, everything.bytes_per_token)
    largest = min(1.0, SPARE * share) if options.regime == "constrained" else share
    warnings: list[str] = []
    if options.regime == "overtrained" and options.aim is None and tokens < usual:
        warnings.append(f"each run reads {tokens:,} tokens, not the {usual:,} of the regime overtrained")
    counts = {spec.id: int(kept[spec.id].sum()) for spec in wanted.specs}
    rates = {  # what stages keep has no rate of its own
        spec.id: spec.rate if spec.stages is None else round(counts[spec.id] / max(1, len(everything)), 4)
        for spec in wanted.specs
    }
    arms = make_arms(everything, {name: (rates[name], count) for name, count in counts.items()})
    total = share * float(everything.n_bytes.sum()) / everything.bytes_per_token
    if tokens > _REPEATS * total * min([1.0, *(arm.rate for arm in arms if arm.role == "random")]):
        arms.append(Arm(AGAIN, "again", len(everything), 1.0))
    seeds = options.seeds if options.budget is None else max(options.seeds, _SEEDS_MAX)

    def plan_runs(share: float) -> dict[tuple[str, int], Reading]:
        readings = Readings(everything, arms, kept, Budget(tokens, share))
        return {(arm.name, seed): readings.of(arm.name, seed) for arm in arms for seed in range(seeds)}

    planned = plan_runs(largest)
    characters = round(_MEASURED * tokens / (1 + len(options.heldout)))
    characters = max(_CHARACTERS[0], min(_CHARACTERS[1], characters))
    texts = ablation_texts.measured_texts(job, options, characters, task.beat)
    overlap = Overlap({name: [item.text for item in items] for name, items in texts.questions.items()})

    with tempfile.TemporaryDirectory(prefix="winnow-ablation-") as temporary:
        needed = np.unique(np.concatenate([each.documents for each in planned.values()]))
        documents, overlaps = _read(task, everything, needed, Path(temporary) / "texts.arrow", overlap)
        recipe = RECIPES[preset]
        tokenizer = ArmsTokenizer(Path(temporary) / TOKENIZER, recipe.vocabulary, task.beat)
        tokenizer.learn(documents, np.searchsorted(needed, planned[(ALL, 0)].documents))
        starts = tokenizer.write_tokens(task, f"{folder(job, wanted)}/{TOKENS}", documents)
        lengths = np.diff(starts)
        bytes_per_token = float(everything.n_bytes[needed].sum()) / max(1, int(lengths.sum()))
        share, more = sub_pool_share(options, tokens, everything, bytes_per_token)
        share = min(share, largest)
        warnings += more
        planned = planned if share == largest else plan_runs(share)
        reading = {key: np.searchsorted(needed, found.documents) for key, found in planned.items()}
        for (arm_name, _), found in reading.items():
            if lengths[found].sum() <= recipe.sequence:
                raise InputError(
                    f"the sub-pool of {arm_name} has only {lengths[found].sum():,} tokens, no sequence of {preset}: "
                    "raise --tokens, lower --target-tokens or --repetitions, or take a larger corpus"
                )
        reading = {key: found[: _count(lengths[found], tokens)] for key, found in reading.items()}
        pool_bytes = {key: found.pool_bytes for key, found in planned.items()}
        _write_readings(task, wanted, reading, pool_bytes, starts, everything.n_bytes[needed])
        tokenizer.write_texts(task, wanted, texts)
        task.storage.write_bytes(f"{folder(job, wanted)}/{TOKENIZER}", (Path(temporary) / TOKENIZER).read_bytes())
        distinct = int(lengths[reading[(ALL, 0)]].sum())
        settings = AblationSettings(
            preset=preset,
            device=device_kind,
            optimizer=options.optimizer or "adamw",
            tokens=tokens,
            parameters=size,
            seeds=options.seeds,
            regime=options.regime,
            target_tokens=options.aim,
            target_parameters=options.target_parameters,
            share=share,
            vocabulary=tokenizer.rows,
            distinct=min(distinct, tokens),
            budget=options.budget,
        )
    read = len(reading[(ALL, 0)])
    if read < _FEW:
        advice = "raise --tokens" if read < len(everything) else "take a larger corpus"
        part = f"{read} of {len(everything):,} documents"
        warnings.append(f"a run of all reads only {part}: results may hold for them alone; {advice}")
    plan = AblationPlan(
        settings=settings,
        measure="tasks" if texts.questions else "heldout",
        arms=tuple(arms),
        seeds_prepared=seeds,
        overlap=_overlap(arms, options.seeds, reading, overlap, overlaps),
        warnings=(*warnings, *texts.warnings),
        estimate=estimate(settings, len(arms) * options.seeds),
    )
    job.workspace.records.write(task.path, plan)
    return Counts(fresh=True)


def estimate(settings: AblationSettings, runs: int) -> AblationEstimate:
    """What the runs take, about: 6 operations a parameter and token, and a third more for branches and measures."""
    tokens = round(1.3 * settings.tokens * runs)
    speed = _GPU_FLOPS if settings.device == "cuda" else _CPU_FLOPS
    seconds = 6 * settings.parameters * tokens / speed
    return AblationEstimate(
        runs=runs, tokens=tokens, seconds=seconds, gpu_hours=seconds / 3600 if settings.device == "cuda" else 0.0
    )


def sub_pool_share(
    options: AblationOptions, tokens: int, everything: Pool, bytes_per_token: float
) -> tuple[float, list[str]]:
    """The part of the text that gives the proxies as many passes as the target has, and warnings.

    `bytes_per_token` is by the tokenizer that `tokens`, which a run reads, are counted with.
    """
    if options.aim is not None:
        if tokens > options.aim:
            more = f"each run reads {tokens:,} tokens, and the target {options.aim:,}: it repeats documents less often"
            return 1.0, [more]
        return tokens / options.aim, []
    there = float(everything.n_bytes.sum()) / bytes_per_token
    passes = tokens / there if there else 0.0
    if options.regime == "constrained":
        wanted = REPETITIONS if options.repetitions is None else options.repetitions
        few = f"each run reads all documents about {passes:.1f} times, not {wanted:g}: lower --tokens"
        return min(1.0, passes / wanted), [few] if passes > wanted else []
    often = f"each run reads all documents about {passes:.1f} times: lower --tokens, or give --target-tokens"
    return 1.0, [often] if passes > _PASSES_MAX else []


def _overlap(
    arms: list[Arm],
    seeds: int,
    reading: Mapping[tuple[str, int], np.ndarray],
    overlap: Overlap,
    overlaps: Mapping[int, set[tuple[str, int]]],
) -> dict[str, dict[str, float]]:
    """The share of each task's items that the documents of an arm's runs overlap with, by arm and task."""
    found = {}
    for arm in arms:
        documents = np.unique(np.concatenate([reading[(arm.name, seed)] for seed in range(seeds)])).tolist()
        found[arm.name] = overlap.shares([overlaps[document] for document in documents if document in overlaps])
    return found


def _read(
    task: Task, pool: Pool, needed: np.ndarray, path: Path, overlap: Overlap
) -> tuple[pa.ChunkedArray, dict[int, set[tuple[str, int]]]]:
    """The texts of the needed documents in plan order, mapped from a file, and the items that each overlaps with."""
    overlaps: dict[int, set[tuple[str, int]]] = {}
    schema = pa.schema([("text", pa.large_string())])
    count = 0
    with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, schema) as writer:
        for texts in _needed_texts(task, pool, needed):
            for number, text in enumerate(texts.to_pylist(), count):
                if items := overlap.find(text):
                    overlaps[number] = items
            count += len(texts)
            writer.write_batch(pa.record_batch([texts], schema=schema))
            task.beat()
    if count != len(needed):
        raise InputError(
            f"{len(needed) - count:,} documents are not where they were when they were scored: submit the job again"
        )
    return pa.ipc.open_file(pa.memory_map(str(path))).read_all()["text"], overlaps


def _needed_texts(task: Task, pool: Pool, needed: np.ndarray) -> Iterator[pa.Array]:
    job = task.job
    plan, request, roots = job.plan, job.record.request, job.record.access.roots
    rows = read_shard_rows(task.storage, index.folder(job))
    keys = pool.file[needed] << 40 | pool.row[needed]
    file_start: dict[int, int] = {}  # the documents before a file
    for shard in plan.shards:
        before, after = int(rows[shard.index]), int(rows[shard.index + 1])
        first = before - file_start.setdefault(shard.file, before)
        low = (shard.file << 40) + first
        high = (shard.file << 40) + first + after - before if shard.files == 1 else (shard.file + shard.files) << 40
        begin, end = np.searchsorted(keys, [low, high])
        if begin == end:
            continue
        for batch in read_shard(plan, shard, request.corpus, roots, task.beat):
            found = (batch["file"].to_numpy().astype(np.int64) + shard.file) << 40 | (batch["row"].to_numpy() + first)
            places = np.searchsorted(keys[begin:end], found)
            wanted = keys[begin:end][np.minimum(places, end - begin - 1)] == found
            texts = batch["text"].filter(pa.array(wanted))
            if texts.null_count:
                raise InputError("a document has no text any more: its file was changed; submit the job again")
            if len(texts):
                yield texts


def _count(lengths: np.ndarray, tokens: int) -> int:
    """How many documents of these lengths give a run its tokens, and the target of the last one."""
    return int(np.searchsorted(np.cumsum(lengths), tokens + 1)) + 1


def _write_readings(
    task: Task,
    wanted: WantedAblation,
    reading: Mapping[tuple[str, int], np.ndarray],
    pool_bytes: Mapping[tuple[str, int], int],
    starts: np.ndarray,
    n_bytes: np.ndarray,
) -> None:
    """Writes which documents each run reads, its sub-pool's bytes, and where the tokens of documents start."""
    out = io.BytesIO()
    named = {f"{arm}/{seed}": found.astype(np.int64) for (arm, seed), found in reading.items()}
    named |= {f"{arm}/{seed}/pool_bytes": np.array(size) for (arm, seed), size in pool_bytes.items()}
    np.savez(out, starts=starts, n_bytes=n_bytes, **named)  # type: ignore[arg-type]
    task.storage.write_bytes(f"{folder(task.job, wanted)}/{READINGS}", out.getvalue())
