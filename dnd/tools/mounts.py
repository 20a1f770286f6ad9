"""Make and drop mounts; what there are is read in ebb.mounts."""

from __future__ import annotations

from pathlib import Path

from dnd.tools import kernel
from ebb.errors import EnvironmentFault
from ebb.mounts import find
from ebb.run import Runner

__all__ = ["detach", "find", "mount_tmpfs", "mount_xfs", "unmount"]

_OPTIONS = "nosuid,nodev,noatime,nouuid"
"""nouuid: an administrator who looks into a dataset hinders no buffer that was filled from it."""


def mount_xfs(run: Runner, device: Path, path: Path, extra: tuple[str, ...] = ()) -> None:
    """Mount a volume's XFS; nothing to do if `path` is a mountpoint already."""
    if find(path) is None:
        mount_settled(run, device, path, extra)


def mount_settled(run: Runner, device: Path, path: Path, extra: tuple[str, ...] = ()) -> None:
    """Mount a volume's XFS, whatever is mounted on `path`; a journal that a crash left is replayed."""
    path.mkdir(parents=True, exist_ok=True)
    options = ",".join((_OPTIONS, *extra))
    run(["mount", "-t", "xfs", "-o", options, str(device), str(path)], timeout=300)


def mount_tmpfs(run: Runner, path: Path, size: int, files: int) -> None:
    """Mount a file system in memory for at most `size` bytes and `files` files; root's, and others may go through it.

    Nothing to do if `path` is a mountpoint already. Raises EnvironmentFault.
    """
    if find(path) is None:
        path.mkdir(parents=True, exist_ok=True)
        options = f"nosuid,nodev,noexec,mode=0711,size={size},nr_inodes={files}"
        run(["mount", "-t", "tmpfs", "-o", options, "ebb", str(path)])


def detach(path: Path) -> None:
    """Unmount `path`, whoever uses it, for what holds no data: it is gone when they let go of it; nothing to do if
    nothing is mounted there. Raises EnvironmentFault.
    """
    while find(path) is not None:
        try:
            kernel.detach(path)
        except OSError as error:
            raise EnvironmentFault(f"{path} cannot be unmounted: {error.strerror}") from error


def unmount(path: Path) -> None:
    """Unmount `path`; nothing to do if nothing is mounted there. Who uses it for a moment only is waited for.

    Raises EnvironmentFault naming who keeps it busy, as far as can be seen.
    """
    while find(path) is not None:
        try:
            kernel.unmount(path)
        except OSError as error:
            raise EnvironmentFault(
                f"{path} cannot be unmounted ({error.strerror}); in use by {_holders(path)}"
            ) from error


def _holders(path: Path) -> str:
    pids = set()
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            links = [entry / "cwd", entry / "root", *(entry / "fd").iterdir()]
        except OSError:
            continue
        for link in links:
            try:
                target = link.readlink()
            except OSError:
                continue
            if target == path or path in target.parents:
                pids.add(entry.name)
    return f"processes {', '.join(sorted(pids))}" if pids else "no visible process: a job's mount namespace may hold it"
