"""Find and end the service processes that outlive the daemon, without ever hitting another process with the same id."""

from __future__ import annotations

import contextlib
import math
import os
import select
import signal
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ebb.errors import EnvironmentFault

_KILL_SECONDS = 10.0
_SHOWN = 5


@dataclass(frozen=True, slots=True)
class ProcessId:
    """A process, told apart from later ones with its pid by its start (ticks since boot, which no clock moves)."""

    pid: int
    start: int

    @property
    def alive(self) -> bool:
        """Whether any of its threads still runs, so that it may hold files; a zombie does not."""
        return start_of(self.pid) == self.start


def start_of(pid: int) -> int | None:
    """Field `starttime` of /proc/<pid>/stat (proc(5)); None if there is no such process, or only its zombie.

    A killed process's first thread may be one (state Z) while others (num_threads) still have to let go of its files.
    """
    try:
        # The command's name, in parentheses, may hold any bytes: count from its end.
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    state, threads, start = fields[0], int(fields[17]), int(fields[19])
    return None if state == b"X" or (state == b"Z" and threads <= 1) else start


def find(argument: str, uid: int = 0) -> list[ProcessId]:
    """Processes of `uid` with `argument` among their command line's words: a service's own configuration names it.

    Anybody may write such a word on a command line; only processes of who runs the service are ours.
    """
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            words = (entry / "cmdline").read_bytes().split(b"\0")
            start = start_of(int(entry.name))
            if argument.encode() in words and start is not None and _is_of(entry, uid):
                found.append(ProcessId(int(entry.name), start))
    return found


def _is_of(entry: Path, uid: int) -> bool:
    """Real, effective, saved and file system uid (proc(5)): a user's setuid program still has the user's real one."""
    # Not splitlines: of what could end a line, the kernel takes newlines alone out of a process's name.
    uids = next(line for line in (entry / "status").read_bytes().split(b"\n") if line.startswith(b"Uid:"))
    return uids.split()[1:] == [str(uid).encode()] * 4


def listens(pid: int, port: int) -> bool:
    """Whether this process itself listens on a TCP port: one that answers there may be somebody else's."""
    sockets = set()
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        with contextlib.suppress(OSError):
            for line in table.read_text().splitlines()[1:]:
                fields = line.split()  # local address as hex:hex, state 0A is LISTEN, inode in the tenth (proc(5))
                if fields[3] == "0A" and int(fields[1].rpartition(":")[2], 16) == port:
                    sockets.add(f"socket:[{fields[9]}]")
    with contextlib.suppress(OSError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(descriptor) in sockets:
                    return True
    return False


def stop(process: ProcessId, *, grace: float) -> None:
    """End a process as `stop_all` does."""
    stop_all([process], grace=grace)


def stop_all(processes: Iterable[ProcessId], *, grace: float) -> None:
    """End processes: all get SIGTERM, those that are there after `grace` seconds SIGKILL. It takes no longer for many.

    No error if one is gone. Reaps those that are our children. Raises EnvironmentFault when even SIGKILL does not end
    one (a process stuck in the kernel).
    """
    left = list(processes)
    for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, _KILL_SECONDS)):
        for each in left:
            _signal(each, number)
        end = time.monotonic() + seconds
        # One after the other and with one handle at a time: a user may have more processes than we may have open files.
        left = [each for each in left if not _ends(each, end)]
    if left:
        pids = ", ".join(str(each.pid) for each in left[:_SHOWN]) + (", ..." if len(left) > _SHOWN else "")
        raise EnvironmentFault(
            f"process {pids} does not end on SIGKILL: it hangs in the kernel"
            if len(left) == 1
            else f"{len(left)} processes ({pids}) do not end on SIGKILL: they hang in the kernel"
        )


def _signal(process: ProcessId, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError), _handle(process) as handle:
        # The handle pins the process; only now does the start time prove that it is the one meant.
        if start_of(process.pid) == process.start:
            signal.pidfd_send_signal(handle, number)


def _ends(process: ProcessId, end: float) -> bool:
    """Whether it is gone, or goes before `end`; a child of ours is reaped then."""
    with contextlib.suppress(ProcessLookupError), _handle(process) as handle:
        if start_of(process.pid) == process.start:
            poll = select.poll()
            poll.register(handle, select.POLLIN)
            if not poll.poll(max(0, math.ceil((end - time.monotonic()) * 1000))):
                return False
        with contextlib.suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, handle, os.WEXITED | os.WNOHANG)
    return True


@contextlib.contextmanager
def _handle(process: ProcessId) -> Iterator[int]:
    handle = os.pidfd_open(process.pid)
    try:
        yield handle
    finally:
        os.close(handle)
