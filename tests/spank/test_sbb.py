"""An SBB's targets in a job: mounted over the user's directories, served by a client that is in no step of the job."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from computenode import ALICE, BOB, CHECKOUT, RUN, Built, Node, Result
from ebb.sbb import buffer_key
from ebb.ticket import SbbMount, SbbServer

TARGET, OTHER = "/home/alice/out", "/home/alice/more"
CLIENT = "client=/srv/bin/sbb-client"
PLACE = "/srv/sbb"


class Served:
    """A node with a real server of a buffer of alice's, on the node itself."""

    def __init__(self, node: Node, place: str = PLACE) -> None:
        self.node, self.place = node, place
        node.run(["install", "-d", "/srv/bin"])
        for program in ("sbbd", "sbb-client"):
            shutil.copy2(CHECKOUT / "build" / program, node.path(f"/srv/bin/{program}"))
        node.run(["install", "-d", "-o", str(ALICE), "-g", str(ALICE), "-m", "0700", place])
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Start the server; returns when it answers."""
        lines = ["sid=1", "index=0", "count=1", f"listen=127.0.0.1:{self.port}", f"unix={self.place}/sbb",
                 "memory=67108864", "stripe=1048576", f"target={TARGET}", f"target={OTHER}", "sync=servers",
                 "drain_rate=0", "drain_delay=600", f"control={self.place}/control"]  # fmt: skip
        self.node.write("/srv/etc/sbbd.conf", "".join(f"{line}\n" for line in lines).encode())
        reader, writer = os.pipe()
        os.write(writer, buffer_key(self.node.key, "1"))
        os.close(writer)
        space = os.readlink("/proc/self/ns/mnt") and self.node.path("/").parent / "ns/mnt"
        self.server = subprocess.Popen(
            ["nsenter", f"--mount={space}", "setpriv", f"--reuid={ALICE}", f"--regid={ALICE}", "--clear-groups",
             "/srv/bin/sbbd", "--config", "/srv/etc/sbbd.conf", "--key-fd", str(reader)],
            pass_fds=[reader], stderr=subprocess.DEVNULL,
        )  # fmt: skip
        os.close(reader)
        wait_for(lambda: "running" in self.control("status"))

    def control(self, request: str) -> str:
        """One question to the server."""
        with socket.socket(socket.AF_UNIX) as connection:
            try:
                connection.connect(str(self.node.path(f"{self.place}/control")))
            except OSError:
                return ""
            connection.sendall(request.encode() + b"\n")
            return connection.makefile().readline()

    def ticket(self, *targets: str, job: int = 1) -> str:
        """A ticket for these targets."""
        server = SbbServer("127.0.0.1", self.port, f"{self.place}/sbb")
        return self.node.ticket(
            *(SbbMount("1", "fast", "SBB", path, n, "servers", 1 << 20, (server,)) for n, path in enumerate(targets)),
            job=job,
        )

    def step(self, command: str, ticket: str | None = None, **how: object) -> Result:
        """A whole step."""
        return self.node.step(command, ticket=ticket or self.ticket(TARGET), arguments=[CLIENT], **how)

    def clients(self) -> list[int]:
        """Client processes of this node."""
        found = []
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                mine = os.readlink(entry / "exe").endswith("/sbb-client")
                same = os.stat(entry / "root/srv/bin").st_ino == self.node.path("/srv/bin").stat().st_ino
            except OSError:
                continue
            if mine and same:
                found.append(int(entry.name))
        return found

    def end(self) -> None:
        """Stop the server."""
        assert self.server is not None
        self.server.kill()
        self.server.wait(timeout=10)


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.fixture
def served(node: Node) -> Iterator[Served]:
    served = Served(node)
    yield served
    served.end()
    node.host("job_epilog", context="script")
    wait_for(lambda: not served.clients())


def test_a_step_writes_into_its_target_and_the_node_sees_it_once_it_is_drained(served: Served) -> None:
    result = served.step(f"echo task $SLURM_PROCID >> {TARGET}/log; cat {TARGET}/log > /dev/null", tasks=4)
    assert result.all("task") == ["0"] * 4 and result.err == ""
    file = served.node.path(f"{TARGET}/log")
    assert (file.stat().st_uid, file.stat().st_size) == (ALICE, 0)
    assert TARGET not in served.node.mounted()
    assert '"ok":true' in served.control("flush")
    assert file.read_text().count("task") == 4


def test_the_mount_is_nosuid_nodev_and_a_step_may_start_in_it(served: Served) -> None:
    result = served.step(f"grep ' {TARGET} ' /proc/self/mountinfo; echo at $(pwd)", ticket=served.ticket(TARGET))
    line = next(line for line in result.out.splitlines() if " - fuse.sbb " in line)
    assert {"nosuid", "nodev"} <= set(line.split()[5].split(","))
    inside = served.step("echo at $(pwd)", variables={"PWD": TARGET}, directory="/tmp")  # noqa: S108 (Slurm's)
    assert inside.one("at") in ("/tmp", TARGET)  # noqa: S108
    below = served.step(f"mkdir -p {TARGET}/sub; cd {TARGET}/sub && echo at $(pwd)")
    assert below.one("at") == f"{TARGET}/sub"


def test_targets_that_do_not_exist_yet_are_made_as_the_user(served: Served) -> None:
    deep = "/home/alice/a/b/c"
    result = served.step(f"touch {deep}/x {OTHER}/y", ticket=served.ticket(deep, OTHER))
    assert result.all("task") == ["0"], result.err
    for path in ("/home/alice/a", deep, OTHER):
        assert served.node.path(path).stat().st_uid == ALICE
    assert served.node.path(f"{OTHER}/y").exists()


def test_a_directory_of_others_is_a_target_only_if_the_user_may_write_there(served: Served) -> None:
    served.node.run(["install", "-d", "-o", str(BOB), "-m", "0777", "/home/open"])
    served.node.run(["install", "-d", "-o", str(BOB), "-m", "0755", "/home/theirs"])
    assert served.step("touch /home/open/x", ticket=served.ticket("/home/open")).all("task") == ["0"]
    refused = served.step("echo it ran", ticket=served.ticket("/home/theirs", job=2), job=2)
    assert "it ran" not in refused.out and "belongs to uid" in refused.err


def test_the_client_is_the_user_has_no_rights_and_is_in_no_step(served: Served) -> None:
    served.step("true")
    (pid,) = served.clients()
    shown = dict(line.split(":\t") for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    assert set(shown["Uid"].split()) == set(shown["Gid"].split()) == {str(ALICE)}
    assert int(shown["CapPrm"], 16) == int(shown["CapEff"], 16) == 0 and shown["NoNewPrivs"] == "1"
    assert os.getsid(pid) != os.getsid(0)
    assert os.readlink(f"/proc/{pid}/cwd") == "/"
    home = served.node.path("/").parent / "ns/mnt"
    assert os.stat(f"/proc/{pid}/ns/mnt").st_ino == os.stat(home).st_ino  # the node's, not the job's
    # What it holds: the mount, the target, its settings and token, connections; nothing of the step's.
    held = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [path for path in held if path.startswith(("/srv/run", "/srv/etc", "/proc"))], held


def test_one_client_serves_all_steps_and_ends_with_the_job(served: Served) -> None:
    served.step(f"echo first > {TARGET}/x", step=0xFFFFFFFB)
    clients = served.clients()
    result = served.step(f"cat {TARGET}/x", step=1)
    assert "first" in result.out and served.clients() == clients and len(clients) == 1
    held = served.node.host("init", "init_post_opt", f"start:exec sleep 60 < {TARGET}/x >/dev/null 2>&1", ticket="x")
    served.node.host("job_epilog", context="script")
    try:
        assert served.clients() == clients  # a process of the job still has it
    finally:
        os.kill(int(held.one("start")), signal.SIGKILL)
    wait_for(lambda: not served.clients())
    assert '"ok":true' in served.control("flush")
    assert served.node.path(f"{TARGET}/x").read_text() == "first\n"


def test_without_a_server_or_a_client_no_program_runs_and_the_user_learns_why(served: Served) -> None:
    missing = served.node.step("echo it ran", ticket=served.ticket(TARGET), arguments=["client=/srv/bin/none"])
    assert "it ran" not in missing.out
    assert f"buffer fast cannot be mounted on {TARGET}" in missing.err and "/srv/bin/none: No such file" in missing.err
    other = served.node.key
    served.node.write("/srv/etc/site.key", b"x" * 32, 0o600)
    served.node.key = type(other)(b"x" * 32)
    refused = served.step("echo it ran", ticket=served.ticket(TARGET, job=2), job=2)
    assert "it ran" not in refused.out and f"buffer fast cannot be mounted on {TARGET}: its servers: " in refused.err
    served.node.host("job_epilog", context="script", job=2)


def test_a_server_whose_folder_nobody_may_look_into_is_reached_by_its_address(served: Served) -> None:
    """The folder of its socket is its owner's, who may mount a file system of their own over it."""
    with served.node.silent(PLACE):
        result = served.step(f"touch {TARGET}/x")
    assert result.all("task") == ["0"], result.err


