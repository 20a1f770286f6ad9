"""What is on this datanode in dnd's own places although no service owns it.

Data is never dropped here: a volume without a record may be all that is left of somebody's work after a journal was
lost. It is reported, in `list` and in the log, until an operator decides. What holds no data (a server process, a
mount, a run folder) is cleaned.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from dnd.gbf import Node, remove_folder
from dnd.journal import Record
from dnd.tools import mounts, process
from dnd.tools.volumes import VolumeBackend
from ebb.errors import EbbError

logger = logging.getLogger(__name__)

_FOLDERS = {"ganesha": "ganesha.conf", "sbb": "sbbd.conf"}
"""Folders of services' folders, and the file there that a server's command line names."""


class Strays:
    """Looks at the start and then now and again. records: a call that gives the records of all living services."""

    def __init__(self, node: Node, records: Callable[[], Collection[Record]]) -> None:
        self._node = node
        self._records = records
        self._found: list[dict[str, Any]] = []

    def found(self) -> list[dict[str, Any]]:
        """What the last look found and left: `{"kind": "volume", "volume_group", "name", "size"}`."""
        return self._found

    def look(self) -> None:
        """Find volumes without a service; end servers, mounts and folders without one."""
        found = [stray for backend in self._node.backends.values() for stray in self._volumes(backend)]
        for stray in found:
            if stray not in self._found:
                logger.warning(
                    "volume %s/%s (%d bytes) belongs to no service; it stays until an operator drops it",
                    stray["volume_group"],
                    stray["name"],
                    stray["size"],
                )
        self._found = found
        # Read after the folders were listed: a service writes its record before it makes its folder.
        folders = sorted(each for kind in _FOLDERS for each in (self._node.run_dir / kind).glob("[0-9]*"))
        owned = {str(number) for record in self._records() for number in record.numbers}
        for folder in folders:
            if folder.name not in owned:
                self._clean(folder)

    def _volumes(self, backend: VolumeBackend) -> list[dict[str, Any]]:
        try:
            volumes = backend.volumes()
        except EbbError:
            return []  # no LVM on this node
        owned = {(record.spec.volume_group, name) for record in self._records() for name in record.volumes}
        ours = f"_{self._node.address.replace(':', '.')}_"
        return [
            {"kind": "volume", "volume_group": volume.group, "name": volume.name, "size": volume.size}
            for volume in volumes
            if ours in volume.name and (volume.group, volume.name) not in owned
        ]

    def _clean(self, folder: Path) -> None:
        logger.warning("%s belongs to no service; ending what runs and is mounted there", folder)
        try:
            own = folder / "own"  # of who runs the server, where that is not root
            uid = own.lstat().st_uid if own.exists() else 0
            process.stop_all(process.find(str(folder / _FOLDERS[folder.parent.name]), uid), grace=5)
            mounts.unmount(folder / "data")
            remove_folder(self._node.run, folder)
        except EbbError as error:
            logger.error("%s: %s", folder, error.text)
        except OSError as error:
            logger.error("%s cannot be cleaned: %s", folder, error)
