"""dnd with the real health checker, and with checkers that hang, lie or are not there."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from dnd.health import CALLS, Health
from ebb.errors import UserError
from ebb.model import Phase, Status
from ebb.run import run
from unit.dnd.datanode import ADDRESS, GID, JOB_NODE, OTHER_NODE, UID, Datanode
from unit.dnd.nfs4 import NfsError, wait_for
from unit.healthchecker.programs import a_program, the_checker

pytestmark = pytest.mark.datanode


def database(datanode: Datanode) -> list[dict[str, Any]]:
    path = datanode.state / "health.json"
    entries: list[dict[str, Any]] = json.loads(path.read_text()) if path.exists() else []
    return entries


def create(datanode: Datanode, checker: Path | None, sid: str = "42", **changes: Any) -> Status:
    body = datanode.spec(sid, **changes)
    datanode.call("create_persistent", {**body, "healthchecker": str(checker) if checker else None})
    return datanode.settled(sid)


def test_few_checkers_run_at_a_time(tmp_path: Path) -> None:
    """Each loads Python: twenty at once on a busy datanode would all be late, and lateness is taken for a fault."""
    folder = tmp_path / "checker"
    folder.mkdir()
    script = f"cd {folder} && mkdir $$ && ls -d [0-9]* | wc -l >> seen && sleep 0.2 && rmdir $$"
    health = Health(tmp_path, run)
    health.use_program(str(a_program(tmp_path, script)))
    (tmp_path / "health.json").touch()
    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda sid: health.retain([sid]), map(str, range(12))))
    seen = [int(line) for line in (folder / "seen").read_text().split()]
    assert len(seen) == 12 and 1 < max(seen) <= CALLS


def test_a_service_is_registered_checked_and_forgotten(datanode: Datanode) -> None:
    status = create(datanode, the_checker(datanode.folder), data_dst=str(datanode.home / "ds"))
    assert status.phase is Phase.READY, status
    assert status.mount is not None
    [entry] = database(datanode)
    assert entry.pop("check_date")[:2] == "20"
    assert entry == {
        "id": {"uid": UID, "gid": GID, "mode": "gbf", "name": "buffer42"},
        "flash": [
            {
                "lv": "gbf_42_127.0.0.11_stg",
                "vg": str(datanode.state / "volumes/ebb"),
                "mountpoint": status.mount.data,
                "size": 320,
            }
        ],
        "daemons": [{"pid": datanode.ganeshas()[0]}],
        "sid": "42",
        "state": "staged-in",
        "check_results": ["OK"],
    }
    datanode.admit()
    assert database(datanode)[0]["state"] == "in use"
    datanode.call("post_run", {"sid": "42", "job_id": 43})
    assert database(datanode)[0]["state"] == "staged-in"
    assert datanode.destroy().phase is Phase.GONE
    assert database(datanode) == []
    datanode.assert_nothing_left()


def test_without_a_checker_nothing_is_called(datanode: Datanode) -> None:
    assert create(datanode, None).phase is Phase.READY
    assert not (datanode.state / "health.json").exists()


def test_a_creation_whose_check_fails_fails_and_leaves_nothing(datanode: Datanode) -> None:
    checker = the_checker(
        datanode.folder, before=f'[ "$3" = check ] && kill -STOP $(cat {datanode.run}/ganesha/*/ganesha.pid)'
    )
    status = create(datanode, checker)
    assert status.phase is Phase.FAILED, status
    assert status.error is not None and status.error.startswith("health check failed: ganesha: Ganesha (process ")
    assert "does not answer" in status.error
    assert database(datanode) == []
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_use_whose_check_fails_lets_nobody_in_and_the_data_are_saved(datanode: Datanode) -> None:
    target = datanode.home / "ds"
    status = create(datanode, the_checker(datanode.folder), data_dst=str(target))
    assert status.mount is not None
    (Path(status.mount.data) / "kept").write_text("precious")
    subprocess.run(["mount", "-o", "remount,ro", status.mount.data], check=True)
    status = datanode.admit()
    assert status.health is not None and "space: the file system on" in status.health and "read-only" in status.health
    assert (status.phase, status.jobs) == (Phase.READY, {})
    datanode.kill()
    datanode.start()
    assert datanode.settled().health == status.health, "the daemon's restart forgets nothing"
    assert datanode.destroy().phase is Phase.GONE
    assert target.exists()
    assert database(datanode) == []
    assert create(datanode, None, "43", data_src=str(target)).phase is Phase.READY


def test_what_is_mended_can_be_used_again(datanode: Datanode) -> None:
    status = create(datanode, the_checker(datanode.folder))
    assert status.mount is not None
    subprocess.run(["mount", "-o", "remount,ro", status.mount.data], check=True)
    assert datanode.admit().health is not None
    subprocess.run(["mount", "-o", "remount,rw", status.mount.data], check=True)
    status = datanode.admit()
    assert (status.health, status.jobs) == (None, {"43": (JOB_NODE,)})


BROKEN = {
    "missing": None,
    "ends with 2 and says nothing": "exit 2",
    "a usage error": "echo Usage: something; exit 2",
    "not found": "exit 127",
    "killed": "kill -9 $$",
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_broken_checker_is_logged_and_hurts_nobody(datanode: Datanode, kind: str) -> None:
    script = BROKEN[kind]
    checker = a_program(datanode.folder, script) if script else datanode.folder / "nowhere"
    assert create(datanode, checker, data_dst=str(datanode.home / "ds")).phase is Phase.READY
    status = datanode.admit()
    assert (status.health, list(status.jobs)) == (None, ["43"])
    assert datanode.destroy().phase is Phase.GONE
    assert (datanode.home / "ds").exists()
    log = datanode.log.read_text()
    assert f"the health checker does not work, services go on unchecked: {checker}" in log
    assert "see HealthChecker= in datanodes.conf" in log


def test_a_checker_that_hangs_is_ended(datanode: Datanode) -> None:
    # It hangs in its first call alone, so that the test need not wait for every time limit.
    flag = datanode.folder / "hung"
    script = f'[ -e {flag} ] || {{ touch {flag}; exec sleep 1000; }}\n{the_checker(datanode.folder)} "$@"'
    status = create(datanode, a_program(datanode.folder, script))
    assert status.phase is Phase.READY
    assert "did not end within 10 s and was killed" in datanode.log.read_text()
    assert datanode.admit().health is None
    assert [entry["state"] for entry in database(datanode)] == ["in use"]


def test_a_checker_that_others_may_change_is_not_run(datanode: Datanode) -> None:
    checker = the_checker(datanode.folder)
    checker.chmod(0o777)
    assert create(datanode, checker).phase is Phase.READY
    assert database(datanode) == []
    assert "is not root's alone to change" in datanode.log.read_text()
    with pytest.raises(UserError, match="absolute path"):
        datanode.client.call("list", {"healthchecker": "pshcservcheck"}, timeout=5)


def test_the_datanode_itself_may_look_its_export_up_and_no_more(datanode: Datanode) -> None:
    status = create(datanode, None)
    assert status.mount is not None
    (Path(status.mount.data) / "secret").write_text("the user's")
    (Path(status.mount.data) / "secret").chmod(0o644)
    export = status.mount.export[1:]
    with datanode.nfs(status, ADDRESS) as root:
        handle = root.lookup(export, "secret")
        with pytest.raises(NfsError):
            root.read(handle)
        with pytest.raises(NfsError):
            root.write(root.lookup(export), "new", b"data")
    with datanode.nfs(status, ADDRESS, privileged=False) as user, pytest.raises(NfsError):
        user.lookup(export)
    with datanode.nfs(status, OTHER_NODE) as other, pytest.raises(NfsError):
        other.lookup(export)
    # A job on the datanode itself has all of its rights, through the kernel's mount.
    datanode.call("pre_run", {"sid": "42", "job_id": 43, "clients": [ADDRESS]})
    with datanode.nfs(status, ADDRESS) as node:
        assert node.read(node.write(node.lookup(export), "new", b"data")) == b"data"


def test_the_database_follows_a_server_that_died_and_a_daemon_that_restarts(datanode: Datanode) -> None:
    create(datanode, the_checker(datanode.folder))
    [old] = datanode.ganeshas()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: database(datanode)[0]["daemons"] != [{"pid": old}], 15, "the new process in the database")
    assert database(datanode)[0]["daemons"] == [{"pid": datanode.ganeshas()[0]}]
    datanode.kill()
    path = datanode.state / "health.json"
    entries = database(datanode)
    path.write_text(json.dumps([{**entries[0], "sid": "7"}, {**entries[0], "daemons": []}]))
    datanode.start()
    kept = [("42", entries[0]["daemons"])]
    wait_for(
        lambda: [(entry["sid"], entry["daemons"]) for entry in database(datanode)] == kept,
        10,
        "services that do not live here to be dropped, and the others to be renewed",
    )


def test_many_creations_at_once_are_all_found_well(datanode: Datanode) -> None:
    checker = str(the_checker(datanode.folder))
    sids = [str(sid) for sid in range(100, 120)]
    for sid in sids:
        datanode.call("create_persistent", {**datanode.spec(sid), "healthchecker": checker})
    assert {datanode.settled(sid, 60).phase for sid in sids} == {Phase.READY}
    assert {entry["sid"]: entry["check_results"] for entry in database(datanode)} == {sid: ["OK"] for sid in sids}
    for sid in sids:
        datanode.call("destroy_persistent", {"sid": sid, "discard": False})
    assert {datanode.settled(sid, 60).phase for sid in sids} == {Phase.GONE}
    assert database(datanode) == []
    datanode.assert_nothing_left()
