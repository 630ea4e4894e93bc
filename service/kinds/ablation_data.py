"""Prepares the data that all runs of an ablation share: tokens, the documents of each run, and texts to measure."""

import io
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pyarrow as pa

from pruner.ablation.compare import AGAIN, ALL, Arm
from pruner.ablation.overlap import Overlap
from pruner.ablation.pool import (
    SPARE,
    Budget,
    Pool,
    Reading,
    Readings,
    check_kept,
    make_arms,
    read_pool,
    row_keys,
)
from pruner.corpus.sandbox import read_shard
from pruner.errors import InputError
from pruner.select.index_files import read_shard_rows
from pruner.select.selection import MANIFEST_FILE
from pruner.spec import SelectionSpec
from scorer.training.names import Preset
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
_PASSES_MAX = 4.0  # over all documents, beyond which repeated text is clearly worse than new (arXiv 2305.16264)
_REPEATS = 1.5  # passes up to which repeated text is nearly as good as new, so that a random arm is like `all`

ArmSeed = tuple[str, int]  # the name of an arm, and a seed: a run at the preset's learning rate


def prepare(task: Task, wanted: WantedAblation) -> Counts:
    """Writes the tokens, readings and texts, and the plan last. Raises InputError."""
    job, options = task.job, wanted.options
    proxy = _choose_proxy(task, options)
    pool, kept = _read_pools(task, wanted)
    share, _ = sub_pool_share(options, proxy.tokens, pool, pool.bytes_per_token)
    largest = min(1.0, SPARE * share) if options.regime == "constrained" else share
    seeds = options.seeds if options.budget is None else max(options.seeds, _SEEDS_MAX)
    design = _Design(pool, kept, _make_arms(wanted, pool, kept, proxy.tokens, share), seeds)
    planned = design.readings(proxy.tokens, largest)
    texts = ablation_texts.measured_texts(job, options, _heldout_characters(proxy.tokens, options), task.beat)
    overlap = Overlap({name: [item.text for item in items] for name, items in texts.questions.items()})
    tokenized = _tokenize(task, wanted, proxy, pool, planned, overlap)
    share, warnings = sub_pool_share(options, proxy.tokens, pool, tokenized.bytes_per_token(pool))
    if share < largest:
        planned = design.readings(proxy.tokens, share)
    share = min(share, largest)
    reading = _cut_readings(planned, tokenized, proxy)
    _write_readings(task, wanted, reading, planned, tokenized.starts, pool.n_bytes[tokenized.documents])
    tokenized.tokenizer.write_texts(task, wanted, texts)
    distinct = int(tokenized.lengths[reading[ALL, 0]].sum())
    settings = _settings(options, proxy, share, tokenized.tokenizer.rows, distinct)
    plan = AblationPlan(
        settings=settings,
        measure="tasks" if texts.questions else "heldout",
        arms=tuple(design.arms),
        seeds_prepared=seeds,
        overlap=_overlap(design.arms, options.seeds, reading, overlap, tokenized.overlaps),
        warnings=(*proxy.warnings, *warnings, *_few_documents(len(reading[ALL, 0]), len(pool)), *texts.warnings),
        estimate=estimate(settings, len(design.arms) * options.seeds),
    )
    job.workspace.records.write(task.path, plan)
    return Counts(fresh=True)


class _Proxy(NamedTuple):
    """The model that each run trains, and how much a run reads."""

    preset: Preset
    device: Literal["cpu", "cuda"]
    parameters: int
    vocabulary: int  # tokens to learn
    sequence: int  # tokens of a sequence
    tokens: int  # that a run reads
    warnings: tuple[str, ...]


def _choose_proxy(task: Task, options: AblationOptions) -> _Proxy:
    with task.beat.allow(_SILENCE_SECONDS):
        device = task.models.device()
        from scorer.training.presets import RECIPES
        from scorer.training.proxy import parameters

    on_gpu = device.startswith("cuda")
    preset = options.preset or ("10m" if on_gpu else "nano")
    recipe, size = RECIPES[preset], parameters(preset)
    usual = TOKENS_PER_PARAMETER[options.regime] * size
    tokens = options.tokens or usual
    warnings: tuple[str, ...] = ()
    if options.regime == "overtrained" and options.aim is None and tokens < usual:
        warnings = (f"each run reads {tokens:,} tokens, not the {usual:,} of the regime overtrained",)
    return _Proxy(preset, "cuda" if on_gpu else "cpu", size, recipe.vocabulary, recipe.sequence, tokens, warnings)


