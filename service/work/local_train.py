"""`winnow train` without a server: trains a reference on documents of a corpus, resumable."""

import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import NamedTuple

from pruner.corpus.sample import training_texts
from pruner.corpus.sandbox import Planning, make_plan
from pruner.corpus.train_split import Split
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from scorer.causal_lm.reference import resolve
from scorer.engine.model_loader import ModelLoader
from scorer.fingerprint import fingerprint
from scorer.training.names import OptimizerName, Preset
from scorer.training.summary import TrainingSummary
from service.contract.names import Device
from service.contract.schemas import JobCorpus, Progress
from service.store.workspace import digest
from service.work import results
from service.work.local import OnProgress, own_workspace


class Trained(NamedTuple):
    """A training that has ended."""

    summary: TrainingSummary
    corpus: JobCorpus
    rejects: Counter[str]  # rows that were drawn and are no documents, by kind of reason; of this call alone


class Recipe(NamedTuple):
    """How a reference is trained: a `preset`, or with None the model `source`, a folder or hub id, trained on."""

    preset: Preset | None
    tokens: int
    seed: int
    optimizer: OptimizerName | None = None  # the preset's own by default
    gpus: int = 1
    source: str | None = None


def train(
    corpus: CorpusSpec,
    recipe: Recipe,
    out: Path,
    device: Device,
    on_progress: OnProgress,
    on_heldout: Callable[[int, float], None] = lambda *_: None,
) -> Trained:
    """Trains a reference on documents of a corpus and saves it in `out`; a killed training goes on. As `prune` else.

    `on_heldout` is called with the tokens read and the bits per byte of held-out documents each time these change.
    """
    work = out.parent / f".{out.name}.winnow"
    own = results.of_train(out, work)
    tokens, seed = recipe.tokens, recipe.seed
    with own_workspace(work):
        on_progress("planning", Progress())
        source = None if recipe.source is None else resolve(recipe.source)
        planning = Planning()

        def waiting() -> None:
            on_progress("planning", Progress(files_listed=planning.listed, files_planned=planning.looked))

        plan = make_plan(corpus, waiting=waiting, ignored=own, planning=planning)
        weights = None if source is None else fingerprint(source).sha256
        name = digest(plan.digest, recipe.preset, tokens, seed, recipe.optimizer, recipe.gpus, weights)
        place = ModelLoader(device).device()
        if recipe.gpus > 1 and not place.startswith("cuda"):
            raise InputError(f"{recipe.gpus} GPUs are asked for, and the device is {place}: leave --gpus out")
        from scorer.training.train import train as train_reference

        progress = Progress(training_tokens_total=tokens)

        def tell() -> None:
            progress.updated_at = datetime.now(timezone.utc)
            on_progress("training", progress)

        measured: float | None = None

        def told(done: int, total: int, _loss: float | None, heldout: float | None) -> None:
            nonlocal measured
            progress.training_tokens_done, progress.training_tokens_total = done, total
            if heldout is not None and heldout != measured:
                measured = heldout
                on_heldout(done, heldout)
            tell()

        rejects = Counter[str]()

        def texts() -> Iterator[str]:
            rejects.clear()  # the same rows are read again
            return training_texts(plan, corpus, Split(seed, 1.0), tokens, tell, rejects=rejects)

        trained = train_reference(
            texts,
            recipe.preset,
            tokens,
            seed,
            out,
            work / name,
            place,
            told,
            optimizer=recipe.optimizer,
            processes=recipe.gpus,
            source=source,
        )
    shutil.rmtree(work)
    return Trained(trained, JobCorpus.of(len(plan.files), plan.bytes, plan.left_out), rejects)
