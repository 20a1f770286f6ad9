"""A mount namespace for a moment: what is mounted in it nobody else sees, and it goes with the thread that made it."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from dnd.tools import kernel
from ebb.errors import EnvironmentFault

T = TypeVar("T")
_CLONE_NEWNS = 0x00020000
_libc = ctypes.CDLL(None, use_errno=True)


def with_own_mounts(work: Callable[[], T]) -> T:
    """Call `work` in a thread that has a mount namespace of its own, and so have the commands that it starts.

    A namespace that somebody else makes meanwhile gets no copy of its mounts, which would keep a volume busy; and a
    daemon that is killed leaves no mount behind. Mounts that others drop are dropped in it too. Raises EnvironmentFault
    and what `work` raises. Reference: unshare(2), mount_namespaces(7).
    """

    def inside() -> T:
        if _libc.unshare(_CLONE_NEWNS) != 0:
            code = ctypes.get_errno()
            raise EnvironmentFault(f"a mount namespace cannot be made: {os.strerror(code)}")
        try:
            kernel.receive_only(Path("/"))
        except OSError as error:
            raise EnvironmentFault(f"a mount namespace cannot be kept apart: {error.strerror}") from error
        return work()

    # A thread of its own, which ends with the call: its namespace is not given back otherwise.
    with ThreadPoolExecutor(1, thread_name_prefix="mounts") as thread:
        return thread.submit(inside).result()
