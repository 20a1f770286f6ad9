"""What each root gets: its share of StorageSize, and the name of its dataset in the namespace directory (pure)."""

from __future__ import annotations

import hashlib
import re

from dnd.tools.xfs import SMALLEST
from ebb.errors import UserError

GRAIN = 4 << 20
"""Shares are whole multiples of an LVM extent, so that they fit into what was allocated."""


def share_of(storage_size: int, count: int) -> int:
    """The bytes of each of `count` roots. One root has all; several have the same, whole 4 MiB; what is left over
    (less than 4 MiB a root) stays unused.

    Raises UserError if that is less than the smallest file system.
    """
    share = storage_size if count == 1 else storage_size // count // GRAIN * GRAIN
    if share < SMALLEST:
        raise UserError(
            f"StorageSize {storage_size} split over {count} roots is {share} bytes each; a root needs at least "
            f"{SMALLEST} (300 MiB): give StorageSize={SMALLEST * count} or more"
        )
    return share


def dataset_name(root: str) -> str:
    """The file of a root's dataset: the last part of its path for people, a digest of the whole path for the rest.

    It depends on the root alone, so it stays the same whatever else changes in the configuration.
    """
    last = re.sub(r"[^A-Za-z0-9._-]", "_", root.rsplit("/", 1)[-1])[:64].lstrip(".") or "root"
    return f"{last}-{hashlib.sha256(root.encode()).hexdigest()[:12]}.dasi"
