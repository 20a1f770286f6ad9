"""What the cluster's processes see of the machine's file tree: all that they could change is their own."""

import os
from dataclasses import dataclass
from pathlib import Path

from cluster import kernel


@dataclass(frozen=True)
class Cover:
    """A folder of the machine that is covered inside the cluster, by a folder of the state directory or memory."""

    target: str
    source: str | None = None  # below the state directory; None: a tmpfs
    mode: int = 0o755


# Below "lib" and "home" lie volumes and datasets: real disk, for they can be larger than memory.
COVERS = (
    Cover("/etc", "etc"),
    Cover("/home", "home"),
    Cover("/root", "root", 0o700),
    Cover("/tmp", "tmp", 0o1777),  # noqa: S108 (the target of a mount)
    Cover("/var/lib", "lib"),
    Cover("/var/log", "log"),
    Cover("/usr/local/bin", "bin"),
    Cover("/var/spool"),
    Cover("/var/tmp", mode=0o1777),  # noqa: S108 (the target of a mount)
    Cover("/dev/shm", mode=0o1777),  # noqa: S108 (the target of a mount)
    Cover("/opt"),
    Cover("/run"),
)


def cover(state: Path, checkout: Path) -> None:
    """Cover the machine's folders; called once by the cluster's process 1, in a mount namespace of its own.

    The checkout is shown at /opt/ebb, where every user can reach it, and again at its own path if that was covered:
    the built plugin and the virtual environment name that path. Raises OSError.
    """
    here = os.open(checkout, os.O_PATH | os.O_CLOEXEC)
    sources = {c.target: os.open(state / c.source, os.O_PATH | os.O_CLOEXEC) for c in COVERS if c.source}
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    for covered in COVERS:
        if covered.target in sources:
            kernel.mount(f"/proc/self/fd/{sources[covered.target]}", covered.target, flags=kernel.MS_BIND)
        else:
            kernel.mount("tmpfs", covered.target, "tmpfs", kernel.MS_NOSUID, f"mode={covered.mode:o}")
    for place in ("/opt/ebb", str(checkout)):
        if not _same(place, here):
            os.makedirs(place, exist_ok=True)
            kernel.mount(f"/proc/self/fd/{here}", place, flags=kernel.MS_BIND | kernel.MS_REC)
    for fd in (here, *sources.values()):
        os.close(fd)


def _same(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
