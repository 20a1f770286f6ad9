"""What a migration does at its target itself, before and after rsync: checks, directories, second names of files."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Sequence

from ebb import sizes
from ebb.errors import UserError
from ebb.migrate.scan import Entry, Found, Kind, Source

_OWNER = 0o700
_SECOND = 1_000_000_000


def check_room(target: bytes, found: Found, there: int, what: str) -> None:
    """Raises UserError, with both numbers, if what was found does not fit into the file system of `target`.

    there: bytes of it that are in the target already, from `check_conflicts`.
    """
    status = os.statvfs(target)
    free = status.f_bavail * status.f_frsize
    need = max(0, found.need - there)
    if need > free:
        raise UserError(
            f"{len(found.entries)} entries of {sizes.format_human(found.size)} need {sizes.format_human(need)} more, "
            f"but {what} has {sizes.format_human(free)} free: nothing was copied"
        )


def check_conflicts(target: bytes, found: Found, *, replace: bool) -> int:
    """Whether what is there already may stay beside what comes: the bytes on disk of what stays as it is.

    A directory takes more in; a file that looks the same (size and time) stays; another goes only with `replace`.
    Raises UserError that names the first that cannot.
    """
    clashes, there = [], 0
    for entry in found.entries:
        try:
            status = os.lstat(os.path.join(target, entry.path))
        except (FileNotFoundError, NotADirectoryError):
            continue
        is_directory = stat.S_ISDIR(status.st_mode)
        if entry.kind is Kind.DIRECTORY and is_directory:
            continue
        if is_directory or entry.kind is Kind.DIRECTORY:
            raise UserError(
                f"`{os.fsdecode(entry.path)}` is a directory on one side only: move one away; nothing was copied"
            )
        if _looks_same(entry, status):
            there += status.st_blocks * 512 if entry.kind is Kind.FILE else 0
        elif not replace:
            clashes.append(entry.path)
    if clashes:
        raise UserError(
            f"other files of these names are there already: {len(clashes)}, such as `{os.fsdecode(clashes[0])}`: give "
            "--replace to overwrite them; nothing was copied"
        )
    return there


def _looks_same(entry: Entry, status: os.stat_result) -> bool:
    if entry.kind is Kind.SYMLINK:
        return stat.S_ISLNK(status.st_mode)  # its text is verified afterwards
    if entry.kind is Kind.LINK:
        return stat.S_ISREG(status.st_mode) and status.st_nlink > 1
    same_time = abs(status.st_mtime_ns - entry.mtime_ns) <= _SECOND
    return stat.S_ISREG(status.st_mode) and status.st_size == entry.size and same_time


def make_directories(target: bytes, directories: Sequence[Entry]) -> None:
    """Make them, writable for now; their own modes and times come last, in `finish_directories`."""
    for entry in directories:
        path = os.path.join(target, entry.path)
        try:
            os.mkdir(path, _OWNER)
        except FileExistsError:
            mode = stat.S_IMODE(os.stat(path).st_mode)
            if mode & _OWNER != _OWNER:
                os.chmod(path, mode | _OWNER)


def make_links(target: bytes, links: Sequence[Entry]) -> None:
    """Give files their further names. A name that is taken is replaced: `check_conflicts` came before."""
    for entry in links:
        first, path = os.path.join(target, entry.target), os.path.join(target, entry.path)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(first), os.lstat(path)):
                continue
            os.unlink(path)
        with contextlib.suppress(FileNotFoundError):  # the first is missing: the verification says so
            os.link(first, path, follow_symlinks=False)


def finish_directories(sources: Sequence[Source], target: bytes, directories: Sequence[Entry], *, xattrs: bool) -> None:
    """Give directories their groups, attributes, modes and times, the deepest first: what is in them is complete."""
    for entry in reversed(directories):
        source, path = os.path.join(sources[entry.source].base, entry.path), os.path.join(target, entry.path)
        with contextlib.suppress(OSError):  # as rsync does: a group one is not in cannot be given
            os.chown(path, -1, os.stat(source).st_gid)
        if xattrs:
            with contextlib.suppress(OSError):
                for name in os.listxattr(source):
                    if name.startswith("user."):
                        os.setxattr(path, name, os.getxattr(source, name))
        os.chmod(path, entry.mode)
        os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))


def takes_xattrs(target: bytes) -> bool:
    """Whether files there can have user attributes (not over NFS 4.1)."""
    probe = os.path.join(target, b".ebb-migrate-probe")
    try:
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600))
        os.setxattr(probe, b"user.ebb", b"1")
    except OSError:
        return False
    finally:
        with contextlib.suppress(OSError):
            os.unlink(probe)
    return True


def wrong_links(target: bytes, links: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """Those that are no second name of their file, as findings."""
    found = []
    for entry in links:
        try:
            same = os.path.samestat(
                os.lstat(os.path.join(target, entry.target)), os.lstat(os.path.join(target, entry.path))
            )
        except OSError:
            same = False
        if not same:
            found.append(("differs", os.fsdecode(entry.path), f"is no second name of `{os.fsdecode(entry.target)}`"))
    return found


def changed_directories(sources: Sequence[Source], directories: Sequence[Entry]) -> list[tuple[str, str, str]]:
    """Those of the source in which names came, went or changed since the scan, as findings."""
    found = []
    for entry in directories:
        try:
            status = os.lstat(os.path.join(sources[entry.source].base, entry.path))
        except OSError as error:
            found.append(("changed", os.fsdecode(entry.path), f"the source cannot be read any more: {error.strerror}"))
            continue
        if status.st_mtime_ns != entry.mtime_ns:
            found.append(("changed", os.fsdecode(entry.path), "files came or went while it was copied"))
    return found
