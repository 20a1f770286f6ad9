"""datanodes.conf: what is read, what is refused and how that is said, and that example and page match the parser."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from ebb import cli, datanodes, datanodes_text, hostlist
from ebb.datanodes_schema import SCHEMA
from ebb.datanodes_text import table
from ebb.errors import UserError
from ebb.layout import Layout
from ebb.model import Backend, Datanode, Flavor, VolumeGroup

ROOT = Path(__file__).parents[3]
NODE = "NodeName=dn1 MemorySize=1GB Cores=1 VolumeGroup=ebb StorageSize=1TB"


def refused(text: str) -> list[str]:
    with pytest.raises(datanodes.DatanodesError) as caught:
        datanodes.parse(text, "d.conf")
    return [str(problem) for problem in caught.value.problems]


def test_hostlists_expand_in_step() -> None:
    site = datanodes.parse(
        "NodeName=dn[1-4] NodeAddr=10.2.19.[211-214] Port=8766 MemorySize=100GB Cores=32 "
        "Backend=lvm VolumeGroup=ebb StorageSize=2500GB"
    )
    group = VolumeGroup("ebb", 2500 * 1000**3, Backend.LVM)
    assert site.datanodes == tuple(
        Datanode(f"dn{n}", f"10.2.19.{210 + n}", 8766, 100 * 1000**3, 32, (group,)) for n in range(1, 5)
    )
    assert site.datanode("dn3") == site.datanodes[2]
    assert site.datanode("dn5") is None


def test_addresses_keep_the_order_written() -> None:
    site = datanodes.parse("NodeName=dn[1-3] NodeAddr=z,y[2,1] MemorySize=1GB Cores=1 VolumeGroup=e StorageSize=1T")
    assert [(node.name, node.address) for node in site.datanodes] == [("dn1", "z"), ("dn2", "y2"), ("dn3", "y1")]


def test_one_address_with_a_port_each_and_several_volume_groups() -> None:
    site = datanodes.parse(
        "NODENAME=dn[1-2] nodeaddr=127.0.0.1 port=[9001-9002] memorysize=1G CORES=2 volumegroup=e storagesize=1 # why\n"
        "# NodeName=no\n\n"
        "flavor=Small MemorySize=5GB \\\n  Cores=2\n"
        "NodeName=dn3 MemorySize=1G Cores=2 Backend=File VolumeGroup=vg1,vg2 StorageSize=1TB,2TB\n"
        "healthchecker=/opt/check"
    )
    assert [(node.address, node.port) for node in site.datanodes] == [
        ("127.0.0.1", 9001), ("127.0.0.1", 9002), ("dn3", 8766),
    ]  # fmt: skip
    assert site.datanodes[2].volume_groups == (
        VolumeGroup("vg1", 1000**4, Backend.FILE),
        VolumeGroup("vg2", 2 * 1000**4, Backend.FILE),
    )
    assert site.datanodes[2].storage == 3 * 1000**4
    assert site.flavors == (Flavor("Small", 5 * 1000**3, 2, 0),)
    assert site.flavor("small") is None
    assert site.healthchecker == "/opt/check"


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        (NODE.replace("1GB", "12XB"), r"d\.conf:1: MemorySize=12XB: must be .*KiB"),
        (NODE.replace("1GB", "0"), "MemorySize=0: must be more than zero"),
        (NODE.replace("Cores=1", "Cores=0"), "Cores=0: must be a whole number, 1 or more"),
        (NODE.replace("Cores=1", ""), "Cores= is missing; it must be a whole number"),
        (NODE.replace("1TB", "0TB"), "StorageSize=0TB: must be .*more than zero"),
        (NODE.replace("1TB", "1TB,2TB"), "StorageSize has 2 elements and VolumeGroup 1"),
        (NODE.replace("=ebb", "=a,a"), "VolumeGroup=a,a: must be one or more different"),
        (NODE.replace("=ebb", "=-a"), "VolumeGroup=-a"),
        (NODE + " Backend=zfs", "Backend=zfs: must be lvm or file"),
        (NODE + " Port=0", "Port=0: must be a port"),
        (NODE + " Port=[1-2]", "Port has 2 elements and NodeName 1"),
        (NODE + " NodeAddr=a,b", "NodeAddr has 2 elements and NodeName 1"),
        (NODE + " Speed=9", r"`Speed=9` is an unknown key; accepted here: NodeName= \[NodeAddr=\]"),
        (NODE + " fast", "`fast` is no Key=Value"),
        (NODE + " cores=3", "Cores is given twice on one line"),
        (NODE + "\n" + NODE + " Port=1", "d.conf:2: datanode dn1 is there twice, first on line 1"),
        (NODE + "\n" + NODE.replace("dn1", "dn2 NodeAddr=dn1"), "d.conf:2: .*dn2 has address dn1 and port 8766, .*dn1"),
        (NODE.replace("dn1", "dn[1,1-2]"), "datanode dn1 is there twice"),
        (NODE.replace("dn1", "@all"), "NodeName=@all: must be a name or hostlist"),
        (NODE.replace("dn1", "dn[1-2]!dn1"), "NodeName="),
        (NODE.replace("dn1", "dn[2-1]"), "NodeName="),
        (NODE.replace("dn1", "dn["), "NodeName="),
        (NODE.replace("dn1", "dn[1-999999999999]"), "NodeName="),
        (NODE.replace("dn1", "../dn1"), "NodeName="),
        (NODE + " NodeAddr=fe80::1", "NodeAddr=fe80::1: must be an address"),
        (NODE.replace("dn1", ""), "NodeName=: must be a name"),
        (NODE + "\nFlavor=a MemorySize=1 Cores=1\nFlavor=A MemorySize=1 Cores=1", "d.conf:3: flavor A is there twice"),
        (NODE + "\nFlavor=a MemorySize=1 Cores=1 StorageSize=0", "StorageSize=0: must be more than zero"),
        (NODE + "\nHealthChecker=bin/x", "d.conf:2: HealthChecker=bin/x: must be an absolute path"),
        (NODE + "\nhealthchecker=/a\nHealthChecker=/b", "d.conf:3: HealthChecker is given twice, first on line 2"),
        (NODE + "\nColour=red", "d.conf:2: .*`Colour=red` is unknown; lines begin with NodeName=, Flavor=, Health"),
        (NODE + " Stripes=2,1", "Stripes has 2 elements and VolumeGroup 1; there must be as many"),
        (NODE + " Stripes=0", "Stripes=0: must be as many whole numbers"),
        (NODE + " Stripes=129", "Stripes=129: must be as many whole numbers"),
        (NODE + " Stripes=2 StripeSize=96K", "StripeSize=96K: must be a size that is a power of two"),
        (NODE + " StripeSize=64K", "StripeSize=65536 is for nothing"),
        (NODE + " ThinPool=-,p", "ThinPool has 2 elements and VolumeGroup 1"),
        (NODE + " ThinPool=/p", "ThinPool=/p: must be as many names of thin pools"),
        (NODE + " Stripes=2 ThinPool=p", "ebb has Stripes=2 and ThinPool=p; a pool has its own"),
        (NODE + " Backend=file ThinPool=p", "Stripes and ThinPool are for Backend=lvm"),
        ("# nothing\n", "^d.conf: no datanode is named"),
        ("", "no datanode is named"),
    ],
)  # fmt: skip
def test_refuses(text: str, pattern: str) -> None:
    problems = refused(text)
    assert len(problems) == 1
    assert re.search(pattern, problems[0]), problems[0]


def test_how_volumes_lie_in_each_volume_group() -> None:
    site = datanodes.parse(
        "NodeName=dn1 MemorySize=1G Cores=2 VolumeGroup=a,b,c StorageSize=1T,2T,3T Stripes=1,4,1 StripeSize=128KiB "
        "ThinPool=-,-,pool"
    )
    layouts = [group.layout for group in site.datanodes[0].volume_groups]
    assert layouts == [Layout(), Layout(stripes=4, stripe_size=128 << 10), Layout(thin_pool="pool")]
    shown = table(site)
    assert "a (lvm) 1TiB, b (lvm, 4 stripes) 2TiB, c (lvm, thin in pool) 3TiB" in shown


def test_all_errors_at_once_each_with_its_own_line() -> None:
    problems = refused("NodeName=dn1 MemorySize=x \\\n  Cores=1 \\\n  VolumeGroup=/ StorageSize=1\nFlavor=\nnonsense\n")
    lines = [int(problem.split(":")[1]) for problem in problems]
    assert lines == [1, 3, 4, 4, 4, 5]


def test_error_is_the_users_and_one_line() -> None:
    with pytest.raises(UserError) as caught:
        datanodes.parse("a\nb\n")
    assert "datanodes.conf:1" in caught.value.text
    assert "datanodes.conf:2" in caught.value.text
    assert "\n" not in caught.value.text


def test_unreadable_file(tmp_path: Path) -> None:
    with pytest.raises(datanodes.DatanodesError, match="cannot be read: No such file"):
        datanodes.load(tmp_path / "missing")
    (tmp_path / "binary").write_bytes(b"Flavor=\xff")
    with pytest.raises(datanodes.DatanodesError, match="not UTF-8"):
        datanodes.load(tmp_path / "binary")


def test_example_is_the_schemas_and_parses() -> None:
    text = (ROOT / "datanodes.conf.example").read_text()
    assert text == datanodes_text.example()
    site = datanodes.parse(text)
    assert [node.name for node in site.datanodes] == ["dn1", "dn2", "dn3", "dn4"]
    assert site.flavors == (
        Flavor("small", 5 * 1000**3, 2),
        Flavor("medium", 10 * 1000**3, 4, 500 * 1000**3),
        Flavor("high", 50 * 1000**3, 8, 1000**4),
    )
    assert site.healthchecker == "/usr/sbin/pshcservcheck"


def test_commented_examples_parse_too() -> None:
    text = re.sub(r"^#(\w+=\S+ .*)$", r"\1", datanodes_text.example(), flags=re.MULTILINE)
    assert len(datanodes.parse(text).datanodes) == 6


def test_page_is_the_schemas_and_names_every_key() -> None:
    page = (ROOT / "docs" / "datanodes-conf.md").read_text()
    assert page == datanodes_text.docs()
    for record in SCHEMA:
        for key in record.keys:
            assert f"| `{key.name}` |" in page


def test_command_line(tmp_path: Path) -> None:
    def check(*argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "ebb.datanodes", *argv], cwd=ROOT, capture_output=True, text=True, timeout=60
        )

    good = check("datanodes.conf.example")
    assert good.returncode == 0
    assert "high    50GB    8      1TB      4 of 4 datanodes" in good.stdout
    bad = tmp_path / "bad.conf"
    bad.write_text("x\n\nNodeName=dn1\n")
    answer = check(str(bad))
    assert answer.returncode == 1
    assert answer.stderr.splitlines()[0].startswith(f"{bad}:1: ")
    assert answer.stderr.splitlines()[1].startswith(f"{bad}:3: ")
    assert check("--what").returncode == 2


def test_the_admin_tool_shows_a_file_or_every_error(tmp_path: Path) -> None:
    good = CliRunner().invoke(cli.main, ["datanodes", str(ROOT / "datanodes.conf.example")])
    assert good.exit_code == 0
    assert "high    50GB    8      1TB      4 of 4 datanodes" in good.output
    (tmp_path / "datanodes.conf").write_text("x\n\nNodeName=dn1\n")
    (tmp_path / "ebb.conf").write_text(f"DatanodesConf={tmp_path}/datanodes.conf\n")
    bad = CliRunner().invoke(cli.main, ["--config", f"{tmp_path}/ebb.conf", "datanodes"])
    assert bad.exit_code == 1
    assert {line.split(": ")[1] for line in bad.output.splitlines()} == {
        f"{tmp_path}/datanodes.conf:1",
        f"{tmp_path}/datanodes.conf:3",
    }


def test_hostlist_is_bounded_and_pads() -> None:
    assert hostlist.expand("n[08-11],m") == ["n08", "n09", "n10", "n11", "m"]
    assert hostlist.expand("r[1-2]n[1-2]") == ["r1n1", "r1n2", "r2n1", "r2n2"]
    with pytest.raises(ValueError, match="more than 65536"):
        hostlist.expand("n[1-65537]")
