"""Has the thin pool that a volume is in room for what is written to it?"""

from __future__ import annotations

import json
from collections.abc import Iterator

from ebb import thinpool
from ebb.errors import EbbError
from healthchecker.check import Check
from healthchecker.checks.volume import is_file
from healthchecker.service import Level, Result, Service


def pool(service: Service) -> Iterator[Result]:
    """The pools of a service's thin volumes, each once; nothing of other volumes."""
    for group in sorted({flash.vg for flash in service.flash if not is_file(flash)}):
        ours = {flash.lv for flash in service.flash if flash.vg == group}
        try:
            rows = _volumes(group)
        except EbbError:
            continue  # the check of the volume says that LVM does not work
        names = {row["pool_lv"] for row in rows if row["lv_name"] in ours and row["pool_lv"]}
        for found in thinpool.pools(rows):
            complaint = thinpool.complaint(found) if found.name in names else None
            if complaint is not None:
                fails, text = complaint
                yield Result(Level.FAILED if fails else Level.WARNING, text)


def _volumes(group: str) -> list[dict[str, str]]:
    from ebb.run import run  # here, because most calls of the program need no command

    argv = ["lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", thinpool.COLUMNS,
            "--select", f"vg_name={group}"]  # fmt: skip
    rows: list[dict[str, str]] = json.loads(run(argv, timeout=60).stdout)["report"][0]["lv"]
    return rows


CHECK = Check(
    "pool",
    frozenset({"dasi", "gbf"}),
    pool,
    "LVM does not answer: many volumes are made at once, another command holds its lock, or a device hangs",
    15,
    late=Level.WARNING,  # a device that hangs fails `space`
)
