"""kill -9 of every process in every state of a buffer: the outcome is right, and nothing is left after destroy.

For each victim one chain of jobs goes through all states, the victim is killed and started again in each:
staging-in and staging-out (a dataset with 600 MB in it is moving), staged-in, and in use by a running job. Then the
states in which nothing moves: waiting for room, and teardown after a creation and after a save that failed.
"""

import itertools
import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cluster import leftovers
from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use

BIG_MB = 600
NUMBERS = itertools.count(1)
# slurmctld stages jobs again about a minute after its own restart.
DEADLINE = 240.0
JOBS = "/var/spool/slurmctld/job_state"
"""What slurmctld has saved of its jobs."""
TRIES = 5
TOO_LATE = f"{TRIES} times slurmctld has saved its jobs before it could be killed"
STEP = """
import os, signal, sys, time
for number, seconds in ((signal.SIGCONT, 0.05), (signal.SIGSTOP, 0.5)):
    for pid in sys.argv[1:]: os.kill(int(pid), number)
    time.sleep(seconds)
"""

Kill = Callable[[Cluster, str], None]


def _kill_and_start(name: str) -> Kill:
    def kill(cluster: Cluster, _buffer: str) -> None:
        cluster.kill(name)
        cluster.start(name)

    return kill


def _kill_ganesha(cluster: Cluster, buffer: str) -> None:
    """The NFS server of one buffer; its datanode's daemon starts it again."""
    pid = _record(cluster, buffer).get("server")
    if pid:  # none runs while data moves
        cluster.exec("dn1", ["kill", "-9", str(pid[0])], check=False)  # it may be ending by itself


def _kill_dnd(cluster: Cluster, buffer: str) -> None:
    name = _where(cluster, buffer)
    cluster.kill(name)
    cluster.start(name)


VICTIMS: dict[str, Kill] = {
    "orchestrator": _kill_and_start("orchestrator"),
    "slurmctld": _kill_and_start("slurmctld"),
    "dnd": _kill_dnd,
    "ganesha": _kill_ganesha,
}


@pytest.fixture(scope="module")
def big_dataset(cluster: Cluster) -> str:
    """A dataset of alice's with random data in it."""
    cluster.run("alice", ["mkdir", "-p", "seed", "run"])
    body = f"head -c {BIG_MB}M /dev/urandom > ~/seed/data && sha256sum < ~/seed/data > ~/sum"
    line = create("seed", size="1500MiB", data_dst="/home/alice/big")
    cluster.wait_job(cluster.sbatch("alice", script(line, use("seed"), body=body)))
    cluster.wait_buffer("seed", None)
    return "/home/alice/big"


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """After each test: totals of zero, and no process, mount, loop device or volume on the datanodes."""
    yield
    cluster.wait_until(lambda: cluster.bbstat().totals["used storage"] == 0, 60, "totals of zero", cluster.bbstat_text)
    cluster.wait_until(lambda: not _traces(cluster), 60, "nothing to be left", lambda: str(_traces(cluster)))


def _traces(cluster: Cluster) -> list[str]:
    mounts = cluster.exec("dn1", ["findmnt", "-rn", "-o", "TARGET"]).stdout.splitlines()
    found = [target for target in mounts if re.search(r"/run/ebb/dn\d/|/run/ebb/ns/.", target)]
    found += cluster.exec("dn1", ["pgrep", "-a", "ganesha"], check=False).stdout.splitlines()
    found += [loop.path for loop in leftovers.loops_below(cluster.state.path)]
    for node in ("dn1", "dn2"):
        places = [f"/var/lib/ebb/{node}/services", f"/var/lib/ebb/{node}/volumes", f"/run/ebb/{node}/ganesha"]
        for line in cluster.exec(node, ["find", *places, "-type", "f"], check=False).stdout.splitlines():
            read = cluster.exec(node, ["cat", line], check=False).stdout if line.endswith(".json") else ""
            gone = read and json.loads(read)["phase"] == "gone"  # not read: removed since, or the next look tells
            found += [] if gone else [line]
    return found


def _where(cluster: Cluster, buffer: str) -> str:
    listed = json.loads(cluster.exec("controller", ["ebb", "list", "--json"]).stdout)
    return str(next(b["datanodes"][0] for b in listed if b["name"] == buffer))


def _record(cluster: Cluster, buffer: str) -> dict[str, list[int]]:
    """What the buffer's datanode remembers of it."""
    listed = json.loads(cluster.exec("controller", ["ebb", "list", "--json"]).stdout)
    found = next(b for b in listed if b["name"] == buffer)
    path = f"/var/lib/ebb/{found['datanodes'][0]}/services/{found['sid']}.json"
    record: dict[str, list[int]] = json.loads(cluster.exec("dn1", ["cat", path]).stdout)
    return record


