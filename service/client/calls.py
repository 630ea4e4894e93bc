"""The calls of the API as coroutines, named as its operations, and waits for jobs, exports and ablations."""

import uuid
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import to_jsonable_python

import service
from pruner.corpus.check import CorpusCheck
from pruner.errors import InputError, reason
from pruner.export.export_record import CARD_FILE, EXPORT_FILE, ExportRecord
from pruner.export.output_folder import MARKER_FILE, OutputFolder
from pruner.report import Report
from pruner.select.documents import Documents
from pruner.select.partial_histogram import PartialHistogram
from pruner.select.selection_record import PreviewReport
from pruner.spec import CorpusSpec, Criterion, SelectionSpec
from pruner.tables.hashing_writer import hashed
from pruner.tables.storage import Storage
from service.client.connection import Connection
from service.client.errors import ApiError, NotSaved, NotSent, NotSucceeded, UnknownAnswer
from service.contract import network
from service.contract.ablations import Ablation, AblationList, AblationOptions
from service.contract.names import ENDED, Status
from service.contract.schemas import (
    Export,
    ExportList,
    ExportOptions,
    Job,
    JobPage,
    JobRequest,
    JobWorkers,
    ScoreRequest,
    ScoreResult,
    SelectionResult,
    TableFiles,
)

Fields = Mapping[str, Any]  # a request's fields as in JSON
Model = TypeVar("Model", bound=BaseModel)
Work = TypeVar("Work", Job, Export, Ablation)
OnProgress = Callable[[Work], object]
Format = Literal["parquet", "jsonl"]
_LOOK_SECONDS = 1.0  # between two looks at an export, an ablation or a selection


