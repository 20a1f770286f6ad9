"""A GBF from creation to destruction, on a real daemon, XFS, Ganesha and dataset file."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from dnd.tools import process
from ebb.dataset import HEADER_SIZE
from ebb.errors import Conflict, NotFound, UserError
from ebb.model import Phase, Status
from unit.dnd.datanode import ADDRESS, GID, JOB_NODE, MIB, OTHER_NODE, SIZE, UID, Datanode
from unit.dnd.nfs4 import NFS4ERR_ACCESS, NFS4ERR_NOENT, NfsError, wait_for

pytestmark = pytest.mark.datanode


def data_of(status: Status) -> Path:
    assert status.mount is not None, status
    return Path(status.mount.data)


def save_a_dataset(datanode: Datanode, name: str = "ds", content: bytes = b"precious") -> str:
    """A dataset of the user with one file, `kept`, and some megabytes beside it."""
    path = str(datanode.home / name)
    status = datanode.create("1", data_dst=path)
    (data_of(status) / "kept").write_bytes(content)
    (data_of(status) / "random").write_bytes(os.urandom(5 * MIB))
    assert datanode.destroy("1").phase is Phase.GONE
    return path


def test_a_scratch_buffer_comes_serves_and_goes(datanode: Datanode) -> None:
    begin = time.monotonic()
    status = datanode.create()
    took = time.monotonic() - begin
    assert status.phase is Phase.READY, status
    assert status.mount is not None and status.mount.address == ADDRESS
    assert status.volume is not None and status.volume.name == f"gbf_42_{ADDRESS}_stg"
    found = data_of(status).stat()
    assert (found.st_uid, found.st_gid) == (UID, GID)
    datanode.admit()
    with datanode.nfs(status) as client:
        handle = client.write(client.lookup(status.mount.export[1:]), "hello", b"from a node")
        assert client.read(handle) == b"from a node"
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()
    print(f"ready after {took * 1000:.0f} ms")
    assert took < 3


def test_a_dataset_goes_out_and_comes_back(datanode: Datanode) -> None:
    path = save_a_dataset(datanode)
    found = os.stat(path)
    assert (found.st_uid, found.st_gid, found.st_size) == (UID, GID, HEADER_SIZE + SIZE)
    assert found.st_blocks * 512 < 100 * MIB, "the holes of the image are holes of the file"
    status = datanode.create("2", data_src=path, data_dst=path)
    assert status.phase is Phase.READY, status
    assert (data_of(status) / "kept").read_bytes() == b"precious"
    (data_of(status) / "kept").write_bytes(b"changed")
    assert datanode.destroy("2").phase is Phase.GONE
    assert os.stat(path).st_blocks * 512 < found.st_blocks * 512 + MIB, "what did not change takes no more room"
    status = datanode.create("3", data_src=path, data_dst=None)
    assert (data_of(status) / "kept").read_bytes() == b"changed"
    assert datanode.destroy("3").phase is Phase.GONE
    assert os.listdir(datanode.home) == ["ds"]
    datanode.assert_nothing_left()


def test_a_dataset_grows_into_a_larger_buffer_but_never_shrinks(datanode: Datanode) -> None:
    path = save_a_dataset(datanode)
    status = datanode.create("2", data_src=path, data_dst=path, storage_size=2 * SIZE)
    assert status.phase is Phase.READY, status
    space = os.statvfs(data_of(status))
    assert space.f_blocks * space.f_frsize > 1.5 * SIZE
    assert datanode.destroy("2").phase is Phase.GONE
    assert os.stat(path).st_size == HEADER_SIZE + 2 * SIZE
    status = datanode.create("3", data_src=path)
    assert status.phase is Phase.FAILED
    assert status.error is not None and str(SIZE) in status.error and str(2 * SIZE) in status.error
    datanode.destroy("3")
    datanode.assert_nothing_left()


def test_two_buffers_of_one_dataset_live_side_by_side(datanode: Datanode) -> None:
    path = save_a_dataset(datanode)
    for sid in ("2", "3"):
        status = datanode.create(sid, data_src=path)
        (data_of(status) / "whose").write_text(sid)
        os.chown(data_of(status) / "whose", UID, GID)
        datanode.admit(sid)
    for sid in ("2", "3"):
        status = datanode.settled(sid)
        assert (data_of(status) / "kept").read_bytes() == b"precious"
        with datanode.nfs(status) as client:
            assert status.mount is not None
            assert client.read(client.lookup(status.mount.export[1:], "whose")) == sid.encode()
    for sid in ("2", "3"):
        assert datanode.destroy(sid).phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_dataset_that_is_mounted_to_look_into_hinders_no_buffer(datanode: Datanode, tmp_path: Path) -> None:
    path = save_a_dataset(datanode)
    subprocess.run(["mount", "-o", "loop,offset=1MiB,ro", path, str(tmp_path)], check=True)
    try:
        status = datanode.create("2", data_src=path, data_dst=path)
        (data_of(status) / "whose").write_text("2")
        os.chown(data_of(status) / "whose", UID, GID)
        datanode.admit("2")
        with datanode.nfs(status) as client:
            assert status.mount is not None
            assert client.read(client.lookup(status.mount.export[1:], "whose")) == b"2"
        assert datanode.destroy("2").phase is Phase.GONE
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)
    datanode.assert_nothing_left()


def test_asking_twice_changes_nothing(datanode: Datanode) -> None:
    first = datanode.create()
    again = datanode.call("create_persistent", datanode.spec())
    assert again == first
    with pytest.raises(Conflict, match="another specification"):
        datanode.call("create_persistent", datanode.spec(storage_size=2 * SIZE))
    datanode.admit()
    pid = datanode.ganeshas()
    assert datanode.admit().jobs == {"43": (JOB_NODE,)}
    assert datanode.call("post_run", {"sid": "42", "job_id": 43}).jobs == {}
    assert datanode.call("post_run", {"sid": "42", "job_id": 43}).jobs == {}
    assert datanode.ganeshas() == pid
    assert datanode.destroy().phase is Phase.GONE
    assert datanode.destroy().phase is Phase.GONE
    with pytest.raises(NotFound):  # gone would be taken for saved
        datanode.call("destroy_persistent", {"sid": "777"})
    assert datanode.call("destroy_persistent", {"sid": "777", "discard": True}).phase is Phase.GONE
    assert datanode.call("post_run", {"sid": "777", "job_id": 43}).phase is Phase.GONE
    with pytest.raises(NotFound):
        datanode.call("status", {"sid": "777"})
    with pytest.raises(Conflict, match="not ready"):
        datanode.admit()
    assert datanode.create().phase is Phase.READY, "a sid that is gone can be used again"


def test_only_the_nodes_of_jobs_get_in_and_only_while_these_run(datanode: Datanode) -> None:
    status = datanode.create()
    assert status.mount is not None
    export = status.mount.export[1:]
    with datanode.nfs(status) as client, pytest.raises(NfsError) as refused:
        client.lookup(export)
    assert refused.value.status == NFS4ERR_NOENT
    datanode.admit(job=43)
    with datanode.nfs(status) as node, datanode.nfs(status, OTHER_NODE) as other:
        handle = node.write(node.lookup(export), "file", b"x")
        with pytest.raises(NfsError):
            other.lookup(export)
        with pytest.raises(NfsError):
            other.read(handle)
        datanode.call("pre_run", {"sid": "42", "job_id": 44, "clients": [JOB_NODE, OTHER_NODE]})
        assert other.read(handle) == b"x"
        datanode.call("post_run", {"sid": "42", "job_id": 43})
        assert node.read(handle) == b"x", "job 44 still runs on that node"
        datanode.call("post_run", {"sid": "42", "job_id": 44})
        for client in (node, other):
            with pytest.raises(NfsError) as refused:
                client.read(handle)
            assert refused.value.status == NFS4ERR_ACCESS, "a handle kept from before is worth nothing"
    with pytest.raises(UserError, match="no IP address"):
        datanode.call("pre_run", {"sid": "42", "job_id": 45, "clients": ["*; Squash = none"]})


def test_a_users_program_on_a_jobs_node_cannot_pretend_to_be_its_kernel(datanode: Datanode) -> None:
    status = datanode.create()
    assert status.mount is not None
    datanode.admit()
    with pytest.raises(NfsError), datanode.nfs(status, privileged=False) as client:
        client.lookup(status.mount.export[1:])
    with datanode.nfs(status) as client:
        assert client.lookup(status.mount.export[1:])


def test_a_user_on_the_datanode_does_not_reach_the_data_without_a_job(datanode: Datanode) -> None:
    data = data_of(datanode.create())
    (data / "secret").write_text("x")
    (data / "secret").chmod(0o644)
    user: dict[str, Any] = {"user": UID + 1, "group": GID + 1, "extra_groups": [], "capture_output": True}
    assert subprocess.run(["ls", str(datanode.run)], **user, check=True)
    for path in (data / "secret", data, data.parent / "ganesha.conf"):
        done = subprocess.run(["ls", str(path)], **user, check=False)
        assert done.returncode != 0 and b"Permission denied" in done.stderr, path


def test_a_users_program_is_not_taken_for_a_server(datanode: Datanode) -> None:
    """Neither by a word on its command line, nor by answering where a server should."""
    status = datanode.create()
    assert status.mount is not None
    [real] = datanode.ganeshas()
    config = str(Path(status.mount.data).parent / "ganesha.conf")
    code = "import sys; print(flush=True); sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code, config], stdin=subprocess.PIPE, stdout=subprocess.PIPE, user=UID, group=GID
    ) as pretender:
        assert pretender.stdin is not None and pretender.stdout is not None
        pretender.stdout.readline()
        assert [each.pid for each in process.find(config)] == [real]
        assert process.listens(real, status.mount.port)
        assert not process.listens(pretender.pid, status.mount.port)
        pretender.stdin.close()


def test_a_server_that_is_killed_comes_back_for_its_clients(datanode: Datanode) -> None:
    status = datanode.create()
    assert status.mount is not None
    datanode.admit()
    with datanode.nfs(status) as client:
        handle = client.write(client.lookup(status.mount.export[1:]), "file", b"still here")
    [old] = datanode.ganeshas()
    os.kill(old, signal.SIGKILL)
    wait_for(lambda: datanode.ganeshas() not in ([old], []), 10, "another Ganesha runs")
    wait_for(lambda: datanode.call("status", {"sid": "42"}).daemons != (old,), 10, "the status names the new one")
    again = datanode.call("status", {"sid": "42"})
    assert again.mount == status.mount

    def read() -> bool:
        try:
            with datanode.nfs(status) as client:
                return client.read(handle) == b"still here"
        except OSError:
            return False

    wait_for(read, 10, "the old handle works again")
    datanode.destroy()
    datanode.assert_nothing_left()


def test_a_job_is_let_in_although_the_server_dies_just_then(datanode: Datanode) -> None:
    status = datanode.create()
    assert status.mount is not None
    for job in range(50, 55):
        [server] = datanode.ganeshas()
        os.kill(server, signal.SIGKILL)
        datanode.admit(job=job)
        with datanode.nfs(status) as client:
            client.lookup(status.mount.export[1:])
        datanode.call("post_run", {"sid": "42", "job_id": job})
        wait_for(lambda: len(datanode.ganeshas()) == 1, 10, "one Ganesha runs")


def test_a_server_that_keeps_dying_is_reported(datanode: Datanode) -> None:
    datanode.create()
    killed: set[int] = set()

    def died_often() -> bool:
        for pid in datanode.ganeshas():
            if pid not in killed:
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        return "died 5 times" in str(datanode.call("status", {"sid": "42"}).error)

    wait_for(died_often, 30, "an error in the status")
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_src": "{home}/none"}, "leave data_src out"),
        ({"data_dst": "{home}/none/ds"}, "No such file or directory"),
        ({"data_dst": "/run/ds"}, "no permission to write in /run"),
        ({"data_dst": "{home}/fifo"}, "is a FIFO"),
        ({"data_dst": "{home}/" + "n" * 250}, "File name too long"),
        ({"data_dst": "{home}/link"}, "is a symbolic link"),
        ({"data_dst": "{home}/folder"}, "is a directory"),
        ({"data_src": "{home}/fifo"}, "is a FIFO"),
        ({"data_src": "{home}/folder"}, "is a directory"),
        ({"data_src": "{home}/link"}, "Permission denied"),
        ({"data_src": "{home}/text"}, "is no dataset"),
        ({"path": "/etc"}, "a directory of your own is needed"),
        ({"uid": 4123456, "data_dst": "{home}/ds"}, "no user with uid 4123456"),
    ],
)
def test_what_cannot_work_is_refused_at_creation(datanode: Datanode, changes: dict[str, Any], message: str) -> None:
    os.mkfifo(datanode.home / "fifo")
    (datanode.home / "folder").mkdir()
    (datanode.home / "text").write_text("no dataset at all")
    secret = datanode.folder / "site.key"
    secret.chmod(0o600)
    (datanode.home / "link").symlink_to(secret)
    before = sorted(os.listdir(datanode.home))
    text = {key: value.format(home=datanode.home) for key, value in changes.items() if isinstance(value, str)}
    status = datanode.create(**{**changes, **text})
    assert status.phase is Phase.FAILED
    assert status.error is not None and message in status.error, status.error
    assert datanode.destroy().phase is Phase.GONE
    assert sorted(os.listdir(datanode.home)) == before
    datanode.assert_nothing_left()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data_dst": "HESTIA@/ds"}, "no object store"),
        ({"data_src": "hestia@/ds"}, "no object store"),
        ({"data_dst": "relative"}, "absolute path"),
        ({"storage_size": 100 * MIB}, "300 MiB"),
        ({"type": "KVSNS"}, "not served"),
    ],
)
def test_what_can_never_work_is_refused_at_once(datanode: Datanode, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        datanode.call("create_persistent", datanode.spec(**changes))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        ("truncate", "is cut short"),
        ("flip header", "seal does not fit"),
        ("flip map", "seal does not fit"),
        ("flip data", "is damaged"),
    ],
)
def test_a_damaged_dataset_is_never_mounted(datanode: Datanode, damage: str, message: str) -> None:
    path = Path(save_a_dataset(datanode))
    with path.open("r+b") as file:
        if damage == "truncate":
            file.truncate(HEADER_SIZE + SIZE - 1)
        else:
            at = {"flip header": 100, "flip map": 65536 + 7, "flip data": HEADER_SIZE + 4096 * 3 + 40}[damage]
            file.seek(at)
            byte = file.read(1)
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
    if damage == "flip data":
        # inside a chunk that holds data: the first one, with the superblock
        assert path.read_bytes()[HEADER_SIZE : HEADER_SIZE + 4] == b"XFSB"
    status = datanode.create("2", data_src=str(path))
    assert status.phase is Phase.FAILED and status.error is not None and message in status.error, status.error
    assert datanode.destroy("2").phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_full_disk_at_the_save_keeps_old_dataset_and_data(datanode: Datanode) -> None:
    target = datanode.home / "small"
    target.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=4m,uid={UID}", "tmpfs", str(target)], check=True)
    (target / "ds").write_text("the old dataset")
    os.chown(target / "ds", UID, GID)
    status = datanode.create(data_dst=str(target / "ds"))
    (data_of(status) / "big").write_bytes(os.urandom(20 * MIB))
    (data_of(status) / "kept").write_bytes(b"precious")
    status = datanode.destroy()
    assert status.phase is Phase.SAVE_FAILED
    assert status.error is not None and "No space left on device" in status.error and "destroy again" in status.error
    assert (target / "ds").read_text() == "the old dataset"
    assert os.listdir(target) == ["ds"]
    subprocess.run(["mount", "-o", "remount,size=400m", str(target)], check=True)
    assert datanode.destroy().phase is Phase.GONE
    status = datanode.create("43", data_src=str(target / "ds"))
    assert (data_of(status) / "kept").read_bytes() == b"precious"
    datanode.destroy("43")
    subprocess.run(["umount", str(target)], check=True)
    datanode.assert_nothing_left()


def test_a_buffer_that_cannot_be_saved_can_be_discarded(datanode: Datanode) -> None:
    folder = datanode.home / "folder"
    folder.mkdir()
    os.chown(folder, UID, GID)
    datanode.create(data_dst=str(folder / "ds"))
    folder.rmdir()
    assert datanode.destroy().phase is Phase.SAVE_FAILED
    assert datanode.destroy().phase is Phase.SAVE_FAILED
    assert datanode.destroy(discard=True).phase is Phase.GONE
    datanode.assert_nothing_left()


def test_a_buffer_in_use_on_the_node_is_not_torn_away(datanode: Datanode) -> None:
    status = datanode.create()
    with (data_of(status) / "open").open("w") as file:
        failed = datanode.destroy()
        assert failed.phase is Phase.RELEASE_FAILED
        assert failed.error is not None and str(os.getpid()) in failed.error, failed.error
        file.write("x")
    assert datanode.destroy().phase is Phase.GONE
    datanode.assert_nothing_left()


def test_list_tells_services_space_and_strays(datanode: Datanode) -> None:
    datanode.create()
    answer = datanode.client.call("list", {})
    assert answer["node"] == "dn1"
    assert [service["sid"] for service in answer["services"]] == ["42"]
    assert answer["volume_groups"]["ebb"]["size"] >= answer["volume_groups"]["ebb"]["free"] > 0
    assert answer["strays"] == []


def test_data_are_not_read_while_a_job_on_this_node_has_them_mounted(datanode: Datanode) -> None:
    """A job's mount namespace keeps the file system alive after dnd's unmount: what it writes must not be missed."""
    status = datanode.create(data_dst=str(datanode.home / "ds"))
    data = data_of(status)
    job = subprocess.Popen(
        [
            "unshare",
            "--mount",
            "--propagation",
            "slave",
            "sh",
            "-c",
            f"mount --bind {data} /mnt && echo mounted && read line && cp /proc/self/stat /mnt/late && sync",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdin and job.stdout and job.stdout.readline() == "mounted\n"
    datanode.call("destroy_persistent", {"sid": "42"})
    deadline = time.monotonic() + 10
    while datanode.mounts() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert datanode.call("status", {"sid": "42"}).phase is Phase.SAVING
    assert not (datanode.home / "ds").exists()
    job.communicate("go on\n", timeout=20)
    assert datanode.settled().phase is Phase.GONE
    again = datanode.create("43", data_src=str(datanode.home / "ds"))
    assert (data_of(again) / "late").stat().st_size > 0
    assert datanode.destroy("43").phase is Phase.GONE
    datanode.assert_nothing_left()
