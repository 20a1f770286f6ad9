"""Volumes with a real XFS to datasets and back: whatever was in them, whatever changed, wherever it was cut short."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dnd.staging import checkpoint, source_file, target_file
from dnd.staging.kept import Remembered, Stamp
from dnd.staging.progress import Cancelled, Tracker
from dnd.tools import fsmap, xfs
from ebb.dataset import HEADER_SIZE, HOLE
from ebb.errors import EnvironmentFault, UserError
from ebb.extents import Extents
from ebb.run import run
from unit.dnd.copies import LEAST_CHANGES, USER, a_bench, change, content, killed, property_test
from unit.dnd.datanode import GID, MIB, SIZE, UID

pytestmark = [pytest.mark.datanode, pytest.mark.usefixtures("private_system")]
GARBAGE = b"another user's secret"


@given(seeds=st.lists(st.integers(0, 1 << 30), min_size=1, max_size=3), reflinks=st.booleans())
@property_test
def test_whatever_changes_comes_back(seeds: list[int], reflinks: bool) -> None:
    with a_bench(reflinks) as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        for number, seed in enumerate(seeds):
            with bench.mounted() as root:
                files = change(root, seed)
            bench.out()
            bench.blank(f"volume{number}")
            bench.back()
            bench.assert_whole()
            with bench.mounted() as root:
                assert content(root) == files


@given(
    seed=st.integers(0, 1 << 30),
    points=st.lists(st.integers(1, 70 * MIB), min_size=1, max_size=3),
    reflinks=st.booleans(),
)
@property_test
def test_a_save_killed_anywhere_keeps_the_old_dataset_and_ends_as_if_it_had_not_been(
    seed: int, points: list[int], reflinks: bool
) -> None:
    with a_bench(reflinks) as bench, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        xfs.make(run, bench.volume, SIZE, "test")
        if reflinks:  # the new dataset begins as a twin of one in which other chunks hold something
            with bench.mounted() as root:
                change(root, seed + 1)
        bench.out()
        if reflinks:
            bench.blank("other")
            bench.back()
        old = bench.dataset.read_bytes()
        with bench.mounted() as root:
            files = change(root, seed)
        for point in points:
            if killed(bench.out, point):
                assert bench.dataset.read_bytes() == old
            else:  # less was to move: this is the dataset now
                old = bench.dataset.read_bytes()
        bench.out()
        assert os.listdir(bench.users) == ["ds"]
        bench.blank("other")
        bench.back()
        bench.assert_whole()
        with bench.mounted() as root:
            assert content(root) == files


@given(seed=st.integers(0, 1 << 30), points=st.lists(st.integers(1, 40 * MIB), min_size=1, max_size=3))
@property_test
def test_a_stage_in_killed_anywhere_ends_as_if_it_had_not_been(seed: int, points: list[int]) -> None:
    with a_bench() as bench, pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "SECONDS", 0.005)
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            change(root, seed)
        bench.out()
        bench.blank("other")
        for point in points:
            killed(bench.back, point)
        bench.back()
        bench.assert_whole()
        image = bench.dataset.read_bytes()[HEADER_SIZE:]
        assert bench.volume.read_bytes() == image


def test_what_was_copied_is_not_copied_again() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "big").write_bytes(os.urandom(60 * MIB))

        def cut(work: Callable[[Tracker], Tracker]) -> tuple[int, int]:
            """Bytes to move at first, and after it was stopped half way."""
            stop = threading.Event()

            class Stopper(Tracker):
                def advance(self, count: int) -> None:
                    super().advance(count)
                    progress = self.snapshot()
                    if progress and progress.done >= 30 * MIB:
                        stop.set()

            first = Stopper(cancel=stop)
            with pytest.raises(Cancelled):
                work(first)
            before, after = first.snapshot(), work(Tracker()).snapshot()
            assert before is not None and after is not None
            return before.total, after.total

        whole, rest = cut(bench.out)
        assert 0 < rest < whole - 20 * MIB
        bench.blank("other")
        whole, rest = cut(bench.back)
        assert 0 < rest < whole - 20 * MIB
        bench.assert_whole()


def test_a_save_does_not_go_on_when_the_volume_was_mounted_in_between() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "big").write_bytes(os.urandom(40 * MIB))
        killed(bench.out, 20 * MIB)
        with bench.mounted() as root:
            files = change(root, 7)
        bench.out()
        bench.blank("other")
        bench.back()
        with bench.mounted() as root:
            assert {name: digest for name, digest in content(root).items() if name != "big"} == {
                name: digest for name, digest in files.items() if name != "big"
            }
        bench.assert_whole()


@pytest.mark.parametrize("options", ["loop,offset=1MiB,ro,norecovery", "loop,offset=1MiB,ro"])
def test_a_dataset_is_looked_into_as_its_page_says(options: str) -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            files = change(root, 11)
        bench.out()
        saved = bench.dataset.read_bytes()
        subprocess.run(["mount", "-o", options, str(bench.dataset), str(bench.mountpoint)], check=True)
        try:
            assert content(bench.mountpoint) == files
        finally:
            subprocess.run(["umount", str(bench.mountpoint)], check=True)
        assert bench.dataset.read_bytes() == saved


def test_free_blocks_are_not_saved_on_a_block_device() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "gone").write_bytes(GARBAGE * (40 * MIB // len(GARBAGE)))
            (root / "kept").write_bytes(os.urandom(5 * MIB))
        with bench.mounted() as root:
            (root / "gone").unlink()
        file = bench.volume
        attach = ["losetup", "--find", "--show", str(file)]
        device = Path(subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip())
        bench.volume, bench.options = device, ()
        try:
            assert GARBAGE in file.read_bytes()
            moved = bench.out().snapshot()
        finally:
            subprocess.run(["losetup", "--detach", str(device)], check=True)
        saved = bench.dataset.read_bytes()
        assert GARBAGE not in saved and moved is not None and moved.total < SIZE // 2
        bench.options = ("loop",)
        bench.blank("other")
        bench.back()
        bench.assert_whole()
        with bench.mounted() as root:
            assert os.listdir(root) == ["kept"]


def test_a_dirty_file_system_is_settled_before_it_is_saved() -> None:
    """A node that lost power leaves a journal to replay: its last words are in the dataset."""
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "last").write_bytes(b"words")
            subprocess.run(["sync", "-f", str(root)], check=True)
            (root / "last").rename(root / "very last")
            directory = os.open(root, os.O_RDONLY)
            os.fsync(directory)
            os.close(directory)
            crashed = bench.volume.read_bytes()
        bench.volume.write_bytes(crashed)
        bench.out()
        bench.blank("other")
        bench.back()
        bench.assert_whole()
        with bench.mounted() as root:
            assert (root / "very last").read_bytes() == b"words"


def test_a_save_waits_for_commands_that_other_threads_are_just_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    """They have the daemon's descriptors for a moment, so the file system cannot be unmounted yet."""
    free = fsmap.free
    children: list[subprocess.Popen[bytes]] = []

    def while_one_starts(mountpoint: Path) -> Extents:
        directory = os.open(mountpoint, os.O_RDONLY)
        children.append(subprocess.Popen(["sleep", "0.3"], pass_fds=[directory]))
        os.close(directory)
        return free(mountpoint)

    monkeypatch.setattr(fsmap, "free", while_one_starts)
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        bench.out()
        bench.assert_whole()
    assert [child.wait(timeout=10) for child in children] == [0]