class Calls:
    """The calls over one connection. Requests are models, or their fields as in JSON. All raise ClientError.

    Downloads are checked, and appear under their names when they are complete.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    # -- corpora and jobs
    async def check_corpus(self, corpus: CorpusSpec | Fields) -> CorpusCheck:
        """Looks at a corpus without a job: its files, fields, first documents, and why a job over it would fail."""
        return await self._post(CorpusCheck, "/v1/corpora/check", corpus)

    async def create_job(self, request: JobRequest | Fields, *, idempotency_key: str | None = None) -> Job:
        """Submits a job. Calls with the same `idempotency_key` give the same job, also from other processes."""
        key = uuid.uuid4().hex if idempotency_key is None else idempotency_key
        return await self._post(Job, "/v1/jobs", request, headers={"Idempotency-Key": key})

    async def get_job(self, job_id: str) -> Job:
        """One job."""
        return await self._get(Job, _job_path(job_id))

    async def list_jobs(self, *, limit: int = 20, cursor: str | None = None, status: Status | None = None) -> JobPage:
        """Jobs, newest first; `next_cursor` of a page gives the next one, and is None on the last."""
        return await self._get(JobPage, "/v1/jobs", limit=limit, cursor=cursor, status=status)

    async def cancel_job(self, job_id: str) -> Job:
        """Cancels a job. What was scored stays, for a later job to use."""
        return await self._post(Job, _job_path(job_id, "cancel"))

    async def watch_job(self, job_id: str) -> AsyncGenerator[Job, None]:
        """The job now and after each change, at least every two seconds, until it has ended."""
        async with aclosing(self._connection.events(_job_path(job_id, "events"))) as events:
            async for data in events:
                job = _parsed(Job, data)
                yield job
                if job.status in ENDED:
                    return

    async def wait_for_job(self, job_id: str, on_progress: OnProgress[Job] | None = None) -> Job:
        """Waits until a job has succeeded. Calls `on_progress` as `watch_job` gives the job. Raises NotSucceeded."""
        job = await self.get_job(job_id)
        async with aclosing(self.watch_job(job_id)) as seen:
            async for job in seen:
                if on_progress is not None:
                    on_progress(job)
        return _succeeded(job, f"job {job_id}")

    async def list_workers(self, job_id: str) -> JobWorkers:
        """The workers that have tasks of a job now."""
        return await self._get(JobWorkers, _job_path(job_id, "workers"))

    # -- scores
    async def score_texts(self, request: ScoreRequest | Fields) -> ScoreResult:
        """Scores a few texts now, by a `model` or by the reference of a `job`."""
        return await self._post(ScoreResult, "/v1/score", request)

    async def get_histogram(self, job_id: str) -> PartialHistogram:
        """The histogram of ln(perplexity) of the shards that are scored so far."""
        return await self._get(PartialHistogram, _job_path(job_id, "histogram"))

    async def get_report(self, job_id: str) -> Report:
        """Counts, quantiles and histogram of a scored job, and the domains before and after each selection."""
        return await self._get(Report, _job_path(job_id, "report"))

    async def list_documents(
        self,
        job_id: str,
        *,
        rank: int = 0,
        count: int = 5,
        characters: int = 2000,
        domain: int | None = None,
        per: Literal["byte"] | None = None,
        seed: int | None = None,
        score: str | None = None,
    ) -> Documents:
        """`count` documents from a rank on, by perplexity or another order, with the beginnings of their texts.

        `domain` is a row of the report's domains: its documents alone.
        """
        page = {"rank": rank, "count": count, "characters": characters, "domain": domain}
        return await self._get(Documents, _job_path(job_id, "documents"), **page, per=per, seed=seed, score=score)

    async def download_scores(self, job_id: str, target: str | Path) -> None:
        """Saves the table of every document's scores: a Parquet file, or a folder of parts above 10^8 rows."""
        await self._download_table(_job_path(job_id, "scores"), Path(target), "parquet")

    async def list_scores_parts(self, job_id: str) -> TableFiles:
        """The files of the table of scores: its parts in their order, or the only file."""
        return await self._get(TableFiles, _job_path(job_id, "scores", "parts"))

    async def download_scores_part(self, job_id: str, part: int, target: str | Path) -> None:
        """Saves a part of the table of scores, by its number from 0."""
        await self._download(_job_path(job_id, "scores", "parts", str(part)), target)

    async def download_rejects(self, job_id: str, target: str | Path, *, format: Format = "parquet") -> None:  # noqa: A002
        """Saves the table of the documents without a score, with the reasons."""
        await self._download(_job_path(job_id, "rejects"), target, format=format)

    async def download_report(self, job_id: str, target: str | Path) -> None:
        """Saves the report, a JSON file."""
        await self._download(_job_path(job_id, "report"), target)

    # -- selections
    async def preview_selection(
        self,
        job_id: str,
        *,
        selection: str | None = None,
        criterion: Criterion = "medium",
        rate: float = 0.5,
        unit: Literal["documents", "tokens"] = "documents",
        within: Literal["domain"] | None = None,
        per: Literal["byte"] | None = None,
        seed: int | None = None,
        score: str | None = None,
        at_least: float | None = None,
        at_most: float | None = None,
    ) -> PreviewReport:
        """What a selection would keep, without making it; with `selection`, the id of one of the job's own.

        With `at_least` or `at_most`, which are thresholds on `score`, they take the place of a criterion.
        """
        spec: dict[str, Any] = {"selection": selection}
        if selection is None:
            spec = {"criterion": criterion, "rate": rate, "unit": unit, "within": within, "per": per}
            spec |= {"seed": seed, "score": score, "at_least": at_least, "at_most": at_most}
        return await self._get(PreviewReport, _job_path(job_id, "preview"), **spec)

    async def create_selection(self, job_id: str, spec: SelectionSpec | Fields | str) -> SelectionResult:
        """Makes one more selection of a scored job, without scoring again, and waits for it. `spec` may be a named one.

        Raises ApiError with the status 404 if it cannot be made.
        """
        path = _job_path(job_id, "selections")
        answer = await self._connection.send("POST", path, json=_json(spec))
        while answer.status_code == 202:
            selection = SelectionSpec.model_validate(_json(spec))
            await self._wait_for_manifest(job_id, selection.id)
            answer = await self._connection.send("POST", path, json=_json(spec))
        return _parsed(SelectionResult, answer.content)

    async def _wait_for_manifest(self, job_id: str, selection_id: str) -> None:
        """Waits while there is to be a manifest and it is not made."""
        while True:
            try:
                await self.list_manifest_parts(job_id, selection_id)  # a whole manifest may be refused for its size
                return
            except ApiError as error:
                if error.status != 409:
                    raise
            await self._connection.sleep(_LOOK_SECONDS)

    async def download_manifest(
        self,
        job_id: str,
        selection_id: str,
        target: str | Path,
        *,
        format: Format = "parquet",  # noqa: A002
    ) -> None:
        """Saves a manifest, the documents that a selection keeps: a file, or a folder of parts above 10^8 rows."""
        await self._download_table(_job_path(job_id, "selections", selection_id, "manifest"), Path(target), format)

    async def list_manifest_parts(self, job_id: str, selection_id: str) -> TableFiles:
        """The files of a manifest: its parts in their order, or the only file."""
        return await self._get(TableFiles, _job_path(job_id, "selections", selection_id, "manifest", "parts"))

    async def download_manifest_part(
        self,
        job_id: str,
        selection_id: str,
        part: int,
        target: str | Path,
        *,
        format: Format = "parquet",  # noqa: A002
    ) -> None:
        """Saves a part of a manifest, by its number from 0."""
        path = _job_path(job_id, "selections", selection_id, "manifest", "parts", str(part))
        await self._download(path, target, format=format)

    # -- exports
    async def create_export(
        self, job_id: str, selection_id: str, options: ExportOptions | Fields | None = None
    ) -> Export:
        """Begins to write the kept documents of a selection as corpus files; `all` stands for every scored document."""
        path = _job_path(job_id, "selections", selection_id, "exports")
        return await self._post(Export, path, {} if options is None else options)

    async def get_export(self, job_id: str, export_id: str) -> Export:
        """One export."""
        return await self._get(Export, _job_path(job_id, "exports", export_id))

    async def list_exports(self, job_id: str) -> ExportList:
        """The exports of a job."""
        return await self._get(ExportList, _job_path(job_id, "exports"))

    async def wait_for_export(
        self, job_id: str, export_id: str, on_progress: OnProgress[Export] | None = None
    ) -> Export:
        """Waits until an export has succeeded. Calls `on_progress` about once a second. Raises NotSucceeded."""
        return await self._wait(lambda: self.get_export(job_id, export_id), on_progress, "the export")

    async def download_export_file(self, job_id: str, export_id: str, path: str, target: str | Path) -> None:
        """Saves a file of an export in the service's workspace: one of its `files`, `export.json` or `README.md`."""
        await self._download(_job_path(job_id, "exports", export_id, "files", *path.split("/")), target)

    async def download_export(self, job_id: str, export_id: str, folder: str | Path) -> None:
        """Fills a folder with all files of an export that has succeeded; those that are there already stay.

        Raises NotSaved if the folder holds other files, and for names that lead out of it.
        """
        export, out = await self.get_export(job_id, export_id), Path(folder)
        about = await self._get(ExportRecord, _job_path(job_id, "exports", export_id, "files", EXPORT_FILE))
        with _saving(out):
            place = OutputFolder(Storage(str(out)), about.key)
            if place.is_complete:
                return
            files = {file.path: file.sha256 for file in export.files}
            place.take([*files, CARD_FILE])
            for name, sha256 in {**files, CARD_FILE: None, EXPORT_FILE: None}.items():  # export.json last
                target = out / place.inside(name)
                if sha256 is None or not target.exists() or hashed(target) != sha256:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    await self.download_export_file(job_id, export_id, name, target)
            (out / MARKER_FILE).unlink()

    # -- ablations
    async def create_ablation(self, job_id: str, options: AblationOptions | Fields) -> Ablation:
        """Begins to train small models on selections of a scored job. Paths in `options` are the service's."""
        return await self._post(Ablation, _job_path(job_id, "ablations"), options)

    async def get_ablation(self, job_id: str, ablation_id: str) -> Ablation:
        """One ablation."""
        return await self._get(Ablation, _job_path(job_id, "ablations", ablation_id))

    async def list_ablations(self, job_id: str) -> AblationList:
        """The ablations of a job."""
        return await self._get(AblationList, _job_path(job_id, "ablations"))

    async def cancel_ablation(self, job_id: str, ablation_id: str) -> Ablation:
        """Cancels an ablation. Its finished runs stay, for when it is asked for again."""
        return await self._post(Ablation, _job_path(job_id, "ablations", ablation_id, "cancel"))

    async def wait_for_ablation(
        self, job_id: str, ablation_id: str, on_progress: OnProgress[Ablation] | None = None
    ) -> Ablation:
        """Waits until an ablation has its `result`. Calls `on_progress` about once a second. Raises NotSucceeded."""
        return await self._wait(lambda: self.get_ablation(job_id, ablation_id), on_progress, "the ablation")

    async def download_ablation_runs(self, job_id: str, ablation_id: str, target: str | Path) -> None:
        """Saves every run, seed, checkpoint and measure of an ablation, a Parquet file."""
        await self._download(_job_path(job_id, "ablations", ablation_id, "runs.parquet"), target)

    # -- any call
    async def get_json(self, path: str, /, **params: Any) -> Any:
        """The JSON of a GET of any path of the API; parameters that are None are left out."""
        answer = await self._connection.send("GET", path, params=_given(params))
        try:
            return answer.json()
        except ValueError:
            raise UnknownAnswer(f"the answer to {path} is not JSON") from None

    async def _get(self, kind: type[Model], path: str, **params: Any) -> Model:
        return _parsed(kind, (await self._connection.send("GET", path, params=_given(params))).content)

    async def _post(self, kind: type[Model], path: str, body: BaseModel | Fields | None = None, **given: Any) -> Model:
        return _parsed(kind, (await self._connection.send("POST", path, json=_json(body), **given)).content)

    async def _download(self, path: str, target: str | Path, **params: str) -> None:
        with _saving(Path(target)):
            await self._connection.download(path, Path(target), **params)

    async def _download_table(self, path: str, target: Path, kind: Format) -> None:
        """Saves a table as a file, or its parts as the files of a folder, where other parts are removed."""
        files = (await self._get(TableFiles, f"{path}/parts")).data
        if files[0].url == path:
            if target.is_dir():
                raise NotSaved(f"{target}: is a folder, and the table is one file: move it away")
            await self._download(path, target, format=kind)
            return
        if target.is_file():
            raise NotSaved(f"{target}: is a file, and the table is a folder of parts: move it away")
        names = [f"{file.name.removesuffix('.parquet')}.{kind}" for file in files]
        for name in names:
            if "/" in name or name.startswith("."):
                raise UnknownAnswer(f"the service names a part {name!r}, which is not the name of a file")
        with _saving(target):
            target.mkdir(exist_ok=True)
            for old in target.glob(f"part-*.{kind}"):
                if old.name not in names:
                    old.unlink()
        for file, name in zip(files, names, strict=True):
            await self._download(file.url, target / name, format=kind)

    async def _wait(self, look: Callable[[], Awaitable[Work]], on_progress: OnProgress[Work] | None, what: str) -> Work:
        while True:
            work = await look()
            if on_progress is not None:
                on_progress(work)
            if work.status in ENDED:
                return _succeeded(work, what)
            await self._connection.sleep(_LOOK_SECONDS)


