"""The object store client: one behaviour on both backends, and what it does when Hestia misbehaves."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from dnd.hestia.api import HestiaStore
from dnd.hestia.embedded import EmbeddedStore
from dnd.hestia.store import NoObject, ObjectStore, Pauses, StoreFault, remove
from dnd.staging.progress import Cancelled
from ebb.errors import Conflict, UserError
from unit.dnd import fake_hestia
from unit.dnd.fake_hestia import FakeHestia

MIB = 1 << 20
ID = "550e8400-e29b-41d4-a716-446655440000"


@pytest.fixture
def hestia() -> Iterator[FakeHestia]:
    with fake_hestia.running() as server:
        yield server


@pytest.fixture
def client(hestia: FakeHestia) -> HestiaStore:
    return HestiaStore(hestia.url, fake_hestia.TIERS, 2, Pauses())


@pytest.fixture(params=["embedded", "hestia", "hestia with workers"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ObjectStore]:
    if request.param == "embedded":
        (tmp_path / "store").mkdir()
        yield EmbeddedStore(tmp_path / "store", fake_hestia.TIERS)
        return
    with fake_hestia.running() as server:
        server.redirects = "workers" in request.param
        yield HestiaStore(server.url, fake_hestia.TIERS, 2, Pauses())


def put(store: ObjectStore, object_id: str, content: bytes) -> None:
    store.create(object_id, "a test's")
    store.put(object_id, len(content), lambda: iter([content[:7], content[7:]]))


def get(store: ObjectStore, object_id: str, offset: int = 0) -> bytes:
    return b"".join(store.get(object_id, offset))


def test_an_object_goes_there_and_back(store: ObjectStore) -> None:
    content = os.urandom(9 * MIB + 13)
    store.check()
    put(store, ID, content)
    assert get(store, ID) == content
    assert get(store, ID, 5 * MIB + 1) == content[5 * MIB + 1 :]
    assert store.exists(ID) and store.list() == [ID] and store.locate(ID) == (0,)


def test_data_move_between_tiers_and_go(store: ObjectStore) -> None:
    put(store, ID, b"precious data")
    store.copy(ID, 0, 1)
    assert store.locate(ID) == (0, 1)
    store.move(ID, 1, 2)
    assert store.locate(ID) == (0, 2)
    store.release(ID, 0)
    assert store.locate(ID) == (2,) and get(store, ID) == b"precious data"
    with pytest.raises(Conflict, match="tier"):
        store.delete(ID)
    store.release(ID, 2)
    with pytest.raises(NoObject):
        get(store, ID)
    store.delete(ID)
    assert not store.exists(ID) and store.list() == []


def test_everything_can_be_done_twice(store: ObjectStore) -> None:
    for _ in range(2):
        put(store, ID, b"precious data")
        store.copy(ID, 0, 1)
    assert get(store, ID) == b"precious data"
    for _ in range(2):
        store.release(ID, 0)
    for _ in range(2):
        remove(store, ID)
        store.delete(ID)
    assert store.list() == []


def test_what_is_not_there_is_said(store: ObjectStore) -> None:
    assert not store.exists(ID)
    for ask in (lambda: get(store, ID), lambda: store.locate(ID), lambda: store.copy(ID, 0, 1)):
        with pytest.raises(NoObject):
            ask()


@pytest.mark.parametrize("bad", ["../../etc/passwd", "a/b", "", ".hidden", "a b", "x" * 200, "a\nb", "a?x=1", "ü"])
def test_ids_out_of_users_files_are_checked(store: ObjectStore, bad: str) -> None:
    with pytest.raises(UserError, match="is no object id"):
        store.create(bad, "x")
    with pytest.raises(UserError, match="is no object id"):
        store.exists(bad)


def test_a_body_of_another_length_than_announced_is_no_object(store: ObjectStore) -> None:
    store.create(ID, "x")
    with pytest.raises(StoreFault):
        store.put(ID, 100, lambda: iter([b"short"]))
    with pytest.raises(NoObject):
        get(store, ID)


# The embedded store


def test_embedded_objects_are_roots_alone_and_whole_or_absent(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir(mode=0o755)
    store = EmbeddedStore(tmp_path / "store", 2)
    put(store, ID, b"old and whole")

    def broken() -> Iterator[bytes]:
        yield b"new and"
        raise OSError(5, "Input/output error")

    with pytest.raises(StoreFault, match="Input/output error"):
        store.put(ID, 100, broken)
    assert get(store, ID) == b"old and whole"
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    assert not [path for path in files if path.name.endswith(".partial")]
    assert (tmp_path / "store").stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in files} == {0o600}
    with pytest.raises(UserError, match="tier 7"):
        store.copy(ID, 0, 7)


def test_an_embedded_store_on_a_path_that_is_none(tmp_path: Path) -> None:
    for found in ("nothing", "a file"):
        if found != "nothing":
            (tmp_path / "store").write_text(found)
        with pytest.raises(StoreFault, match="mount it, or make it"):
            EmbeddedStore(tmp_path / "store").check()
    assert (tmp_path / "store").is_file(), "where nothing is mounted, nothing is made"


# Hestia that misbehaves


def test_a_large_body_is_not_sent_to_a_server_that_redirects(hestia: FakeHestia, client: HestiaStore) -> None:
    hestia.redirects = True
    taken: list[int] = []

    def body() -> Iterator[bytes]:
        for _ in range(64):
            taken.append(MIB)
            yield bytes(MIB)

    client.create(ID, "x")
    client.put(ID, 64 * MIB, body)
    assert len(hestia.data[ID][0]) == 64 * MIB
    assert len(taken) < 64 + 32, "the body is sent in full to the worker only"


@pytest.mark.parametrize("fault", ["500", "drop", "hang", "put breaks", "500 put_data"])
def test_a_put_is_tried_again(hestia: FakeHestia, client: HestiaStore, fault: str) -> None:
    content = os.urandom(3 * MIB)
    client.create(ID, "x")
    hestia.fail(fault)
    client.put(ID, len(content), lambda: iter([content]))
    assert hestia.data[ID][0] == content


@pytest.mark.parametrize("ranges", [True, False])
def test_a_get_that_breaks_off_is_taken_up_where_it_broke(
    hestia: FakeHestia, client: HestiaStore, ranges: bool
) -> None:
    content = os.urandom(5 * MIB)
    put(client, ID, content)
    hestia.fail("get breaks", 3)
    if not ranges:
        hestia.fail("no ranges", 100)
    assert get(client, ID) == content
    assert len([each for each in hestia.requests if each[2] == "get_data"]) >= 3


def test_a_slow_store_is_waited_for_as_long_as_bytes_come(hestia: FakeHestia, client: HestiaStore) -> None:
    """It takes longer than the patience of 2 s, which is for a store that gives nothing."""
    content = os.urandom(MIB)
    put(client, ID, content)
    hestia.fail("get is slow")
    began = time.monotonic()
    assert get(client, ID) == content
    assert time.monotonic() - began > 3
    assert len([each for each in hestia.requests if each[2] == "get_data"]) == 1


@pytest.mark.parametrize("fault", ["500", "drop"])
def test_a_store_that_stays_broken_is_given_up_within_its_patience(
    hestia: FakeHestia, client: HestiaStore, fault: str
) -> None:
    put(client, ID, b"x" * 20)
    hestia.fail(fault, 10000)
    began = time.monotonic()
    for ask in (lambda: client.create(ID, "x"), lambda: get(client, ID), client.list):
        with pytest.raises(StoreFault, match=hestia.url):
            ask()
    assert time.monotonic() - began < 30


def test_a_dead_store_is_named(hestia: FakeHestia) -> None:
    url = hestia.url
    hestia.close()
    with pytest.raises(StoreFault, match="Connection refused"):
        HestiaStore(url, 1, 1, Pauses()).check()


def test_no_message_and_no_repr_shows_the_token(hestia: FakeHestia, client: HestiaStore) -> None:
    client.create(ID, "x")
    hestia.fail("500", 10000)
    with pytest.raises(StoreFault) as caught:
        client.create(ID, "x")
    assert "internal error near" in caught.value.text
    assert fake_hestia.TOKEN not in caught.value.text + repr(client) + repr(vars(client)["_rest"])


def test_a_token_that_was_changed_is_asked_for_again(hestia: FakeHestia, client: HestiaStore) -> None:
    put(client, ID, b"precious data")
    hestia.token = "another"
    assert get(client, ID) == b"precious data"
    hestia.token = "a third"
    assert client.exists(ID)


def test_a_cancelled_work_does_not_sit_out_the_patience(hestia: FakeHestia) -> None:
    cancel = threading.Event()
    client = HestiaStore(hestia.url, 1, 600, Pauses(cancel))
    hestia.fail("500", 10000)
    threading.Timer(0.3, cancel.set).start()
    began = time.monotonic()
    with pytest.raises(Cancelled):
        client.create(ID, "x")
    assert time.monotonic() - began < 10


_LARGE = """
import resource, sys
from dnd.hestia.api import HestiaStore
from dnd.hestia.store import Pauses

resource.setrlimit(resource.RLIMIT_AS, (300 << 20, 300 << 20))
store, size, piece = HestiaStore(sys.argv[1], 1, 20, Pauses()), int(sys.argv[2]), bytes(4 << 20)
store.create("large", "x")
store.put("large", size, lambda: (piece for _ in range(size // len(piece))))
print(sum(len(found) for found in store.get("large")))
"""


def test_objects_larger_than_memory_stream(hestia: FakeHestia) -> None:
    """The client has 300 MiB of address space, the object 1 GiB."""
    hestia.discards = True
    size = 1 << 30
    done = subprocess.run(
        [sys.executable, "-c", _LARGE, hestia.url, str(size)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=Path(__file__).parents[3],
    )
    assert done.stdout == f"{size}\n", done.stderr
    assert hestia.lengths["large"] == size
