"""Start, find, tell and stop one buffer's Ganesha. The process outlives the daemon; its configuration file names it."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator

from dnd.ganesha.config import GaneshaConfig
from dnd.tools import process
from dnd.tools.process import ProcessId
from ebb.errors import EnvironmentFault
from ebb.nfs4 import answers

logger = logging.getLogger(__name__)

START_SECONDS = 120.0
"""Only one that runs and does not answer takes so long, for example among many that start at once."""
RELOAD_SECONDS = 10.0
_STOP_SECONDS = 10.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 0.002, 0.1
_RELOADED = "Reread exports complete"
_BAD_CONFIG = "Error while parsing"
# What it complains of although all is well: no D-Bus, no Kerberos, no portmapper are wanted.
_NOISE = ("DBUS", "gssd_refresh", "Cannot acquire credentials", "Cannot register", "Server exiting", "Extra references")


class Ganesha:
    """The server of one buffer. The service's lock is held by whoever calls."""

    def __init__(self, config: GaneshaConfig) -> None:
        self.config = config

    def start(self, clients: Iterable[str], started: Callable[[ProcessId], None]) -> ProcessId:
        """Start it and wait until it answers; `started` is told the process at once, for the journal.

        One that runs already (left by a daemon that was killed before it wrote this down) is used.
        Raises EnvironmentFault with Ganesha's own last complaint when it does not come up.
        """
        found = process.find(str(self.config.file))
        for running in found:
            if self._serves(running, timeout=2):
                started(running)
                self.reload(running, clients)
                return running
        process.stop_all(found, grace=0)
        (self.config.folder / "recovery").mkdir(parents=True, exist_ok=True)
        self.config.write(clients)
        # File handles begin with the file system's UUID, which Ganesha asks of libblkid. The system's cache may still
        # hold that of a former volume on the same device number: clients would find their handles stale one day.
        devices = self.config.folder / "blkid.tab"
        devices.unlink(missing_ok=True)
        child = subprocess.Popen(
            [
                _program(),
                "-F",
                "-f",
                str(self.config.file),
                "-L",
                str(self.config.log),
                "-p",
                str(self.config.folder / "ganesha.pid"),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd="/",
            env={"PATH": "/usr/sbin:/usr/bin", "LC_ALL": "C", "BLKID_FILE": str(devices)},
            start_new_session=True,
        )
        child.returncode = 0  # we reap it by pidfd (process.stop): Popen shall neither wait nor warn
        begun = process.start_of(child.pid)
        server = ProcessId(child.pid, begun if begun is not None else -1)
        started(server)
        self._wait_until_it_answers(server)
        return server

    def reload(self, server: ProcessId, clients: Iterable[str]) -> None:
        """Admit `clients` and nobody else; returns when that is in force.

        On SIGHUP Ganesha swaps the export's client list, then says so in its log. Handles that a client still holds
        stop working with it (NFS4ERR_ACCESS).
        """
        begin = self.config.log.stat().st_size if self.config.log.exists() else 0
        self.config.write(clients)
        os.kill(server.pid, signal.SIGHUP)
        deadline, pauses = time.monotonic() + RELOAD_SECONDS, _pauses()
        while _RELOADED not in (news := self._log_from(begin)):
            if _BAD_CONFIG in news or not server.alive or time.monotonic() > deadline:
                raise EnvironmentFault(f"Ganesha (pid {server.pid}) did not take its new clients: {self.complaint()}")
            time.sleep(next(pauses))

    def stop(self, server: ProcessId | None) -> None:
        """End it, and any other that serves the same configuration. No error if none runs."""
        found = process.find(str(self.config.file))
        process.stop_all(found if server is None or server in found else [server, *found], grace=_STOP_SECONDS)

    def complaint(self) -> str:
        """The last line of trouble in the log, without its preamble."""
        lines = [line for line in self._log_from(0).splitlines() if ":CRIT :" in line or ":FATAL :" in line]
        useful = [line for line in lines if not any(noise in line for noise in _NOISE)]
        return useful[-1].split(":CRIT :")[-1].split(":FATAL :")[-1] if useful else f"see {self.config.log}"

    def _wait_until_it_answers(self, server: ProcessId) -> None:
        deadline, pauses = time.monotonic() + START_SECONDS, _pauses()
        while not self._serves(server, timeout=1):
            if not server.alive:
                raise EnvironmentFault(f"Ganesha for {self.config.export} ended at its start: {self.complaint()}")
            if time.monotonic() > deadline:
                raise EnvironmentFault(
                    f"Ganesha for {self.config.export} did not answer on {self.config.address} port "
                    f"{self.config.port} within {START_SECONDS:g} s: {self.complaint()}"
                )
            time.sleep(next(pauses))

    def _serves(self, server: ProcessId, timeout: float) -> bool:
        """Whether this server answers, and not a user's program that took the port while none of ours had it."""
        address, port = self.config.address, self.config.port
        # The tables of all sockets take milliseconds to read: not while there is nothing to find in them.
        if not _is_open(address, port, timeout):
            return False
        return process.listens(server.pid, port) and answers(address, port, timeout=timeout)

    def _log_from(self, offset: int) -> str:
        try:
            with self.config.log.open("rb") as log:
                log.seek(max(offset, self.config.log.stat().st_size - 65536))
                return log.read().decode(errors="replace")
        except OSError:
            return ""


def _pauses() -> Iterator[float]:
    """Between looks at a server that mostly answers at once; on a busy node it needs the time that looks would take."""
    pause = _SHORTEST_PAUSE
    while True:
        yield pause
        pause = min(_LONGEST_PAUSE, pause * 1.1)


def port_is_free(address: str, port: int) -> bool:
    """Whether a server could listen there now."""
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


def _is_open(address: str, port: int, timeout: float) -> bool:
    try:
        socket.create_connection((address, port), timeout).close()
    except OSError:
        return False
    return True


def _program() -> str:
    program = shutil.which("ganesha.nfsd", path="/usr/bin:/usr/sbin:/usr/local/bin:/usr/local/sbin")
    if program is None:
        raise EnvironmentFault("ganesha.nfsd is not on this datanode: install nfs-ganesha and nfs-ganesha-vfs")
    return program
