"""Does the same random things to a file tree in a buffer and to a plain one, and looks whether they stay the same.

checker.py TREE PLAIN SEED STEPS [LARGEST]

Run as the owner, where the buffer is mounted; exit 1 at the first difference.
"""

from __future__ import annotations

import errno
import mmap
import os
import random
import stat
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path


class Pair:
    """One tree in the buffer, one beside it; every step is done to both and must answer the same."""

    def __init__(self, trees: tuple[Path, Path], chance: random.Random, largest: int) -> None:
        self.trees = trees
        self.chance = chance
        self.largest = largest
        self.open: list[tuple[int, int]] = []
        self.done: list[str] = []
        self.names = [f"f{n}" for n in range(6)] + [f"d/f{n}" for n in range(3)]
        for tree in trees:
            (tree / "d").mkdir(parents=True, exist_ok=True)

    def both(self, what: str, step: Callable[[int], object]) -> object:
        answers = []
        self.done.append(what)
        for side in range(2):
            try:
                answers.append(step(side))
            except OSError as error:
                answers.append(errno.errorcode[error.errno or 0])
        if answers[0] != answers[1]:
            short = [
                a if not isinstance(a, bytes) or len(a) < 100 else _difference(answers, n)
                for n, a in enumerate(answers)
            ]
            raise AssertionError(f"{what}: in the buffer {short[0]!r}, plain {short[1]!r}")
        return answers[0]

    def name(self) -> str:
        return self.chance.choice(self.names)

    def path(self, side: int, name: str) -> str:
        return str(self.trees[side] / name)

    def span(self) -> tuple[int, int]:
        offset = self.chance.choice([0, self.chance.randrange(self.largest), self.chance.randrange(4096) * 61])
        return offset, self.chance.choice([1, 7, 100, 4096, 65536, self.chance.randrange(1, 100_000)])

    def data(self, size: int) -> bytes:
        return self.chance.randbytes(size)

    def step_open(self) -> None:
        flags = self.chance.choice([os.O_RDWR, os.O_RDONLY, os.O_WRONLY]) | self.chance.choice(
            [0, os.O_CREAT, os.O_CREAT]
        )
        flags |= self.chance.choice([0, 0, 0, os.O_TRUNC if flags & (os.O_WRONLY | os.O_RDWR) else 0, os.O_APPEND])
        name = self.name()
        fds: list[int] = []

        def step(side: int) -> str:
            fds.append(os.open(self.path(side, name), flags, 0o644))
            return "opened"

        self.both(f"open {name} {flags:o}", step)
        if len(fds) == 2:
            self.open.append((fds[0], fds[1]))
            self.done[-1] += f": {fds[0]}"
        if len(self.open) > 8:
            self.step_close()

    def step_close(self) -> None:
        if self.open:
            fds = self.open.pop(self.chance.randrange(len(self.open)))
            self.both(f"close {fds[0]}", lambda side: os.close(fds[side]))

    def step_write(self) -> None:
        if self.open:
            fds = self.chance.choice(self.open)
            offset, size = self.span()
            data = self.data(size)
            self.both(f"{fds[0]}: write {size} at {offset}", lambda side: os.pwrite(fds[side], data, offset))

    def step_append(self) -> None:
        if self.open:
            fds = self.chance.choice(self.open)
            data = self.data(self.chance.randrange(1, 5000))
            self.both(f"{fds[0]}: write on, {len(data)}", lambda side: os.write(fds[side], data))

    def step_read(self) -> None:
        if self.open:
            fds = self.chance.choice(self.open)
            offset, size = self.span()
            self.both(f"{fds[0]}: read {size} at {offset}", lambda side: os.pread(fds[side], size, offset))

    def whole(self, name: str, side: int) -> bytes:
        return Path(self.path(side, name)).read_bytes()

    def step_whole(self) -> None:
        name = self.name()
        self.both(f"all of {name}", partial(self.whole, name))

    def step_truncate(self) -> None:
        name, size = self.name(), self.chance.choice([0, 1, 4096, 65536, self.chance.randrange(self.largest)])
        self.both(f"truncate {name} to {size}", lambda side: os.truncate(self.path(side, name), size))

    def step_ftruncate(self) -> None:
        if self.open:
            fds, size = self.chance.choice(self.open), self.chance.randrange(self.largest)
            self.both(f"{fds[0]}: ftruncate to {size}", lambda side: os.ftruncate(fds[side], size))

    def step_stat(self) -> None:
        name = self.name()

        def step(side: int) -> object:
            now = os.stat(self.path(side, name))
            return stat.S_IFMT(now.st_mode), now.st_size, now.st_nlink

        self.both(f"stat {name}", step)

    def step_fstat(self) -> None:
        if self.open:
            fds = self.chance.choice(self.open)
            self.both(f"{fds[0]}: fstat", lambda side: (os.fstat(fds[side]).st_size, os.fstat(fds[side]).st_nlink))

    def step_times(self) -> None:
        name, when = self.name(), self.chance.randrange(1_000_000_000) * 1_000_000_000 + 123_456_789
        self.both(f"utime {name}", lambda side: os.utime(self.path(side, name), ns=(when, when)))
        self.both(f"mtime {name}", lambda side: os.stat(self.path(side, name)).st_mtime_ns)

    def step_rename(self) -> None:
        old, new = self.name(), self.name()
        self.both(f"rename {old} {new}", lambda side: os.rename(self.path(side, old), self.path(side, new)))

    def step_link(self) -> None:
        old, new = self.name(), self.name()
        self.both(f"link {old} {new}", lambda side: os.link(self.path(side, old), self.path(side, new)))

    def step_unlink(self) -> None:
        name = self.name()
        self.both(f"unlink {name}", lambda side: os.unlink(self.path(side, name)))

    def step_symlink(self) -> None:
        name = self.name()
        to = self.name().rpartition("/")[2]
        self.both(f"symlink {name} {to}", lambda side: os.symlink(to, self.path(side, name)))

    def step_list(self) -> None:
        self.both(
            "list", lambda side: [sorted(os.listdir(self.trees[side])), sorted(os.listdir(self.trees[side] / "d"))]
        )

    def step_directory(self) -> None:
        self.both("rename d", lambda side: os.rename(self.trees[side] / "d", self.trees[side] / "e"))
        self.both("rename e", lambda side: os.rename(self.trees[side] / "e", self.trees[side] / "d"))

    def step_fsync(self) -> None:
        if self.open:
            fds = self.chance.choice(self.open)
            self.both(f"{fds[0]}: fsync", lambda side: os.fsync(fds[side]))

    def step_mmap(self) -> None:
        name = self.name()
        offset, data = self.chance.randrange(self.largest), self.data(self.chance.randrange(1, 3000))

        def step(side: int) -> object:
            fd = os.open(self.path(side, name), os.O_RDWR)
            try:
                size = os.fstat(fd).st_size
                if size < len(data):
                    return "small"
                at = offset % (size - len(data) + 1)
                with mmap.mmap(fd, size) as memory:
                    before = bytes(memory[at : at + len(data)])
                    memory[at : at + len(data)] = data
                    memory.flush()
                return before
            finally:
                os.close(fd)

        self.both(f"mmap {name}", step)