def shared_bytes(path: Path) -> int:
    """Bytes of a file whose blocks it shares with another one (filefrag(8))."""
    lines = subprocess.run(
        ["filefrag", "-v", str(path)], check=True, capture_output=True, text=True
    ).stdout.splitlines()
    return sum(int(line.split(":")[3]) * 4096 for line in lines if "shared" in line)


def test_a_second_save_writes_only_what_changed() -> None:
    with a_bench(reflinks=True) as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "big").write_bytes(os.urandom(60 * MIB))
        bench.out()
        bench.blank("other")
        bench.back()
        with bench.mounted() as root:
            (root / "small").write_bytes(b"new")
        os.link(bench.dataset, bench.users / "old")
        # A hard link changes the time of the last change, as any user's act would: forgotten by what was noted.
        with bench.dataset.open("rb") as file:
            stamp = Stamp.of(file.fileno())
        bench.kept.remember(Remembered(str(bench.dataset), stamp))
        bench.out()
        assert shared_bytes(bench.dataset) >= 55 * MIB
        bench.assert_whole()


def test_what_did_not_change_is_not_written_again() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            files = change(root, 3)
        bench.out()
        saved, inode = bench.dataset.read_bytes(), bench.dataset.stat().st_ino
        for _ in range(2):
            bench.blank("other")
            bench.back()
            bench.used(content)
            bench.out()
        assert bench.dataset.stat().st_ino == inode and bench.dataset.read_bytes() == saved
        assert os.listdir(bench.users) == ["ds"]
        bench.blank("other")
        bench.back()
        with bench.mounted() as root:
            assert content(root) == files


@pytest.mark.parametrize("what", LEAST_CHANGES.values(), ids=LEAST_CHANGES)
def test_the_least_change_is_written(what: Callable[[Path], object]) -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            change(root, 3)
        bench.out()
        inode = bench.dataset.stat().st_ino
        bench.blank("other")
        bench.back()
        bench.used(what)
        with bench.mounted() as root:
            files, mode = content(root), root.stat().st_mode
        bench.out()
        assert bench.dataset.stat().st_ino != inode
        bench.blank("another")
        bench.back()
        bench.assert_whole()
        with bench.mounted() as root:
            assert content(root) == files and root.stat().st_mode == mode