def _read_pools(task: Task, wanted: WantedAblation) -> tuple[Pool, dict[str, np.ndarray]]:
    """All documents, and those that each selection keeps, bool [documents]. Raises InputError as `check_kept` does."""
    job = task.job
    numbers = {file.url: number for number, file in enumerate(job.plan.files)}

    def pool_of(spec: SelectionSpec) -> Pool:
        return read_pool(task.storage, f"{selection.folder(job, spec)}/{MANIFEST_FILE}", numbers, task.beat)

    everything = pool_of(EVERY_DOCUMENT)
    kept = {spec.id: everything.has(pool_of(spec)) for spec in wanted.specs}
    check_kept(kept)
    return everything, kept


def _make_arms(
    wanted: WantedAblation, pool: Pool, kept: Mapping[str, np.ndarray], tokens: int, share: float
) -> list[Arm]:
    """The arms; `all` again is one where a run of another arm repeats much of its sub-pool, a `share` of the text."""
    counts = {spec.id: int(kept[spec.id].sum()) for spec in wanted.specs}
    rates = {  # what stages keep has no rate of its own
        spec.id: spec.rate if spec.stages is None else round(counts[spec.id] / max(1, len(pool)), 4)
        for spec in wanted.specs
    }
    arms = make_arms(pool, {name: (rates[name], count) for name, count in counts.items()})
    total = share * float(pool.n_bytes.sum()) / pool.bytes_per_token
    if tokens > _REPEATS * total * min([1.0, *(arm.rate for arm in arms if arm.role == "random")]):
        arms.append(Arm(AGAIN, "again", len(pool), 1.0))
    return arms


class _Design(NamedTuple):
    """All documents, those that each selection keeps, the arms, and the seeds of each arm."""

    pool: Pool
    kept: dict[str, np.ndarray]  # bool [documents], by selection
    arms: list[Arm]
    seeds: int

    def readings(self, tokens: int, share: float) -> dict[ArmSeed, Reading]:
        """What each run reads of its sub-pool, which is a `share` of the text. Raises InputError as Readings does."""
        readings = Readings(self.pool, self.arms, self.kept, Budget(tokens, share))
        return {(arm.name, seed): readings.of(arm.name, seed) for arm in self.arms for seed in range(self.seeds)}


def _heldout_characters(tokens: int, options: AblationOptions) -> int:
    """How many characters of each held-out set are measured."""
    return max(_CHARACTERS[0], min(_CHARACTERS[1], round(_MEASURED * tokens / (1 + len(options.heldout)))))


class _Tokenized(NamedTuple):
    """The documents that any run reads, with their tokens."""

    documents: np.ndarray  # int64 [D], ascending: their numbers in the pool
    starts: np.ndarray  # int64 [D + 1], where the tokens of each begin
    overlaps: dict[int, set[tuple[str, int]]]  # the items that a document overlaps with, by its number from 0 to D - 1
    tokenizer: ArmsTokenizer

    @property
    def lengths(self) -> np.ndarray:
        """The tokens of each document, int64 [D]."""
        return np.diff(self.starts)

    def bytes_per_token(self, pool: Pool) -> float:
        """By this tokenizer."""
        return float(pool.n_bytes[self.documents].sum()) / max(1, int(self.lengths.sum()))


def _tokenize(
    task: Task, wanted: WantedAblation, proxy: _Proxy, pool: Pool, planned: Mapping[ArmSeed, Reading], overlap: Overlap
) -> _Tokenized:
    """Writes a tokenizer, learnt from the first run of `all`, and the tokens of all documents that a run may read."""
    base = folder(task.job, wanted)
    needed = np.unique(np.concatenate([each.documents for each in planned.values()]))
    with tempfile.TemporaryDirectory(prefix="winnow-ablation-") as temporary:
        documents, overlaps = _read(task, pool, needed, Path(temporary) / "texts.arrow", overlap)
        learnt = Path(temporary) / TOKENIZER
        tokenizer = ArmsTokenizer(learnt, proxy.vocabulary, task.beat)
        tokenizer.learn(documents, np.searchsorted(needed, planned[ALL, 0].documents))
        starts = tokenizer.write_tokens(task, f"{base}/{TOKENS}", documents)
        task.storage.write_bytes(f"{base}/{TOKENIZER}", learnt.read_bytes())
    return _Tokenized(needed, starts, overlaps, tokenizer)