@contextmanager
def _held(cluster: Cluster) -> Iterator[Callable[[], None]]:
    """The daemons of the datanodes stand still, but for a moment at each call of what is yielded.

    So what they move is met on its way, however long a look takes. After each moment there is half a second for the
    news of it to reach bbstat.
    """
    look = "pgrep --oldest --full 'dnd[.]daemon .*--name dn1'; pgrep --oldest --full 'dnd[.]daemon .*--name dn2'"
    pids = cluster.exec("controller", ["sh", "-c", look]).stdout.split()
    assert len(pids) == 2
    cluster.exec("controller", ["kill", "-STOP", *pids])

    def step() -> None:
        cluster.exec("controller", ["python3", "-c", STEP, *pids])

    try:
        yield step
    finally:
        cluster.exec("controller", ["kill", "-CONT", *pids], check=False)  # one may have been killed


def _kill_on_the_way(
    cluster: Cluster, victim: str, name: str, line: str, direction: str, again: Callable[[], None]
) -> None:
    """Submit a job with `line`, kill the victim while that moves data, and wait for the job's good end.

    direction: in, out. again: called after such a job's end, makes all as it was before the job.
    """
    for _ in range(TRIES):
        job, saved = _submit(cluster, script(line))
        with _held(cluster) as step:
            _release(cluster, job)
            if victim == "slurmctld":  # has not the time to see data move
                cluster.wait_buffer(name, f"staging-{direction}")
                killed = _stopped_in_time(cluster, saved)
            else:
                _until_data_move(cluster, name, f"Stage-{direction}", step)
                killed = True
            if killed:
                VICTIMS[victim](cluster, name)
        if killed:
            _release(cluster, job)
            cluster.wait_job(job, deadline=DEADLINE)
            return
        cluster.wait_job(job, deadline=DEADLINE)
        again()
    raise AssertionError(TOO_LATE)


def _until_data_move(cluster: Cluster, name: str, says: str, step: Callable[[], None]) -> None:
    def moving() -> bool:
        buffer = cluster.bbstat().buffer(name)
        if buffer is None or says not in buffer.reason:
            step()
            return False
        return True

    cluster.wait_until(moving, DEADLINE, says, cluster.bbstat_text)


def _submit(cluster: Cluster, text: str) -> tuple[int, str]:
    """Submit a held job that slurmctld surely knows after a kill -9; the job, and when slurmctld has saved it."""
    job = cluster.sbatch("alice", text, "--hold")
    _save(cluster)
    return job, cluster.exec("controller", ["stat", "--format=%y", JOBS]).stdout.strip()


def _stopped_in_time(cluster: Cluster, saved: str) -> bool:
    """Stop slurmctld, to be killed, unless it has saved its jobs again; then it goes on.

    It does so from 5 s on after the time before, and may have saved that a job is staging in. That there is somebody at
    it, it saves only every 30 s: killed in between it leaves the job alone for ever.
    """
    unchanged = f'[ "$(stat --format=%y {JOBS})" = "{saved}" ]'
    stop, go_on = (f"pkill -{signal} --oldest --exact slurmctld" for signal in ("STOP", "CONT"))
    look = f"{stop}; {unchanged} || {{ {go_on}; exit 1; }}"
    return cluster.exec("controller", ["sh", "-c", look], check=False).returncode == 0


def _save(cluster: Cluster) -> None:
    """Wait until slurmctld has saved its jobs as they are: it does some seconds after a change.

    A job that it has saved as about to start would start a second time after a kill -9. A held job with a new name is
    the change; the file is binary, with names as they are.
    """
    name = f"mark-{next(NUMBERS)}"
    mark = cluster.sbatch("alice", script(), "--hold", f"--job-name={name}")
    search = ["grep", "--quiet", "--text", "--fixed-strings", name, JOBS]
    cluster.wait_until(
        lambda: cluster.exec("controller", search, check=False).returncode == 0, 60, "slurmctld to save its jobs"
    )
    cluster.run("alice", ["scancel", str(mark)])


def _release(cluster: Cluster, job: int) -> None:
    """slurmctld may have forgotten over its death that the job was released."""
    cluster.run("alice", ["scontrol", "release", str(job)], check=False)


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_in_every_state(cluster: Cluster, big_dataset: str, victim: str) -> None:
    kill, name = VICTIMS[victim], f"k-{victim}"
    dataset = f"/home/alice/{name}.ds"
    cluster.run("alice", ["mkdir", "-p", name])
    cluster.run("alice", ["rm", "-f", "stop"])

    def discard() -> None:
        cluster.exec("controller", ["ebb", "destroy", name, "--discard"])
        cluster.wait_buffer(name, None)

    line = create(name, size="1500MiB", data_src=big_dataset, data_dst=dataset)
    _kill_on_the_way(cluster, victim, name, line, "in", discard)
    assert cluster.bbstat().state(name) == "staged-in"
    _save(cluster)
    kill(cluster, name)

    check = f"cd ~/{name} && sha256sum -c --quiet <(sed 's/-$/data/' ~/sum)"
    wait = "touch ~/running; until [ -e ~/stop ]; do sleep 0.2; done"
    body = f"set -e; {check}; cp data copy; sync -f copy; {wait}; rm ~/running; cmp data copy; {check}"
    user = cluster.sbatch("alice", script(use(name), body=body))
    running = cluster.home("alice") / "running"
    cluster.wait_until(running.exists, DEADLINE, "the job to have read the data", lambda: str(cluster.job(user)))
    _save(cluster)
    kill(cluster, name)
    cluster.run("alice", ["touch", "stop"])
    cluster.wait_job(user, deadline=DEADLINE)

    def fill() -> None:
        line = create(name, size="1500MiB", data_src=dataset, data_dst=dataset)
        cluster.wait_job(cluster.sbatch("alice", script(line)), deadline=DEADLINE)

    _kill_on_the_way(cluster, victim, name, destroy(name), "out", fill)

    again = create(name, size="1500MiB", data_src=dataset)
    last = cluster.sbatch("alice", script(again, use(name), body=f"set -e; {check}; cmp data copy"))
    cluster.wait_job(last, deadline=DEADLINE)
    cluster.wait_buffer(name, None)
    cluster.run("alice", ["rm", f"{name}.ds"])


