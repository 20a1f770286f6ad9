"""What keeps a server within its flavor: cores of its own, and a cgroup where the kernel has version 2 of them.

Without a cgroup the server's own bound on its memory is what holds it; cores are pinned in either case.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Collection
from pathlib import Path

logger = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
_CONTROLLERS = ("memory", "cpuset")


def choose_cores(count: int, taken: Collection[int]) -> tuple[int, ...]:
    """`count` cores that no other server is pinned to; none if there are not that many: the kernel may choose then."""
    free = [core for core in sorted(os.sched_getaffinity(0)) if core not in taken]
    return tuple(free[:count]) if len(free) >= count else ()


def make_group(name: str, memory: int, cores: Collection[int]) -> str | None:
    """A cgroup `ebb/<name>` with these bounds; None where there is no cgroup v2 or dnd may not. Again is harmless."""
    if not (ROOT / "cgroup.controllers").exists():
        return None
    group = ROOT / "ebb" / name
    try:
        group.mkdir(parents=True, exist_ok=True)
        for parent in (ROOT, ROOT / "ebb"):
            for controller in _CONTROLLERS:
                with contextlib.suppress(OSError):  # one that this kernel lacks
                    (parent / "cgroup.subtree_control").write_text(f"+{controller}")
        (group / "memory.max").write_text(str(memory))
        if cores and (group / "cpuset.cpus").exists():
            (group / "cpuset.cpus").write_text(",".join(map(str, cores)))
    except OSError as error:
        logger.warning("cgroup %s cannot be had (%s): the server is bound by itself alone", group, error.strerror)
        with contextlib.suppress(OSError):
            group.rmdir()
        return None
    return str(group)


def enter_group(group: str, pid: int) -> None:
    """Put a process into its cgroup; one that cannot be is bound by itself alone, and the log says so."""
    try:
        Path(group, "cgroup.procs").write_text(str(pid))
    except OSError as error:
        logger.warning("process %d cannot be put into %s: %s", pid, group, error.strerror)


def drop_group(group: str | None) -> None:
    """Remove a cgroup without processes; no error if it is gone."""
    if group is not None:
        with contextlib.suppress(OSError):
            Path(group).rmdir()
