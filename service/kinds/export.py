"""Kind `export`: the kept documents of a selection as corpus files.

An export has a node for its plan, one for the parts of its files, one that joins the parts of huge files, and one for
export.json. The records of what is done lie in the workspace; the files, there or where the user wants them.
"""

from collections.abc import Iterator

from pruner.corpus.paths import parse
from pruner.errors import InputError
from pruner.export.dolma import ScoredRows, export_attributes, plan_attributes
from pruner.export.export_file import export_file, join_parts
from pruner.export.export_plan import ExportPlan, plan_export, read_kept
from pruner.export.export_record import ExportRecord, dataset_card
from pruner.export.formats import ExportedFile, subfolder
from pruner.export.output_folder import OutputFolder
from pruner.select.index_files import read_shard_rows
from pruner.select.score_table import SCORES_FILE
from pruner.select.selection import MANIFEST_FILE
from pruner.tables.records import Record
from pruner.tables.storage import Storage
from service.contract.permissions import Rules
from service.kinds import export_card, index, selection
from service.kinds.corpus import lying_in
from service.kinds.job_files import JobFiles
from service.kinds.node import Counts, InputsGone, Node, Task
from service.store.records import ALL, WantedExport
from service.store.workspace import digest

VERSION = 1
_SILENCE_SECONDS = 120.0  # while a large record is written


class DoneFile(Record):
    """A file, or a part of one, that is there; `path` as in its storage."""

    file: ExportedFile


class DoneExport(Record):
    """`export/<key>/export.json`: written when the export is complete."""

    export: ExportRecord


def folder(job: JobFiles, wanted: WantedExport) -> str:
    """Where the records of an export lie. Raises FileNotFoundError for a job that has no scores to come yet."""
    return f"export/{digest('export', _key(job, wanted), wanted.options.out)}"


def _key(job: JobFiles, wanted: WantedExport) -> str:
    """A name of the export's content, wherever it is written."""
    options = wanted.options.model_dump(exclude={"out"})
    corpus = job.record.request.corpus.model_dump()
    return digest("export", VERSION, selection.folder(job, wanted.spec), wanted.selection, corpus, options)


def output(job: JobFiles, wanted: WantedExport) -> OutputFolder:
    """Where the files of an export go."""
    key, root = _key(job, wanted), wanted.root
    if root is not None:
        return OutputFolder(Storage(root), key)
    below = subfolder(wanted.options.format, wanted.selection)
    return OutputFolder(job.workspace.storage, key, f"{folder(job, wanted)}/files/{below}")


def node_name(wanted: WantedExport, step: str = "") -> str:
    """The name of an export's last node, or of that of a step: `plan`, `parts`, `joined`."""
    return f"export/{wanted.id}/{step}".rstrip("/")


def nodes(job: JobFiles) -> Iterator[Node]:
    """The nodes of all exports that were asked for and have not failed."""
    if not job.named:
        return
    for wanted in job.exports:
        base, last = folder(job, wanted), node_name(wanted, "plan")
        needs = ("corpus", "index", selection.node_name(wanted.spec))
        yield Node(last, "light", "selecting", [f"{base}/plan.json"], needs)
        plan = find_plan(job, wanted)
        if plan is not None:
            yield Node(name := node_name(wanted, "parts"), "light", "selecting", _parts(base, plan), (last,))
            last = name
            if plan.cut:
                yield Node(name := node_name(wanted, "joined"), "light", "selecting", _joined(base, plan), (last,))
                last = name
        # If the plan appears between two looks for it, this node is ready too early: its run then raises InputsGone.
        yield Node(node_name(wanted), "light", "selecting", [f"{base}/export.json"], (last,))


