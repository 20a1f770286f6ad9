"""Where buffers' bytes live: one interface over LVM and over sparse files.

A volume is named within a volume group. Making one that is there and dropping one that is gone are no errors, so that
a step which was cut short can be done again.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dnd.tools import in_use
from ebb.errors import EbbError, EnvironmentFault
from ebb.layout import LINEAR, Layout
from ebb.model import Backend


@dataclass(frozen=True, slots=True)
class Found:
    """A volume as it exists. size in bytes."""

    group: str
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Space:
    """A volume group: bytes in all, bytes free."""

    size: int
    free: int


class VolumeBackend(Protocol):
    """What dnd needs of volumes. Every method raises EnvironmentFault when the system fails."""

    @property
    def mount_options(self) -> tuple[str, ...]:
        """Options that mounting such a volume needs beside the usual ones."""
        ...

    def create(self, group: str, name: str, size: int, layout: Layout = LINEAR) -> None:
        """Make a volume of at least `size` bytes that reads as zeros. One that is there already is left as it is."""
        ...

    def remove(self, group: str, name: str) -> None:
        """Drop a volume and its data. No error if there is none."""
        ...

    def device(self, group: str, name: str) -> Path:
        """The path to make a file system on, to mount, to read and to write."""
        ...

    def in_use(self, group: str, name: str) -> bool:
        """Whether its file system is mounted anywhere, in other mount namespaces too."""
        ...

    def volumes(self) -> list[Found]:
        """All volumes of dnd's, by their names: `gbf_..._stg` and the like."""
        ...

    def groups(self) -> Mapping[str, Space]:
        """The volume groups of this node, and as `<group>/<pool>` the thin pools in them."""
        ...


class FileVolumes:
    """Sparse files below `root`, a folder a volume group; mounted through loop devices that go with the mount."""

    mount_options = ("loop", "discard")

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, group: str, name: str, size: int, layout: Layout = LINEAR) -> None:
        """Make a sparse file, readable by root alone. Files know one layout."""
        path = self.device(group, name)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("ab") as file:
                file.truncate(size)
            path.chmod(0o600)
        except OSError as error:
            raise EnvironmentFault(f"volume {path} of {size} bytes cannot be made: {error.strerror}") from error

    def remove(self, group: str, name: str) -> None:
        """Unlink it; no error if it is gone."""
        path = self.device(group, name)
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise EnvironmentFault(f"volume {path} cannot be dropped: {error.strerror}") from error

    def device(self, group: str, name: str) -> Path:
        """The file itself: mkfs and staging need no loop device."""
        return self._root / group / name

    def in_use(self, group: str, name: str) -> bool:
        """Whether a loop device is still attached to it: that goes with the last mount."""
        return in_use.image_file(self.device(group, name))

    def volumes(self) -> list[Found]:
        """All files named like volumes."""
        return [Found(path.parent.name, path.name, path.stat().st_size) for path in sorted(self._root.glob("*/*_stg"))]

    def groups(self) -> Mapping[str, Space]:
        """Each folder, with the space of the file system that it is on."""
        spaces = {}
        for folder in sorted(self._root.glob("*")):
            status = os.statvfs(folder)
            spaces[folder.name] = Space(status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize)
        return spaces


def groups_of(backends: Mapping[Backend, VolumeBackend]) -> dict[str, Space]:
    """The volume groups of all backends; a backend that is not there (no LVM on this node) has none."""
    spaces: dict[str, Space] = {}
    for backend in backends.values():
        try:
            spaces.update(backend.groups())
        except EbbError:
            continue
    return spaces
