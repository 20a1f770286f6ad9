"""The few system calls that Python 3.11's `os` module lacks, and facts from /proc."""

import ctypes
import os
import socket
import sys
from pathlib import Path

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_BIND = 0x1000
MS_REC = 0x4000

_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int, what: str) -> None:
    if result != 0:
        errno = ctypes.get_errno()
        raise OSError(errno, f"{what}: {os.strerror(errno)}")


def mount(source: str, target: str, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2). Unlike the mount command it does not resolve `source`, so a /proc/self/fd/N stays what it is.

    Raises OSError.
    """
    result = _libc.mount(source.encode(), target.encode(), kind.encode(), ctypes.c_ulong(flags), options.encode())
    _check(result, f"mount {source} on {target}")


def sethostname(name: str) -> None:
    """Name this process's UTS namespace. Raises OSError."""
    _check(_libc.sethostname(name.encode(), len(name.encode())), f"hostname {name}")


def setns(fd: int) -> None:
    """Move this process (for a pid namespace: its coming children) to the namespace behind `fd`. Raises OSError."""
    _check(_libc.setns(fd, 0), "enter a namespace")


def start_time(pid: int) -> int | None:
    """Clock ticks after boot at which `pid` started, None if there is none: with the pid it names one process for good.

    Format: proc(5), field 22 of /proc/PID/stat; the command name before it may hold blanks and brackets.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


def listens_tcp(pid: int, address: str, port: int) -> bool:
    """Whether a socket listens at `address`:`port` in the network of process `pid`; nobody is connected to.

    Format: proc(5), /proc/net/tcp; addresses are hexadecimal in the machine's byte order, state 0A is LISTEN.
    """
    wanted = {f"{int.from_bytes(socket.inet_aton(a), sys.byteorder):08X}:{port:04X}" for a in (address, "0.0.0.0")}  # noqa: S104 (compared, not bound)
    rows = (line.split() for line in Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:])
    return any(row[1] in wanted and row[3] == "0A" for row in rows)


def answers_unix(path: str) -> bool:
    """Whether somebody accepts connections at the unix socket `path`, which may lead through /proc/PID/root."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(1)
        try:
            connection.connect(path)
        except OSError:
            return False
    return True


def processes_in(namespace: str) -> list[int]:
    """Pids, as seen from here, of the processes whose pid namespace is `namespace` (as in `pid:[4026532281]`)."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            if os.readlink(entry / "ns/pid") == namespace:
                found.append(int(entry.name))
        except OSError:
            continue  # it ended while we looked
    return found


def session(leader: int) -> list[int]:
    """Pids of the processes in the session that `leader` began, itself included. Format: proc(5), field 6 of stat."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it ended while we looked
        if int(fields[3]) == leader:
            found.append(int(entry.name))
    return found
