"""What dnd must remember of a service to find it again after a crash: one JSON file each, always whole.

A record is written before each step that it describes. One of a service that is gone stays for some days: only a daemon
that remembers a service may be believed that its data were saved.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dnd.tools.process import ProcessId
from ebb.durable import sync_folder
from ebb.errors import EbbError
from ebb.model import Phase, ServiceSpec
from ebb.sbb import Peer

logger = logging.getLogger(__name__)

_UNWRITTEN_REVISIONS = 1_000_000
_REMEMBERED_SECONDS = 30 * 86400.0


@dataclass(frozen=True, slots=True)
class Part:
    """One root of a DASI buffer: its mountpoint in jobs, number and port as of a Record, volume and its size in bytes,
    dataset paths. error: what is wrong with its server. saved: its data are in data_dst, all of them.
    """

    path: str
    number: int
    port: int
    volume: str
    size: int
    data_src: str | None
    data_dst: str | None
    server: ProcessId | None = None
    error: str | None = None
    saved: bool = False

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {**dataclasses.asdict(self), "server": _server_json(self.server)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Part:
        """Raises KeyError or TypeError for what is no part."""
        return cls(**{**data, "server": ProcessId(*data["server"]) if data["server"] else None})


@dataclass(frozen=True, slots=True)
class Record:
    """One service. number: the n of its run folder and export. port: where its server listens. volume: empty for none.

    server: its process, None before it was started. jobs: job id -> addresses let in. parts: the roots of a DASI, from
    when they are known; number and port are then the first one's, and volume is empty.
    health: what the last health check found wrong, None if nothing.
    Of an SBB: cores it is pinned to, its cgroup, where the buffer's servers are, files whose data was lost (some of
    them, and how many there are), whether there may be data that is not in the targets yet, and since which start of
    the kernel its server runs.
    """

    spec: ServiceSpec
    number: int
    port: int
    volume: str
    phase: Phase = Phase.CREATING
    revision: int = 1
    error: str | None = None
    server: ProcessId | None = None
    jobs: dict[str, tuple[str, ...]] = field(default_factory=dict)
    health: str | None = None
    parts: tuple[Part, ...] = ()
    cores: tuple[int, ...] = ()
    group: str | None = None
    peers: tuple[Peer, ...] = ()
    lost: tuple[str, ...] = ()
    dirty: bool = False
    boot: str = ""
    lost_files: int = 0

    @property
    def numbers(self) -> set[int]:
        """All numbers that it has."""
        return {self.number, *(part.number for part in self.parts)}

    @property
    def volumes(self) -> set[str]:
        """The names of all its volumes."""
        return {self.volume, *(part.volume for part in self.parts)} - {""}

    @property
    def servers(self) -> tuple[ProcessId, ...]:
        """All processes that serve it."""
        found = (self.server, *(part.server for part in self.parts))
        return tuple(server for server in found if server is not None)

    @property
    def clients(self) -> set[str]:
        """All addresses that some job was let in from."""
        return {address for addresses in self.jobs.values() for address in addresses}

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file."""
        return {
            "spec": self.spec.to_wire(),
            "number": self.number,
            "port": self.port,
            "volume": self.volume,
            "phase": self.phase.value,
            "revision": self.revision,
            "error": self.error,
            "server": _server_json(self.server),
            "jobs": {job: list(addresses) for job, addresses in self.jobs.items()},
            "health": self.health,
            "parts": [part.to_json() for part in self.parts],
            "cores": list(self.cores),
            "group": self.group,
            "peers": [peer.to_wire() for peer in self.peers],
            "lost": list(self.lost),
            "dirty": self.dirty,
            "boot": self.boot,
            "lost_files": self.lost_files,
        }

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Record:
        """Raises UserError, KeyError, TypeError or ValueError for what is no record."""
        server = ProcessId(*data["server"]) if data["server"] else None
        jobs = {job: tuple(addresses) for job, addresses in data["jobs"].items()}
        return cls(
            ServiceSpec.from_wire(data["spec"]),
            data["number"],
            data["port"],
            data["volume"],
            Phase(data["phase"]),
            data["revision"],
            data["error"],
            server,
            jobs,
            data.get("health"),
            tuple(Part.from_json(part) for part in data.get("parts", ())),
            tuple(data.get("cores", ())),
            data.get("group"),
            tuple(Peer.from_wire(peer) for peer in data.get("peers", ())),
            tuple(data.get("lost", ())),
            data.get("dirty", False),
            data.get("boot", ""),
            data.get("lost_files", 0),
        )

    def changed(self, **changes: Any) -> Record:
        """A copy with `changes` and the next revision."""
        return dataclasses.replace(self, revision=self.revision + 1, **changes)


def _server_json(server: ProcessId | None) -> list[int] | None:
    return [server.pid, server.start] if server else None


class Journal:
    """The records of one datanode, in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o700)

    def write(self, record: Record) -> None:
        """Put a record in place of its former self; on disk when this returns."""
        path = self._path(record.spec.sid)
        aside = path.with_suffix(".new")
        with aside.open("w") as file:
            json.dump(record.to_json(), file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
        sync_folder(self._folder)

    def load(self) -> list[Record]:
        """All records, at the daemon's start. One that cannot be read is set aside, never dropped: its volume shows
        among the strays.
        """
        records = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                record = Record.from_json(json.loads(path.read_text()))
                if record.phase is Phase.GONE and time.time() - path.stat().st_mtime > _REMEMBERED_SECONDS:
                    path.unlink()
                    continue
                # Progress counts revisions that are not written down: none of them may come again.
                records.append(dataclasses.replace(record, revision=record.revision + _UNWRITTEN_REVISIONS))
            except (EbbError, KeyError, TypeError, ValueError) as error:
                logger.error("%s is no record and is set aside: %r", path, error)
                os.replace(path, path.with_suffix(".bad"))
        return records

    def _path(self, sid: str) -> Path:
        return self._folder / f"{sid}.json"
