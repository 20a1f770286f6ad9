"""An SBB's server with data in it: drained, or named if it cannot be; replayed from its volume, or told as lost."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ebb.model import Phase
from ebb.ticket import SbbServer, load_site_key
from unit.dnd.datanode import GID, MIB, SIZE, UID, Datanode
from unit.dnd.nfs4 import wait_for
from unit.dnd.sbb_client import SbbClient

pytestmark = pytest.mark.datanode
LATE = "SbbDrainDelay=600\n"


@pytest.fixture
def late(datanode: Datanode) -> Datanode:
    """A datanode whose servers drain when they are told to."""
    datanode.config.write_text(datanode.config.read_text() + LATE)
    datanode.kill()
    datanode.start()
    return datanode


@pytest.fixture
def clients() -> Iterator[list[SbbClient]]:
    """Clients that a test started; what it left is unmounted."""
    made: list[SbbClient] = []
    yield made
    for client in made:
        client.kill()


def mount(datanode: Datanode, clients: list[SbbClient], storage: int = 0) -> Path:
    """Make a buffer and mount its target; the target."""
    target = datanode.home / "target"
    target.mkdir()
    os.chown(target, UID, GID)
    datanode.call("create_persistent", datanode.sbb_spec(storage=storage))
    status = datanode.settled()
    assert status.phase is Phase.READY and status.mount is not None, status
    datanode.admit()
    server = SbbServer(status.mount.address, status.mount.port, status.mount.data)
    key = load_site_key(datanode.folder / "site.key")
    clients.append(SbbClient(target, key, "42", [server], UID))
    return target


def unmount(datanode: Datanode, clients: list[SbbClient]) -> None:
    """The job is over."""
    clients.pop().end()
    datanode.call("post_run", {"sid": "42", "job_id": 43})


def test_all_data_is_in_the_target_when_it_is_saved(late: Datanode, clients: list[SbbClient]) -> None:
    target, data = mount(late, clients), os.urandom(20 * MIB)
    clients[0].write("x", data)
    assert clients[0].read("x") == data
    unmount(late, clients)
    assert (target / "x").read_bytes() != data
    assert late.destroy().phase is Phase.SAVED
    assert (target / "x").read_bytes() == data and (target / "x").stat().st_uid == UID
    late.destroy(discard=True)
    late.assert_nothing_left()


def test_a_long_drain_is_shown_all_the_while_and_ends_when_its_data_are_not_wanted(
    late: Datanode, clients: list[SbbClient]
) -> None:
    late.config.write_text(late.config.read_text() + f"SbbDrainRate={4 * MIB}\n")
    late.kill()
    late.start()
    mount(late, clients)
    clients[0].write("x", os.urandom(40 * MIB))
    unmount(late, clients)
    late.call("destroy_persistent", {"sid": "42"})
    status, longest = late.call("status", {"sid": "42"}), 0.0
    shown: list[int] = []
    while len(shown) < 3:
        begun = time.monotonic()
        status = late.call("status", {"sid": "42", "revision": status.revision, "wait": 10})
        longest = max(longest, time.monotonic() - begun)
        assert status.phase is Phase.SAVING
        if status.progress is not None and status.progress.rate > 0 and status.progress.done not in shown:
            shown.append(status.progress.done)
    assert shown == sorted(shown) and shown[-1] < 40 * MIB and longest < 5
    begun = time.monotonic()
    assert late.destroy(discard=True).phase is Phase.GONE
    assert time.monotonic() - begun < 5
    late.assert_nothing_left()


def test_what_the_target_refuses_is_named_and_saved_when_there_is_room(
    late: Datanode, clients: list[SbbClient]
) -> None:
    small = ["mount", "-t", "tmpfs", "-o", f"size=1m,uid={UID},gid={GID}", "tmpfs", str(late.home)]
    subprocess.run(small, check=True)
    target, data = mount(late, clients), os.urandom(3 * MIB)
    clients[0].write("x", data)
    unmount(late, clients)
    late.call("destroy_persistent", {"sid": "42"})
    status = late.settled(seconds=60)
    assert status.phase is Phase.SAVE_FAILED
    assert status.error == f"cannot drain {target}/x: cannot be written: No space left on device"
    assert len(late.sbbds()) == 1  # server and data stay
    subprocess.run(["mount", "-o", "remount,size=10m", str(late.home)], check=True)
    assert late.destroy().phase is Phase.SAVED
    assert (target / "x").read_bytes() == data
    late.destroy(discard=True)
    subprocess.run(["umount", str(late.home)], check=True)
    late.assert_nothing_left()


@pytest.mark.parametrize("also_dnd", [False, True])
def test_with_storage_nothing_is_lost_when_the_server_is_killed(
    late: Datanode, clients: list[SbbClient], also_dnd: bool
) -> None:
    target, data = mount(late, clients, SIZE), os.urandom(20 * MIB)
    clients[0].write("x", data)
    clients[0].run("sync", str(target / "x"))
    (pid,) = late.sbbds()
    if also_dnd:
        late.kill()
    os.kill(pid, signal.SIGKILL)
    if also_dnd:
        late.start()
    assert clients[0].read("x") == data  # waits for the new server
    assert late.sbbds() != [pid]
    unmount(late, clients)
    assert late.destroy().phase is Phase.SAVED
    assert (target / "x").read_bytes() == data
    late.destroy(discard=True)
    late.assert_nothing_left()


def test_without_storage_what_was_lost_is_named_and_only_discarding_ends_it(
    late: Datanode, clients: list[SbbClient]
) -> None:
    target = mount(late, clients)
    clients[0].write("safe", b"a" * MIB)
    flush = "import os, sys; os.setxattr(sys.argv[1], 'user.ebb.flush', b'now')"
    clients[0].run("/usr/bin/python3", "-c", flush, str(target / "safe"))
    clients[0].write("gone", b"b" * MIB)
    (pid,) = late.sbbds()
    os.kill(pid, signal.SIGKILL)
    wait_for(lambda: late.call("status", {"sid": "42"}).phase is Phase.SAVE_FAILED, 20, "the loss to be seen")
    error = str(late.call("status", {"sid": "42"}).error)
    assert error.endswith(f"lost of 1 file: {target}/gone"), error
    status = late.destroy()
    assert status.phase is Phase.SAVE_FAILED and str(status.error).endswith(f"{target}/gone")
    late.kill()
    late.start()
    assert late.destroy().phase is Phase.SAVE_FAILED  # it remembers
    clients.pop().end()
    assert (target / "safe").read_bytes() == b"a" * MIB
    assert late.destroy(discard=True).phase is Phase.GONE
    late.assert_nothing_left()


def test_another_start_of_the_node_is_loss_where_jobs_wrote_into_memory(
    late: Datanode, clients: list[SbbClient]
) -> None:
    mount(late, clients)
    clients[0].write("x", b"x")
    journal = late.state / "services" / "42.json"
    late.kill()
    clients.pop().kill()
    (pid,) = late.sbbds()
    os.kill(pid, signal.SIGKILL)
    record = json.loads(journal.read_text())
    assert record["dirty"] is True
    journal.write_text(json.dumps({**record, "boot": "another"}))
    (late.run / "sbb" / str(record["number"]) / "own" / "dirty").unlink()
    late.start()
    wait_for(lambda: late.call("status", {"sid": "42"}).phase is Phase.SAVE_FAILED, 20, "the loss to be told")
    assert "before the datanode restarted" in str(late.call("status", {"sid": "42"}).error)
    late.destroy(discard=True)
    late.assert_nothing_left()
