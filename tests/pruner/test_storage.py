"""Files of a storage appear complete or not at all: on a local disk, in memory and on S3."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.tables.storage import Storage


@pytest.fixture(params=["disk", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage(str(tmp_path / "root"))
    if request.param == "memory":
        return Storage(f"memory://{uuid.uuid4().hex}/root")
    return Storage(request.getfixturevalue("s3_url") + "/root")


def test_written_files_are_read_back(storage: Storage) -> None:
    storage.write_bytes("a/b.bin", b"first")
    storage.write_bytes("a/b.bin", b"second")
    storage.write_json("a/c.json", {"é": [1, float("inf")]})
    assert storage.read_bytes("a/b.bin") == b"second"
    assert storage.read_json("a/c.json") == {"é": [1, None]}
    assert storage.size("a/b.bin") == 6
    assert storage.list("a") == ["b.bin", "c.json"]
    with storage.open("a/b.bin") as file:
        file.seek(3)
        assert file.read() == b"ond"


def test_missing_paths(storage: Storage) -> None:
    assert not storage.exists("nothing")
    assert storage.list("nothing") == []
    storage.remove("nothing")
    storage.remove_tree("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("nothing")


def test_an_unfinished_file_does_not_appear(storage: Storage) -> None:
    storage.write_bytes("kept", b"old")
    for name in ("kept", "new"):
        with pytest.raises(RuntimeError, match="half way"), storage.create(name) as file:
            file.write(b"half")
            raise RuntimeError("half way")
    assert storage.read_bytes("kept") == b"old"
    assert storage.list("") == ["kept"]
    if (root := storage.local("")) is not None:
        assert [path.name for path in root.iterdir()] == ["kept"]


def test_a_file_is_not_seen_while_it_is_written(storage: Storage) -> None:
    with storage.create("late") as file:
        file.write(b"x")
        assert not storage.exists("late")
        assert storage.list("") == []
    assert storage.exists("late")


def test_create_new_keeps_the_first_file(storage: Storage) -> None:
    assert storage.create_new("one", b"a")
    assert not storage.create_new("one", b"b")
    assert storage.read_bytes("one") == b"a"


def test_create_new_has_one_winner_among_threads(tmp_path: Path) -> None:
    storage, won = Storage(str(tmp_path)), list[int]()
    start = threading.Barrier(8)

    def make(number: int) -> None:
        start.wait()
        if storage.create_new("one", str(number).encode()):
            won.append(number)

    threads = [threading.Thread(target=make, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [storage.read_bytes("one")] == [str(number).encode() for number in won]
    assert storage.list("") == ["one"]


def test_files_and_folders_are_removed(storage: Storage) -> None:
    storage.write_bytes("a/b/c", b"x")
    storage.write_bytes("a/d", b"x")
    storage.remove("a/d")
    assert storage.list("a") == ["b"]
    storage.remove_tree("a")
    assert not storage.exists("a/b/c")


def test_all_files_below_a_folder(storage: Storage) -> None:
    before = time.time() - 60
    storage.write_bytes("a/b/c", b"xy")
    storage.write_bytes("a/d", b"x")
    storage.write_bytes("e", b"")
    found = sorted(storage.files("a"))
    assert [(file.path, file.size) for file in found] == [("a/b/c", 2), ("a/d", 1)]
    assert all(before < file.modified < time.time() + 60 for file in found)
    assert list(storage.files("nothing")) == []


def half_files(root: Path) -> list[str]:
    return [str(path.relative_to(root)) for path in root.rglob("*.part")]


def test_a_sweep_removes_only_files_of_killed_writers(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    code = (
        f"from pruner.tables.storage import Storage\nwith Storage({str(tmp_path)!r}).create('a/b/dead') as file:\n"
        " file.write(b'half'); file.flush(); print(flush=True); input()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        os.kill(writer.pid, signal.SIGSTOP)
        assert storage.sweep() == 0
        writer.kill()
    storage.write_bytes("a/whole", b"x")
    (tmp_path / "a" / "mine.part").write_bytes(b"no file of ours")
    with storage.create("a/living") as file:
        assert len(half_files(tmp_path)) == 3
        assert storage.sweep("elsewhere") == 0
        assert storage.sweep() == 1
        file.write(b"whole")
    assert storage.list("a") == ["b", "living", "whole"]
    assert half_files(tmp_path) == ["a/mine.part"]


def test_sweeps_during_writes_lose_no_file(tmp_path: Path) -> None:
    storage, over = Storage(str(tmp_path)), threading.Event()

    def sweep() -> None:
        while not over.is_set():
            storage.sweep()

    sweepers = [threading.Thread(target=sweep) for _ in range(2)]
    for thread in sweepers:
        thread.start()
    try:
        for number in range(300):
            storage.write_bytes(f"{number % 7}/{number}", b"x")
            storage.create_new(f"{number % 7}/new-{number}", b"x")
    finally:
        over.set()
        for thread in sweepers:
            thread.join()
    assert sum(len(storage.list(str(folder))) for folder in range(7)) == 600


def test_a_half_removed_folder_is_swept(tmp_path: Path) -> None:
    storage = Storage(str(tmp_path))
    for name in ("a/b/c", "a/d", "e"):
        storage.write_bytes(name, b"x")
    (tmp_path / "a").rename(tmp_path / f".a.{uuid.uuid4().hex}.part")  # killed in remove_tree
    assert (storage.list(""), storage.sweep()) == (["e"], 1)
    assert [path.name for path in tmp_path.iterdir()] == ["e"]


def test_files_of_another_process_are_seen(s3_url: str) -> None:
    one, other = Storage(s3_url), Storage(s3_url)
    assert not one.exists("folder/file")
    assert one.list("folder") == []
    other.write_bytes("folder/file", b"x")
    assert one.exists("folder/file")
    assert one.list("folder") == ["file"]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(InputError, match="nope://x"):
        Storage("nope://x")


@pytest.mark.usefixtures("no_credentials")
def test_a_store_that_takes_no_request_is_named() -> None:
    storage = Storage("s3://bucket/x")
    for use in (lambda: storage.list(""), lambda: storage.exists("a"), lambda: storage.write_bytes("a", b"b")):
        with pytest.raises(OSError, match=r"^s3://bucket/x: Unable to locate credentials$"):
            use()
