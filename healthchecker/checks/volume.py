"""Is the volume there, and is it as large as the database says?"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ebb.errors import EbbError
from healthchecker.check import Check
from healthchecker.service import Flash, Level, Result, Service

_MIB = 1 << 20


def volume(service: Service) -> Iterator[Result]:
    """Each volume: there, and no smaller. It may be larger: LVM rounds up to its extents."""
    for flash in service.flash:
        try:
            size = size_of(flash)
        except EbbError as error:
            yield Result(Level.FAILED, f"volume {flash.vg}/{flash.lv}: LVM does not tell of it: {error.text}")
            continue
        if size is None:
            yield Result(
                Level.FAILED,
                f"volume {flash.vg}/{flash.lv} is not there; its data are lost unless the volume was renamed or its "
                "device is missing: see `lvs -a`, `pvs`",
            )
        elif size < flash.size * _MIB:
            yield Result(
                Level.FAILED,
                f"volume {flash.vg}/{flash.lv} has {size} bytes, {flash.size} MiB ({flash.size * _MIB} bytes) are "
                "expected: it was shrunk or replaced; end the service without saving over a good dataset",
            )


def is_file(flash: Flash) -> bool:
    """Whether the volume is a file: its volume group is a folder then."""
    return flash.vg.startswith("/")


def path_of(flash: Flash) -> Path:
    """The file, or the device-mapper node (a dash is doubled there, lvm(8))."""
    if is_file(flash):
        return Path(flash.vg) / flash.lv
    return Path("/dev/mapper") / f"{flash.vg.replace('-', '--')}-{flash.lv.replace('-', '--')}"


def size_of(flash: Flash) -> int | None:
    """Bytes; None if there is no such volume. Raises EbbError when LVM does not work."""
    if not is_file(flash):
        return _logical_volume(flash)
    try:
        found = os.stat(path_of(flash))
    except FileNotFoundError:
        return None
    return found.st_size if stat.S_ISREG(found.st_mode) else None


def _logical_volume(flash: Flash) -> int | None:
    from ebb.run import run  # here, because most calls of the program need no command

    argv = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", "lv_size",
            "--select", f"vg_name={flash.vg} && lv_name={flash.lv}"]  # fmt: skip
    # The check's own time limit is the shorter one, and says what hangs.
    rows = json.loads(run(argv, timeout=60).stdout)["report"][0]["lv"]
    return int(rows[0]["lv_size"]) if rows else None


CHECK = Check(
    "volume",
    frozenset({"dasi", "gbf"}),
    volume,
    "LVM does not answer: many volumes are made at once, another command holds its lock, or a device hangs",
    15,
    late=Level.WARNING,  # a device that hangs fails `space`
)
