"""A volume with a real XFS, a user's folder, random changes and kill -9, for tests of copies."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import HealthCheck, settings

from dnd.staging import settled, source_file, target_file
from dnd.staging.image import Image
from dnd.staging.kept import Kept
from dnd.staging.progress import Tracker
from dnd.tools import xfs
from ebb.as_user import AsUser
from ebb.dataset import HEADER_SIZE, HOLE, DatasetHeader
from ebb.dataset_check import damaged_chunks
from ebb.run import run
from unit.dnd.datanode import GID, MIB, SIZE, UID

KEY = b"k" * 32
USER = AsUser(UID, GID)
property_test = settings(
    max_examples=6, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)


class Bench:
    """A volume, a user's folder, and what dnd keeps of their copies."""

    def __init__(self, folder: Path, users: Path) -> None:
        self.folder, self.users = folder, users
        self.mountpoint = folder / "mnt"
        self.mountpoint.mkdir()
        self.volume = folder / "volume"
        self.options: tuple[str, ...] = ("loop",)
        self.kept = Kept(folder / "staging", "volume")
        self.dataset = users / "ds"
        self.blank()

    def blank(self, name: str = "volume") -> None:
        """A new volume, nothing kept of the one before."""
        self.volume = self.folder / name
        self.volume.unlink(missing_ok=True)
        with self.volume.open("wb") as file:
            file.truncate(SIZE)
        self.kept.filling.forget()
        self.kept.saving.forget()

    @contextmanager
    def mounted(self) -> Iterator[Path]:
        subprocess.run(["mount", "-o", "loop", str(self.volume), str(self.mountpoint)], check=True)
        try:
            yield self.mountpoint
        finally:
            subprocess.run(["umount", str(self.mountpoint)], check=True)

    def image(self) -> Image:
        return Image(
            self.volume,
            SIZE,
            {"name": "test"},
            lambda: settled.used_bytes(run, self.volume, self.mountpoint, self.options),
        )

    def out(self, tracker: Tracker | None = None) -> Tracker:
        tracker = tracker or Tracker()
        target_file.stage_out(USER, str(self.dataset), KEY, self.image(), "1", self.kept, tracker)
        return tracker

    def back(self, tracker: Tracker | None = None) -> Tracker:
        tracker = tracker or Tracker()
        source_file.stage_in(USER, str(self.dataset), KEY, self.volume, SIZE, self.kept, tracker)
        return tracker

    def used(self, what: Callable[[Path], object]) -> None:
        """What becomes of a volume that was filled from a dataset: a new UUID, mounted, `what` done in it."""
        xfs.renew_identity(run, self.volume)
        for each in (lambda root: xfs.grow(run, root, SIZE), what):
            with self.mounted() as root:
                each(root)

    def header(self) -> DatasetHeader:
        return DatasetHeader.unpack(self.dataset.read_bytes()[:HEADER_SIZE], KEY)

    def assert_whole(self) -> None:
        """Every byte is what the header says, and the image is a sound XFS."""
        with self.dataset.open("rb") as file:
            header = self.header()
            assert damaged_chunks(file.fileno(), header) == []
            for number, digest in enumerate(header.digests):
                if digest == HOLE:
                    file.seek(HEADER_SIZE + number * header.chunk_size)
                    assert not file.read(header.chunk_size).strip(b"\0"), f"chunk {number} is to be zeros"
        xfs.check(run, self.volume)


@contextmanager
def a_bench(reflinks: bool = False) -> Iterator[Bench]:
    with tempfile.TemporaryDirectory(prefix="staging-", dir="/run") as name:
        folder, users = Path(name), Path(name) / "users"
        folder.chmod(0o755)
        users.mkdir()
        if reflinks:
            with (folder / "users.img").open("wb") as file:
                file.truncate(2 << 30)
            subprocess.run(["mkfs.xfs", "-q", str(folder / "users.img")], check=True)
            subprocess.run(["mount", "-o", "loop", str(folder / "users.img"), str(users)], check=True)
        os.chown(users, UID, GID)
        try:
            yield Bench(folder, users)
        finally:
            if reflinks:
                subprocess.run(["umount", str(users)], check=True)


def change(root: Path, seed: int) -> dict[str, str]:
    """Make, change, lengthen and drop files at random; the digest of each that is there at the end."""
    chance = random.Random(seed)
    for number in range(chance.randrange(4, 40)):
        path = root / f"d{number % 3}" / f"f{chance.randrange(30)}"
        path.parent.mkdir(exist_ok=True)
        action = chance.randrange(4)
        if action == 0:
            path.unlink(missing_ok=True)
        elif action == 1 and path.exists():
            with path.open("r+b") as file:
                file.seek(chance.randrange(path.stat().st_size + 1))
                file.write(chance.randbytes(chance.randrange(1, 300_000)))
        else:
            with path.open("wb") as file:
                file.seek(chance.choice([0, 0, 5 * MIB]))  # a hole in front
                file.write(chance.randbytes(chance.randrange(1, 2 * MIB)))
    return content(root)


def content(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def killed(work: Callable[[Tracker], object], after: int) -> bool:
    """Do `work` in a child that kills itself -9 as soon as `after` bytes have moved; False if it ended before."""

    class Killer(Tracker):
        moved = 0

        def advance(self, count: int) -> None:
            super().advance(count)
            self.moved += count
            if self.moved >= after:
                os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            work(Killer())
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def first(root: Path) -> Path:
    """One of the files."""
    return root / next(iter(content(root)))


def overwrite(path: Path) -> None:
    """One bit, in place; the times that a user sees stay."""
    found = path.stat()
    with path.open("r+b", buffering=0) as file:
        byte = file.read(1)
        file.seek(0)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns))


LEAST_CHANGES: dict[str, Callable[[Path], object]] = {
    "a new file": lambda root: (root / "new").touch(),
    "the root's mode": lambda root: root.chmod(0o700),
    "a file's mode": lambda root: first(root).chmod(0o640),
    "a name": lambda root: first(root).rename(root / "renamed"),
    "a time": lambda root: os.utime(first(root), (1, 1)),
    "an attribute": lambda root: os.setxattr(root, "user.note", b"x"),
    "a bit": lambda root: overwrite(first(root)),
}
