"""How an object store in datanodes.conf reaches submissions and datanodes, and how DASI mounts reach jobs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ebb import ticket
from ebb.config import Config
from ebb.datanodes import DatanodesError, parse
from ebb.model import Mount
from ebb.objectstore import ObjectStore, StoreKind
from orchestrator.publish import Publisher
from unit.orchestrator.conftest import GIB, KEY, UID, Inside, create, use

STORE = ObjectStore(StoreKind.HESTIA, "http://hestia:8080/api/v1", 3, 60)
NODE = "NodeName=dn1 MemorySize=1GB Cores=1 VolumeGroup=ebb StorageSize=1TB\n"


def offers(inside: Inside, folder: Path) -> str:
    Publisher(inside.engine, inside.placement, Config(run_dir=folder)).publish()
    return next(line for line in (folder / "capacity").read_text().splitlines() if line.startswith("Offers "))


def test_submissions_hear_whether_there_is_a_store(inside: Inside, tmp_path: Path) -> None:
    assert "ObjectStore=no" in offers(inside, tmp_path) and "Types=DASI,GBF" in offers(inside, tmp_path)
    with inside.engine.look() as tx:
        inside.placement.replace(replace(inside.site, object_store=STORE), tx)
    assert "ObjectStore=yes" in offers(inside, tmp_path)


def test_only_datasets_of_objects_take_the_store_along(inside: Inside) -> None:
    with inside.engine.look() as tx:
        inside.placement.replace(replace(inside.site, object_store=STORE), tx)
    inside.whole_job(1, create("objects", data_dst="HESTIA@/home/alice/ds"))
    inside.whole_job(2, create("file", data_dst="/home/alice/ds2"))
    assert inside.datanodes.specs["1"].object_store == STORE
    assert inside.datanodes.specs["2"].object_store is None


def test_a_job_mounts_every_root_of_a_dasi_buffer(inside: Inside) -> None:
    args = {"Name": "weather", "StorageSize": str(GIB), "DasiConfig": "/home/alice/dasi.yaml", "data_dst": "/home/ns/"}
    inside.whole_job(1, {"line": 2, "type": "DASI", "verb": "create_persistent", "args": args})
    assert inside.datanodes.specs["1"].path == "/home/alice/dasi.yaml"
    roots = tuple(
        Mount("127.0.0.11", 20490 + n, f"/ganesha_{n}", f"/run/ebb/dn1/ganesha/{n}/data", f"/home/alice/root{n}")
        for n in (1, 2, 3)
    )
    shown = inside.shown("weather")
    assert shown is not None
    with inside.engine.change() as tx:
        [allocation] = tx.allocations_of(shown.id)
        tx.set_mounts(shown.id, allocation.datanode, roots)
    inside.restart()
    inside.setup(2, use("weather"))
    inside.data_in(2)
    lines = dict(line.split("=", 1) for line in (inside.folder / "jobs/2.env").read_text().splitlines())
    assert lines["EBB_WEATHER"] == "/home/alice/dasi.yaml"
    opened = ticket.verify(lines["SLURM_EBB_TICKET"], KEY, job=2, uid=UID)
    mounts = [m for m in opened.mounts if isinstance(m, ticket.TicketMount)]
    assert [(m.path, m.port, m.export, m.data) for m in mounts] == [
        (root.path, root.port, root.export, root.data) for root in roots
    ]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("ObjectStore=s3 Location=http://h", "ObjectStore=s3: must be hestia or embedded"),
        ("ObjectStore=hestia", "Location= is missing"),
        ("ObjectStore=hestia Location=/store", "must be a URL that begins with http:// or https://"),
        ("ObjectStore=embedded Location=http://h", "must be an absolute path for ObjectStore=embedded"),
        ("ObjectStore=embedded Location=store", "Location=store: must be"),
        ("ObjectStore=hestia Location=http://user:secret@h/api", "Location="),
        ("ObjectStore=hestia Location=ftp://h", "Location=ftp://h: must be"),
        ("ObjectStore=hestia Location=http://h Tiers=0", "Tiers=0: must be"),
        ("ObjectStore=hestia Location=http://h\nObjectStore=hestia Location=http://i", "given twice, first on line 2"),
    ],
)
def test_a_bad_line_of_a_store_is_refused(line: str, wrong: str) -> None:
    with pytest.raises(DatanodesError, match=wrong):
        parse(NODE + line)


def test_a_line_of_a_store_is_read() -> None:
    site = parse(NODE + "objectstore=Hestia location=http://hestia:8080/api/v1 Tiers=3 Patience=60")
    assert site.object_store == STORE
    assert parse(NODE + "ObjectStore=embedded Location=/gpfs/store").object_store == ObjectStore(
        StoreKind.EMBEDDED, "/gpfs/store", 1, 120
    )
    assert parse(NODE).object_store is None
