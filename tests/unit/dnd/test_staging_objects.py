"""Volumes with a real XFS to two objects and back: whatever changed, wherever cut short, however full the store."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnd.hestia import dataset, saving
from dnd.hestia.embedded import EmbeddedStore
from dnd.hestia.ledger import Ledger
from dnd.hestia.store import Pauses
from dnd.hestia.stores import open_store
from dnd.staging import checkpoint
from dnd.staging.progress import Cancelled, Tracker
from dnd.tools import xfs
from ebb.errors import EbbError
from ebb.objectstore import ObjectStore, StoreKind
from ebb.run import run
from unit.dnd import fake_hestia
from unit.dnd.copies import KEY, LEAST_CHANGES, USER, Bench, a_bench, change, content, killed, property_test
from unit.dnd.datanode import MIB, SIZE
from unit.dnd.fake_hestia import FakeHestia

pytestmark = [pytest.mark.datanode, pytest.mark.usefixtures("private_system")]


class Objects:
    """Saves and stage-ins of a bench's volume, its dataset file naming two objects."""

    def __init__(self, bench: Bench, spec: ObjectStore) -> None:
        self.bench, self.spec = bench, spec
        self.dataset = bench.dataset

    @property
    def ledger(self) -> Ledger:
        """As after a start of the daemon."""
        return Ledger(self.bench.folder / "objects", open_store)

    @property
    def access(self) -> dataset.Access:
        pause = Pauses()
        return dataset.Access(USER, KEY, self.spec, open_store(self.spec, pause), pause)

    def out(self, tracker: Tracker | None = None) -> Tracker:
        tracker = tracker or Tracker()
        image = self.bench.image()
        saving.stage_out(self.access, str(self.dataset), image, "1", tracker, self.ledger, self.bench.kept.saving)
        return tracker

    def back(self, tracker: Tracker | None = None) -> Tracker:
        tracker = tracker or Tracker()
        filling, volume = self.bench.kept.filling, self.bench.volume
        dataset.stage_in(self.access, str(self.dataset), "test", volume, SIZE, filling, tracker)
        return tracker

    def pair(self) -> set[str]:
        return set(self.dataset.read_text().split()) if self.dataset.exists() else set()

    def ids(self) -> set[str]:
        self.ledger.settle_all()
        return set(open_store(self.spec).list())

    def assert_comes_back(self, files: dict[str, str]) -> None:
        """Into a new volume, and nothing but the pair is in the store."""
        self.bench.blank("back")
        self.back()
        xfs.check(run, self.bench.volume)
        with self.bench.mounted() as root:
            assert content(root) == files
        assert self.ids() == self.pair()


@contextmanager
def embedded() -> Iterator[Objects]:
    with a_bench() as bench:
        (bench.folder / "store").mkdir()
        yield Objects(bench, ObjectStore(StoreKind.EMBEDDED, str(bench.folder / "store"), 1, 5))


@contextmanager
def behind_http() -> Iterator[tuple[Objects, FakeHestia]]:
    with a_bench() as bench, fake_hestia.running() as server:
        yield Objects(bench, ObjectStore(StoreKind.HESTIA, server.url, fake_hestia.TIERS, 5)), server


points = st.lists(st.integers(1, 70 * MIB), min_size=1, max_size=3)
seeds = st.integers(0, 1 << 30)


def made(objects: Objects, seed: int) -> dict[str, str]:
    """A file system that was changed since it was saved; what is in it now."""
    xfs.make(run, objects.bench.volume, SIZE, "test")
    with objects.bench.mounted() as root:
        change(root, seed)
    objects.out()
    with objects.bench.mounted() as root:
        return change(root, seed + 1)


@given(seed=seeds, points=points)
@property_test
def test_a_save_killed_anywhere_keeps_one_pair_whole_and_ends_as_if_it_had_not_been(
    seed: int, points: list[int]
) -> None:
    with embedded() as objects, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        files = made(objects, seed)
        old = objects.pair()
        for point in points:
            if killed(objects.out, point):
                assert objects.pair() == old and old <= objects.ids()
            else:
                old = objects.pair()
        objects.out()
        objects.assert_comes_back(files)


