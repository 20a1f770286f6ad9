"""DASI buffers on a real daemon: a volume, a Ganesha and a dataset for each root, all of them or none."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ebb.errors import UserError
from ebb.model import Phase, Status
from unit.dnd.datanode import ADDRESS, GID, MIB, SIZE, UID, Datanode
from unit.dnd.nfs4 import wait_for
from unit.healthchecker.programs import the_checker

pytestmark = pytest.mark.datanode
ROOTS = ("/home/nobody/root1", "/scratch/nobody/root2", "/home/nobody/root3")


def write_config(datanode: Datanode, *roots: str) -> str:
    path = datanode.home / "dasi.yaml"
    text = {"schema": "./schema", "spaces": [{"handler": "Default", "roots": [{"path": root} for root in roots]}]}
    path.write_text(json.dumps(text))  # JSON is YAML
    return str(path)


def create(datanode: Datanode, sid: str, *roots: str, prefix: str = "", **changes: Any) -> Status:
    folder = datanode.home / "namespace"
    if not folder.exists():
        folder.mkdir()
        os.chown(folder, UID, GID)
    (datanode.folder / "store").mkdir(exist_ok=True)
    store = {"kind": "embedded", "location": str(datanode.folder / "store"), "tiers": 1, "patience": 5}
    wanted = {
        "type": "DASI",
        "path": write_config(datanode, *(roots or ROOTS)),
        "data_dst": f"{prefix}{folder}/",
        "storage_size": len(roots or ROOTS) * SIZE + 5,
        "object_store": store if prefix else None,
    }
    return datanode.create(sid, **{**wanted, **changes})


def data_of(status: Status) -> dict[str, Path]:
    return {mount.path: Path(mount.data) for mount in status.mounts}


def fill(status: Status, text: str) -> None:
    for root, data in data_of(status).items():
        (data / "kept").write_text(f"{text} {root}")


def read(status: Status) -> dict[str, str]:
    return {root: (data / "kept").read_text() for root, data in data_of(status).items()}


@pytest.mark.parametrize("prefix", ["", "HESTIA@"])
def test_each_root_is_mounted_saved_and_comes_back(datanode: Datanode, prefix: str) -> None:
    status = create(datanode, "1", prefix=prefix)
    assert status.phase is Phase.READY, status
    assert [mount.path for mount in status.mounts] == list(ROOTS)
    assert len({(mount.port, mount.export, mount.data) for mount in status.mounts}) == 3
    assert [volume.name for volume in status.volumes] == [f"gbf_1_{ADDRESS}_{n}_stg" for n in range(3)]
    assert [volume.size for volume in status.volumes] == [SIZE] * 3
    assert sorted(status.daemons) == sorted(datanode.ganeshas()) and len(status.daemons) == 3
    fill(status, "first")
    assert datanode.destroy("1").phase is Phase.GONE
    datanode.assert_nothing_left()
    names = sorted(os.listdir(datanode.home / "namespace"))
    assert len(names) == 3
    # data_dst alone takes up what is there; the order of the roots does not matter, and a new one begins empty.
    fourth = "/home/nobody/root4"
    status = create(datanode, "2", *reversed(ROOTS), fourth, prefix=prefix, storage_size=4 * SIZE)
    assert status.phase is Phase.READY, status
    assert not (data_of(status)[fourth] / "kept").exists()
    (data_of(status)[fourth] / "kept").write_text("")
    assert {root: text for root, text in read(status).items() if text} == {root: f"first {root}" for root in ROOTS}
    fill(status, "second")
    assert datanode.destroy("2").phase is Phase.GONE
    assert set(names) < set(os.listdir(datanode.home / "namespace"))
    folder = f"{prefix}{datanode.home}/namespace/"
    status = create(datanode, "3", prefix=prefix, data_src=folder, data_dst=folder)
    assert read(status) == {root: f"second {root}" for root in ROOTS}
    assert datanode.destroy("3", discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_job_is_let_in_to_all_roots_and_shut_out_again(datanode: Datanode) -> None:
    status = create(datanode, "42")
    datanode.admit()
    for mount in status.mounts:
        config = (Path(mount.data).parent / "ganesha.conf").read_text()
        assert "127.0.0.21" in config
    datanode.call("post_run", {"sid": "42", "job_id": 43})
    for mount in status.mounts:
        assert "127.0.0.21" not in (Path(mount.data).parent / "ganesha.conf").read_text()
    assert datanode.destroy(discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


def test_one_bad_dataset_leaves_nothing_of_any_root(datanode: Datanode) -> None:
    status = create(datanode, "1")
    fill(status, "x")
    datanode.destroy("1")
    third = next((datanode.home / "namespace").glob("root3-*"))
    with third.open("r+b") as file:
        file.seek(200)
        file.write(b"flipped")
    before = sorted(os.listdir(datanode.home / "namespace"))
    status = create(datanode, "2")
    assert status.phase is Phase.FAILED
    assert status.error is not None and "root /home/nobody/root3: " in status.error, status.error
    assert datanode.ganeshas() == [] and datanode.mounts() == []
    assert datanode.destroy("2").phase is Phase.GONE
    assert sorted(os.listdir(datanode.home / "namespace")) == before
    datanode.assert_nothing_left()


def test_a_root_that_cannot_be_saved_is_named_and_no_data_is_lost(datanode: Datanode) -> None:
    status = create(datanode, "1")
    fill(status, "precious")
    blocked = datanode.home / "namespace" / "blocker"
    part = json.loads((datanode.state / "services" / "1.json").read_text())["parts"][1]
    blocked = Path(part["data_dst"])
    blocked.mkdir()
    status = datanode.destroy("1")
    assert status.phase is Phase.SAVE_FAILED
    assert status.error is not None and "2 of 3 roots saved" in status.error, status.error
    assert "root /scratch/nobody/root2: " in status.error and "is a directory" in status.error
    assert len(status.volumes) == 3
    assert len(list((datanode.state / "volumes").glob("*/*"))) == 3, "the data of all roots are kept"
    blocked.rmdir()
    assert datanode.destroy("1").phase is Phase.GONE
    datanode.assert_nothing_left()
    status = create(datanode, "2")
    assert read(status) == {root: f"precious {root}" for root in ROOTS}
    datanode.destroy("2", discard=True)


@pytest.mark.parametrize("milliseconds", [0, 60, 150, 300, 500])
def test_kill_9_while_it_is_made_and_while_it_is_saved(datanode: Datanode, milliseconds: int) -> None:
    config = write_config(datanode, *ROOTS)
    folder = datanode.home / "namespace"
    folder.mkdir()
    os.chown(folder, UID, GID)
    changes = {"type": "DASI", "path": config, "data_dst": f"{folder}/", "storage_size": 3 * SIZE}
    datanode.call("create_persistent", datanode.spec("1", **changes))
    time.sleep(milliseconds / 1000)
    datanode.kill()
    datanode.start()
    status = datanode.settled("1")
    assert status.phase is Phase.READY, status
    assert len(datanode.ganeshas()) == 3
    fill(status, "precious")
    datanode.call("destroy_persistent", {"sid": "1", "discard": False})
    time.sleep(milliseconds / 1000)
    datanode.kill()
    datanode.start()
    assert datanode.settled("1").phase is Phase.GONE
    datanode.assert_nothing_left()
    status = create(datanode, "2")
    assert read(status) == {root: f"precious {root}" for root in ROOTS}
    datanode.destroy("2", discard=True)
    datanode.assert_nothing_left()


def test_its_servers_are_found_and_kept_after_a_restart(datanode: Datanode) -> None:
    status = create(datanode, "1")
    datanode.kill()
    datanode.start()
    again = datanode.settled("1")
    assert again.daemons == status.daemons and again.mounts == status.mounts
    os.kill(again.daemons[1], 9)
    wait_for(lambda: len(datanode.ganeshas()) == 3, 20, "the server that died runs again")
    wait_for(lambda: datanode.call("status", {"sid": "1"}).daemons != status.daemons, 10, "the status names it")
    assert datanode.client.call("list", {})["strays"] == []
    assert datanode.destroy("1", discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "{home}/none.yaml"}, "does not exist"),
        ({"path": "{home}/secret.yaml"}, "Permission denied"),
        ({"path": "{home}/big.yaml"}, "has 10485760 bytes; a DASI configuration has at most"),
        ({"path": "{home}"}, "is a directory; a regular file is needed"),
        ({"path": "{home}/fifo"}, "is a FIFO"),
        ({"path": "{home}/bad.yaml"}, "is no YAML"),
        ({"data_dst": "{home}/none/"}, "No such file or directory"),
        ({"data_src": "{home}/empty/"}, "has no dataset of any root"),
        ({"storage_size": 899 * MIB}, "split over 3 roots"),
    ],
)
def test_what_cannot_work_is_refused_at_creation(datanode: Datanode, changes: dict[str, Any], message: str) -> None:
    (datanode.home / "empty").mkdir()
    (datanode.home / "secret.yaml").write_text("spaces: []")
    (datanode.home / "secret.yaml").chmod(0o600)
    os.mkfifo(datanode.home / "fifo")
    (datanode.home / "bad.yaml").write_text("spaces: [")
    with (datanode.home / "big.yaml").open("wb") as file:
        file.truncate(10 * MIB)
    filled = {k: v.format(home=datanode.home) if isinstance(v, str) else v for k, v in changes.items()}
    status = create(datanode, "1", **filled)
    assert status.phase is Phase.FAILED
    assert status.error is not None and message in status.error, status.error
    assert datanode.destroy("1").phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_buffer_without_a_place_for_its_datasets_is_refused_at_once(datanode: Datanode) -> None:
    with pytest.raises(UserError, match="data_dst is missing"):
        datanode.call("create_persistent", datanode.spec(type="DASI"))


def test_the_health_checker_has_every_root_and_finds_the_one_that_is_broken(datanode: Datanode) -> None:
    checker = {"healthchecker": str(the_checker(datanode.folder))}
    folder = datanode.home / "namespace"
    folder.mkdir()
    os.chown(folder, UID, GID)
    spec = datanode.spec(type="DASI", path=write_config(datanode, *ROOTS), data_dst=f"{folder}/", storage_size=3 * SIZE)
    datanode.call("create_persistent", {**spec, **checker})
    status = datanode.settled()
    assert status.phase is Phase.READY, status
    [entry] = json.loads((datanode.state / "health.json").read_text())
    assert entry["id"]["mode"] == "dasi" and entry["check_results"] == ["OK"]
    assert [flash["lv"] for flash in entry["flash"]] == [volume.name for volume in status.volumes]
    assert sorted(daemon["pid"] for daemon in entry["daemons"]) == sorted(datanode.ganeshas())
    assert datanode.admit().health is None
    os.kill(status.daemons[1], signal.SIGSTOP)
    found = datanode.admit(job=44)  # from the same node: no server needs to be told
    assert found.health is not None and f"process {status.daemons[1]}" in found.health, found
    os.kill(status.daemons[1], signal.SIGCONT)
    assert datanode.admit(job=44).health is None
    assert datanode.destroy(discard=True).phase is Phase.GONE
    assert json.loads((datanode.state / "health.json").read_text()) == []
    datanode.assert_nothing_left()
