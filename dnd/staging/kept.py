"""What dnd keeps of one service's staging beside its journal: checkpoints of its copies, and which file it was filled
from.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path

from dnd.staging.checkpoint import Checkpoints
from ebb.durable import sync_folder


@dataclass(frozen=True, slots=True)
class Stamp:
    """Whether a file is still what it was: a change of its bytes changes the last of these, which no user sets."""

    inode: int
    size: int
    modified: int
    changed: int

    @classmethod
    def of(cls, descriptor: int) -> Stamp:
        """Of an open file. Times in nanoseconds. Raises OSError."""
        found = os.fstat(descriptor)
        return cls(found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)


@dataclass(frozen=True, slots=True)
class Remembered:
    """The dataset that a volume was filled from, every chunk of it verified."""

    path: str
    stamp: Stamp


class Kept:
    """The files of one volume in `folder`; all of them may be missing."""

    def __init__(self, folder: Path, volume: str) -> None:
        self.filling = Checkpoints(folder / f"{volume}.in")
        self.saving = Checkpoints(folder / f"{volume}.out")
        self._source = folder / f"{volume}.source"
        self._foreign = folder / f"{volume}.foreign"

    def mark_foreign(self) -> None:
        """The volume is going to hold an image that this site did not write; on disk when this returns."""
        self._foreign.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._foreign.touch()
        sync_folder(self._foreign.parent)

    @property
    def foreign(self) -> bool:
        """Whether `mark_foreign` was called."""
        return self._foreign.exists()

    def remember(self, source: Remembered) -> None:
        """Called at the end of a stage-in. Only a save in less time depends on it, so it need not be synced."""
        self._source.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        aside = self._source.with_name(self._source.name + ".new")
        aside.write_text(json.dumps(asdict(source)))
        os.replace(aside, self._source)

    def source(self) -> Remembered | None:
        """What `remember` was given; None if nothing was, or it cannot be read."""
        try:
            data = json.loads(self._source.read_text())
            return Remembered(data["path"], Stamp(**data["stamp"]))
        except (OSError, ValueError, LookupError, TypeError):
            return None

    def forget(self) -> None:
        """The service is gone. No error if nothing was kept."""
        self.filling.forget()
        self.saving.forget()
        self._source.unlink(missing_ok=True)
        self._foreign.unlink(missing_ok=True)
