"""Stage-in and stage-out of a dataset against `cp --sparse=always` and `dd bs=4M` of the same bytes, in turns.

The volume is a block device (a loop device, as LVM's are block devices too), the dataset a file beside it. The page
cache is treated the same for all three: before each run source and target are written out and their pages dropped, and
a run ends when its target is on the disk: `cp` and `dd` are followed by `sync FILE` (fsync); ours syncs file and
directory itself. Ours includes all it does: acting as the user, looking at the file system, digests, checkpoints,
header, renaming. Making the volume zeros comes before and does not count for anybody.

`HESTIA@` rows are the same with the embedded object store beside the volume; ours also reads back what it has put.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from bench.measure import Row, seconds
from dnd.hestia import dataset, saving
from dnd.hestia.embedded import EmbeddedStore
from dnd.hestia.ledger import Ledger
from dnd.hestia.store import Pauses
from dnd.hestia.stores import open_store
from dnd.staging import settled, source_file, target_file
from dnd.staging.image import Image
from dnd.staging.kept import Kept, Remembered, Stamp
from dnd.staging.progress import Tracker
from dnd.tools import xfs
from dnd.tools.namespace import with_own_mounts
from ebb.as_user import AsUser
from ebb.extents import Extents
from ebb.objectstore import ObjectStore, StoreKind
from ebb.run import run

MIB = 1 << 20
SIZE = 1024 * MIB
KEY = b"k" * 32
NOBODY = AsUser(65534, 65534)
ROUNDS = 5
_FILE = 4 * MIB


@dataclass(frozen=True, slots=True)
class Place:
    """Where a bench works. kind: of file system that the datasets are on."""

    folder: Path
    users: Path
    device: Path
    kind: str

    @property
    def dataset(self) -> Path:
        return self.users / "dataset"

    @property
    def store(self) -> Path:
        return self.folder / "store"

    @property
    def mountpoint(self) -> Path:
        return self.folder / "mnt"

    @property
    def kept(self) -> Kept:
        return Kept(self.folder / "staging", "bench")


def rows() -> list[Row]:
    """A row for each case and tool: seconds of ours over seconds of the other, median of the rounds."""
    # In a namespace of their own no test that makes one meanwhile gets a copy of these mounts, and keeps them busy.
    return with_own_mounts(_rows)


def _rows() -> list[Row]:
    found: list[Row] = []
    with _place(reflinks=False) as place:
        for percent in (0, 10, 50, 100):
            budget = 0.33 if percent <= 10 else 1.0
            _fill(place, percent)
            what = "empty" if percent == 0 else f"{percent} % full"
            found += _compared(place, f"stage-out, {what}", _out, place.device, place.dataset, budget)
            _out(place)
            found += _compared(place, f"HESTIA@ stage-out, {what}", _put, place.device, place.dataset, budget)
            _put(place)
            if percent == 50:
                what_again = "HESTIA@ stage-out again, 50 % full, unchanged"
                found += _compared(place, what_again, _put_again, place.device, place.dataset, budget)
            found += _compared(place, f"stage-in, {what}", _in, place.dataset, place.device, budget)
            found += _compared(place, f"HESTIA@ stage-in, {what}", _get, place.dataset, place.device, budget)
    for reflinks in (False, True):
        with _place(reflinks=reflinks) as place:
            _fill(place, 50)
            _out(place)
            for what, change in (("unchanged", 0), ("1 % changed", 1)):
                _wipe(place)
                _in(place)
                _change(place, change)
                name = f"stage-out again, 50 % full, {what}, on {place.kind}"
                found += _compared(place, name, _again, place.device, place.dataset, 0.33 if reflinks else 1.0)
                _out(place)
    return found


def _compared(
    place: Place, name: str, ours: Callable[[Place], None], source: Path, target: Path, budget: float
) -> list[Row]:
    tools: dict[str, Callable[[], object]] = {
        "ours": lambda: ours(place),
        "cp": lambda: _copied(["cp", "--sparse=always", str(source), str(target)], target),
        "dd": lambda: _copied(["dd", "bs=4M", "status=none", f"if={source}", f"of={target}"], target),
    }
    times: dict[str, list[float]] = {tool: [] for tool in tools}
    names = list(tools)
    for number in range(ROUNDS + 1):
        for tool in names[number % 3 :] + names[: number % 3]:
            if ours is _put:
                _drop_objects(place)
            _prepare(place, source, target, tool)
            times[tool].append(seconds(tools[tool]))
        _restore(place, target)
    median = {tool: statistics.median(each[1:]) for tool, each in times.items()}
    sys.stderr.write(f"bench: {name}: {', '.join(f'{tool} {each:.2f} s' for tool, each in median.items())}\n")
    return [
        Row(
            f"{name}: ours over {tool}",
            statistics.median(a / b for a, b in zip(times["ours"][1:], times[tool][1:], strict=True)),
            "ratio",
            # dd reads and writes it all; cp skips what is zeros as we do.
            budget if tool == "dd" else 1.0,
            f"{median['ours']:.2f} s against {median[tool]:.2f} s",
        )
        for tool in ("cp", "dd")
    ]


def _prepare(place: Place, source: Path, target: Path, tool: str) -> None:
    """The same start for each tool: what is read is cold, what is written is new."""
    if target == place.device:
        _wipe(place)
    elif tool != "ours":
        # Ours writes aside and replaces; the others get a new file too, and the old one stays for ours.
        if not (place.users / "old").exists() and target.exists():
            os.rename(target, place.users / "old")
        target.unlink(missing_ok=True)
    else:
        _restore(place, target)
    for path in (source, target, *place.store.glob("tier*/*/*")):
        if path.exists():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    subprocess.run(["blockdev", "--flushbufs", str(place.device)], check=True)


def _drop_objects(place: Place) -> None:
    """What is put is new: a pair that holds it already would not be put again."""
    for path in (place.users / "pair", *place.store.glob("*/*.json"), *place.store.glob("tier*/*/*")):
        path.unlink(missing_ok=True)


def _restore(place: Place, target: Path) -> None:
    old = place.users / "old"
    if target == place.dataset and old.exists():
        os.replace(old, target)


def _copied(argv: list[str], target: Path) -> None:
    subprocess.run(argv, check=True)
    subprocess.run(["sync", str(target)], check=True)


def _image(place: Place) -> Image:
    def used() -> Extents:
        return settled.used_bytes(run, place.device, place.mountpoint, ())

    return Image(place.device, SIZE, {"name": "bench"}, used)


def _out(place: Place) -> None:
    target_file.stage_out(NOBODY, str(place.dataset), KEY, _image(place), "1", place.kept, Tracker())


def _again(place: Place) -> None:
    """A stage-out of what was staged in before; that it has replaced the dataset since must not count."""
    kept = place.users / "kept"
    if not kept.exists():
        os.link(place.dataset, kept)
    remembered = place.kept.source()
    descriptor = os.open(kept, os.O_RDONLY)
    if remembered is not None:
        stamp = Stamp.of(descriptor)
        place.kept.remember(Remembered(str(kept), stamp))
    os.close(descriptor)
    _out(place)


def _in(place: Place) -> None:
    place.kept.filling.forget()
    source_file.stage_in(NOBODY, str(place.dataset), KEY, place.device, SIZE, place.kept, Tracker())


def _put(place: Place) -> None:
    ledger = Ledger(place.folder / "objects", open_store)
    tracker, kept = Tracker(), place.kept.saving
    saving.stage_out(_access(place), str(place.users / "pair"), _image(place), "1", tracker, ledger, kept)


def _put_again(place: Place) -> None:
    """The pair of an earlier `_put` is there."""
    _put(place)


def _get(place: Place) -> None:
    filling = place.kept.filling
    filling.forget()
    dataset.stage_in(_access(place), str(place.users / "pair"), "bench", place.device, SIZE, filling, Tracker())


def _access(place: Place) -> dataset.Access:
    spec = ObjectStore(StoreKind.EMBEDDED, str(place.store))
    return dataset.Access(NOBODY, KEY, spec, EmbeddedStore(place.store), Pauses())


def _wipe(place: Place) -> None:
    subprocess.run(["blkdiscard", "--force", "--zeroout", str(place.device)], check=True, capture_output=True)


def _fill(place: Place, percent: int) -> None:
    """A new file system with files of random bytes in it."""
    _wipe(place)
    xfs.make(run, place.device, SIZE, "bench")
    with _mounted(place):
        for number in range(SIZE * percent // 100 // _FILE):
            (place.mountpoint / f"f{number}").write_bytes(os.urandom(_FILE))
            if os.statvfs(place.mountpoint).f_bavail * 4096 < 2 * _FILE:
                break


def _change(place: Place, percent: int) -> None:
    with _mounted(place):
        files = sorted(place.mountpoint.glob("f*"))
        for path in files[: len(files) * percent // 100 or percent]:
            path.write_bytes(os.urandom(_FILE))


@contextmanager
def _mounted(place: Place) -> Iterator[None]:
    subprocess.run(["mount", str(place.device), str(place.mountpoint)], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", str(place.mountpoint)], check=True)


@contextmanager
def _place(*, reflinks: bool) -> Iterator[Place]:
    """A folder on a disk, a loop device as the volume, and a folder of a user's, on an XFS of its own or beside."""
    with tempfile.TemporaryDirectory(prefix="ebb-bench-", dir="/var/tmp") as name:
        folder = Path(name)
        folder.chmod(0o755)
        users = folder / "users"
        for each in (users, folder / "mnt", folder / "store"):
            each.mkdir()
        with (folder / "volume").open("wb") as file:
            file.truncate(SIZE + 4 * MIB)  # cp and dd bring the header too; LVM rounds up as well
        attach = ["losetup", "--find", "--show", str(folder / "volume")]
        device = Path(subprocess.run(attach, check=True, capture_output=True, text=True).stdout.strip())
        try:
            if reflinks:
                _mount_users(folder, users)
            os.chown(users, NOBODY.uid, NOBODY.gid)
            kind = "XFS" if reflinks else "the disk's own file system"
            yield Place(folder, users, device, kind)
        finally:
            if reflinks:
                subprocess.run(["umount", str(users)], check=False)
            subprocess.run(["losetup", "--detach", str(device)], check=True)


def _mount_users(folder: Path, users: Path) -> None:
    with (folder / "users.img").open("wb") as file:
        file.truncate(6 * SIZE)
    subprocess.run(["mkfs.xfs", "-q", str(folder / "users.img")], check=True)
    subprocess.run(["mount", "-o", "loop", str(folder / "users.img"), str(users)], check=True)
