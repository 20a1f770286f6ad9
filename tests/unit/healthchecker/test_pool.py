"""What is said of the thin pool below a service's volume; the rows are lvm2 2.03's."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ebb import thinpool
from ebb.run import CommandFailed, Completed
from healthchecker.checks.pool import pool
from healthchecker.service import Flash, Level, Service

FLASH = Flash("gbf_42_10.2.19.211_stg", "thin", "/run/ebb/dn1/ganesha/1/data", 1024)
SERVICE = Service("42", 1028, 100, "gbf", "toto", (FLASH,), (20668,))
LINE = [
    "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", thinpool.COLUMNS,
    "--select", "vg_name=thin",
]  # fmt: skip


def rows(pool_of: str = "pool", promised: int = 1 << 30, **more: str) -> list[dict[str, str]]:
    """A pool of 1 GiB with our volume in it, or not."""
    whole = {"vg_name": "thin", "lv_name": "pool", "lv_size": str(1 << 30), "lv_attr": "twi-aotz--", "pool_lv": "",
             "data_percent": "100.00", "metadata_percent": "12.50", "lv_health_status": ""}  # fmt: skip
    ours = {"lv_name": FLASH.lv, "lv_size": str(promised), "lv_attr": "Vwi-aotz--", "pool_lv": pool_of}
    return [whole | more, whole | ours]


@pytest.mark.parametrize(
    ("found", "level", "said"),
    [
        (rows(), None, ""),  # full of what was promised
        (rows(promised=2 << 30, data_percent="79.99"), None, ""),
        (rows(promised=2 << 30, data_percent="80.00"), Level.WARNING, "1073741824 more than it has"),
        (rows(metadata_percent="80.00"), Level.WARNING, "80% of its metadata"),
        (rows(lv_health_status="out_of_data"), Level.FAILED, "`out_of_data`: writes fail"),
        (rows(pool_of="", lv_health_status="failed"), None, ""),  # another's pool
    ],
)
def test_the_pool_of_a_thin_volume(
    monkeypatch: pytest.MonkeyPatch, found: list[dict[str, str]], level: Level | None, said: str
) -> None:
    def answer(argv: Sequence[str], **_: Any) -> Completed:
        assert list(argv) == LINE
        return Completed(tuple(argv), 0, json.dumps({"report": [{"lv": found}]}), "")

    monkeypatch.setattr("ebb.run.run", answer)
    results = list(pool(SERVICE))
    assert [result.level for result in results] == ([] if level is None else [level])
    assert all(said in result.text for result in results)


def test_lvm_that_fails_is_the_volume_checks_to_say(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Sequence[str], **_: Any) -> Completed:
        raise CommandFailed(argv, "ended with 5: Cannot process volume group")

    monkeypatch.setattr("ebb.run.run", fail)
    assert list(pool(SERVICE)) == []