def run(task: Task) -> Counts:
    """Makes a part of an export. Raises InputError where a file has changed or cannot be exported, and InputsGone."""
    export_id, _, step = task.node.which.partition("/")
    wanted = next((wanted for wanted in task.job.exports if wanted.id == export_id), None)
    if wanted is None:
        raise InputsGone(export_id)
    if step == "plan":
        return _plan(task, wanted)
    plan = find_plan(task.job, wanted)
    if plan is None:
        raise InputsGone("the plan of the export")
    if step == "parts":
        return _export_part(task, wanted, plan)
    return _join_file(task, wanted, plan) if step == "joined" else _complete(task, wanted, plan)


def find(job: JobFiles, wanted: WantedExport) -> ExportRecord | None:
    """A complete export, or None while it is not complete."""
    done = job.workspace.records.read(DoneExport, f"{folder(job, wanted)}/export.json")
    return None if done is None else done.export


def begin(job: JobFiles, wanted: WantedExport) -> None:
    """Asks for an export, with nothing of it done if its output folder was emptied or taken by another one.

    Unfinished exports of the job to the same place are given up.
    """
    workspace, job_id = job.workspace, job.record.id
    for other in workspace.exports(job.record) if wanted.root is not None else ():
        if other.root == wanted.root and other.id != wanted.id and find(job, other) is None:
            workspace.unwant_export(job_id, other.id)
    if wanted.root is not None and not output(job, wanted).has_begun:
        workspace.storage.remove_tree(folder(job, wanted))
    workspace.want_export(job_id, wanted)


def check_place(job: JobFiles, wanted: WantedExport) -> None:
    """Raises InputError if an export may not be written to its folder, with links as they are now."""
    if wanted.root is None or wanted.export_roots is None:
        return
    Rules(export_roots=wanted.export_roots).check_out(wanted.root)
    if any(lying_in(job.workspace, [parse(wanted.root).url])):
        raise InputError(
            f"{wanted.root}: lies in the service's workspace; choose another folder under an export root, or leave out"
            " `out`"
        )


def find_plan(job: JobFiles, wanted: WantedExport) -> ExportPlan | None:
    """The plan of an export, or None while it is not there."""
    return job.workspace.records.recall(ExportPlan, f"{folder(job, wanted)}/plan.json")


def _parts(base: str, plan: ExportPlan) -> list[str]:
    return [f"{base}/parts/{number}.json" for number in range(len(plan.parts))]


def _joined(base: str, plan: ExportPlan) -> list[str]:
    return [f"{base}/joined/{number}.json" for number in plan.cut]


def _manifest(job: JobFiles, wanted: WantedExport) -> str:
    return f"{selection.folder(job, wanted.spec)}/{MANIFEST_FILE}"


def _scores(job: JobFiles) -> str:
    return f"{index.folder(job)}/{SCORES_FILE}"


def _plan(task: Task, wanted: WantedExport) -> Counts:
    job, storage = task.job, task.storage
    manifest, target = _manifest(job, wanted), wanted.options.format
    if target == "dolma":
        id_field = job.record.request.corpus.id_field
        plan = plan_attributes(job.plan, id_field, storage, _scores(job), manifest, task.beat)
    else:
        shard_rows = read_shard_rows(storage, index.folder(job))
        plan = plan_export(job.plan, shard_rows, storage, manifest, target, task.beat)
    check_place(job, wanted)
    with task.beat.allow(_SILENCE_SECONDS):
        output(job, wanted).take([file.path for file in plan.files])
        job.workspace.records.write(task.path, plan)
    return Counts(fresh=True)


