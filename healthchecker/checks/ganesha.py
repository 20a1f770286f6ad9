"""Is the service's Ganesha alive, and does it serve the export?

The database has the process alone; address, port and export stand in the configuration file that the process's own
command line names. So what is asked is what that process was told to serve.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ebb import nfs4
from healthchecker.check import Check
from healthchecker.service import Level, Result, Service

ANSWER_SECONDS = 5.0  # on a node that is very busy too
_DIRECTIVE = re.compile(r'^\s*(Bind_addr|NFS_Port|Pseudo|Path) = "?([^";]+)"?;', re.MULTILINE)
_RESTART = "ebb-dnd starts it again by itself; if this stays, see its log"


@dataclass(frozen=True, slots=True)
class Served:
    """What a Ganesha serves. path: of the data; export: its name for clients."""

    address: str
    port: int
    export: str
    path: str


def ganesha(service: Service) -> Iterator[Result]:
    """Each server: alive, answers, has the export."""
    if not service.daemons:
        yield Result(Level.FAILED, f"no server is registered; {_RESTART}")
    for pid in service.daemons:
        yield from _look(service, pid)


def _look(service: Service, pid: int) -> Iterator[Result]:
    words = command_line(pid)
    if not words or "ganesha.nfsd" not in os.path.basename(words[0]) or "-f" not in words[:-1]:
        found = f"process {pid} is {words[0]}, no Ganesha" if words else f"Ganesha (process {pid}) is not alive"
        yield Result(Level.FAILED, f"{found}; {_RESTART}")
        return
    served = parse(Path(words[words.index("-f") + 1]).read_text())
    if served is None or served.path not in {flash.mountpoint for flash in service.flash}:
        path = served.path if served else "nothing that can be read"
        yield Result(Level.FAILED, f"Ganesha (process {pid}) serves {path}, not this service; {_RESTART}")
        return
    yield from _ask(served, pid)


def _ask(served: Served, pid: int) -> Iterator[Result]:
    who = f"Ganesha (process {pid}{_stopped(pid)}) on {served.address} port {served.port}"
    try:
        nfs4.null_call(served.address, served.port, timeout=ANSWER_SECONDS)
    except OSError as error:
        why = f"no answer within {ANSWER_SECONDS:g} s" if isinstance(error, TimeoutError) else str(error)
        yield Result(Level.FAILED, f"{who} does not answer ({why}); kill it: {_RESTART}")
        return
    try:
        # The export admits its own datanode from ports below 1024, for metadata only.
        connection = nfs4.connect_privileged(served.address, served.port, timeout=ANSWER_SECONDS)
        with nfs4.Session(connection) as session:
            session.lookup(served.export.strip("/"))
    except nfs4.NfsError as error:
        what = {nfs4.NFS4ERR_NOENT: "it is not exported, or hidden from this node", nfs4.NFS4ERR_ACCESS: "refused"}
        told = what.get(error.status, f"NFS status {error.status}")
        yield Result(Level.FAILED, f"{who} answers, but a lookup of {served.export} fails ({told}); {_RESTART}")
    except OSError as error:
        yield Result(Level.FAILED, f"{who} answers, but not to a lookup of {served.export} ({error}); {_RESTART}")


def command_line(pid: int) -> list[str]:
    """The words of a process's command line; none if it is gone, a zombie or a kernel thread."""
    try:
        return [os.fsdecode(word) for word in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[:-1]]
    except OSError:
        return []


def parse(text: str) -> Served | None:
    """What a configuration of dnd's says (dnd/ganesha/config.py); None if it is none."""
    found = dict(_DIRECTIVE.findall(text))
    try:
        return Served(found["Bind_addr"], int(found["NFS_Port"]), found["Pseudo"], found["Path"])
    except (KeyError, ValueError):
        return None


def _stopped(pid: int) -> str:
    try:
        state = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return ""
    return ", stopped by a signal" if state in (b"T", b"t") else ""


CHECK = Check(
    "ganesha",
    frozenset({"dasi", "gbf"}),
    ganesha,
    "Ganesha neither answers nor refuses; kill it: ebb-dnd starts it again",
    15,
)
