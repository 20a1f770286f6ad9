"""Thin pools as `lvs` reports them, and whether one can take a new volume. Pure. Reference: lvmthin(7), lvs(8).

dnd asks before it makes a volume, `pshcservcheck` for the pools of volumes that are there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from ebb.errors import EnvironmentFault

COLUMNS: Final = "vg_name,lv_name,lv_size,lv_attr,pool_lv,data_percent,metadata_percent,lv_health_status"
"""What `pools` reads of every volume of a group."""

WARN_PERCENT: Final = 80.0
"""From here on a check of the pool warns."""

METADATA_LIMIT: Final = 90.0
"""Percent of its metadata that a pool may have used when it takes a new volume; a pool without any turns read-only."""


@dataclass(frozen=True, slots=True)
class Pool:
    """size, promised in bytes: what there is, what its volumes may come to take. data_percent: how much has data.

    zeroes: whether a block is zeroed before it is given out. health: LVM's word for what is wrong, empty if nothing.
    """

    group: str
    name: str
    size: int
    promised: int
    data_percent: float
    metadata_percent: float
    zeroes: bool
    health: str

    @property
    def used(self) -> int:
        """Bytes with data; LVM tells it to a hundredth of a percent."""
        return round(self.size * self.data_percent / 100)

    @property
    def free(self) -> int:
        """Bytes without data."""
        return self.size - self.used


def pools(rows: Iterable[Mapping[str, str]]) -> list[Pool]:
    """The pools among the volumes that `lvs` reported."""
    rows = list(rows)
    promised: dict[tuple[str, str], int] = {}
    for row in rows:
        if row["pool_lv"]:
            key = (row["vg_name"], row["pool_lv"])
            promised[key] = promised.get(key, 0) + int(row["lv_size"])
    return [_pool(row, promised) for row in rows if row["lv_attr"].startswith("t")]


def _pool(row: Mapping[str, str], promised: Mapping[tuple[str, str], int]) -> Pool:
    return Pool(
        group=row["vg_name"],
        name=row["lv_name"],
        size=int(row["lv_size"]),
        promised=promised.get((row["vg_name"], row["lv_name"]), 0),
        data_percent=float(row["data_percent"] or 0),
        metadata_percent=float(row["metadata_percent"] or 0),
        zeroes=row["lv_attr"][7:8] == "z",
        health=row["lv_health_status"],
    )


def check(found: Iterable[Pool], group: str, name: str, size: int) -> None:
    """Whether a pool can take a volume of `size` bytes, all of which may be written. Raises EnvironmentFault."""
    pool = next((pool for pool in found if (pool.group, pool.name) == (group, name)), None)
    called = f"thin pool {group}/{name}"
    if pool is None:
        raise EnvironmentFault(
            f"{called} is not there; make it (`lvcreate --type thin-pool`) or change ThinPool= in datanodes.conf"
        )
    if pool.health:
        raise EnvironmentFault(f"{called} is in the state `{pool.health}`; repair it as lvmthin(7) says")
    if not pool.zeroes:
        raise EnvironmentFault(
            f"{called} gives out blocks with their former data; `lvchange --zero y {group}/{name}` changes that"
        )
    if pool.metadata_percent >= METADATA_LIMIT:
        raise EnvironmentFault(
            f"{called} has used {pool.metadata_percent:g}% of its metadata; "
            f"`lvextend --poolmetadatasize +256M {group}/{name}` gives it more"
        )
    if size > min(pool.size - pool.promised, pool.free):
        raise EnvironmentFault(
            f"{called} of {pool.size} bytes, {pool.promised} of them promised and {pool.used} used, has no room for "
            f"{size} bytes; extend the pool or lower StorageSize= in datanodes.conf to what it has for buffers"
        )


def complaint(pool: Pool) -> tuple[bool, str] | None:
    """What is wrong with a pool that has volumes: whether writes fail already, and a sentence; None if all is well.

    A pool that is full of what was promised is well: nothing more can come.
    """
    called = f"thin pool {pool.group}/{pool.name}"
    if pool.health:
        return True, f"{called} is in the state `{pool.health}`: writes fail; see lvmthin(7)"
    if pool.metadata_percent >= WARN_PERCENT:
        more = f"give it more before it is read-only: `lvextend --poolmetadatasize +256M {pool.group}/{pool.name}`"
        return False, f"{called} has used {pool.metadata_percent:g}% of its metadata; {more}"
    if pool.promised > pool.size and pool.data_percent >= WARN_PERCENT:
        return False, (
            f"{called} has {pool.free} bytes left, and its volumes may come to take {pool.promised - pool.size} more "
            "than it has: something beside Ebb takes room there (a snapshot?); drop it, or extend the pool"
        )
    return None