def _difference(answers: list[object], side: int) -> str:
    mine, other = answers[side], answers[1 - side]
    if not isinstance(mine, bytes) or not isinstance(other, bytes):
        return f"{type(mine).__name__}"
    at = next((n for n, (a, b) in enumerate(zip(mine, other, strict=False)) if a != b), min(len(mine), len(other)))
    return f"{len(mine)} bytes, from {at}: {mine[at : at + 16].hex()}"


WEIGHTS = {
    "open": 12, "close": 8, "write": 24, "append": 8, "read": 20, "whole": 8, "truncate": 3, "ftruncate": 3, "stat": 6,
    "fstat": 4, "times": 1, "rename": 4, "link": 2, "unlink": 4, "symlink": 1, "list": 2, "directory": 1,
    "fsync": 2, "mmap": 3,
}  # fmt: skip


def main(tree: str, plain: str, seed: int, steps: int, largest: int) -> None:
    chance = random.Random(seed)
    pair = Pair((Path(tree), Path(plain)), chance, largest)
    for step in range(steps):
        word = chance.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
        try:
            getattr(pair, f"step_{word}")()
        except AssertionError as error:
            raise SystemExit(f"seed {seed}, step {step} ({'; '.join(pair.done[-12:])}): {error}") from None
    for name in pair.names:
        pair.both(f"at last, {name}", partial(pair.whole, name))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int((sys.argv[5:] or ["300000"])[0]))
