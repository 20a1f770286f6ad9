"""Act on a user's path with the user's rights, never with root's.

dnd calls it for datasets and mountpoints. Each call runs a small child with the user's uid, gid and groups that does
one thing and hands a file descriptor back. A path on a file system that hangs costs that call its deadline, no more.
No descriptor comes from a file system that a user serves (FUSE): every later call on it could hang as long as he likes.
"""

from __future__ import annotations

import contextlib
import json
import os
import pwd
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ebb import mounts
from ebb.errors import EnvironmentFault, UserError

DEFAULT_TIMEOUT = 30.0
_HELPER = Path(__file__).with_name("as_user_helper.py").read_text()


class PathMissing(UserError):
    """Nothing is there, or a directory on the way to it is missing."""


class UnknownUser(EnvironmentFault):
    """This node's user database does not have the user."""


@dataclass(frozen=True, slots=True)
class Found:
    """What a path names. kind: in words, such as `a directory`."""

    kind: str
    uid: int

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.kind == "a directory"


@dataclass(frozen=True, slots=True)
class Whereabouts:
    """Where a path leads, links followed. file: tells the file that is there from all others of this node; or None."""

    place: str
    file: str | None


@dataclass(frozen=True, slots=True)
class AsUser:
    """Acts for one user. All paths must be absolute; `timeout` is in seconds, for each call.

    Every method raises UserError with the path and what is wrong with it, PathMissing if it is not there, and
    EnvironmentFault when the file system does not answer in time or this node does not know the user.
    """

    uid: int
    gid: int
    timeout: float = DEFAULT_TIMEOUT
    _helper: _Helper | None = field(default=None, repr=False, compare=False)

    @contextlib.contextmanager
    def session(self) -> Iterator[AsUser]:
        """The same, with one helper process for all calls, which starts at once and ends with the `with` block.

        For one thread. A call that did not end in time costs the helper; those after it get one each. Raises as a call.
        Within a session it is that one.
        """
        if self._helper is not None:
            yield self
            return
        with _Helper(self.uid, self.gid) as helper:
            yield replace(self, _helper=helper)

    def open_source(self, path: str) -> int:
        """Open an existing regular file for reading; the caller closes the descriptor. Symbolic links are followed."""
        return self._descriptor("open_source", path)

    def check_target(self, path: str) -> None:
        """Whether a file could be made at, or renamed to `path`: a writable directory, and no link or device there."""
        self._ask("check_target", path)

    def create(self, path: str, *, like: str) -> int:
        """Make a new file, never follow or overwrite anything; open for reading and writing.

        Permissions are those of `like` if that exists, else 0600.
        """
        return self._descriptor("create", path, like=like)

    def create_anew(self, path: str, *, like: str) -> int:
        """`check_target` of `like`, `remove` and `create` of `path`, in one."""
        return self._descriptor("create_anew", path, like=like)

    def reopen(self, path: str) -> int:
        """Open a file that `create` made, to go on with it: the user's own regular file, no link; read and write."""
        return self._descriptor("reopen", path)

    def replace(self, path: str, target: str, *, inode: int | None = None) -> None:
        """Rename `path` over `target` and write the directory to disk. inode: refuse if it is another file by now."""
        self._ask("replace", path, target=target, **({} if inode is None else {"inode": str(inode)}))

    def remove(self, path: str) -> None:
        """Unlink `path`; no error if it is gone already."""
        self._ask("remove", path)

    def status(self, path: str) -> Found:
        """What `path` names, links followed."""
        answer, _ = self._ask("status", path)
        return Found(str(answer["kind"]), int(answer["uid"]))

    def newest(self, path: str) -> str | None:
        """The name of the newest regular file in a directory; None if it has none. Hidden files do not count."""
        answer, _ = self._ask("newest", path)
        name = answer["name"]
        if name is not None and (not isinstance(name, str) or not name or "/" in name):
            raise EnvironmentFault(f"`{path}`: the helper for uid {self.uid} answered nonsense")
        return name

    def whereabouts(self, path: str) -> Whereabouts:
        """Where `path` leads, whether there is something or not."""
        answer, _ = self._ask("whereabouts", path)
        file = answer["file"]
        return Whereabouts(str(answer["place"]), None if file is None else str(file))

    def _descriptor(self, action: str, path: str, **more: str) -> int:
        _, descriptor = self._ask(action, path, **more)
        # The child is the user's process: what it hands over is checked again here.
        if descriptor is None:
            raise UserError(f"`{path}` is no regular file")
        mount = mounts.of_descriptor(descriptor)
        if mount is None or mount.served_by:
            # To close it is to ask a file system that need not answer.
            threading.Thread(target=os.close, args=(descriptor,), daemon=True).start()
            raise UserError(f"`{path}` is on no file system of this site")
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise UserError(f"`{path}` is no regular file")
        return descriptor

    def _ask(self, action: str, path: str, **more: str) -> tuple[dict[str, Any], int | None]:
        for each in (path, *(value for name, value in more.items() if name != "inode")):
            if not each.startswith("/") or "\0" in each or each.endswith("/"):
                raise UserError(f"`{each}` cannot be used: an absolute path of a file is needed")
        request = json.dumps({"action": action, "path": path, **more}).encode()
        if self._helper is not None and self._helper.usable:
            data, descriptor = self._helper.ask(request, path, self.timeout)
        else:
            with _Helper(self.uid, self.gid) as helper:
                data, descriptor = helper.ask(request, path, self.timeout)
        return self._answer(path, data), descriptor

    def _answer(self, path: str, data: bytes) -> dict[str, Any]:
        try:
            answer = json.loads(data)
        except ValueError:
            raise EnvironmentFault(f"`{path}`: the helper for uid {self.uid} ended without an answer") from None
        if not isinstance(answer, dict):
            raise EnvironmentFault(f"`{path}`: the helper for uid {self.uid} answered nonsense")
        if "refused" in answer:
            error = PathMissing if answer.get("errno") in (2, 20) else UserError  # ENOENT, ENOTDIR
            raise error(f"`{path}` {answer['refused']}")
        return answer


