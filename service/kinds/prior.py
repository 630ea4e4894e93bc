"""Kind `prior`: how common the tokens of each document are in the corpus.

A node of one part counts the tokens of a seeded sample of the corpus; another has the mean and the deviation of
ln(frequency) of each document's tokens, a part for each shard.
"""

import io
from collections.abc import Iterator

import numpy as np

from pruner.corpus.sample import training_texts
from pruner.corpus.sandbox import read_shard
from pruner.corpus.train_split import Split
from pruner.tables.values import PRIOR, ValuesWriter, with_text
from scorer.prior import TokenPrior
from service.kinds import model_files, passes
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, ShardPaths, Task
from service.store.workspace import digest

VERSION = 1
_FRACTION, _SEED = 0.01, 20
_LEAST_BYTES = 4 << 20  # of the text of a smaller corpus more is counted, up to all
_TOKENS = 32_000_000  # at most, about
_CHARACTERS = 1 << 20  # that are tokenized at once
_LOAD_SECONDS = 600.0  # in which a tokenizer must load


def folder(job: JobFiles) -> str:
    """Where the prior of a job's corpus and tokenizer lies. Raises FileNotFoundError while these are not known."""
    if job.corpus is None or job.model is None:
        raise FileNotFoundError("the job's plan or reference is not in the workspace")
    return f"prior/{digest('prior', VERSION, job.corpus.digest, job.model.tokenizer_sha256)}"


def paths(job: JobFiles) -> ShardPaths:
    """The parts of the documents."""
    return ShardPaths(folder(job), job)


def nodes(job: JobFiles) -> Iterator[Node]:
    """The prior of a planned job that has a reference."""
    if job.named and job.model is not None:
        yield Node(passes.PRIOR_COUNTS, "gpu", "scoring", [_counts_path(job)], needs=("corpus", "model"))
        needs = ("corpus", passes.PRIOR_COUNTS, *passes.before(job, passes.PRIOR))
        yield Node(passes.PRIOR, "gpu", "scoring", paths(job), needs=needs)


def run(task: Task) -> Counts:
    """Counts the tokens of a sample, or gives the numbers of a shard's documents. Raises InputError, InputsGone."""
    if task.storage.exists(task.path):
        return Counts()
    return _count(task) if task.node.name == passes.PRIOR_COUNTS else _measure(task)


def _count(task: Task) -> Counts:
    job, record = task.job, task.job.record
    if job.model is None or job.corpus is None:
        raise InputsGone("the reference")
    with task.beat.allow(_LOAD_SECONDS):
        tokenizer = model_files.tokenizer(job.workspace, job.model)
    prior = TokenPrior.empty(tokenizer)
    fraction = min(1.0, max(_FRACTION, _LEAST_BYTES / max(1, job.corpus.text_bytes)))
    corpus, roots = record.request.corpus, record.access.roots
    for share in dict.fromkeys((fraction, 1.0)):
        texts: list[str] = []
        characters = 0
        for text in training_texts(job.plan, corpus, Split(_SEED, share), _TOKENS, task.beat, roots):
            texts.append(text)
            characters += len(text)
            if characters >= _CHARACTERS:
                prior.add(tokenizer.encode(texts))
                texts, characters = [], 0
                task.beat()
        prior.add(tokenizer.encode(texts))
        if prior.counts.any():  # else no document was drawn, of few that are long
            break
    data = io.BytesIO()
    np.save(data, prior.counts, allow_pickle=False)
    task.storage.write_bytes(task.path, data.getvalue())
    return Counts(fresh=True)


def _measure(task: Task) -> Counts:
    job, record = task.job, task.job.record
    prior = find(job)
    if prior is None or job.model is None:
        raise InputsGone(passes.PRIOR_COUNTS)
    with task.beat.allow(_LOAD_SECONDS):
        tokenizer = model_files.tokenizer(job.workspace, job.model)
    plan = job.plan
    with writer(task) as numbers:
        shard = plan.shards[task.part]
        for batch in read_shard(plan, shard, record.request.corpus, record.access.roots, task.beat):
            task.beat()
            mean, deviation = prior.measure(tokenizer.encode(batch["text"].drop_null().to_pylist()))
            numbers.append(*(with_text(batch, values, PRIOR.types[0]) for values in (mean, deviation)))
    return Counts(fresh=True)


def find(job: JobFiles) -> TokenPrior | None:
    """The prior, or None while it is not there."""
    try:
        data = job.workspace.storage.read_bytes(_counts_path(job))
    except FileNotFoundError:
        return None
    return TokenPrior(np.load(io.BytesIO(data), allow_pickle=False))


def writer(task: Task) -> ValuesWriter:
    """The writer of the part of the task's shard."""
    sample = {"fraction": _FRACTION, "seed": _SEED, "tokens": _TOKENS}
    return ValuesWriter(task.storage, paths(task.job)[task.part], PRIOR, {"prior": sample})


def _counts_path(job: JobFiles) -> str:
    return f"{folder(job)}/counts.npy"
