"""What the dataset card of an export says of its job."""

import shlex

from pruner.export.export_record import Origin
from pruner.select.selection_record import SelectionRecord
from pruner.select.write_index import read_summary
from pruner.spec import CorpusSpec, SelectionSpec
from service.kinds import index
from service.kinds.job_files import JobFiles
from service.store.records import ALL, WantedExport

_SELECTION_FILE = "selection.json"


def origin(job: JobFiles, wanted: WantedExport, made: SelectionRecord) -> Origin:
    """The job's part of the card."""
    summary, request = read_summary(job.workspace.storage, index.folder(job)), job.record.request
    model, train = job.model, request.train
    reference = request.model or "none"
    if model is not None and train is not None:
        reference = f"{train.preset}, trained on {train.fraction:.0%} of the corpus, which is left out"
        if model.training is not None:
            reference += f" ({model.training.tokens:,} tokens)"
    if model is not None:
        reference += f", SHA-256 {model.sha256}"
    return Origin(
        paths=request.corpus.paths,
        corpus_documents=summary.documents,
        eligible=summary.eligible.documents,
        reference=reference,
        commands=_commands(job, wanted),
        before=summary.domains,
        after=made.domains,
    )


def _commands(job: JobFiles, wanted: WantedExport) -> list[str]:
    """`winnow prune` and `winnow export` as they make the export again."""
    request = job.record.request
    prune: list[object] = ["winnow", "prune", *request.corpus.paths, *_corpus(request.corpus)]
    train = request.train
    if request.model is not None:
        prune += ["--reference", request.model]
    elif train is not None:
        prune += [
            "--preset",
            train.preset,
            "--tokens",
            train.tokens,
            "--fraction",
            train.fraction,
            "--seed",
            train.seed,
        ]
    for name, scorer in request.scores.items():
        prune += ["--score", f"{name}={scorer.kind}:{scorer.model or scorer.field}"]
    if request.scoring.stride is not None:
        prune += ["--stride", request.scoring.stride]
    if request.scoring.dtype != "auto":
        prune += ["--dtype", request.scoring.dtype]
    export = ["winnow", "export", "pruned", "--selection", wanted.selection, "--format", wanted.options.format]
    export += ["--scores"] if wanted.options.scores else []
    spec = wanted.spec if wanted.selection != ALL else SelectionSpec()
    selected, written = _selection(spec), list[str]()
    if _SELECTION_FILE in selected:
        written = [f"echo {shlex.quote(spec.model_dump_json())} > {_SELECTION_FILE}"]
    return [
        *written,
        shlex.join(map(str, [*prune, *selected, "--out", "pruned"])),
        shlex.join(map(str, [*export, "--out", "exported"])),
    ]


def _corpus(corpus: CorpusSpec) -> list[str]:
    options: list[str] = []
    for name in ("text_field", "id_field", "domain_field"):
        value = getattr(corpus, name)
        if value is not None:
            options += [f"--{name.replace('_', '-')}", value]
    for pattern in corpus.include:
        options += ["--include", pattern]
    for pattern in corpus.exclude:
        options += ["--exclude", pattern]
    return options


def _selection(spec: SelectionSpec) -> list[object]:
    if {spec.name, spec.score, spec.stages, spec.difference, spec.rank_sum} != {None}:
        return ["--selection", _SELECTION_FILE]
    options: list[object] = ["--select", spec.criterion, "--rate", spec.rate, "--unit", spec.unit]
    flags = (("--within", spec.within), ("--per", spec.per), ("--random-seed", spec.seed))
    return options + [part for flag, value in flags if value is not None for part in (flag, value)]
