"""On a datanode that computes: no job has what is mounted for other buffers, and no user can keep jobs out."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from computenode import ALICE, RUN, Node

PATH = "/home/alice/mnt"
DATANODE = f"{RUN}/dn1"
OWN = f"{DATANODE}/sbb/8/own"
TABLE = "cat /proc/self/mountinfo"
# In the working directory: many folders, one in the other, and a mount in the last, at a path that no call takes.
_DEEP = """
import ctypes, os
for _ in range(25):
    os.mkdir("d" * 200)
    os.chdir("d" * 200)
os.mkdir("m")
assert ctypes.CDLL(None).mount(b"tmpfs", b"m", b"tmpfs", 0, None) == 0
"""
# A folder and a symbolic link that change places all the time (RENAME_EXCHANGE).
_SWAP = """
import ctypes, sys
rename, (one, other) = ctypes.CDLL(None).renameat2, [word.encode() for word in sys.argv[1:]]
while True:
    assert rename(-100, one, -100, other, 2) == 0
"""


def mount(node: Node, *paths: str) -> None:
    """Mount something small at each, which is made."""
    for path in paths:
        node.run(["mkdir", "-p", path])
        node.run(["mount", "-t", "tmpfs", "tmpfs", path])


def own(node: Node) -> None:
    """The folder of alice's in the run directory, as dnd makes it for an SBB's server."""
    node.run(["install", "-d", "-o", str(ALICE), "-g", str(ALICE), "-m", "0700", OWN])


def ticket(node: Node, job: int = 1) -> str:
    return node.ticket(node.buffer("toto", PATH), job=job)


def test_a_job_has_no_mount_of_another_buffer_and_the_node_keeps_all(node: Node) -> None:
    node.run(["mount", "--make-shared", "/srv"])  # as systemd has it: then what the job drops could reach the node
    places = [f"{DATANODE}/{place}" for place in ("ganesha/1/data", "sbb/8/data", "sbb/8/own", "more")]
    mount(node, *places, f"{places[0]}/store/inner", f"{places[2]}/inner", places[1], f"{places[3]}/a b")
    before = node.mounted().count(f" {DATANODE}/")
    held = node.host("init", "init_post_opt", "start:exec sleep 60 >/dev/null 2>&1", ticket=ticket(node))
    pid = held.one("start")
    try:
        assert held.err == ""
        mounted = node.mounted(pid)
        assert PATH in mounted and f" {RUN}/" not in mounted
        assert node.mounted().count(f" {DATANODE}/") == before == 8
        for place in places:  # nothing keeps their file systems, at whatever path
            device = node.path(place).stat().st_dev
            assert f" {os.major(device)}:{os.minor(device)} " not in mounted
    finally:
        os.kill(int(pid), signal.SIGKILL)


def test_the_run_directory_may_be_given_through_a_symbolic_link(node: Node) -> None:
    node.run(["ln", "-s", "/srv/run", "/srv/linked"])
    mount(node, f"{DATANODE}/ganesha/1/data")
    result = node.step(TABLE, ticket=ticket(node), arguments=["run=/srv/linked/ebb"])
    assert PATH in result.out and f" {RUN}/" not in result.out


@pytest.mark.parametrize("name", ["a b", "a\nb", "a\tb\\c", "a\rb\vc", "\\040", "a#b", "Größe", "a - tmpfs b"])
def test_the_name_of_a_users_mount_keeps_nobody_out(node: Node, name: str) -> None:
    own(node)
    mount(node, f"{OWN}/{name}", f"{DATANODE}/sbb/8/data")
    result = node.step(TABLE, ticket=ticket(node))
    assert result.all("task") == ["0"] and PATH in result.out, result.err
    assert f" {RUN}/" not in result.out and result.err == ""


def test_the_name_of_a_users_mount_need_not_be_text(node: Node) -> None:
    own(node)
    subprocess.run(
        [b"mkdir", os.fsencode(node.path(OWN)) + b"/\xff\xc3("],
        check=True, timeout=10,
    )  # fmt: skip
    node.run(["sh", "-c", f"mount -t tmpfs tmpfs {OWN}/*"])
    result = node.step(f"grep -c ' {RUN}/' /proc/self/mountinfo", ticket=ticket(node))
    assert "0" in result.out.splitlines() and result.err == ""


@pytest.mark.parametrize("others", [False, True])
def test_a_users_file_system_that_never_answers_keeps_nobody_out(node: Node, others: bool) -> None:
    own(node)
    mount(node, f"{OWN}/a b", f"{OWN}/hidden")
    begun = time.monotonic()
    with node.silent(f"{OWN}/a b", others=others), node.silent(OWN, others=others):
        result = node.step(TABLE, ticket=ticket(node))
    assert result.all("task") == ["0"] and PATH in result.out, result.err
    assert f" {RUN}/" not in result.out and result.err == ""
    assert time.monotonic() - begun < 30  # a child that waits for it is given up after 60 s


def test_a_folder_swapped_for_a_link_all_the_while_drops_nothing_elsewhere(node: Node) -> None:
    own(node)
    mount(node, f"{OWN}/d/m", f"{DATANODE}/sbb/8/data", "/mnt/elsewhere/m")
    node.run(["ln", "-s", "/mnt/elsewhere", f"{OWN}/link"])
    swapper = node.background([sys.executable, "-c", _SWAP, f"{OWN}/d", f"{OWN}/link"])
    try:
        for job in range(1, 31):
            result = node.step(TABLE, job=job, ticket=ticket(node, job))
            assert result.all("task") == ["0"] and PATH in result.out, result.err
            assert " /mnt/elsewhere/m " in result.out
            assert f" {DATANODE}/sbb/8/data" not in result.out
        assert swapper.poll() is None
    finally:
        swapper.kill()
        swapper.wait(timeout=10)


def deep(node: Node, folder: str) -> None:
    """A mount below `folder` that cannot be dropped."""
    node.run(["mkdir", "-p", folder])
    node.run(["sh", "-c", 'cd "$1" && exec "$2" -c "$3"', "sh", folder, sys.executable, _DEEP])


def test_what_cannot_be_dropped_of_a_users_is_logged_and_the_job_runs(node: Node) -> None:
    own(node)
    deep(node, f"{OWN}/x\n[2026-01-01T00:00:00.000] error: forged\x1b[2J")
    mount(node, f"{DATANODE}/sbb/8/data")
    result = node.step(TABLE, ticket=ticket(node))
    assert result.all("task") == ["0"] and PATH in result.out
    assert f" {DATANODE}/sbb/8/data" not in result.out
    (line,) = result.err.splitlines()
    assert line.startswith("info: ebb: job 1: the job's namespace keeps a mount that some user made")
    assert f"{OWN}/x?[2026-01-01T00:00:00.000] error: forged?[2J/ddd" in line and "File name too long" in line


@pytest.mark.parametrize("place", ["ganesha/1/data", "sbb/8/data", "sbb/8/owner", "sbb/own"])
def test_what_cannot_be_dropped_of_roots_keeps_the_job_out(node: Node, place: str) -> None:
    deep(node, f"{DATANODE}/{place}")
    result = node.step("echo the program ran", ticket=ticket(node))
    assert "the program ran" not in result.out and result.all("task") == ["1"]
    assert f"another buffer's mount {DATANODE}/{place}/ddd" in result.err and "tell the administrator" in result.err