def _cut_readings(
    planned: Mapping[ArmSeed, Reading], tokenized: _Tokenized, proxy: _Proxy
) -> dict[ArmSeed, np.ndarray]:
    """The tokenized documents that each run reads, int64: as many as its tokens need.

    Raises InputError for a sub-pool that is shorter than a sequence.
    """
    found: dict[ArmSeed, np.ndarray] = {}
    all_lengths = tokenized.lengths
    for (arm, seed), reading in planned.items():
        numbers = np.searchsorted(tokenized.documents, reading.documents)
        lengths = all_lengths[numbers]
        if lengths.sum() <= proxy.sequence:
            raise InputError(
                f"the sub-pool of {arm} has only {lengths.sum():,} tokens, no sequence of {proxy.preset}: "
                "raise --tokens, lower --target-tokens or --repetitions, or take a larger corpus"
            )
        found[arm, seed] = numbers[: _count(lengths, proxy.tokens)]
    return found


def _settings(
    options: AblationOptions, proxy: _Proxy, share: float, vocabulary: int, distinct: int
) -> AblationSettings:
    return AblationSettings(
        preset=proxy.preset,
        device=proxy.device,
        optimizer=options.optimizer or "adamw",
        tokens=proxy.tokens,
        parameters=proxy.parameters,
        seeds=options.seeds,
        regime=options.regime,
        target_tokens=options.aim,
        target_parameters=options.target_parameters,
        share=share,
        vocabulary=vocabulary,
        distinct=min(distinct, proxy.tokens),
        budget=options.budget,
    )


def _few_documents(read: int, documents: int) -> tuple[str, ...]:
    """A warning where a run of `all` reads few of the documents."""
    if read >= _FEW:
        return ()
    advice = "raise --tokens" if read < documents else "take a larger corpus"
    part = f"{read} of {documents:,} documents"
    return (f"a run of all reads only {part}: results may hold for them alone; {advice}",)


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
    reading: Mapping[ArmSeed, np.ndarray],
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
    """The texts of the needed documents in plan order; only the shards that have some are read."""
    job = task.job
    plan, request, roots = job.plan, job.record.request, job.record.access.roots
    rows = read_shard_rows(task.storage, index.folder(job))
    keys = row_keys(pool.file[needed], pool.row[needed])
    file_start: dict[int, int] = {}  # the documents before a file
    for shard in plan.shards:
        before, after = int(rows[shard.index]), int(rows[shard.index + 1])
        first = before - file_start.setdefault(shard.file, before)
        low, high = row_keys(shard.file, first), row_keys(shard.file + shard.files, 0)
        if shard.files == 1:
            high = row_keys(shard.file, first + after - before)
        begin, end = np.searchsorted(keys, [low, high])
        if begin == end:
            continue
        for batch in read_shard(plan, shard, request.corpus, roots, task.beat):
            found = row_keys(batch["file"].to_numpy().astype(np.int64) + shard.file, batch["row"].to_numpy() + first)
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
    reading: Mapping[ArmSeed, np.ndarray],
    planned: Mapping[ArmSeed, Reading],
    starts: np.ndarray,
    n_bytes: np.ndarray,
) -> None:
    """Writes which documents each run reads, its sub-pool's bytes, and where the tokens of documents start."""
    out = io.BytesIO()
    named = {f"{arm}/{seed}": found.astype(np.int64) for (arm, seed), found in reading.items()}
    named |= {f"{arm}/{seed}/pool_bytes": np.array(found.pool_bytes) for (arm, seed), found in planned.items()}
    np.savez(out, starts=starts, n_bytes=n_bytes, **named)  # type: ignore[arg-type]
    task.storage.write_bytes(f"{folder(task.job, wanted)}/{READINGS}", out.getvalue())
