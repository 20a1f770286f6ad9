"""Volumes on LVM. Reference: lvm(8), lvcreate(8), lvmreport(7) of lvm2 2.03."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from pathlib import Path

from dnd.tools import in_use
from dnd.tools.volumes import Found, Space
from ebb import thinpool
from ebb.errors import EnvironmentFault
from ebb.layout import LINEAR, Layout
from ebb.run import CommandFailed, Runner

_WITHOUT_UDEV = ("--config", "activation{udev_sync=0 udev_rules=0}")
_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix")
_ZERO_TIMEOUT = 3600.0
_LOCKED_TIMEOUT = 300.0
"""LVM's commands wait for each other: many volumes may be made at once."""
_FREE_PAUSE_SECONDS = 0.2
_SECTOR = 512
_UNFINISHED = "ebb-unfinished"  # a tag on a volume that is not all zeros yet
_UNZEROED = ("--wipesignatures", "n", "--zero", "n", "--addtag", _UNFINISHED)


class LvmVolumes:
    """Logical volumes: linear, striped or thin.

    udev: None looks whether one runs; without one LVM would wait for it for ever.
    """

    mount_options: tuple[str, ...] = ()

    def __init__(self, run: Runner, *, udev: bool | None = None) -> None:
        self._run = run
        running = Path("/run/udev/control").exists() if udev is None else udev
        self._config = () if running else _WITHOUT_UDEV

    def create(self, group: str, name: str, size: int, layout: Layout = LINEAR) -> None:
        """Make the volume and write zeros over it: the blocks were another user's, and a user who reserves space
        without writing it would find them in the saved image. NVMe drives do it without moving data. A thin volume
        reads as zeros where nothing was written, so nothing is.

        A volume that is there already may be in use by a command of a dnd that was killed (to write zeros, to make a
        file system): that one ends first. Raises EnvironmentFault also for a pool that is missing, that does not zero,
        or that has too little room.
        """
        size = -(-size // _SECTOR) * _SECTOR  # lvcreate refuses others before it rounds up to extents
        tags = self._look(group, name, "lv_tags")
        if tags is None and layout.thin_pool:
            thinpool.check(self._pools(group), group, layout.thin_pool, size)
            self._lvcreate(
                "--type", "thin", "--virtualsize", f"{size}b", "--thinpool", layout.thin_pool, to=(name, group)
            )
        elif tags is None:
            stripes = ["--stripes", f"{layout.stripes}"] if layout.stripes > 1 else []
            if layout.stripe_size:
                stripes += ["--stripesize", f"{layout.stripe_size}b"]
            self._lvcreate(*_UNZEROED, *stripes, "--size", f"{size}b", to=(name, group))
        else:
            self._wait_until_free(group, name)
        if (tags is None and not layout.thin_pool) or (tags and _UNFINISHED in tags.split(",")):
            self._run(["blkdiscard", "--zeroout", str(self.device(group, name))], timeout=_ZERO_TIMEOUT)
            self._run(["lvchange", *self._config, "--deltag", _UNFINISHED, f"{group}/{name}"], timeout=_LOCKED_TIMEOUT)

    def _lvcreate(self, *how: str, to: tuple[str, str]) -> None:
        name, group = to
        self._run(["lvcreate", *self._config, "--yes", *how, "--name", name, group], timeout=_LOCKED_TIMEOUT)

    def _wait_until_free(self, group: str, name: str) -> None:
        end = time.monotonic() + _ZERO_TIMEOUT
        while self.device(group, name).exists() and self.in_use(group, name):
            if time.monotonic() > end:
                raise EnvironmentFault(f"volume {group}/{name} is still in use after {_ZERO_TIMEOUT:g} s")
            time.sleep(_FREE_PAUSE_SECONDS)

    def remove(self, group: str, name: str) -> None:
        """Drop a volume; no error if there is none. The drives are told of a thin volume's blocks first: when it is
        dropped, they go back to the pool without that (lvmthin(7)).
        """
        pool = self._look(group, name, "pool_lv")
        if pool is None:
            return
        if pool:
            # Not for the data's sake, and a pool may be set to ignore it: what counts is lvremove.
            self._run(["blkdiscard", str(self.device(group, name))], timeout=_ZERO_TIMEOUT, check=False)
        self._run(["lvremove", *self._config, "--yes", "--force", f"{group}/{name}"], timeout=_LOCKED_TIMEOUT)

    def device(self, group: str, name: str) -> Path:
        """Its device-mapper node."""
        # /dev/<group>/<name> is made by udev; this one exists without it too. A dash is doubled there (lvm(8)).
        return Path("/dev/mapper") / f"{group.replace('-', '--')}-{name.replace('-', '--')}"

    def in_use(self, group: str, name: str) -> bool:
        """Whether the kernel holds the volume for a mount."""
        return in_use.block_device(self.device(group, name))

    def volumes(self) -> list[Found]:
        """All logical volumes named like ours; a thin pool is none, whatever its name."""
        select = "lv_name=~_stg$ && lv_attr!~^t"
        rows = self._report("lvs", "lv", "vg_name,lv_name,lv_size", "--select", select)
        return [Found(row["vg_name"], row["lv_name"], int(row["lv_size"])) for row in rows]

    def groups(self) -> Mapping[str, Space]:
        """All volume groups of this node, and the thin pools in them as `<group>/<pool>`."""
        rows = self._report("vgs", "vg", "vg_name,vg_size,vg_free")
        spaces = {row["vg_name"]: Space(int(row["vg_size"]), int(row["vg_free"])) for row in rows}
        for pool in self._pools():
            spaces[f"{pool.group}/{pool.name}"] = Space(pool.size, pool.free)
        return spaces

    def _pools(self, group: str | None = None) -> list[thinpool.Pool]:
        select = ("--select", f"vg_name={group}") if group else ()
        return thinpool.pools(self._report("lvs", "lv", thinpool.COLUMNS, *select))

    def _look(self, group: str, name: str, column: str) -> str | None:
        """One column of a volume, None if there is no such volume."""
        rows = self._report("lvs", "lv", f"lv_name,{column}", "--select", f"vg_name={group} && lv_name={name}")
        return rows[0].get(column, "") if rows else None

    def _report(self, command: str, kind: str, columns: str, *more: str) -> list[dict[str, str]]:
        try:
            done = self._run([command, *self._config, *_REPORT, "--options", columns, *more], timeout=_LOCKED_TIMEOUT)
            rows: list[dict[str, str]] = json.loads(done.stdout)["report"][0][kind]
        except CommandFailed:
            raise
        except (ValueError, LookupError) as error:
            raise EnvironmentFault(f"`{command}` printed no report: {done.stdout[:100]}") from error
        return rows
