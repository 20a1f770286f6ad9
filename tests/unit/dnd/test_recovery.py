"""kill -9 of the daemon, loss of the whole node: what was under way is carried on, what was there is found again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ebb.model import Phase
from unit.dnd.datanode import ADDRESS, MIB, SIZE, Datanode
from unit.dnd.nfs4 import wait_for

pytestmark = pytest.mark.datanode


@pytest.mark.parametrize("milliseconds", [0, 15, 40, 80, 120, 200])
def test_a_creation_that_was_cut_short_is_finished(datanode: Datanode, milliseconds: int) -> None:
    path = str(datanode.home / "ds")
    datanode.call("create_persistent", datanode.spec(data_dst=path))
    time.sleep(milliseconds / 1000)
    datanode.kill()
    datanode.start()
    status = datanode.settled()
    assert status.phase is Phase.READY, status
    assert len(datanode.ganeshas()) == 1 and len(datanode.mounts()) == 1
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


@pytest.mark.parametrize("milliseconds", [0, 30, 60, 100, 150, 250, 400])
def test_a_save_that_was_cut_short_is_done_again(datanode: Datanode, milliseconds: int) -> None:
    path = datanode.home / "ds"
    status = datanode.create(data_dst=str(path))
    assert status.mount is not None
    content = os.urandom(60 * MIB)
    (Path(status.mount.data) / "data").write_bytes(content)
    datanode.call("destroy_persistent", {"sid": "42"})
    time.sleep(milliseconds / 1000)
    datanode.kill()
    datanode.start()
    # It is remembered, also when it was gone already: only so may the data be believed to be saved.
    assert datanode.settled().phase is Phase.GONE
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()
    assert os.listdir(datanode.home) == ["ds"]
    status = datanode.create("43", data_src=str(path))
    assert status.mount is not None, status
    assert (Path(status.mount.data) / "data").read_bytes() == content


@pytest.mark.parametrize("milliseconds", [0, 30, 80])
def test_a_stage_in_that_was_cut_short_is_done_again(datanode: Datanode, milliseconds: int) -> None:
    path = str(datanode.home / "ds")
    status = datanode.create("1", data_dst=path)
    assert status.mount is not None
    content = os.urandom(60 * MIB)
    (Path(status.mount.data) / "data").write_bytes(content)
    datanode.destroy("1")
    datanode.call("create_persistent", datanode.spec("2", data_src=path))
    time.sleep(milliseconds / 1000)
    datanode.kill()
    datanode.start()
    status = datanode.settled("2")
    assert status.mount is not None, status
    assert (Path(status.mount.data) / "data").read_bytes() == content
    assert datanode.destroy("2").phase is Phase.GONE
    datanode.assert_nothing_left()


def test_services_outlive_the_daemon(datanode: Datanode) -> None:
    before = datanode.create()
    datanode.admit()
    [pid] = datanode.ganeshas()
    datanode.kill()
    assert datanode.ganeshas() == [pid]
    with datanode.nfs(before) as client:
        assert client.lookup(before.mount.export[1:]) if before.mount else None
    datanode.start()
    after = datanode.settled()
    assert (after.mount, after.daemons) == (before.mount, before.daemons)
    assert after.revision > before.revision
    assert list(after.jobs) == ["43"]
    assert datanode.ganeshas() == [pid]
    with datanode.nfs(after) as client:
        assert client.lookup(after.mount.export[1:]) if after.mount else None


def test_a_server_that_died_with_the_daemon_is_started_again(datanode: Datanode) -> None:
    before = datanode.create()
    [pid] = datanode.ganeshas()
    datanode.kill()
    os.kill(pid, signal.SIGKILL)
    datanode.start()
    wait_for(lambda: datanode.ganeshas() not in ([], [pid]), 10, "a new Ganesha")
    assert datanode.settled().mount == before.mount


def test_a_rebooted_node_serves_its_buffers_again(datanode: Datanode) -> None:
    status = datanode.create()
    assert status.mount is not None
    (Path(status.mount.data) / "kept").write_text("precious")
    datanode.kill()
    for pid in datanode.ganeshas():
        os.kill(pid, signal.SIGKILL)
    data = status.mount.data
    wait_for(lambda: subprocess.run(["umount", data]).returncode == 0, 5, "Ganesha lets go of the mount")
    subprocess.run(["rm", "-r", str(datanode.run)], check=True)
    datanode.start()
    wait_for(lambda: bool(datanode.ganeshas()), 10, "Ganesha serves again")
    again = datanode.settled()
    assert again.mount == status.mount and again.error is None
    assert (Path(status.mount.data) / "kept").read_text() == "precious"
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_destroy_stops_a_creation_under_way(datanode: Datanode) -> None:
    datanode.call("create_persistent", datanode.spec())
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_volume_without_a_service_is_reported_and_left_alone(datanode: Datanode) -> None:
    datanode.kill()
    volume = datanode.state / "volumes" / "ebb" / f"gbf_7_{ADDRESS}_stg"
    volume.parent.mkdir(parents=True)
    volume.write_bytes(b"somebody's data")
    datanode.start()
    wait_for(lambda: bool(datanode.client.call("list", {})["strays"]), 10, "a stray")
    assert datanode.client.call("list", {})["strays"] == [
        {"kind": "volume", "volume_group": "ebb", "name": volume.name, "size": 15}
    ]
    assert volume.read_bytes() == b"somebody's data"


def test_servers_and_mounts_without_a_service_are_cleaned_but_not_their_data(datanode: Datanode) -> None:
    status = datanode.create()
    assert status.mount is not None and status.volume is not None
    (Path(status.mount.data) / "kept").write_text("precious")
    datanode.kill()
    (datanode.state / "services" / "42.json").write_text(json.dumps({"not": "a record"}))
    datanode.start()
    wait_for(lambda: not datanode.ganeshas() and not datanode.mounts(), 10, "server and mount are gone")
    strays = datanode.client.call("list", {})["strays"]
    assert [stray["name"] for stray in strays] == [status.volume.name]
    assert (datanode.state / "volumes" / "ebb" / status.volume.name).stat().st_size == SIZE
