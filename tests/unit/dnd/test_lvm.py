"""The commands that LVM gets, whole lines; what it answers is taken from lvm2 2.03."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from dnd.tools.lvm import LvmVolumes
from dnd.tools.volumes import Found, Space
from ebb import thinpool
from ebb.errors import EnvironmentFault
from ebb.layout import Layout
from ebb.run import Completed

NO_UDEV = ["--config", "activation{udev_sync=0 udev_rules=0}"]
REPORT = ["--reportformat", "json", "--units", "b", "--nosuffix", "--options"]
SELECT = [*REPORT, "lv_name,lv_tags", "--select", "vg_name=ebb && lv_name=gbf_42_10.0.0.1_stg"]
NAME = "gbf_42_10.0.0.1_stg"


class Recorder:
    """Answers reports from a table and notes every command line."""

    def __init__(self, **reports: list[dict[str, str]]) -> None:
        self.reports = reports
        self.lines: list[list[str]] = []
        self.lenient: set[str] = set()

    def __call__(
        self, argv: Sequence[str], *, timeout: float = 60, input: str | None = None, check: bool = True
    ) -> Completed:
        assert timeout > 0 and check is (argv[0] not in self.lenient)
        self.lines.append(list(argv))
        kind = {"lvs": "lv", "vgs": "vg"}.get(argv[0])
        answer = json.dumps({"report": [{kind: self.reports[argv[0]]}]}) if kind else ""
        return Completed(tuple(argv), 0, answer, "")


def test_a_new_volume_is_made_and_zeroed() -> None:
    run = Recorder(lvs=[])
    LvmVolumes(run, udev=False).create("ebb", NAME, 1 << 30)
    assert run.lines == [
        ["lvs", *NO_UDEV, *SELECT],
        [
            "lvcreate",
            *NO_UDEV,
            "--yes",
            "--wipesignatures",
            "n",
            "--zero",
            "n",
            "--addtag",
            "ebb-unfinished",
            "--size",
            "1073741824b",
            "--name",
            NAME,
            "ebb",
        ],
        ["blkdiscard", "--zeroout", f"/dev/mapper/ebb-{NAME}"],
        ["lvchange", *NO_UDEV, "--deltag", "ebb-unfinished", f"ebb/{NAME}"],
    ]


def test_a_size_that_is_no_whole_sectors_is_rounded_up() -> None:
    run = Recorder(lvs=[])
    LvmVolumes(run, udev=True).create("ebb", NAME, 500_000_000)  # as 500MB of a user or of a flavor
    assert "500000256b" in run.lines[1]


def test_where_udev_runs_lvm_waits_for_it() -> None:
    run = Recorder(lvs=[])
    LvmVolumes(run, udev=True).create("ebb", NAME, 1 << 30)
    assert run.lines[0] == ["lvs", *SELECT]


def test_a_volume_that_is_there_is_left_as_it_is() -> None:
    run = Recorder(lvs=[{"lv_name": NAME, "lv_tags": ""}])
    LvmVolumes(run, udev=True).create("ebb", NAME, 1 << 30)
    assert [line[0] for line in run.lines] == ["lvs"]


def test_a_volume_that_was_not_zeroed_to_its_end_is_zeroed_again() -> None:
    run = Recorder(lvs=[{"lv_name": NAME, "lv_tags": "ebb-unfinished,other"}])
    LvmVolumes(run, udev=True).create("ebb", NAME, 1 << 30)
    assert [line[0] for line in run.lines] == ["lvs", "blkdiscard", "lvchange"]


@pytest.mark.parametrize("tags", ["", "ebb-unfinished"], ids=["mkfs", "blkdiscard"])
def test_a_command_that_a_killed_dnd_left_behind_ends_first(
    tags: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """It has the device for itself: a second one beside it would be refused, and with it the creation."""
    run = Recorder(lvs=[{"lv_name": NAME, "lv_tags": tags}])
    volumes = LvmVolumes(run, udev=True)
    device = tmp_path / "device"
    device.touch()
    looks = iter([True, True, False])

    def in_use(path: Path) -> bool:
        assert path == device and [line[0] for line in run.lines] == ["lvs"]
        return next(looks)

    monkeypatch.setattr(LvmVolumes, "device", lambda *_: device)
    monkeypatch.setattr("dnd.tools.in_use.block_device", in_use)
    volumes.create("ebb", NAME, 1 << 30)
    assert list(looks) == []
    assert [line[0] for line in run.lines] == ["lvs", *(["blkdiscard", "lvchange"] if tags else [])]


def test_removal_is_repeatable() -> None:
    run = Recorder(lvs=[{"lv_name": NAME, "pool_lv": ""}])
    LvmVolumes(run, udev=False).remove("ebb", NAME)
    assert run.lines[1:] == [["lvremove", *NO_UDEV, "--yes", "--force", f"ebb/{NAME}"]]
    run = Recorder(lvs=[])
    LvmVolumes(run, udev=False).remove("ebb", NAME)
    assert [line[0] for line in run.lines] == ["lvs"]


def test_a_striped_volume_is_made_over_its_drives() -> None:
    run = Recorder(lvs=[])
    LvmVolumes(run, udev=True).create("ebb", NAME, 1 << 30, Layout(stripes=2, stripe_size=1 << 17))
    unzeroed = ["--wipesignatures", "n", "--zero", "n", "--addtag", "ebb-unfinished"]
    stripes = ["--stripes", "2", "--stripesize", "131072b"]
    assert run.lines[1] == [
        "lvcreate", "--yes", *unzeroed, *stripes, "--size", "1073741824b", "--name", NAME, "ebb",
    ]  # fmt: skip
    assert [line[0] for line in run.lines[2:]] == ["blkdiscard", "lvchange"]
    run = Recorder(lvs=[])
    LvmVolumes(run, udev=True).create("ebb", NAME, 1 << 30, Layout(stripes=3))
    assert run.lines[1][8:10] == ["--stripes", "3"] and "--stripesize" not in run.lines[1]


class Thin(Recorder):
    """The group `ebb` with a pool of 4 GiB, a quarter of it used, half promised; `NAME` is not there."""

    def __init__(self, **pool: str) -> None:
        rows = [
            volume_row("pool", 4 << 30, lv_attr="twi-aotz--", data_percent="25.00", metadata_percent="10.05", **pool),
            volume_row("gbf_7_10.0.0.1_stg", 2 << 30, lv_attr="Vwi-aotz--", pool_lv="pool", data_percent="50.00"),
        ]
        super().__init__(lvs=rows, vgs=[{"vg_name": "ebb", "vg_size": "5368709120", "vg_free": "1048576"}])

    def __call__(
        self, argv: Sequence[str], *, timeout: float = 60, input: str | None = None, check: bool = True
    ) -> Completed:
        if f"vg_name=ebb && lv_name={NAME}" in argv:
            self.lines.append(list(argv))
            return Completed(tuple(argv), 0, '{"report": [{"lv": []}]}', "")
        return super().__call__(argv, timeout=timeout, input=input, check=check)


def volume_row(name: str, size: int, **more: str) -> dict[str, str]:
    empty = dict.fromkeys(("pool_lv", "data_percent", "metadata_percent", "lv_health_status"), "")
    return {"vg_name": "ebb", "lv_name": name, "lv_size": str(size)} | empty | more


def test_a_thin_volume_is_made_in_its_pool_and_needs_no_zeros() -> None:
    run = Thin()
    LvmVolumes(run, udev=True).create("ebb", NAME, 2 << 30, Layout(thin_pool="pool"))
    assert run.lines == [
        ["lvs", *SELECT],
        ["lvs", *REPORT, thinpool.COLUMNS, "--select", "vg_name=ebb"],
        ["lvcreate", "--yes", "--type", "thin", "--virtualsize", "2147483648b", "--thinpool", "pool", "--name", NAME,
         "ebb"],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("pool", "size", "said"),
    [
        ({}, (2 << 30) + 1, "2147483648 of them promised"),
        ({"data_percent": "75.00"}, (1 << 30) + 1, "3221225472 used"),
        ({"metadata_percent": "90.00"}, 1 << 30, "has used 90% of its metadata"),
        ({"lv_attr": "twi-aot---"}, 1 << 30, "gives out blocks with their former data"),
        ({"lv_health_status": "out_of_data"}, 1 << 30, "is in the state `out_of_data`"),
        ({"lv_name": "other"}, 1 << 30, "thin pool ebb/pool is not there"),
    ],
)
def test_a_pool_that_cannot_take_a_volume_is_left_alone(pool: dict[str, str], size: int, said: str) -> None:
    run = Thin()
    run.reports["lvs"][0] |= pool
    with pytest.raises(EnvironmentFault, match=said):
        LvmVolumes(run, udev=True).create("ebb", NAME, size, Layout(thin_pool="pool"))
    assert {line[0] for line in run.lines} == {"lvs"}


def test_a_thin_volumes_blocks_are_discarded_before_it_goes() -> None:
    run = Recorder(lvs=[{"lv_name": NAME, "pool_lv": "pool"}])
    run.lenient = {"blkdiscard"}
    LvmVolumes(run, udev=True).remove("ebb", NAME)
    assert run.lines[1:] == [
        ["blkdiscard", f"/dev/mapper/ebb-{NAME}"],
        ["lvremove", "--yes", "--force", f"ebb/{NAME}"],
    ]


def test_pools_are_no_volumes_but_have_space() -> None:
    run = Thin()
    volumes = LvmVolumes(run, udev=True)
    volumes.volumes()
    assert run.lines[-1][-1] == "lv_name=~_stg$ && lv_attr!~^t"
    assert volumes.groups()["ebb/pool"] == Space(4 << 30, 3 << 30)


def test_reports_are_read_as_bytes() -> None:
    run = Recorder(
        lvs=[volume_row(NAME, 1 << 30, lv_attr="-wi-ao----")],
        vgs=[{"vg_name": "ebb", "vg_size": "2500000000000", "vg_free": "1000000000000"}],
    )
    volumes = LvmVolumes(run, udev=True)
    assert volumes.volumes() == [Found("ebb", NAME, 1 << 30)]
    assert volumes.groups() == {"ebb": Space(2500000000000, 1000000000000)}


def test_a_dash_in_a_name_is_doubled_in_the_devices_name() -> None:
    device = LvmVolumes(Recorder(), udev=True).device("my-vg", "gbf_42-2_10.0.0.1_stg")
    assert device == Path("/dev/mapper/my--vg-gbf_42--2_10.0.0.1_stg")


def test_output_that_is_no_report_is_a_fault() -> None:
    def run(argv: Sequence[str], *, timeout: float = 60, input: str | None = None, check: bool = True) -> Completed:
        return Completed(tuple(argv), 0, "garbage", "")

    with pytest.raises(EnvironmentFault, match="printed no report: garbage"):
        LvmVolumes(run, udev=True).groups()
