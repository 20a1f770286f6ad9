"""The files of one migration, in a directory of the user's that all nodes see: how its processes speak to each other.

    request.json     login node: what is to be done          result.json      job: how it ended
    plan.json        job: which phase, totals                job.log          what the job printed
    parts/           job: manifests of the parts; tasks: what they found
    progress/        tasks: how far they are, a file a node and phase
    mnt/             where the job sees the buffer

Every file has one writer, who writes it aside and renames it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ebb.migrate.scan import Entry, Kind, Source

_FIELDS = 7


def here() -> str:
    """This node's name in Slurm, for messages."""
    return os.environ.get("SLURMD_NODENAME") or os.uname().nodename


@dataclass(frozen=True, slots=True)
class Request:
    """What one migration does. Paths are absolute; those that a user chose are in Python's file system encoding.

    sources: (base, name) of what goes in; empty for out. target: the dataset, or the directory for out. before: the
    name under which the dataset that is replaced is kept until the new one is right. alone: nobody watches
    (--no-wait). job: 0 until it is submitted.
    """

    name: str
    dataset: str
    dataset_path: str
    pattern: str | None
    target: str
    sources: list[tuple[str, str]]
    nodes: int
    parallel: int
    storage: int
    replace: bool
    add: bool
    before: str | None = None
    alone: bool = False
    job: int = 0

    @property
    def outwards(self) -> bool:
        """Whether data leave the dataset."""
        return self.pattern is not None


class Work:
    """A migration's directory."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.mountpoint = path / "mnt"
        self.log = path / "job.log"

    def make(self) -> None:
        """Make it, for the user alone. Raises OSError."""
        self.path.mkdir(mode=0o700, parents=True)
        for folder in ("mnt", "parts", "progress"):
            (self.path / folder).mkdir(mode=0o700)

    def put(self, name: str, content: Any) -> None:
        """Write a JSON file aside and rename it."""
        aside = self.path / f"{name}.{os.uname().nodename}.{os.getpid()}.new"
        aside.write_text(json.dumps(content))
        aside.replace(self.path / name)

    def get(self, name: str) -> Any:
        """A JSON file's content; None if it is not there yet."""
        try:
            return json.loads((self.path / name).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def put_request(self, request: Request) -> None:
        """Called by the login node, again when the job's id is known."""
        self.put("request.json", asdict(request))

    def request(self) -> Request:
        """Raises OSError, ValueError or TypeError if it is not whole."""
        fields = json.loads((self.path / "request.json").read_text())
        fields["sources"] = [tuple(pair) for pair in fields["sources"]]
        return Request(**fields)

    def sources(self, request: Request) -> list[Source]:
        """Where data come from: what the user named, or the buffer."""
        if request.outwards:
            return [Source(os.fsencode(self.mountpoint), b"")]
        return [Source(os.fsencode(base), os.fsencode(name)) for base, name in request.sources]

    def target(self, request: Request) -> bytes:
        """The directory that data go to."""
        return os.fsencode(request.target) if request.outwards else os.fsencode(self.mountpoint)

    def put_entries(self, name: str, entries: Sequence[Entry]) -> None:
        """Write a manifest below parts/: fields that end with NUL, which no file name can have."""
        with (self.path / "parts" / name).open("wb") as file:
            for entry in entries:
                numbers = (entry.source, entry.size, entry.mode, entry.mtime_ns)
                texts = [entry.kind.value.encode(), *(b"%d" % number for number in numbers), entry.path, entry.target]
                file.write(b"".join(each + b"\0" for each in texts))

    def entries(self, name: str) -> Iterator[Entry]:
        """Read a manifest."""
        fields = (self.path / "parts" / name).read_bytes().split(b"\0")[:-1]
        for at in range(0, len(fields), _FIELDS):
            kind, source, size, mode, when, path, target = fields[at : at + _FIELDS]
            yield Entry(Kind(kind.decode()), int(source), path, int(size), int(mode), int(when), target)

    def progress(self, phase: str) -> tuple[int, int]:
        """Bytes and files that all nodes together have done in `phase`."""
        done = [self.get(f"progress/{path.name}") or (0, 0) for path in (self.path / "progress").glob(f"{phase}.*")
                if not path.name.endswith(".new")]  # fmt: skip
        return sum(each[0] for each in done), sum(each[1] for each in done)
