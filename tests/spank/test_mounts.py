"""What a user notices of the plugin: the buffer is there, nobody else's is, and no program runs without its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from computenode import ALICE, BOB, RUN, Node

PATH = "/home/alice/mnt"
HOLD = "start:exec sleep 60 >/dev/null 2>&1"


def test_a_step_sees_its_buffer_and_the_node_does_not(node: Node) -> None:
    ticket = node.ticket(node.buffer("toto", PATH))
    result = node.step(f"cat {PATH}/whose && echo new > {PATH}/made && id -u > {PATH}/uid", ticket=ticket, tasks=4)
    assert result.all("task") == ["0"] * 4
    assert "toto" in result.out
    assert result.err == ""  # no word on success
    assert node.path("/srv/data/toto/made").read_text() == "new\n"
    assert node.path("/srv/data/toto/uid").read_text() == f"{ALICE}\n"
    assert list(node.path(PATH).iterdir()) == []  # the mountpoint, made as the user; outside nothing is mounted on it
    assert node.path(PATH).stat().st_uid == ALICE


def test_mounts_are_nosuid_and_nodev(node: Node) -> None:
    result = node.step(f"grep ' {PATH} ' /proc/self/mountinfo", ticket=node.ticket(node.buffer("toto", PATH)))
    (line,) = [line for line in result.out.splitlines() if PATH in line]
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))


def test_batch_script_and_steps_share_one_namespace(node: Node) -> None:
    ticket = node.ticket(node.buffer("toto", PATH))
    first = node.step("readlink /proc/self/ns/mnt; echo data > /home/alice/mnt/x", ticket=ticket, step=0xFFFFFFFB)
    # Exports were cut, or another epoch's ticket: the pin decides.
    second = node.host("init", "init_post_opt", "python", "tasks:readlink /proc/self/ns/mnt; cat /home/alice/mnt/x")
    namespaces = {line for line in (first.out + second.out).splitlines() if line.startswith("mnt:")}
    assert len(namespaces) == 1
    assert "data" in second.out
    assert second.one("python") == "0"  # joining costs no Python


def test_two_jobs_do_not_see_each_other(node: Node) -> None:
    mine = node.ticket(node.buffer("mine", PATH), job=1)
    other = node.ticket(node.buffer("other", "/home/bob/mnt"), job=2, uid=BOB)
    held = node.host("init", "init_post_opt", HOLD, job=1, ticket=mine)
    try:
        result = node.step("cat /proc/self/mountinfo", job=2, uid=BOB, ticket=other)
        assert "/home/bob/mnt" in result.out
        assert PATH not in result.out
        assert "/home/bob/mnt" not in node.mounted(held.one("start"))
    finally:
        os.kill(int(held.one("start")), signal.SIGKILL)


def test_several_buffers_in_one_job_also_one_inside_the_other(node: Node) -> None:
    ticket = node.ticket(
        node.buffer("inner", f"{PATH}/sub"), node.buffer("outer", PATH), node.buffer("b", "/home/alice/b")
    )
    result = node.step(f"cat {PATH}/whose {PATH}/sub/whose /home/alice/b/whose", ticket=ticket)
    assert [line for line in result.out.splitlines() if line in ("outer", "inner", "b")] == ["outer", "inner", "b"]


def test_a_step_starts_in_its_directory_inside_the_buffer(node: Node) -> None:
    """Slurm cannot enter it beforehand and falls back to /tmp."""
    node.run(["install", "-d", "-o", str(ALICE), "/srv/data/toto/deep"])
    ticket = node.ticket(node.buffer("toto", PATH))
    result = node.step("echo at $(pwd)", ticket=ticket, variables={"PWD": f"{PATH}/deep"})
    assert result.one("at") == "/home/alice"  # Slurm could enter something: where it put the task holds
    deep, fallback = {"PWD": f"{PATH}/deep"}, "/tmp"  # noqa: S108 (Slurm's)
    fallen_back = node.step("echo at $(pwd)", ticket=ticket, variables=deep, directory=fallback)
    assert fallen_back.one("at") == f"{PATH}/deep"
    meant = node.step("echo at $(pwd)", ticket=ticket, variables={"PWD": "/home/alice"}, directory=fallback)
    assert meant.one("at") == fallback


# -- the end


def test_the_epilog_lets_go_and_the_last_process_takes_the_mounts_along(node: Node) -> None:
    ticket = node.ticket(node.buffer("toto", PATH))
    held = node.host("init", "init_post_opt", HOLD, ticket=ticket)
    pid = int(held.one("start"))
    try:
        assert node.pins() == ["1.cn1", "1.cn1:lock", "1.cn1:mounts", "1.cn1:plan"]
        epilog = node.host("job_epilog", context="script")
        assert (epilog.out, epilog.err) == ("job_epilog 0\n", "")
        assert node.pins() == []
        assert f" {RUN}/ns/" not in node.mounted()
        assert PATH in node.mounted(str(pid))  # a process that outlived the job keeps its own view
        namespace = os.stat(f"/proc/{pid}/ns/mnt").st_ino
    finally:
        os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while namespace in _namespaces():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert node.host("job_epilog", context="script").out == "job_epilog 0\n"  # again is harmless


def _namespaces() -> set[int]:
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            found.add((process / "ns/mnt").stat().st_ino)
        except OSError:
            continue
    return found


def test_pins_whose_epilog_never_came_are_swept_but_not_those_in_use(node: Node) -> None:
    held = node.host("init", "init_post_opt", HOLD, job=1, ticket=node.ticket(node.buffer("a", PATH), job=1))
    try:
        for job in (2, 3):
            node.step("true", job=job, ticket=node.ticket(node.buffer("a", PATH), job=job))
        for job in (1, 2):
            os.utime(node.path(f"{RUN}/ns/{job}.cn1:plan"), (0, 0))
        node.host("init", context="slurmd", job=0)
        assert {pin.split(".")[0] for pin in node.pins()} == {"1", "3"}
    finally:
        os.kill(int(held.one("start")), signal.SIGKILL)


def test_the_folder_of_pins_is_mounted_once_and_private(node: Node) -> None:
    for _ in range(2):
        assert node.host("init", context="slurmd", job=0).err == ""
    node.step("true", ticket=node.ticket(node.buffer("toto", PATH)))
    (line,) = [line for line in node.mounted().splitlines() if f" {RUN}/ns " in line]
    assert "shared:" not in line and "master:" not in line
    assert node.path(f"{RUN}/ns").stat().st_mode & 0o777 == 0o700


# -- what must not be


def refused(node: Node, ticket: str, *, tasks: int = 1, **more: object) -> str:
    """Run a step that must not run its program; the one line that every task's user reads."""
    result = node.step("echo the program ran", ticket=ticket, tasks=tasks, **more)
    assert "the program ran" not in result.out
    assert result.all("task") == ["1"] * tasks
    assert result.all("init_post_opt") == ["0"]  # a failure there would drain the node
    lines = [line for line in result.err.splitlines() if line.startswith("ebb: error: ")]
    assert len(lines) == tasks and len(set(lines)) == 1
    return lines[0]


