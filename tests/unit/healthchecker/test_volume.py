"""What LVM is asked and what its answers mean; they are taken from lvm2 2.03."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pytest

from ebb.run import CommandFailed, Completed
from healthchecker.checks.volume import path_of, volume
from healthchecker.service import Flash, Level, Service

FLASH = Flash("gbf_471967_10.2.19.211_stg", "My-Container2", "/run/ebb/dn1/ganesha/1/data", 762)
SERVICE = Service("471967", 1028, 100, "gbf", "toto", (FLASH,), (20668,))
LINE = [
    "lvs", "--reportformat", "json", "--units", "b", "--nosuffix", "--options", "lv_size",
    "--select", "vg_name=My-Container2 && lv_name=gbf_471967_10.2.19.211_stg",
]  # fmt: skip


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        ([{"lv_size": str(762 << 20)}], None),
        ([{"lv_size": str(764 << 20)}], None),  # rounded up to an extent
        ([{"lv_size": str(761 << 20)}], f"has {761 << 20} bytes, 762 MiB"),
        ([], "volume My-Container2/gbf_471967_10.2.19.211_stg is not there"),
    ],
)
def test_the_size_that_lvm_tells(monkeypatch: pytest.MonkeyPatch, rows: list[dict[str, str]], said: str | None) -> None:
    def answer(argv: Sequence[str], **_: Any) -> Completed:
        assert list(argv) == LINE
        return Completed(tuple(argv), 0, json.dumps({"report": [{"lv": rows}]}), "")

    monkeypatch.setattr("ebb.run.run", answer)
    found = list(volume(SERVICE))
    assert [said in result.text for result in found if said] == ([True] if said else [])
    assert all(result.level is Level.FAILED for result in found) and bool(found) is bool(said)


def test_lvm_that_fails_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(argv: Sequence[str], **_: Any) -> Completed:
        raise CommandFailed(argv, "ended with 5: Cannot process volume group")

    monkeypatch.setattr("ebb.run.run", fail)
    [result] = volume(SERVICE)
    assert result.level is Level.FAILED and "Cannot process volume group" in result.text


def test_the_device_has_its_dashes_doubled() -> None:
    assert str(path_of(FLASH)) == "/dev/mapper/My--Container2-gbf_471967_10.2.19.211_stg"