@pytest.mark.parametrize("kind", ["embedded", "http", "http without ranges"])
@given(seed=seeds, points=points)
@property_test
def test_a_stage_in_killed_anywhere_ends_as_if_it_had_not_been(kind: str, seed: int, points: list[int]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        if kind == "embedded":
            with embedded() as objects:
                stage_in_killed(objects, seed, points)
        else:
            with behind_http() as (objects, server):
                server.fail("no ranges", 1000 if "without" in kind else 0)
                stage_in_killed(objects, seed, points)


def stage_in_killed(objects: Objects, seed: int, points: list[int]) -> None:
    made(objects, seed)
    objects.out()
    saved = objects.bench.volume.read_bytes()
    objects.bench.blank("other")
    for point in points:
        killed(objects.back, point)
    objects.back()
    xfs.check(run, objects.bench.volume)
    back = objects.bench.volume.read_bytes()
    # Free blocks are not saved, so only what is there now is compared.
    for at in range(0, SIZE, MIB):
        if back[at : at + MIB].strip(b"\0"):
            found, here = back[at : at + MIB], saved[at : at + MIB]
            same = all(
                found[block : block + 4096] in (here[block : block + 4096], bytes(4096))
                for block in range(0, MIB, 4096)
            )
            assert same, f"the bytes from {at} on are not those that were saved"


@given(seed=seeds, room=st.integers(2, 60))
@property_test
def test_a_store_that_is_full_at_any_point_keeps_pair_and_volume(seed: int, room: int) -> None:
    with embedded() as objects:
        files = made(objects, seed)
        old, store = objects.pair(), objects.spec.location
        used = sum(path.stat().st_blocks * 512 for path in Path(store).rglob("*")) // MIB
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4g", "tmpfs", f"{objects.bench.folder}/mnt"], check=True)
        subprocess.run(["cp", "-a", "--sparse=always", store, f"{objects.bench.folder}/mnt/store"], check=True)
        subprocess.run(["mount", "--move", f"{objects.bench.folder}/mnt", store], check=True)
        objects.spec = ObjectStore(StoreKind.EMBEDDED, f"{store}/store", 1, 5)
        try:
            subprocess.run(["mount", "-o", f"remount,size={used + room}m", store], check=True)
            try:
                objects.out()
            except EbbError as error:
                assert "No space left on device" in error.text, error.text
                assert objects.pair() == old == objects.ids(), "what was put is dropped, so that there is room"
                assert not list(Path(store).rglob("*.partial"))
            subprocess.run(["mount", "-o", "remount,size=4g", store], check=True)
            objects.out()
            objects.assert_comes_back(files)
        finally:
            subprocess.run(["umount", store], check=True)


def moved(tracker: Tracker) -> int:
    progress = tracker.snapshot()
    return 0 if progress is None else progress.done


def cut(work: Callable[[Tracker], object], after: int) -> None:
    """Stop `work` when `after` bytes have moved."""
    stop = threading.Event()

    class Stopper(Tracker):
        def advance(self, count: int) -> None:
            super().advance(count)
            if moved(self) >= after:
                stop.set()

    with pytest.raises(Cancelled):
        work(Stopper(cancel=stop))


def big(objects: Objects) -> tuple[int, dict[str, str]]:
    """60 MiB that were saved, and a little more that was not: what that save moved, and what is there now."""
    xfs.make(run, objects.bench.volume, SIZE, "test")
    with objects.bench.mounted() as root:
        (root / "big").write_bytes(bytes(range(256)) * (60 * MIB // 256))
    whole = moved(objects.out())
    with objects.bench.mounted() as root:
        (root / "small").write_bytes(b"new")
        return whole, content(root)


def test_what_was_copied_is_not_copied_again() -> None:
    with embedded() as objects:
        whole, _ = big(objects)
        cut(objects.out, 50 * MIB)
        [partial] = (Path(objects.spec.location)).rglob("*.partial")
        assert len(objects.ids()) == 3, "what was put is not dropped meanwhile"
        assert moved(objects.out()) < whole - 20 * MIB
        assert not partial.exists() and objects.ids() == objects.pair()
        objects.bench.blank("other")
        whole = moved(objects.back())
        objects.bench.blank("another")
        cut(objects.back, 50 * MIB)
        assert moved(objects.back()) < whole - 20 * MIB


def test_chunks_behind_one_that_is_missing_are_copied_anew_however_often_it_is_cut_short() -> None:
    with embedded() as objects:
        whole, files = big(objects)
        cut(objects.out, 50 * MIB)
        kept = objects.bench.kept.saving.path
        lines = kept.read_text().splitlines(keepends=True)
        kept.write_text("".join(line for line in lines if not line.startswith("35 ")))
        cut(objects.out, 5 * MIB)
        assert moved(objects.out()) < whole - 25 * MIB
        objects.assert_comes_back(files)


def test_what_was_put_of_a_save_that_is_given_up_is_dropped() -> None:
    with embedded() as objects:
        made(objects, 5)
        cut(objects.out, 30 * MIB)
        assert len(objects.ids()) == 3
        objects.bench.kept.forget()  # as the release of its buffer does
        assert objects.ids() == objects.pair()
        assert not list(Path(objects.spec.location).rglob("*.partial"))


def test_a_save_does_not_go_on_when_the_volume_was_mounted_in_between() -> None:
    with embedded() as objects, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        files = made(objects, 5)
        assert killed(objects.out, 40 * MIB)
        with objects.bench.mounted() as root:
            files = change(root, 7)
        objects.out()
        objects.assert_comes_back(files)


def test_a_save_that_was_renamed_is_not_done_again() -> None:
    with embedded() as objects, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        files = made(objects, 5)
        with pytest.MonkeyPatch.context() as crash:
            crash.setattr(checkpoint.Checkpoints, "forget", lambda self: None)
            objects.out()
        pair = objects.pair()
        assert objects.bench.kept.saving.load() is not None
        assert moved(objects.out()) == 0 and objects.pair() == pair
        objects.assert_comes_back(files)


def used_again(objects: Objects, what: Callable[[Path], object]) -> None:
    """A buffer of the dataset."""
    objects.bench.blank("again")
    objects.back()
    objects.bench.used(what)


@pytest.mark.parametrize("kind", ["embedded", "http"])
def test_what_is_there_already_is_not_put_again(kind: str) -> None:
    with embedded() if kind == "embedded" else behind_http() as made_up:
        objects = made_up if isinstance(made_up, Objects) else made_up[0]
        files = made(objects, 5)
        objects.out()
        pair = objects.pair()
        for _ in range(2):
            used_again(objects, content)
            objects.out()
            assert objects.pair() == pair
        objects.assert_comes_back(files)


@pytest.mark.parametrize("what", LEAST_CHANGES.values(), ids=LEAST_CHANGES)
def test_the_least_change_is_put(what: Callable[[Path], object]) -> None:
    with embedded() as objects:
        made(objects, 5)
        objects.out()
        pair = objects.pair()
        used_again(objects, what)
        with objects.bench.mounted() as root:
            files, mode = content(root), root.stat().st_mode
        objects.out()
        assert not objects.pair() & pair
        objects.assert_comes_back(files)
        with objects.bench.mounted() as root:
            assert root.stat().st_mode == mode


def test_a_pair_that_was_damaged_meanwhile_is_put_anew() -> None:
    with embedded() as objects:
        files = made(objects, 5)
        objects.out()
        used_again(objects, content)
        _, data = objects.dataset.read_text().split()
        [path] = Path(objects.spec.location).glob(f"tier0/*/{data}")
        with path.open("r+b") as file:
            file.seek(path.stat().st_size // 2)
            file.write(b"rot")
        pair = objects.pair()
        objects.out()
        assert not objects.pair() & pair
        objects.assert_comes_back(files)


def test_a_pair_of_another_dataset_file_is_not_relied_on() -> None:
    """A copy of a dataset file names objects that go when the original is saved anew."""
    with embedded() as objects:
        files = made(objects, 5)
        objects.out()
        original = objects.dataset
        objects.dataset = objects.bench.users / "copy"
        objects.dataset.write_text(original.read_text())
        os.chown(objects.dataset, USER.uid, USER.gid)
        used_again(objects, content)
        objects.out()
        assert objects.dataset.read_text() != original.read_text()
        objects.dataset, copy = original, objects.dataset
        used_again(objects, lambda root: (root / "new").touch())
        objects.out()
        objects.dataset = copy
        objects.bench.blank("back")
        objects.back()
        with objects.bench.mounted() as root:
            assert content(root) == files


def test_a_partial_object_that_is_gone_is_begun_anew() -> None:
    with embedded() as objects, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        files = made(objects, 5)
        assert killed(objects.out, 60 * MIB)
        for partial in Path(objects.spec.location).rglob("*.partial"):
            partial.unlink()
        objects.out()
        objects.assert_comes_back(files)


def test_http_begins_a_put_anew_and_drops_what_was_there() -> None:
    with behind_http() as (objects, server):
        files = made(objects, 5)
        old = objects.pair()
        assert killed(objects.out, 100 * MIB)
        assert objects.pair() == old <= set(server.objects)
        objects.out()
        objects.assert_comes_back(files)


def test_the_embedded_store_has_objects_with_holes(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.create("a", "x")
    filling = store.fill("a")
    with open(filling.descriptor, "r+b", buffering=0) as file:
        file.truncate(10 * MIB)
        filling.finish()
    assert b"".join(store.get("a")) == bytes(10 * MIB)
