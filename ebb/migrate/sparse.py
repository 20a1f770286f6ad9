"""Copies files that are mostly holes with cp(1), which looks where data are; rsync would read every hole."""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
from collections.abc import Callable

from ebb.errors import EnvironmentFault
from ebb.migrate.scan import stored

_LEAST = 16 << 20
_PAUSE = 0.5


def is_sparse(source: bytes, size: int) -> bool:
    """Whether cp is the better tool: large, and less than a quarter is data. False if the file cannot be looked at."""
    try:
        status = os.lstat(source)
        return size >= _LEAST and status.st_blocks * 512 * 4 < size and stored(source, status) * 4 < size
    except OSError:
        return False


def copy(source: bytes, target: bytes, *, xattrs: bool, told: Callable[[int], None]) -> str | None:
    """Copy one file aside and rename it; what cp complains of if it cannot. Nothing if it is there already.

    told: called with the bytes done so far, holes included. Raises EnvironmentFault if there is no cp.
    """
    try:
        if _is_there(source, target):
            return None
        status = os.stat(source)
        data = max(1, stored(source, status))
        aside = os.path.join(os.path.dirname(target), b".ebb-migrate-" + secrets.token_hex(4).encode())
        keep = "--preserve=mode,timestamps" + (",xattr" if xattrs else "")
        argv: list[str | bytes] = ["cp", "--no-dereference", "--sparse=always", keep, "--", source, aside]
        try:
            why = _run(argv, lambda: told(min(status.st_size, _written(aside) * status.st_size // data)))
            if why is None:
                with contextlib.suppress(OSError):  # as rsync does: a group one is not in cannot be given
                    os.chown(aside, -1, status.st_gid)
                    os.chmod(aside, status.st_mode & 0o7777)
                os.replace(aside, target)
        finally:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(aside)
    except OSError as error:
        return f"{os.fsdecode(source)}: {error.strerror}"
    return why


def _run(argv: list[str | bytes], tick: Callable[[], None]) -> str | None:
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    try:
        child = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, env=environment)
    except OSError as error:
        raise EnvironmentFault(f"cp cannot be started: {error.strerror}") from error
    with child:
        while True:
            try:
                _, said = child.communicate(timeout=_PAUSE)
                break
            except subprocess.TimeoutExpired:
                tick()
    return (
        None if child.returncode == 0 else said.decode(errors="replace").strip() or f"cp ended with {child.returncode}"
    )


def _is_there(source: bytes, target: bytes) -> bool:
    with contextlib.suppress(FileNotFoundError):
        ours, theirs = os.lstat(source), os.lstat(target)
        return ours.st_size == theirs.st_size and ours.st_mtime_ns == theirs.st_mtime_ns
    return False


def _written(path: bytes) -> int:
    try:
        return os.lstat(path).st_blocks * 512
    except FileNotFoundError:
        return 0
