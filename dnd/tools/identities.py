"""Which file system of this node has which UUID: no two that Ganesha or the kernel can see at a time have the same.

Ganesha knows file systems by their UUID and would take one for the other; the kernel mounts no second one. A buffer
that is filled from a dataset has the dataset's, which another buffer of that dataset has too. Only then it gets a new
one: XFS writes its whole journal anew with it, 64 MiB that the next save would have to move.
"""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from dnd.tools import xfs
from ebb import mounts
from ebb.durable import sync_folder
from ebb.errors import EnvironmentFault, UserError
from ebb.run import Runner


class Identities:
    """Claims on UUIDs, kept in `folder`: a symbolic link for each, named as the UUID, to the name of its volume.

    A link is made by one of several at a time, is there whole, and outlives daemon and node as the volume does.
    """

    def __init__(self, folder: Path, run: Runner) -> None:
        self._folder = folder
        self._run = run

    def settle(self, device: Path, volume: str) -> None:
        """Make the UUID of an unmounted file system its own. Called before it is mounted for the first time; again is
        harmless. volume: a name that no other volume of this node has. Raises EnvironmentFault, UserError for no XFS.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            identity = _read(device)
            if identity not in _mounted() and self._claim(identity, volume):
                break
            xfs.renew_identity(self._run, device)
        self._drop(volume, keep=identity)

    def forget(self, volume: str) -> None:
        """Drop the claim of a volume that is gone."""
        self._drop(volume, keep=None)

    def _claim(self, identity: uuid.UUID, volume: str) -> bool:
        link = self._folder / str(identity)
        try:
            link.symlink_to(volume)
        except FileExistsError:
            return _holder(link) == volume
        sync_folder(self._folder)
        return True

    def _drop(self, volume: str, keep: uuid.UUID | None) -> None:
        if not self._folder.exists():
            return
        for link in self._folder.iterdir():
            if link.name != str(keep) and _holder(link) == volume:
                link.unlink(missing_ok=True)


def _holder(link: Path) -> str | None:
    """Whose it is; None if another thread has just dropped it."""
    try:
        return os.readlink(link)
    except FileNotFoundError:
        return None


def _read(device: Path) -> uuid.UUID:
    try:
        with device.open("rb", buffering=0) as file:
            return xfs.identity(os.pread(file.fileno(), 512, 0))
    except OSError as error:
        raise EnvironmentFault(f"volume {device} cannot be read: {error.strerror}") from error


def _mounted() -> set[uuid.UUID]:
    """Of all XFS that are mounted where Ganesha will look, those of an administrator too."""
    found = set()
    for source in {mount.source for mount in mounts.table() if mount.filesystem == "xfs"}:
        try:
            found.add(_read(Path(source)))
        except (EnvironmentFault, UserError):
            continue  # a device that this namespace does not have, or that fails: Ganesha does not read it either
    return found