def test_chunks_of_a_dataset_that_was_changed_since_are_not_taken_over() -> None:
    with a_bench(reflinks=True) as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "big").write_bytes(os.urandom(40 * MIB))
        bench.out()
        bench.blank("other")
        bench.back()
        first = next(n for n, digest in enumerate(bench.header().digests) if digest != HOLE)
        with bench.dataset.open("r+b") as file:
            file.seek(HEADER_SIZE + first * MIB + 40)
            file.write(b"rot")
        bench.out()
        bench.assert_whole()


def test_a_full_or_read_only_target_keeps_old_dataset_and_volume() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size=6m,uid={UID},gid={GID}", "tmpfs", str(bench.users)], check=True
        )
        try:
            bench.dataset.write_text("the old dataset")
            with bench.mounted() as root:
                (root / "big").write_bytes(os.urandom(20 * MIB))
            before = bench.volume.stat().st_size
            with pytest.raises(
                UserError, match=r"No space left on device; it needs up to .* make room and destroy again"
            ):
                bench.out()
            assert os.listdir(bench.users) == ["ds"] and bench.dataset.read_text() == "the old dataset"
            subprocess.run(["mount", "-o", "remount,ro", str(bench.users)], check=True)
            with pytest.raises((UserError, EnvironmentFault), match=r"[Rr]ead-only file system|no permission"):
                bench.out()
            assert bench.dataset.read_text() == "the old dataset" and bench.volume.stat().st_size == before
        finally:
            subprocess.run(["umount", str(bench.users)], check=True)
        bench.out()
        bench.blank("other")
        bench.back()
        bench.assert_whole()


@given(seed=st.integers(0, 1 << 30), room=st.integers(1, 60))
@property_test
def test_a_target_that_is_full_at_any_point_keeps_old_dataset_and_volume(seed: int, room: int) -> None:
    with a_bench() as bench:
        owner = f"uid={UID},gid={GID}"
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=4g,{owner}", "tmpfs", str(bench.users)], check=True)
        try:
            xfs.make(run, bench.volume, SIZE, "test")
            with bench.mounted() as root:
                change(root, seed)
            bench.out()
            old = bench.dataset.read_bytes()
            used = bench.dataset.stat().st_blocks * 512 // MIB + 1
            with bench.mounted() as root:
                files = change(root, seed + 1)
            subprocess.run(["mount", "-o", f"remount,size={used + room}m", str(bench.users)], check=True)
            try:
                bench.out()
            except UserError as error:
                assert "make room and destroy again, the data is kept" in error.text
                assert os.listdir(bench.users) == ["ds"], "what was written is removed, so that there is room"
                assert bench.dataset.read_bytes() == old
            subprocess.run(["mount", "-o", "remount,size=4g", str(bench.users)], check=True)
            bench.out()
            bench.blank("other")
            bench.back()
            bench.assert_whole()
            with bench.mounted() as root:
                assert content(root) == files
        finally:
            subprocess.run(["umount", str(bench.users)], check=True)


def test_a_link_swapped_in_for_the_partial_file_is_not_followed() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        with bench.mounted() as root:
            (root / "big").write_bytes(os.urandom(40 * MIB))
        victim = bench.folder / "victim"
        victim.write_text("not yours")
        victim.chmod(0o666)
        killed(bench.out, 20 * MIB)
        partial = bench.users / "ds.ebb-1.partial"
        partial.unlink()
        partial.symlink_to(victim)
        bench.out()
        assert victim.read_text() == "not yours"
        bench.blank("other")
        bench.back()
        bench.assert_whole()


def test_an_image_of_another_site_is_taken_only_where_that_is_allowed() -> None:
    with a_bench() as bench:
        xfs.make(run, bench.volume, SIZE, "test")
        bench.out()
        with pytest.raises(UserError, match="seal does not fit"):
            source_file.check_source(USER, str(bench.dataset), b"o" * 32, SIZE)
        assert source_file.check_source(USER, str(bench.dataset), b"o" * 32, SIZE, foreign=True)
        bench.blank("other")
        header = source_file.stage_in(
            USER, str(bench.dataset), b"o" * 32, bench.volume, SIZE, bench.kept, Tracker(), foreign=True
        )
        assert header.foreign
        xfs.check(run, bench.volume)
        target_file.stage_out(USER, str(bench.dataset), b"o" * 32, bench.image(), "1", bench.kept, Tracker())
        assert not source_file.check_source(USER, str(bench.dataset), b"o" * 32, SIZE), "it has the site's seal now"
        with bench.volume.open("r+b") as file:
            file.seek(4096 * 12)
            file.write(os.urandom(64 * 1024))
        with pytest.raises(UserError, match="no sound XFS"):
            xfs.check(run, bench.volume)