def _export_part(task: Task, wanted: WantedExport, plan: ExportPlan) -> Counts:
    job, part = task.job, plan.parts[task.part]
    if task.storage.exists(task.path):
        return Counts()
    file = plan.files[part.file]
    source, target = job.plan.files[file.source], _output(job, wanted)
    storage, path = target.storage, target.inside(file.path)
    if file.parts > 1:
        storage, path = task.storage, f"{folder(job, wanted)}/parts/{task.part}.data"
    options, roots, manifest = wanted.options, job.record.access.roots, _manifest(job, wanted)
    if options.format == "dolma":
        first, stop = plan.score_rows[part.file : part.file + 2]
        rows = ScoredRows(task.storage, _scores(job), manifest, first, stop - first, part)
        exported = export_attributes(source, rows, storage, path, scores=options.scores, roots=roots, waiting=task.beat)
    else:
        exported = export_file(
            source,
            read_kept(task.storage, manifest, part, scores=options.scores),
            options.format,
            storage,
            path,
            job.record.request.corpus.text_field,
            lines=part.lines,
            roots=roots,
            waiting=task.beat,
        )
    job.workspace.records.write(task.path, DoneFile(file=exported))
    return Counts({"documents": part.rows, "bytes": exported.bytes}, fresh=True)


def _join_file(task: Task, wanted: WantedExport, plan: ExportPlan) -> Counts:
    job, base = task.job, folder(task.job, wanted)
    if task.storage.exists(task.path):
        return Counts()
    number = plan.cut[task.part]
    parts = [_done(job, f"{base}/parts/{n}.json").file for n, part in enumerate(plan.parts) if part.file == number]
    target = _output(job, wanted)
    joined = join_parts(task.storage, parts, target.storage, target.inside(plan.files[number].path), task.beat)
    job.workspace.records.write(task.path, DoneFile(file=joined))
    return Counts(fresh=True)


def _complete(task: Task, wanted: WantedExport, plan: ExportPlan) -> Counts:
    """Writes the dataset card and, last, export.json, and removes all other files."""
    job, base = task.job, folder(task.job, wanted)
    made, about = selection.find(job, wanted.spec), index.find(job)
    if made is None or about is None:
        raise InputsGone("the selection")
    with task.beat.allow(_SILENCE_SECONDS):
        target = _output(job, wanted)
        files = tuple(_files(task, wanted, plan))
        record = ExportRecord(
            key=_key(job, wanted),
            selection={"id": wanted.selection} | ({} if wanted.selection == ALL else wanted.spec.model_dump()),
            format=wanted.options.format,
            scores=wanted.options.scores,
            documents=plan.rows,
            tokens=made.tokens,
            files=files,
            provenance=about.provenance,
        )
        card = dataset_card(record, export_card.origin(job, wanted, made))
        target.complete(record, card)
        for number, part in enumerate(plan.parts):
            if plan.files[part.file].parts > 1:
                task.storage.remove(f"{base}/parts/{number}.data")
        job.workspace.records.write(task.path, DoneExport(export=record))
    return Counts(fresh=True)


def _files(task: Task, wanted: WantedExport, plan: ExportPlan) -> Iterator[ExportedFile]:
    """The exported files in plan order. Raises InputsGone, and forgets a file, if it is not there any more."""
    job, base, target = task.job, folder(task.job, wanted), output(task.job, wanted)
    sizes = target.sizes()
    cut = set(plan.cut)
    number = 0
    for index_, file in enumerate(plan.files):
        record = f"{base}/joined/{index_}.json" if index_ in cut else f"{base}/parts/{number}.json"
        number += file.parts
        done = _done(job, record).file
        if sizes.get(target.path(file.path)) != done.bytes:
            task.storage.remove(record)
            raise InputsGone(file.path)
        task.beat()
        yield done.model_copy(update={"path": file.path})


def _done(job: JobFiles, path: str) -> DoneFile:
    done = job.workspace.records.read(DoneFile, path)
    if done is None:
        raise InputsGone(path)
    return done


def _output(job: JobFiles, wanted: WantedExport) -> OutputFolder:
    """Where the files go. Raises InputError if the folder is another export's by now, or a link to elsewhere."""
    check_place(job, wanted)
    target = output(job, wanted)
    if not target.has_begun:
        raise InputError(f"{wanted.options.out}: was emptied, or taken by another export, meanwhile: export again")
    return target