class _Helper:
    """A child with the user's rights that answers one request after another, until it is too late with one."""

    def __init__(self, uid: int, gid: int) -> None:
        self._uid = uid
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with theirs:
                self._child = subprocess.Popen(
                    [sys.executable, "-I", "-S", "-c", _HELPER],
                    stdin=theirs.fileno(),
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    cwd="/",
                    env={"PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"},
                    close_fds=True,
                    start_new_session=True,
                    user=uid,
                    group=gid,
                    extra_groups=_groups(uid, gid),
                )
        except BaseException:
            self._ours.close()
            raise
        self._broken = False

    @property
    def usable(self) -> bool:
        """Whether it lives and owes no answer."""
        return not self._broken and self._child.poll() is None

    def __enter__(self) -> _Helper:
        return self

    def __exit__(self, *_: object) -> None:
        self._ours.close()
        self._child.kill()
        # A child in an NFS call that hangs does not die before the server answers: leave it to a later poll.
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._child.wait(0.5)

    def ask(self, request: bytes, path: str, timeout: float) -> tuple[bytes, int | None]:
        """The answer to one request, and the descriptor that came with it. Raises EnvironmentFault."""
        try:
            self._ours.settimeout(timeout)
            self._ours.send(request)
            data, descriptors, _, _ = socket.recv_fds(self._ours, 1 << 16, 1, socket.MSG_CMSG_CLOEXEC)
        except OSError as error:
            self._broken = True
            self._child.kill()
            if isinstance(error, TimeoutError):
                raise EnvironmentFault(f"`{path}`: its file system did not answer within {timeout:g} s") from None
            raise EnvironmentFault(f"`{path}`: the helper for uid {self._uid} failed: {error.strerror}") from error
        return data, descriptors[0] if descriptors else None


def _groups(uid: int, gid: int) -> list[int]:
    if uid == 0:
        raise UserError("root's buffers are not served: submit as an ordinary user")
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise UnknownUser(f"this datanode knows no user with uid {uid}: make its users those of the cluster") from None
    return os.getgrouplist(name, gid)
