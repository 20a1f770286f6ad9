"""The cluster tool itself: what it makes is private, passes codes and signals on, and is gone afterwards."""

import os
import pty
import pwd
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import kernel, leftovers, wait
from cluster.harness import Cluster
from cluster.layout import load

CTL = str(Path(__file__).with_name("ctl"))
SMALL = ["--plain", "--computes", "1", "--datanodes", "1"]


def ctl(*words: str, stdin: str | None = None) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([CTL, *words], check=False, capture_output=True, text=True, timeout=300, input=stdin or "")


@pytest.fixture
def state(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "state"
    yield path
    ctl("down", "--state", str(path))


def test_a_user_runs_a_job(plain_cluster: Cluster) -> None:
    done = plain_cluster.run("alice", ["srun", "--nodes=2", "sh", "-c", "id -un; pwd"])
    assert sorted(done.stdout.split()) == ["/home/alice", "/home/alice", "alice", "alice"]


def test_several_jobs_run_at_once(plain_cluster: Cluster) -> None:
    jobs = [plain_cluster.sbatch("bob", "#!/bin/sh\nsleep 600\n") for _ in range(6)]
    for job in jobs:
        plain_cluster.wait_job(job, "RUNNING")
    plain_cluster.run("bob", ["scancel", *map(str, jobs)])
    for job in jobs:
        plain_cluster.wait_job(job, "CANCELLED")


def test_users_exist_inside_only(plain_cluster: Cluster) -> None:
    assert plain_cluster.run("bob", ["id", "-u"]).stdout == "2002\n"
    for name in ("alice", "bob"):
        with pytest.raises(KeyError):
            pwd.getpwnam(name)


def test_users_do_not_see_secrets(plain_cluster: Cluster) -> None:
    for path in ("/etc/munge/munge.key", "/etc/ebb/site.key", "/etc/shadow", "/home/bob"):
        assert plain_cluster.run("alice", ["ls", path + "/."], check=False).returncode != 0


def test_the_machine_is_not_touched(plain_cluster: Cluster) -> None:
    marks = [f"{folder}/ebb-mark" for folder in ("/etc", "/run", "/tmp", "/root", "/var/lib", "/opt")]  # noqa: S108
    plain_cluster.exec("controller", ["touch", *marks])
    assert not [mark for mark in marks if Path(mark).exists()]


def test_a_killed_slurmctld_is_started_again(plain_cluster: Cluster) -> None:
    plain_cluster.kill("slurmctld")
    assert ("slurmctld", "ended (-9)") in plain_cluster.kind.status()
    plain_cluster.start("slurmctld")
    plain_cluster.run("alice", ["srun", "hostname"])


def test_up_run_status_down(state: Path) -> None:
    up = ctl("up", *SMALL, "--state", str(state))
    assert up.returncode == 0, up.stderr
    namespace = load(state)
    assert namespace is not None and namespace.pid_namespace is not None

    again = ctl("up", "--state", str(state))
    assert again.returncode == 1 and "is up" in again.stderr
    status = ctl("status", "--state", str(state))
    assert status.returncode == 0 and "slurmctld" in status.stdout
    assert ctl("run", "--state", str(state), "--user", "alice", "--", "sh", "-c", "exit 7").returncode == 7
    assert ctl("run", "--state", str(state), "--user", "alice", "--", "cat", stdin="text").stdout == "text"
    assert ctl("run", "--state", str(state), "--user", "nobody", "--", "id").returncode == 1
    assert ctl("exec", "dn1", "--state", str(state), "--", "id", "-u").stdout == "0\n"
    assert "slurmd" in ctl("logs", "cn1", "--state", str(state)).stdout

    backing = "/var/lib/ebb/left.img"  # a daemon's loop device that nobody takes away
    script = f"truncate -s 300M {backing}; mkfs.xfs -q {backing}; mount -o loop {backing} /mnt;"
    script += " exec sleep 600 >/mnt/f 2>&1 &"
    assert ctl("exec", "dn1", "--state", str(state), "--", "sh", "-c", script).returncode == 0
    [held] = leftovers.loops_below(state)

    down = ctl("down", "--state", str(state))
    assert down.returncode == 0, down.stderr
    assert not state.exists()
    assert kernel.processes_in(namespace.pid_namespace) == []
    assert (held.name, held.inode) not in {(loop.name, loop.inode) for loop in leftovers.loops()}
    assert ctl("run", "--state", str(state), "--user", "alice", "--", "id").returncode == 1


def test_ctrl_c_while_it_comes_up(state: Path) -> None:
    process = subprocess.Popen([CTL, "up", *SMALL, "--state", str(state)], stderr=subprocess.PIPE, text=True)
    wait.until((state / "init.pid").exists, 60, "process 1")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=90)
    assert process.returncode != 0
    assert "taking everything down" in errors
    assert not state.exists()


def test_up_clears_away_a_crashed_cluster(state: Path) -> None:
    assert ctl("up", *SMALL, "--state", str(state)).returncode == 0
    first = load(state)
    assert first is not None and first.init_pid is not None
    os.kill(first.init_pid, signal.SIGKILL)
    wait.until(lambda: kernel.start_time(first.init_pid or 0) is None, 60, "process 1 to end")
    again = ctl("up", *SMALL, "--state", str(state))
    assert again.returncode == 0, again.stderr
    assert "clearing away" in again.stderr


def test_a_folder_that_is_no_cluster_stays(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("mine")
    for verb in ("up", "down"):
        assert ctl(verb, "--state", str(tmp_path)).returncode == 1
    assert (tmp_path / "precious").read_text() == "mine"


def test_ctrl_c_on_a_terminal_reaches_the_command(plain_cluster: Cluster) -> None:
    words = [CTL, "run", "--state", str(plain_cluster.state.path), "--user", "alice", "--"]
    words += ["sh", "-c", "trap 'echo caught; exit 9' INT; echo ready; while :; do sleep 0.05; done"]
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(words[0], words)  # noqa: S606 (no shell is wanted)
    seen, end = b"", time.monotonic() + 60
    while b"ready" not in seen and time.monotonic() < end:
        seen += os.read(terminal, 100)
    os.write(terminal, b"\x03")
    while b"caught" not in seen and time.monotonic() < end:
        seen += os.read(terminal, 100)
    _, status = os.waitpid(pid, 0)
    os.close(terminal)
    assert os.waitstatus_to_exitcode(status) == 9


def test_a_tied_cluster_dies_with_its_owner(state: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from cluster import kinds; from cluster.layout import Layout, State\n"
        "kinds.of(State(Path(sys.argv[1]), 'local', Layout(1, 1, plain=True)), tied=True).up(print)\n"
        "sys.stdin.read()\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    owner = subprocess.Popen([sys.executable, "-c", script, str(state)], stdin=subprocess.PIPE, env=environment,
                             stdout=subprocess.PIPE, text=True)  # fmt: skip
    assert owner.stdout is not None
    assert any("idle" in line for line in iter(owner.stdout.readline, ""))
    made = load(state)
    assert made is not None and made.pid_namespace is not None
    assert kernel.processes_in(made.pid_namespace)
    owner.kill()
    owner.communicate(timeout=60)
    wait.until(lambda: not kernel.processes_in(made.pid_namespace or ""), 60, "the cluster to end")