@pytest.mark.parametrize("kind", ["folder", "mount"])
def test_a_server_on_this_node_is_reached_though_the_job_does_not_see_its_folder(node: Node, kind: str) -> None:
    """Its client is in the node's namespace, and the job has nothing mounted below the run directory."""
    own = f"{RUN}/dn1/sbb/1/own"
    node.run(["install", "-d", "-o", str(ALICE), "-g", str(ALICE), "-m", "0700", own])
    if kind == "mount":
        node.run(["mount", "-t", "tmpfs", "-o", f"uid={ALICE},gid={ALICE},mode=0700", "tmpfs", own])
    served = Served(node, own)
    served.port = 1  # nobody listens there: only the socket is left
    try:
        result = served.step(f"echo data > {TARGET}/x; cat {TARGET}/x /proc/self/mountinfo")
        assert result.all("task") == ["0"] and "data" in result.out, result.err
        assert f" {RUN}/" not in result.out
    finally:
        served.end()
        node.host("job_epilog", context="script")
        wait_for(lambda: not served.clients())


def test_with_sanitizers(sanitized: Built) -> None:
    node = Node(sanitized)
    try:
        served = Served(node)
        result = served.step(f"echo x > {TARGET}/x; cat {TARGET}/x", tasks=2)
        assert result.all("task") == ["0", "0"] and result.err == "", result.err
        node.host("job_epilog", context="script")
        wait_for(lambda: not served.clients())
        served.end()
    finally:
        node.end()