def test_a_mountpoint_of_somebody_else_is_refused(node: Node) -> None:
    node.path("/home/bob").chmod(0o755)
    line = refused(node, node.ticket(node.buffer("toto", "/home/bob")), tasks=3)
    assert "toto" in line and "/home/bob belongs to uid 2002, not to you (uid 2001)" in line and "Path=" in line


@pytest.mark.parametrize("leads", ["/etc", "/usr/bin", "/proc", "/root", "/var/lib", "/srv/data", "/home/bob/private"])
def test_a_symbolic_link_leads_nowhere_else(node: Node, leads: str) -> None:
    node.path("/home/alice/link").symlink_to(leads)
    ticket = node.ticket(node.buffer("toto", "/home/alice/link"))
    assert "cannot be mounted on /home/alice/link" in refused(node, ticket)


def test_no_path_begins_a_line_of_the_log(node: Node) -> None:
    name = "x\n[2026-01-01T00:00:00.000] error: forged\x1b[2J\tx\x7f"
    node.run(["install", "-d", "-o", str(ALICE), f"/srv/{name}"])
    node.path("/home/alice/link").symlink_to(f"/srv/{name}")
    result = node.step("true", ticket=node.ticket(node.buffer("toto", "/home/alice/link")))
    shown = "it leads to /srv/x?[2026-01-01T00:00:00.000] error: forged?[2J?x?, which is not below a directory"
    log, told = result.err.splitlines()
    assert log.startswith("error: ebb: job 1: buffer toto ") and shown in log
    assert told.startswith("ebb: error: buffer toto ") and shown in told