@pytest.mark.parametrize("victim", VICTIMS)
def test_kill_while_a_buffer_waits_for_room(cluster: Cluster, victim: str) -> None:
    """Queued: it keeps its place, gets its room, and what lies in the others stays."""
    names = [f"q{number}-{victim}" for number in (1, 2, 3)]
    cluster.run("alice", ["mkdir", "-p", *names])
    for name in names[:2]:
        cluster.wait_job(cluster.sbatch("alice", script(create(name, size="15GB"))), deadline=DEADLINE)
    for _ in range(TRIES):
        waiting, saved = _submit(cluster, script(create(names[2], size="10GB")))
        _release(cluster, waiting)
        cluster.wait_buffer(names[2], "staging-in")
        if victim != "slurmctld" or _stopped_in_time(cluster, saved):
            break
        cluster.exec("controller", ["scancel", str(waiting)])
        cluster.wait_buffer(names[2], None)
    else:
        raise AssertionError(TOO_LATE)
    VICTIMS[victim](cluster, names[0])
    _release(cluster, waiting)
    cluster.wait_until(
        lambda: "Waiting for GBF Resources" in cluster.bbstat_text(), DEADLINE, "the buffer to wait",
        cluster.bbstat_text,
    )  # fmt: skip
    assert cluster.bbstat().state(names[0]) == cluster.bbstat().state(names[1]) == "staged-in"
    cluster.exec("controller", ["ebb", "destroy", names[0]])
    cluster.wait_job(waiting, deadline=DEADLINE)
    for name in names[1:]:
        cluster.exec("controller", ["ebb", "destroy", name])
        cluster.wait_buffer(name, None)


@pytest.mark.parametrize("victim", ["orchestrator", "slurmctld", "dnd"])
def test_kill_after_a_failure(cluster: Cluster, victim: str) -> None:
    """Teardown: what could not be made is no obstacle, and what could not be saved is kept until it can be."""
    name = f"t-{victim}"
    cluster.run("alice", ["bash", "-c", f"mkdir -p {name} shut; chmod 700 shut"])
    failing = cluster.sbatch("alice", script(create(name, path="/home/bob")))
    cluster.wait_buffer(name, "teardown")
    _save(cluster)  # a job that was saved as staging out stays so for ever after slurmctld's restart (22.05)
    for each in ("dn1", "dn2") if victim == "dnd" else (victim,):
        _kill_and_start(each)(cluster, name)
    assert cluster.bbstat().state(name) == "teardown"
    cluster.exec("controller", ["scancel", str(failing)], check=False)  # slurmctld may have forgotten it

    line = create(name, data_dst="/home/alice/shut/ds")
    cluster.wait_job(cluster.sbatch("alice", script(line)), deadline=DEADLINE)
    body = f"echo precious > ~/{name}/data"
    cluster.wait_job(cluster.sbatch("alice", script(use(name), body=body)), deadline=DEADLINE)
    cluster.run("alice", ["chmod", "500", "shut"])
    cluster.exec("controller", ["ebb", "destroy", name])
    cluster.wait_until(lambda: "the data are kept" in cluster.bbstat_text(), 60, "saving to fail", cluster.bbstat_text)
    _save(cluster)
    VICTIMS[victim](cluster, name)
    assert cluster.bbstat().state(name) == "teardown"
    cluster.wait_until(
        lambda: "the data are kept" in cluster.bbstat_text(), 60, "bbstat to say so", cluster.bbstat_text
    )

    cluster.run("alice", ["chmod", "700", "shut"])
    cluster.wait_job(cluster.sbatch("alice", script(destroy(name))), deadline=DEADLINE)
    again = create(name, data_src="/home/alice/shut/ds")
    last = cluster.sbatch("alice", script(again, use(name), body=f"grep precious ~/{name}/data"))
    cluster.wait_job(last, deadline=DEADLINE)
    cluster.wait_buffer(name, None)
    cluster.run("alice", ["rm", "-r", "shut"])
