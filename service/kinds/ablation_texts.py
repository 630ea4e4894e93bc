"""The texts that the proxies of an ablation are measured on: held-out documents, and questions of tasks."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pruner.ablation.compare import ALL
from pruner.ablation.task_reader import read_tasks
from pruner.ablation.tasks import OLMES, TaskItem, find_task_files
from pruner.corpus.labels import valid_unicode
from pruner.corpus.sample import training_documents
from pruner.corpus.sandbox import make_plan
from pruner.corpus.train_split import Split
from pruner.errors import InputError
from pruner.spec import CorpusSpec
from service.contract.ablations import AblationOptions
from service.kinds.corpus import refuse_own_files
from service.kinds.job_files import JobFiles

NO_DOMAIN = "(no domain)"
_CHARACTERS_EACH = 4_000  # of a document: many documents say more than long ones
_FEWEST = 20  # documents, or there is a warning
_ALL_DOCUMENTS = Split(seed=0, fraction=1.0)


class Question(NamedTuple):
    """A text to measure: a document with an empty `context`, or an answer after its question."""

    item: int
    context: str
    text: str
    is_right: bool  # the right answer, or a document


@dataclass
class MeasuredTexts:
    """Items, each a document or a question, and their texts; a question has one for each choice."""

    name: list[str] = field(default_factory=list)
    is_task: list[bool] = field(default_factory=list)
    n_bytes: list[int] = field(default_factory=list)
    choices: list[int] = field(default_factory=list)
    named: list[bool] = field(default_factory=list)
    texts: list[Question] = field(default_factory=list)
    questions: dict[str, list[TaskItem]] = field(default_factory=dict)  # by task
    warnings: list[str] = field(default_factory=list)

    def add_document(self, name: str, text: str, *, named: bool) -> None:
        """Adds a held-out document of a domain, or of a file that the user named."""
        self._add(name, False, len(text.encode()), 0, named)
        self.texts.append(Question(len(self.name) - 1, "", text, True))

    def add_question(self, task: str, item: TaskItem) -> None:
        """Adds a question."""
        right = item.continuations[item.gold].strip()
        self._add(task, True, len(right.encode()), len(item.continuations) if len(item.continuations) > 1 else 0, False)
        for number, (context, text) in enumerate(zip(item.contexts, item.continuations, strict=True)):
            self.texts.append(Question(len(self.name) - 1, context, text, number == item.gold))

    def _add(self, name: str, is_task: bool, n_bytes: int, choices: int, named: bool) -> None:
        self.name.append(name)
        self.is_task.append(is_task)
        self.n_bytes.append(n_bytes)
        self.choices.append(choices)
        self.named.append(named)


def measured_texts(job: JobFiles, options: AblationOptions, characters: int, beat: Callable[[], None]) -> MeasuredTexts:
    """All that an ablation measures; of each held-out file, and of the split, about so many characters.

    Raises InputError where there is no held-out text, or a file cannot be read.
    """
    found = MeasuredTexts()
    for document, domain in _cut(_split(job, beat), characters):
        taken = domain == ALL or domain in options.heldout
        found.add_document(f"{domain} (corpus)" if taken else domain, document, named=False)
    split = len(found.name)
    for name, path in options.heldout.items():
        before = len(found.name)
        for document, _ in _cut(_file(job, path, characters, beat), characters):
            found.add_document(name, document, named=True)
        if len(found.name) == before:
            raise InputError(f"{path}: has no held-out documents in the field {job.record.request.corpus.text_field!r}")
    if not found.name:
        raise InputError("the split of the reference has no document that trained nothing: name a file with --heldout")
    measured = len(found.name) - split or split  # files that the user names are the measure
    if measured < _FEWEST and not options.tasks:
        found.warnings.append(f"few held-out documents ({measured}): name a larger file of them with --heldout")
    if split == len(found.name) and not options.tasks:
        found.warnings.append(
            "the held-out text is an unpruned part of the corpus, so an arm gains by resembling the corpus, noise "
            "included: give text or tasks that the models are for with --heldout or --tasks"
        )
    roots, domains = job.record.access.roots, {ALL, *found.name}
    for place in options.tasks:
        if place != OLMES:
            refuse_own_files(job.workspace, map(str, find_task_files(place, roots)))
        for name, items in read_tasks(place, roots, beat).items():
            task = f"{name} (task)" if name in domains else name  # both are in one table
            if task in found.questions:
                raise InputError(f"{place}: there are two tasks of the name {task}: rename a file")
            if len(items) < _FEWEST:
                found.warnings.append(f"few questions in the task {task} ({len(items)}): its results may be chance")
            found.questions[task] = items
            for item in items:
                found.add_question(task, item)
            beat()
    return found


def _cut(documents: Iterator[tuple[str, str]], characters: int) -> Iterator[tuple[str, str]]:
    """The first documents, with so many characters together; each at most 4,000."""
    given = 0
    for text, domain in documents:
        clean = valid_unicode(text[:_CHARACTERS_EACH])
        if clean:
            yield clean, domain
            given += len(clean)
        if given >= characters:
            return


def _split(job: JobFiles, beat: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """The documents of the reference's split that it did not learn from, with their domains."""
    from scorer.training.tokens import is_held_out

    request, roots = job.record.request, job.record.access.roots
    train, split = request.train, job.train_split
    if train is None or split is None:
        return
    given = training_documents(job.plan, request.corpus, split, train.tokens, beat, roots)
    for number, found in enumerate(given):
        if is_held_out(number):
            yield found.text, NO_DOMAIN if found.domain is None else found.domain


def _file(job: JobFiles, path: str, characters: int, beat: Callable[[], None]) -> Iterator[tuple[str, str]]:
    """Documents of a held-out file, in a seeded order."""
    spec = CorpusSpec(paths=[path], text_field=job.record.request.corpus.text_field)
    roots = job.record.access.roots
    plan = make_plan(spec, roots, beat)
    refuse_own_files(job.workspace, (file.url for file in plan.files))
    for found in training_documents(plan, spec, _ALL_DOCUMENTS, max(1_000, characters // 4), beat, roots):
        yield found.text, ""
