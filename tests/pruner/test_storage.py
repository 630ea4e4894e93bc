"""Files of a storage appear whole or not at all, on a disk, in memory and on S3."""

import threading
import uuid
from pathlib import Path

import pytest

from pruner.errors import InputError
from pruner.storage import Storage


@pytest.fixture(params=["disk", "memory", "s3"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return Storage(str(tmp_path / "root"))
    if request.param == "memory":
        return Storage(f"memory://{uuid.uuid4().hex}/root")
    return Storage(request.getfixturevalue("s3_url") + "/root")


def test_what_is_written_is_read(storage: Storage) -> None:
    storage.write_bytes("a/b.bin", b"first")
    storage.write_bytes("a/b.bin", b"second")
    storage.write_json("a/c.json", {"é": [1, None]})
    assert storage.read_bytes("a/b.bin") == b"second"
    assert storage.read_json("a/c.json") == {"é": [1, None]}
    assert storage.size("a/b.bin") == 6
    assert storage.list("a") == ["b.bin", "c.json"]
    with storage.open("a/b.bin") as file:
        file.seek(3)
        assert file.read() == b"ond"


def test_what_is_not_there(storage: Storage) -> None:
    assert not storage.exists("nothing")
    assert storage.list("nothing") == []
    storage.remove("nothing")
    storage.remove_tree("nothing")
    with pytest.raises(FileNotFoundError):
        storage.read_bytes("nothing")


def test_a_file_that_was_not_finished_does_not_appear(storage: Storage) -> None:
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


def test_the_first_of_two_makers_wins(storage: Storage) -> None:
    assert storage.create_new("one", b"a")
    assert not storage.create_new("one", b"b")
    assert storage.read_bytes("one") == b"a"


def test_one_of_many_makers_wins(tmp_path: Path) -> None:
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


def test_removing(storage: Storage) -> None:
    storage.write_bytes("a/b/c", b"x")
    storage.write_bytes("a/d", b"x")
    storage.remove("a/d")
    assert storage.list("a") == ["b"]
    storage.remove_tree("a")
    assert not storage.exists("a/b/c")


def test_what_another_process_writes_is_seen(s3_url: str) -> None:
    one, other = Storage(s3_url), Storage(s3_url)
    assert not one.exists("folder/file")
    assert one.list("folder") == []
    other.write_bytes("folder/file", b"x")
    assert one.exists("folder/file")
    assert one.list("folder") == ["file"]


def test_an_unknown_protocol_is_refused() -> None:
    with pytest.raises(InputError, match="nope://x"):
        Storage("nope://x")
