"""What runs on each node of a migration's job: `python -m ebb.migrate.task copy|verify WORK`, once a node by srun.

A node copies the parts with its number; it verifies those of the next node, so that what is compared was read from the
buffer and not from the memory of who wrote it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from ebb.errors import EbbError, EnvironmentFault
from ebb.migrate import rsync, sparse, verify
from ebb.migrate.scan import Entry, Kind, Source
from ebb.migrate.work import Request, Work, here

_PAUSE = 0.5


class Progress:
    """Counts what the threads of one node have done, and writes it down twice a second at most."""

    def __init__(self, work: Work, name: str) -> None:
        self._work, self._name = work, name
        self._done: dict[int, tuple[int, int]] = {}
        self._lock = threading.Lock()
        self._written = 0.0

    def tell(self, part: int, size: int, files: int) -> None:
        """A part has come to `size` bytes and `files` files in all."""
        with self._lock:
            self._done[part] = (size, files)
            if time.monotonic() - self._written >= _PAUSE:
                self._write()

    def close(self) -> None:
        """Write the last state."""
        with self._lock:
            self._write()

    def _write(self) -> None:
        self._written = time.monotonic()
        sums = [sum(each[column] for each in self._done.values()) for column in (0, 1)]
        self._work.put(f"progress/{self._name}", sums)


class Node:
    """One node's share of one phase."""

    def __init__(self, work: Work, phase: str, number: int) -> None:
        self.work, self.phase, self.number = work, phase, number
        self.request: Request = work.request()
        self.sources = work.sources(self.request)
        self.target = work.target(self.request)
        self.xattrs = bool((work.get("plan.json") or {}).get("xattrs"))
        self.progress = Progress(work, f"{phase}.{number}")

    def run(self) -> None:
        """Do all parts of this node, as many at a time as there are. Raises EbbError."""
        check_mount(self.work)
        each: Callable[[int], None] = self.copy if self.phase == "copy" else self.verify
        owner = self.number if self.phase == "copy" else (self.number + 1) % self.request.nodes
        first = owner * self.request.parallel
        try:
            with ThreadPoolExecutor(self.request.parallel) as pool:
                for _ in pool.map(each, range(first, first + self.request.parallel)):
                    pass
            if self.phase == "copy":
                # What is only in this node's memory cannot be read back.
                subprocess.run([b"sync", b"-f", b"--", self.target], check=False)
        finally:
            self.progress.close()

    def copy(self, part: int) -> None:
        """Copy one part: an rsync for each source it has files of, and cp for files that are mostly holes."""
        entries = list(self.work.entries(f"{part}"))
        done = (0, 0)
        for index, source in enumerate(self.sources):
            mine = [entry for entry in entries if entry.source == index]
            holey = {
                entry.path for entry in mine if sparse.is_sparse(os.path.join(source.base, entry.path), entry.size)
            }
            done = self._by_rsync(part, index, [entry for entry in mine if entry.path not in holey], done)
            done = self._by_cp(part, source, [entry for entry in mine if entry.path in holey], done)

    def _by_rsync(self, part: int, index: int, mine: list[Entry], done: tuple[int, int]) -> tuple[int, int]:
        if not mine:
            return done

        def told(more: int, count: int) -> None:
            self.progress.tell(part, done[0] + more, done[1] + count)

        listing = self.work.path / "parts" / f"{part}.{index}.names"
        base = self.sources[index].base
        names = (entry.path for entry in mine)
        for line in rsync.copy(names, listing, base, self.target, xattrs=self.xattrs, told=told):
            print(line, file=sys.stderr)
        size, files = done[0] + sum(entry.size for entry in mine), done[1] + len(mine)
        self.progress.tell(part, size, files)
        return size, files

    def _by_cp(self, part: int, source: Source, mine: list[Entry], done: tuple[int, int]) -> tuple[int, int]:
        size, files = done
        for entry in mine:
            paths = (os.path.join(source.base, entry.path), os.path.join(self.target, entry.path))

            def told(more: int, size: int = size, files: int = files) -> None:
                self.progress.tell(part, size + more, files)

            if why := sparse.copy(*paths, xattrs=self.xattrs, told=told):
                print(why, file=sys.stderr)
            size, files = size + entry.size, files + 1
            self.progress.tell(part, size, files)
        return size, files

    def verify(self, part: int) -> None:
        """Compare one part with its source, and write down what is wrong."""
        size = files = bare = 0
        found: list[tuple[str, str, str]] = []

        def told(more: int) -> None:
            nonlocal size
            size += more
            self.progress.tell(part, size, files)

        for entry in self.work.entries(f"{part}"):
            source = os.path.join(self.sources[entry.source].base, entry.path)
            finding = verify.compare(source, os.path.join(self.target, entry.path), entry, told)
            if finding:
                found.append((finding[0].value, os.fsdecode(entry.path), finding[1]))
            files += 1
            bare += not self.xattrs and _has_xattrs(source, entry)
            self.progress.tell(part, size, files)
        self.work.put(f"parts/{part}.found", {"files": files, "bytes": size, "found": found, "bare": bare})


def _has_xattrs(path: bytes, entry: Entry) -> bool:
    with contextlib.suppress(OSError):
        return entry.kind is Kind.FILE and any(name.startswith("user.") for name in os.listxattr(path))
    return False


def check_mount(work: Work) -> None:
    """Never copy into the empty directory below. Raises EnvironmentFault if the buffer is not mounted here."""
    if not os.path.ismount(work.mountpoint):
        raise EnvironmentFault(
            f"the buffer is not mounted at {work.mountpoint} on {here()}: "
            "is Ebb's SPANK plugin installed there? Nothing was copied"
        )


def main() -> int:
    """The command line."""
    phase, path = sys.argv[1:3]
    number = int(os.environ.get("SLURM_PROCID", "0"))
    work = Work(Path(path))
    try:
        Node(work, phase, number).run()
    except (EbbError, OSError) as error:
        why = error.text if isinstance(error, EbbError) else f"{here()}: {error}"
        print(f"ebb: {why}", file=sys.stderr)
        work.put(f"parts/failed.{phase}.{number}", why)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
