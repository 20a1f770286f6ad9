"""An SBB's server on a datanode: as its owner, found again, started again, drained, and nothing left of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from ebb.errors import UserError
from ebb.model import Phase
from unit.dnd.datanode import ADDRESS, GID, MIB, SIZE, UID, Datanode
from unit.dnd.nfs4 import wait_for

pytestmark = pytest.mark.datanode


def create(datanode: Datanode, sid: str = "42", storage: int = 0) -> Path:
    """Make a server; the folder of its files."""
    datanode.call("create_persistent", datanode.sbb_spec(sid, storage))
    status = datanode.settled(sid)
    assert status.phase is Phase.READY, status
    assert status.mount is not None
    datanode.call("peers", {"sid": sid, "servers": [{"address": ADDRESS, "port": status.mount.port}]})
    return Path(status.mount.data).parent.parent


def sbbdctl(datanode: Datanode, *arguments: str, uid: int = 0) -> subprocess.CompletedProcess[str]:
    """Run it on the datanode."""
    config = datanode.folder / "ctl.conf"
    config.write_text(f"RunDir={datanode.folder}\n")
    return subprocess.run(
        [sys.executable, "-m", "dnd.sbb.ctl", "--config", str(config), *arguments],
        capture_output=True,
        text=True,
        check=False,
        user=uid,
        group=uid,
        extra_groups=[],
    )


def end(datanode: Datanode, sid: str = "42") -> None:
    """Drain, then free, as the orchestrator does."""
    assert datanode.destroy(sid).phase is Phase.SAVED
    assert datanode.destroy(sid, discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


def test_the_server_runs_as_the_owner_without_rights(datanode: Datanode) -> None:
    create(datanode)
    (pid,) = datanode.sbbds()
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    shown = {key: value.split() for key, _, value in (line.partition(":\t") for line in lines)}
    assert (set(shown["Uid"]), set(shown["Gid"])) == ({str(UID)}, {str(GID)})
    assert {int(shown[name][0], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapBnd", "CapAmb")} == {0}
    assert shown["NoNewPrivs"] == ["1"]
    end(datanode)


def test_nobody_else_reads_its_files_or_reaches_its_sockets(datanode: Datanode) -> None:
    folder = create(datanode)
    other = {"user": 1, "group": 1, "extra_groups": []}
    for path in (folder / "sbbd.conf", folder / "own" / "control"):
        done = subprocess.run(["cat", str(path)], capture_output=True, text=True, check=False, **other)  # type: ignore[call-overload]
        assert "Permission denied" in done.stderr
    end(datanode)


def test_a_killed_daemon_finds_its_server_again(datanode: Datanode) -> None:
    create(datanode)
    before = datanode.sbbds()
    datanode.kill()
    datanode.start()
    status = datanode.settled()
    assert status.phase is Phase.READY and datanode.sbbds() == before == list(status.daemons)
    end(datanode)


@pytest.mark.parametrize("storage", [0, SIZE])
def test_a_killed_server_is_started_again_on_its_port(datanode: Datanode, storage: int) -> None:
    create(datanode, storage=storage)
    (pid,) = datanode.sbbds()
    before = datanode.call("status", {"sid": "42"})
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: datanode.sbbds() not in ([], [pid]), 20, "another server")
    wait_for(lambda: "running" in sbbdctl(datanode, "list").stdout, 20, "it answers")
    after = datanode.call("status", {"sid": "42"})
    assert (after.phase, after.mounts) == (Phase.READY, before.mounts)
    end(datanode)


def test_servers_get_cores_of_their_own_while_there_are(datanode: Datanode) -> None:
    create(datanode, "1")
    create(datanode, "2")
    cores = [os.sched_getaffinity(pid) for pid in sorted(datanode.sbbds())]
    if len(os.sched_getaffinity(0)) >= 2:
        assert [len(each) for each in cores] == [1, 1] and not cores[0] & cores[1]
    for sid in ("1", "2"):
        datanode.destroy(sid, discard=True)
    datanode.assert_nothing_left()


def test_storage_is_a_volume_of_its_own_that_the_owner_may_write(datanode: Datanode) -> None:
    folder = create(datanode, storage=SIZE)
    store = folder / "data" / "store"
    assert (store.stat().st_uid, store.stat().st_mode & 0o777) == (UID, 0o700)
    line = next(line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f" {folder}/data " in line)
    assert " xfs " in line and {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    volumes = [path.name for path in (datanode.state / "volumes").glob("*/*")]
    assert volumes == [f"sbb_42_{ADDRESS}_stg"]
    end(datanode)


def test_drained_it_waits_for_the_word_also_over_a_restart(datanode: Datanode) -> None:
    create(datanode)
    assert datanode.destroy().phase is Phase.SAVED
    datanode.kill()
    datanode.start()
    assert datanode.destroy().phase is Phase.SAVED
    assert len(datanode.sbbds()) == 1
    assert datanode.destroy(discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


def test_what_can_never_work_is_refused_at_once(datanode: Datanode) -> None:
    with pytest.raises(UserError, match="too small for a server"):
        datanode.call("create_persistent", datanode.sbb_spec(memory=MIB))
    with pytest.raises(UserError, match="less than count"):
        datanode.call("create_persistent", datanode.sbb_spec(index=3))
    datanode.call("create_persistent", {**datanode.sbb_spec(), "uid": 0})
    status = datanode.settled()
    assert status.phase is Phase.FAILED and "root's buffers are not served" in str(status.error)
    datanode.destroy(discard=True)
    datanode.assert_nothing_left()


def test_sbbdctl_shows_all_to_root_and_their_own_to_users(datanode: Datanode) -> None:
    create(datanode)
    for uid in (0, UID):
        done = sbbdctl(datanode, "list", uid=uid)
        assert done.stdout.startswith(f"42  run  uid {UID}  running  0 clients"), done.stdout + done.stderr
    assert sbbdctl(datanode, "list", uid=1).stdout == "no servers of yours\n"
    (shown,) = json.loads(sbbdctl(datanode, "inspect", "42").stdout)
    assert (shown["sid"], shown["files"], shown["targets"]) == ("42", [], [str(datanode.home / "target")])
    assert sbbdctl(datanode, "flush", "42", uid=UID).returncode == 0
    done = sbbdctl(datanode, "flush", "42", uid=1)
    assert done.returncode == 1 and "no server of a buffer 42" in done.stderr
    (pid,) = datanode.sbbds()
    assert sbbdctl(datanode, "stop", "42").stdout == "42 on run: stopped\n"
    wait_for(lambda: datanode.sbbds() not in ([], [pid]), 20, "dnd starts it again")
    wait_for(lambda: "running" in sbbdctl(datanode, "list").stdout, 20, "it answers")
    end(datanode)
