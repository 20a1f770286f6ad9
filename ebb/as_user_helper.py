"""The child behind ebb.as_user: does one thing at a time to one path with the user's rights.

It runs as the user from the start (`python -I -S -c <this text>`), so nothing here may be trusted by the parent, and
nothing secret may reach it. Only the standard library, nothing of ours: the user need not be able to read our files.
Standard input is a unix socket: JSON requests come in, and for each goes out a JSON answer, with a file descriptor if
one was asked for.
"""

import contextlib
import json
import os
import socket
import stat
from collections.abc import Callable
from typing import Any

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFCHR: "a character device",
    stat.S_IFBLK: "a block device",
    stat.S_IFREG: "a regular file",
}


class Refused(Exception):
    """The path cannot be used; the text goes to the user."""


def kind(mode: int) -> str:
    """What a path names, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "something unknown")


def refuse_served(descriptor: int) -> None:
    """Refuse a FUSE file system that a user answers for: nobody may depend on it. See mount.fuse(8)."""
    with open(f"/proc/self/fdinfo/{descriptor}") as file:
        number = next((line.split()[1] for line in file if line.startswith("mnt_id:")), "")
    # Paths in it may hold any bytes; the kernel writes blanks and newlines as \040 and \012, nothing else.
    with open("/proc/self/mountinfo", newline="\n", errors="surrogateescape") as file:
        lines = [line.rstrip("\n").split(" ") for line in file]
    fields = next((each for each in lines if each[0] == number), [])
    kind, _, options = fields[fields.index("-", 6) + 1 :] if fields else ("unknown", "", "")
    if kind.partition(".")[0] in ("fuse", "fuseblk") and "user_id=0" not in options.split(","):
        raise Refused(
            f"is on a file system that a user serves ({kind} on {fields[4]}); name one on a file system of the site"
        )


def open_source(path: str, _: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Open a regular file for reading."""
    # O_NONBLOCK: opening a FIFO must not wait for a writer. It means nothing for a regular file.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode):
        raise Refused(f"is {kind(mode)}; a regular file is needed")
    refuse_served(descriptor)
    return descriptor, {}


def check_target(path: str, _: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """See whether a file could be made at, or renamed to `path`."""
    parent = os.path.dirname(path)
    try:
        mode = os.lstat(path).st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    if not stat.S_ISREG(mode):
        raise Refused(f"is {kind(mode)}; name a regular file, or one that does not exist yet")
    if not os.path.isdir(parent):
        os.stat(parent)  # says why, if it does
        raise Refused(f"cannot be written: {parent} is no directory")
    if not os.access(parent, os.W_OK | os.X_OK):
        raise Refused(f"cannot be written: no permission to write in {parent}")
    directory = os.open(parent, os.O_PATH | os.O_CLOEXEC)
    try:
        refuse_served(directory)
    finally:
        os.close(directory)
    return None, {}


def create(path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Make a new file with the permissions of `like`."""
    os.umask(0o022)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    refuse_served(descriptor)
    # An image tells whoever may read it all files inside, whatever their permissions. So nobody but the owner may,
    # until the owner gives more: a dataset keeps the permissions of the one that it replaces.
    mode = 0o600
    with contextlib.suppress(FileNotFoundError):
        old = os.lstat(request["like"])
        if stat.S_ISREG(old.st_mode):
            mode = stat.S_IMODE(old.st_mode) & 0o777
    os.fchmod(descriptor, mode)
    return descriptor, {}


def create_anew(path: str, request: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Make a file that will be renamed over `like`, in place of what an earlier try left."""
    check_target(request["like"], {})
    remove(path, {})
    return create(path, request)


def reopen(path: str, _: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Open a file that `create` made before."""
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    found = os.fstat(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
        raise Refused("is not the file that was made there")
    refuse_served(descriptor)
    return descriptor, {}


def replace(path: str, request: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """Rename over `target` and write the directory to disk."""
    check_target(request["target"], {})
    if "inode" in request and request["inode"] != str(os.lstat(path).st_ino):
        raise Refused("is not the file that was written there: somebody else saves to it too")
    os.rename(path, request["target"])
    directory = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
    return None, {}


def remove(path: str, _: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """Unlink, or find it gone."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    return None, {}


def status(path: str, _: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """Say what is there and whose it is."""
    found = os.stat(path)
    return None, {"kind": kind(found.st_mode), "uid": found.st_uid}


def whereabouts(path: str, _: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """Say where a path leads, links followed, and which file is there."""
    place = os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None, {"place": place, "file": None}
    return None, {"place": os.path.realpath(path), "file": f"{found.st_dev}:{found.st_ino}"}


def newest(path: str, _: dict[str, Any]) -> tuple[None, dict[str, Any]]:
    """Name the newest regular file of a directory; hidden ones and what we write aside do not count."""
    found: tuple[int, str] | None = None
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.startswith(".") or entry.name.endswith(".partial"):
                continue
            if entry.is_file(follow_symlinks=False):
                this = (entry.stat(follow_symlinks=False).st_mtime_ns, entry.name)
                found = this if found is None else max(found, this)
    return None, {"name": found[1] if found else None}


ACTIONS: dict[str, Callable[[str, dict[str, Any]], tuple[int | None, dict[str, Any]]]] = {
    "open_source": open_source,
    "check_target": check_target,
    "create": create,
    "create_anew": create_anew,
    "reopen": reopen,
    "replace": replace,
    "remove": remove,
    "status": status,
    "newest": newest,
    "whereabouts": whereabouts,
}


def ask_anew(path: str) -> None:
    """Open every directory on the way to a path.

    An NFS client remembers for up to a minute that a name was not there. A directory that is opened is asked for on the
    server, and what was remembered of it counts only if it did not change since (nfs(5), close-to-open consistency).
    """
    for place in reversed([path, *_above(path)]):
        with contextlib.suppress(OSError):
            os.close(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_NONBLOCK | os.O_CLOEXEC))


def _above(path: str) -> list[str]:
    found = []
    while path != "/":
        path = os.path.dirname(path)
        found.append(path)
    return found


def act(request: dict[str, Any]) -> tuple[int | None, dict[str, Any]]:
    """Do what is asked; what is not there is looked for twice."""
    action = ACTIONS[request["action"]]
    try:
        return action(request["path"], request)
    except (FileNotFoundError, NotADirectoryError):
        ask_anew(request["path"])
        return action(request["path"], request)


def main() -> None:
    """Answer requests until there are no more."""
    connection = socket.socket(fileno=0)
    while request := connection.recv(1 << 16):
        _answer(connection, json.loads(request))


def _answer(connection: socket.socket, request: dict[str, Any]) -> None:
    descriptor = None
    try:
        descriptor, answer = act(request)
    except Refused as refusal:
        answer = {"refused": str(refusal)}
    except OSError as error:
        answer = {"errno": error.errno, "refused": f"cannot be used: {error.strerror}"}
    socket.send_fds(connection, [json.dumps(answer).encode()], [] if descriptor is None else [descriptor])
    if descriptor is not None:
        os.close(descriptor)


if __name__ == "__main__":
    main()