def test_no_path_in_a_container_begins_a_line_of_the_tasks_error(node: Node) -> None:
    """There the mounts are made by the task's child, which tells its user itself."""
    ticket = node.ticket(node.buffer("toto", "/home/alice/link"))
    node.run(["install", "-d", "-o", str(ALICE), "/srv/x\ny", "/home/alice/good"])
    node.path("/home/alice/link").symlink_to("/home/alice/good")
    assert node.host("init", "init_post_opt", "tasks:true", ticket=ticket).err == ""
    node.path("/home/alice/link").unlink()
    node.path("/home/alice/link").symlink_to("/srv/x\ny")
    result = node.host("init", "init_post_opt", "contained:true", ticket=ticket)
    assert "it leads to /srv/x?y, " in result.err


def test_a_users_own_directory_outside_of_the_prefixes_is_refused(node: Node) -> None:
    node.run(["install", "-d", "-o", str(ALICE), "/srv/alice"])
    line = refused(node, node.ticket(node.buffer("toto", "/srv/alice")))
    assert "MountPrefixes" in line and "/srv/alice" in line


def test_no_prefix_opens_a_system_directory(node: Node) -> None:
    node.configure("MountPrefixes=/etc,/home")
    node.run(["mount", "-t", "tmpfs", "-o", f"uid={ALICE},mode=0755", "tmpfs", "/etc/ssl"])
    assert "/etc/ssl, a system directory" in refused(node, node.ticket(node.buffer("toto", "/etc/ssl")))


def test_a_missing_mountpoint_is_made_with_the_users_rights_only(node: Node) -> None:
    assert "Permission denied" in refused(node, node.ticket(node.buffer("toto", "/home/bob/alices")))
    assert not node.path("/home/bob/alices").exists()


def test_a_link_swapped_all_the_while_never_moves_the_mount(node: Node) -> None:
    """Between the look and the mount there is nothing to swap: the mount goes onto what was looked at."""
    node.run(["install", "-d", "-o", str(ALICE), "/home/alice/real"])
    swapper = node.background(
        [
            "python3",
            "-c",
            "import os\nwhile True:\n for t in ('/home/alice/real', '/etc'):\n"
            "  os.symlink(t, '/home/alice/new'); os.rename('/home/alice/new', '/home/alice/link')",
        ]
    )
    try:
        deadline = time.monotonic() + 10
        while not node.path("/home/alice/link").is_symlink():
            assert time.monotonic() < deadline
        for job in range(1, 31):
            result = node.step(
                'awk \'$5 ~ /^.etc/ {print "over /etc"} $5 ~ /alice/ {print "at", $5}\' /proc/self/mountinfo',
                job=job,
                ticket=node.ticket(node.buffer("toto", "/home/alice/link"), job=job),
            )
            assert "over /etc" not in result.out
            assert set(result.all("at")) <= {"/home/alice/real"}
            assert result.all("at") or "ebb: error:" in result.err
    finally:
        swapper.kill()
        swapper.wait(timeout=10)


@pytest.mark.parametrize("path", ["/home/alice/../bob", "/home", "/"])
def test_odd_mountpoints_are_refused(node: Node, path: str) -> None:
    assert "toto" in refused(node, node.ticket(node.buffer("toto", path)))


def test_two_buffers_on_one_mountpoint_are_refused(node: Node) -> None:
    line = refused(node, node.ticket(node.buffer("one", PATH), node.buffer("two", f"{PATH}/")))
    assert "one and two both want" in line


def test_a_datanode_that_cannot_be_reached_stops_the_task_and_the_next_step_tries_again(node: Node) -> None:
    """This kernel may know no NFS: the point is what the user reads, and that a later step can succeed."""
    away = node.ticket(node.buffer("toto", PATH, data="/srv/data/away"))
    line = refused(node, away)
    assert "toto" in line and "NFS from 127.0.0.1:/ganesha_1" in line and "port=20490" in line
    assert "toto" in node.step(f"cat {PATH}/whose", ticket=node.ticket(node.buffer("toto", PATH))).out


def test_programs_without_a_prepared_pin_do_not_run(node: Node) -> None:
    """Should init_post_opt not have been called, or have been unable to write."""
    result = node.host("init", "tasks:echo the program ran", ticket=node.ticket(node.buffer("toto", PATH)))
    assert "the program ran" not in result.out
    assert "were not prepared" in result.err
