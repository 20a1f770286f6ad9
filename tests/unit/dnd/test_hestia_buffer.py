"""HESTIA@ datasets with a real daemon, XFS and Ganesha, on the embedded object store."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ebb.dataset import HEADER_SIZE
from ebb.model import Phase, Status
from unit.dnd import fake_hestia
from unit.dnd.datanode import GID, MIB, SIZE, UID, Datanode
from unit.dnd.fake_hestia import FakeHestia
from unit.dnd.nfs4 import wait_for

pytestmark = pytest.mark.datanode


def store_of(datanode: Datanode) -> dict[str, Any]:
    (datanode.folder / "store").mkdir(exist_ok=True)
    return {"kind": "embedded", "location": str(datanode.folder / "store"), "tiers": 2, "patience": 5}


def objects(datanode: Datanode) -> set[str]:
    """Ids of all objects, each of which must have its data."""
    store = datanode.folder / "store"
    ids = {path.stem for path in (store / "objects").glob("*.json")}
    assert {path.name for path in store.glob("tier*/*/*")} == ids, "data without an object, or the other way round"
    return ids


def pair_of(path: Path) -> set[str]:
    lines = path.read_text().split("\n")
    assert len(lines) == 3 and lines[2] == ""
    return set(lines[:2])


def create(datanode: Datanode, sid: str, **changes: Any) -> Status:
    return datanode.create(sid, object_store=store_of(datanode), **changes)


def data_of(status: Status) -> Path:
    assert status.mount is not None, status
    return Path(status.mount.data)


def save_one(datanode: Datanode, name: str = "ds", content: bytes = b"precious") -> Path:
    path = datanode.home / name
    status = create(datanode, "1", data_dst=f"HESTIA@{path}")
    (data_of(status) / "kept").write_bytes(content)
    (data_of(status) / "random").write_bytes(os.urandom(9 * MIB))
    status = datanode.destroy("1")
    assert status.phase is Phase.GONE, status
    return path


def test_a_dataset_of_objects_goes_out_and_comes_back(datanode: Datanode) -> None:
    path = save_one(datanode)
    found = path.stat()
    assert (found.st_uid, found.st_gid) == (UID, GID)
    first = pair_of(path)
    assert objects(datanode) == first
    header, data = path.read_text().split()
    sizes = {p.name: p.stat().st_size for p in (datanode.folder / "store").glob("tier0/*/*")}
    assert sizes[header] == HEADER_SIZE
    assert 9 * MIB < sizes[data] < 60 * MIB, "holes of the image are not stored"
    status = create(datanode, "2", data_src=f"HESTIA@{path}", data_dst=f"HESTIA@{path}", storage_size=2 * SIZE)
    assert status.phase is Phase.READY, status
    assert (data_of(status) / "kept").read_bytes() == b"precious"
    (data_of(status) / "kept").write_bytes(b"changed")
    assert datanode.destroy("2").phase is Phase.GONE
    second = pair_of(path)
    assert objects(datanode) == second and not first & second, "the old pair is dropped"
    status = create(datanode, "3", data_src=f"HESTIA@{path}", storage_size=2 * SIZE)
    assert (data_of(status) / "kept").read_bytes() == b"changed"
    assert datanode.destroy("3").phase is Phase.GONE
    assert os.listdir(datanode.home) == ["ds"]
    assert list((datanode.state / "objects").iterdir()) == []
    datanode.assert_nothing_left()


# What users' files may hold


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("one\n", "is malformed: 1 lines"),
        ("a\nb\nc\n", "is malformed: 3 lines"),
        ("a b\nc\n", "is malformed: 2 lines, of 2, 1 words"),
        ("a\n\n", "is malformed"),
        ("../../etc/passwd\nb\n", "is no object id"),
        ("same\nsame\n", "names one object twice"),
        ("ö\nb\n", "is no text"),
        ("a\n" + "b" * 9000, "is malformed: more than 4096 bytes"),
        ("a\nb\n", "its header is lost"),
    ],
)
def test_a_malformed_dataset_file_is_an_error_at_stage_in(datanode: Datanode, content: str, message: str) -> None:
    path = datanode.home / "ds"
    path.write_text(content)
    status = create(datanode, "42", data_src=f"HESTIA@{path}")
    assert status.phase is Phase.FAILED
    assert status.error is not None and re.search(message, status.error), status.error
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_src": "HESTIA@{home}/none"}, "leave data_src out"),
        ({"data_src": "HESTIA@{home}/fifo"}, "is a FIFO"),
        ({"data_src": "HESTIA@{home}/secret"}, "Permission denied"),
        ({"data_src": "HESTIA@{home}/empty"}, "does not exist"),
        ({"data_dst": "HESTIA@{home}/none/ds"}, "No such file or directory"),
        ({"data_dst": "HESTIA@{home}/link"}, "is a symbolic link"),
        ({"data_dst": "HESTIA@{home}/letter"}, "is malformed"),
    ],
)
def test_paths_are_the_users_and_are_refused_as_such(datanode: Datanode, changes: dict[str, str], message: str) -> None:
    os.mkfifo(datanode.home / "fifo")
    (datanode.home / "empty").mkdir()
    (datanode.home / "link").symlink_to("/etc/passwd")
    (datanode.home / "letter").write_text("Dear Bob,\nthis is no dataset.\n")
    (datanode.home / "secret").write_text("a\nb\n")
    (datanode.home / "secret").chmod(0o600)
    before = sorted(os.listdir(datanode.home))
    status = create(datanode, "42", **{key: value.format(home=datanode.home) for key, value in changes.items()})
    assert status.phase is Phase.FAILED
    assert status.error is not None and message in status.error, status.error
    assert datanode.destroy().phase is Phase.GONE
    assert sorted(os.listdir(datanode.home)) == before
    datanode.assert_nothing_left()


def test_a_directory_stands_for_its_newest_file(datanode: Datanode) -> None:
    folder = datanode.home / "many"
    folder.mkdir()
    os.chown(folder, UID, GID)
    for age, name in ((100, "old"), (50, "new")):
        path = save_one(datanode, f"many/{name}", name.encode())
        os.utime(path, (time.time() - age, time.time() - age))
    (folder / ".hidden").write_text("no pair")
    (folder / "folder").mkdir()
    status = create(datanode, "2", data_src=f"HESTIA@{folder}", data_dst=f"HESTIA@{folder}")
    assert (data_of(status) / "kept").read_bytes() == b"new"
    (data_of(status) / "kept").write_bytes(b"newer")
    assert datanode.destroy("2").phase is Phase.GONE
    assert sorted(os.listdir(folder)) == [".hidden", "folder", "new", "old"]
    assert objects(datanode) == pair_of(folder / "old") | pair_of(folder / "new")
    (folder / "newest").write_text("")
    status = create(datanode, "3", data_src=f"HESTIA@{folder}")
    assert status.error is not None and "newest` is empty" in status.error


def test_a_smaller_buffer_is_refused_with_both_numbers(datanode: Datanode) -> None:
    path = datanode.home / "ds"
    create(datanode, "1", data_dst=f"HESTIA@{path}", storage_size=2 * SIZE)
    datanode.destroy("1")
    status = create(datanode, "2", data_src=f"HESTIA@{path}")
    assert status.error is not None and str(SIZE) in status.error and str(2 * SIZE) in status.error


# Whose objects are dropped


def test_a_copied_dataset_file_shares_objects_which_stay_while_the_original_names_them(datanode: Datanode) -> None:
    path = save_one(datanode)
    copy = datanode.home / "copy"
    copy.write_text(path.read_text())
    os.chown(copy, UID, GID)
    create(datanode, "2", data_src=f"HESTIA@{copy}", data_dst=f"HESTIA@{copy}")
    assert datanode.destroy("2").phase is Phase.GONE
    assert objects(datanode) == pair_of(path) | pair_of(copy)
    assert (data_of(create(datanode, "3", data_src=f"HESTIA@{path}")) / "kept").read_bytes() == b"precious"


def test_a_moved_dataset_file_takes_its_objects_along(datanode: Datanode) -> None:
    moved = save_one(datanode).rename(datanode.home / "moved")
    create(datanode, "2", data_src=f"HESTIA@{moved}", data_dst=f"HESTIA@{moved}")
    assert datanode.destroy("2").phase is Phase.GONE
    assert objects(datanode) == pair_of(moved)


def test_another_users_objects_are_not_dropped_by_writing_their_ids_down(datanode: Datanode) -> None:
    theirs = datanode.folder / "theirs"
    theirs.mkdir()
    os.chown(theirs, 1, 1)
    status = create(datanode, "1", uid=1, gid=1, user="daemon", data_dst=f"HESTIA@{theirs}/ds", path="/home/none")
    assert status.phase is Phase.READY, status
    (data_of(status) / "kept").write_bytes(b"theirs")
    assert datanode.destroy("1").phase is Phase.GONE
    mine = datanode.home / "mine"
    mine.write_text((theirs / "ds").read_text())
    (theirs / "ds").unlink()
    create(datanode, "2", data_dst=f"HESTIA@{mine}")
    before = objects(datanode)
    assert datanode.destroy("2").phase is Phase.GONE
    assert before < objects(datanode) and len(objects(datanode)) == 4


def test_a_pair_put_together_of_two_is_refused(datanode: Datanode) -> None:
    one, two = save_one(datanode, "one"), save_one(datanode, "two")
    mixed = datanode.home / "mixed"
    mixed.write_text(f"{one.read_text().split()[0]}\n{two.read_text().split()[1]}\n")
    status = create(datanode, "3", data_src=f"HESTIA@{mixed}")
    assert status.error is not None and "is not the data of header" in status.error


@pytest.mark.parametrize("which", ["header", "data", "short data", "no data"])
def test_a_damaged_object_is_never_mounted(datanode: Datanode, which: str) -> None:
    path = save_one(datanode)
    object_id = path.read_text().split()[0 if which == "header" else 1]
    [file] = (datanode.folder / "store").glob(f"tier0/*/{object_id}")
    if which == "no data":
        file.unlink()
    else:
        with file.open("r+b") as opened:
            if which == "short data":
                opened.truncate(file.stat().st_size - 1)
            else:
                opened.seek(5000)
                opened.write(b"flipped")
    status = create(datanode, "2", data_src=f"HESTIA@{path}")
    assert status.phase is Phase.FAILED and status.error is not None
    assert ("seal does not fit" if which == "header" else "is damaged") in status.error, status.error
    datanode.destroy("2")
    datanode.assert_nothing_left()


# A store that misbehaves, a daemon that is killed


@pytest.fixture
def hestia() -> Iterator[FakeHestia]:
    with fake_hestia.running() as server:
        yield server


def on_hestia(hestia: FakeHestia, patience: int = 2) -> dict[str, Any]:
    return {"object_store": {"kind": "hestia", "location": hestia.url, "tiers": 3, "patience": patience}}


def test_a_dataset_in_hestia_through_workers(datanode: Datanode, hestia: FakeHestia) -> None:
    hestia.redirects = True
    path = datanode.home / "ds"
    for sid, text in (("1", "one"), ("2", "two")):
        source = f"HESTIA@{path}" if path.exists() else None
        status = datanode.create(sid, data_src=source, data_dst=f"HESTIA@{path}", **on_hestia(hestia))
        assert status.phase is Phase.READY, status
        if source:
            assert (data_of(status) / "kept").read_text() == "one"
        (data_of(status) / "kept").write_text(text)
        assert datanode.destroy(sid).phase is Phase.GONE
        assert set(hestia.objects) == pair_of(path)
    assert fake_hestia.TOKEN not in datanode.log.read_text()
    datanode.assert_nothing_left()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("put flips a bit", "other bytes than it was given"),
        ("put loses the end", "is not whole after 2 s"),
        ("500 put_data", "answers 500"),
        ("get lies", "other bytes than it was given"),
    ],
)
def test_a_store_that_lies_or_fails_keeps_data_and_old_dataset(
    datanode: Datanode, hestia: FakeHestia, fault: str, message: str
) -> None:
    path = datanode.home / "ds"
    datanode.create("1", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
    datanode.destroy("1")
    old = pair_of(path)
    status = datanode.create("2", data_src=f"HESTIA@{path}", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
    (data_of(status) / "kept").write_text("precious")
    hestia.fail(fault, 10000)
    status = datanode.destroy("2")
    assert status.phase is Phase.SAVE_FAILED
    assert status.error is not None and message in status.error, status.error
    assert pair_of(path) == old and old <= set(hestia.objects)
    hestia.fail(fault, 0)
    assert datanode.destroy("2").phase is Phase.GONE
    assert set(hestia.objects) == pair_of(path) and not old & pair_of(path), "nothing of the failed save is left"
    status = datanode.create("3", data_src=f"HESTIA@{path}", **on_hestia(hestia))
    assert (data_of(status) / "kept").read_text() == "precious"


def test_a_put_that_comes_late_is_waited_for(datanode: Datanode, hestia: FakeHestia) -> None:
    path = datanode.home / "ds"
    datanode.create("1", data_dst=f"HESTIA@{path}", **on_hestia(hestia, patience=10))
    hestia.fail("put comes late", 2)
    assert datanode.destroy("1").phase is Phase.GONE
    assert set(hestia.objects) == pair_of(path)


def test_a_dead_store_is_said_at_creation_and_at_the_end(datanode: Datanode, hestia: FakeHestia) -> None:
    path = datanode.home / "ds"
    status = datanode.create("1", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
    (data_of(status) / "kept").write_text("precious")
    where = hestia.url
    hestia.fail("drop", 1 << 30)
    status = datanode.create("2", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
    assert status.phase is Phase.FAILED and status.error is not None and where in status.error, status.error
    status = datanode.destroy("1")
    assert status.phase is Phase.SAVE_FAILED and status.error is not None and where in status.error
    hestia.fail("drop", 0)
    assert datanode.destroy("1").phase is Phase.GONE
    assert set(hestia.objects) == pair_of(path)


def test_what_a_dead_store_kept_of_a_failed_save_is_dropped_later(datanode: Datanode, hestia: FakeHestia) -> None:
    path = datanode.home / "ds"
    datanode.create("1", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
    hestia.fail("500 put_data", 1 << 30)
    hestia.fail("500 release_data", 0)
    datanode.call("destroy_persistent", {"sid": "1", "discard": False})
    wait_for(lambda: len(hestia.objects) > 0, 10, "an object is made")
    hestia.fail("drop", 1 << 30)
    assert datanode.settled("1").phase is Phase.SAVE_FAILED
    assert datanode.destroy("1", discard=True).phase is Phase.GONE
    assert hestia.objects and list((datanode.state / "objects").iterdir())
    hestia.fail("drop", 0)
    datanode.kill()
    datanode.start()
    wait_for(lambda: not hestia.objects, 10, "the objects are dropped")
    wait_for(lambda: not list((datanode.state / "objects").iterdir()), 10, "nothing is left to drop")
    datanode.assert_nothing_left()


@pytest.mark.parametrize("milliseconds", [0, 40, 80, 120, 160, 200, 260, 330])
def test_kill_9_during_a_save_leaves_one_pair_whole_and_nothing_else(datanode: Datanode, milliseconds: int) -> None:
    path = save_one(datanode)
    status = create(datanode, "2", data_src=f"HESTIA@{path}", data_dst=f"HESTIA@{path}")
    content = os.urandom(30 * MIB)
    (data_of(status) / "data").write_bytes(content)
    datanode.call("destroy_persistent", {"sid": "2", "discard": False})
    time.sleep(milliseconds / 1000)
    datanode.kill()
    assert pair_of(path) <= {file.name for file in (datanode.folder / "store").glob("tier0/*/*")}, "one pair is whole"
    datanode.start()
    assert datanode.settled("2").phase is Phase.GONE
    # What cannot be told at once is looked at again every minute.
    wait_for(lambda: not list((datanode.state / "objects").iterdir()), 90, "nothing is left to drop")
    assert objects(datanode) == pair_of(path)
    status = create(datanode, "3", data_src=f"HESTIA@{path}")
    assert (data_of(status) / "data").read_bytes() == content
    datanode.destroy("3")
    datanode.assert_nothing_left()


@pytest.mark.parametrize("milliseconds", [0, 40, 80, 150, 250])
@pytest.mark.parametrize("kind", ["embedded", "hestia"])
def test_kill_9_during_a_stage_in_costs_nothing(
    datanode: Datanode, hestia: FakeHestia, kind: str, milliseconds: int
) -> None:
    store = {"object_store": store_of(datanode)} if kind == "embedded" else on_hestia(hestia, patience=10)
    path, content = datanode.home / "ds", os.urandom(60 * MIB)
    status = datanode.create("1", data_dst=f"HESTIA@{path}", **store)
    (data_of(status) / "data").write_bytes(content)
    assert datanode.destroy("1").phase is Phase.GONE
    datanode.call("create_persistent", datanode.spec("2", data_src=f"HESTIA@{path}", **store))
    time.sleep(milliseconds / 1000)
    datanode.kill()
    datanode.start()
    status = datanode.settled("2")
    assert (data_of(status) / "data").read_bytes() == content
    assert datanode.destroy("2").phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_buffer_that_was_only_read_is_saved_by_looking(datanode: Datanode, hestia: FakeHestia) -> None:
    path = datanode.home / "ds"
    status = datanode.create("1", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
    (data_of(status) / "kept").write_text("precious")
    assert datanode.destroy("1").phase is Phase.GONE
    pair = path.read_text()
    for sid in ("2", "3"):
        hestia.requests.clear()
        status = datanode.create(sid, data_src=f"HESTIA@{path}", data_dst=f"HESTIA@{path}", **on_hestia(hestia))
        assert (data_of(status) / "kept").read_text() == "precious"
        assert datanode.destroy(sid).phase is Phase.GONE
        assert path.read_text() == pair and set(hestia.objects) == pair_of(path)
        assert not [each for each in hestia.requests if each[0] != "GET"], "nothing was made, put or dropped"
    datanode.assert_nothing_left()