@contextmanager
def _saving(target: Path) -> Iterator[None]:
    """Raises NotSaved for an error of writing inside the block."""
    try:
        yield
    except InputError as error:
        raise NotSaved(str(error)) from None
    except OSError as error:
        raise NotSaved(f"{target}: cannot be written ({reason(error)})") from None


def _job_path(job_id: str, *more: str) -> str:
    """The path of a job's resource. Raises NotSent for an id that would lead to another path."""
    for part in (job_id, *more):
        if not isinstance(part, str) or part in ("", ".", ".."):
            raise NotSent(f"{part!r} is no id: give the `id` of a job, selection, export or ablation")
    return network.job_path(job_id, *more)


def _json(body: BaseModel | Fields | str | None) -> Any:
    """A request as JSON values, paths and dates as text. Raises NotSent for other objects."""
    try:
        return to_jsonable_python(body)
    except ValueError as error:
        raise NotSent(f"the request is not JSON: {error}") from None


def _given(params: Fields) -> dict[str, Any]:
    return {name: value for name, value in params.items() if value is not None}


def _parsed(kind: type[Model], data: str | bytes) -> Model:
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"])
        raise UnknownAnswer(
            f"the service's {kind.__name__} is not what this client, {service.__version__}, knows ({field}: "
            f"{first['msg']}): use the client of the service's version"
        ) from None


def _succeeded(work: Work, what: str) -> Work:
    """Work that has ended. Raises NotSucceeded."""
    if work.status == "succeeded":
        return work
    if work.status == "cancelled":
        raise NotSucceeded(f"{what} was cancelled", work)
    raise NotSucceeded(f"{what} failed: {work.error.detail if work.error else 'the service says no reason'}", work)
