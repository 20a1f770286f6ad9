"""Datasets with data in them: staged in and out on real volumes, over a shared file system, with interruptions."""

import re
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use
from virtual.looks import datanode_of, output, restart_slurmctld

SIZE = "450MiB"
DATA = 250
"""MiB."""
SET = "/home/alice/sets/moved"
WATCH = """
import glob, os, signal, sys, time
lines = 0
while lines < 2:
    time.sleep(0.02)
    for path in glob.glob(sys.argv[1]):
        try:
            with open(path) as file: lines = len(file.readlines())
        except FileNotFoundError: pass
os.kill(int(sys.argv[2]), signal.SIGKILL)
"""


@contextmanager
def _slow(cluster: Cluster, node: str) -> Iterator[None]:
    """What `node` sends goes at 15 MB/s, so that a copy can be met on its way.

    A writer goes as fast: else memory takes all of a copy in some seconds, and its first fsync ends, and with it the
    first checkpoint comes, when all of it is through the link.
    """
    before = cluster.exec(node, ["cat", "/proc/sys/vm/dirty_ratio"]).stdout.strip()
    limit = "modprobe sch_tbf && tc qdisc replace dev eth0 root tbf rate 120mbit burst 256kb latency 200ms"
    cluster.exec(node, ["sh", "-c", f"{limit} && echo {8 << 20} > /proc/sys/vm/dirty_bytes"])
    try:
        yield
    finally:  # both are gone, if its power was cut; a ratio that is set ends the limit in bytes
        end = f"tc qdisc del dev eth0 root; echo {before} > /proc/sys/vm/dirty_ratio"
        cluster.exec(node, ["sh", "-c", end], check=False)


def _kill_in_the_midst(cluster: Cluster, node: str, copy: str) -> int:
    """kill -9 of dnd on `node` once its copy (in, out) has checkpoints; how many chunks they have.

    Watched on the node: it is a matter of seconds. The first line of the file says what is copied.
    """
    file = f"/var/lib/ebb/{node}/staging/*.{copy}"
    cluster.exec(node, ["python3", "-c", WATCH, file, str(_dnd(cluster, node))], timeout=180)
    service = f"{node}/ebb-dnd"
    cluster.wait_until(
        lambda: dict(cluster.kind.status())[service] == "ended (-9)", 90, "dnd to end",
        lambda: str(cluster.kind.status()),
    )  # fmt: skip
    return int(cluster.exec(node, ["sh", "-c", f"cat {file} | wc -l"]).stdout) - 1


def _dnd(cluster: Cluster, node: str) -> int:
    """Its process."""
    return int(cluster.exec(node, ["pgrep", "-o", "-f", "[e]bb-dnd"]).stdout)


def _went_on(cluster: Cluster, node: str, move: str) -> list[int]:
    """How many chunks dnd found there, each time it went on with a copy (stage-in, stage-out)."""
    return [int(number) for number in re.findall(rf"{move} \S+ \S+ goes on: (\d+) chunks", cluster.log(node))]


def _blocks(cluster: Cluster) -> int:
    """MiB that the dataset takes of its file system."""
    return int(cluster.run("alice", ["stat", "-c", "%b", SET]).stdout) >> 11


def test_staging_goes_on_after_interruptions_and_a_changed_dataset_is_saved_again(cluster: Cluster) -> None:
    """slurmctld restarts while it waits for datanodes and while data move; dnd is killed, its node loses its power."""
    cluster.run("alice", ["mkdir", "moved"])
    job = cluster.sbatch("alice", script(create("moved", SIZE, data_dst=SET)))
    cluster.wait_buffer("moved", "teardown", 120)
    assert f"data_dst `{SET}` cannot be used: No such file or directory" in cluster.bbstat_text()
    # The datanode's kernel remembers that it was not there.
    cluster.run("alice", ["mkdir", "sets"])
    cluster.exec("controller", ["scancel", str(job)])
    cluster.wait_until(lambda: cluster.bbstat().totals["used storage"] == 0, 60, "it to be freed", cluster.bbstat_text)
    for node in ("dn1", "dn2"):
        cluster.kill(f"{node}/ebb-dnd")
    job = cluster.sbatch("alice", script(create("moved", SIZE, data_dst=SET)))
    cluster.wait_buffer("moved", "staging-in", 90)
    restart_slurmctld(cluster)
    for node in ("dn1", "dn2"):
        cluster.start(f"{node}/ebb-dnd")
    cluster.wait_job(job, deadline=240)
    node = datanode_of(cluster, job)
    sums = "cd ~/moved; sha256sum *"
    body = f"head -c {DATA}M /dev/urandom > ~/moved/file; {sums}"
    write = cluster.sbatch("alice", script(use("moved"), body=body))
    cluster.wait_job(write, deadline=180)

    # Out: dnd dies and goes on, and slurmctld restarts meanwhile.
    with _slow(cluster, node):
        ending = cluster.sbatch("alice", script(destroy("moved")))
        done = _kill_in_the_midst(cluster, node, "out")
        restart_slurmctld(cluster)
    cluster.start(f"{node}/ebb-dnd")
    cluster.wait_job(ending, deadline=300)
    assert max(_went_on(cluster, node, "stage-out")) >= done
    assert cluster.bbstat().state("moved") == "staged-out"
    assert DATA <= _blocks(cluster) <= DATA + 40, "other blocks were saved than those in use"

    # In: dnd dies, then its node.
    with _slow(cluster, "controller"):
        job = cluster.sbatch("alice", script(create("moved", SIZE, data_src=SET, data_dst=SET)))
        cluster.wait_until(lambda: "Stage-in" in cluster.bbstat_text(), 120, "stage-in", cluster.bbstat_text)
        node = datanode_of(cluster, job)
        before = len(_went_on(cluster, node, "stage-in"))
        done = _kill_in_the_midst(cluster, node, "in")
        cluster.start(f"{node}/ebb-dnd")
        cluster.wait_until(
            lambda: _went_on(cluster, node, "stage-in")[before:] != [], 60, "stage-in to go on",
            lambda: cluster.log(node)[-2000:],
        )  # fmt: skip
        cluster.kill(node)
        assert cluster.bbstat().state("moved") == "staging-in"
    cluster.start(node)
    cluster.wait_job(job, deadline=300)
    assert min(_went_on(cluster, node, "stage-in")[before:]) >= done

    # What is in it is changed and saved again; the power goes once more.
    change = f"{sums}; head -c 1M /dev/urandom | dd of=$HOME/moved/file bs=1M seek=100 conv=notrunc; {sums}"
    changed = cluster.sbatch("alice", script(use("moved"), body=change))
    cluster.wait_job(changed, deadline=180)
    shown = [line for line in output(cluster, changed).splitlines() if line.endswith("  file")]
    assert shown[0] == output(cluster, write).strip() and shown[1] != shown[0]
    with _slow(cluster, node):
        ending = cluster.sbatch("alice", script(destroy("moved")))
        cluster.wait_until(lambda: "Stage-out" in cluster.bbstat_text(), 120, "stage-out", cluster.bbstat_text)
        cluster.kill(node)
    assert cluster.bbstat().state("moved") == "staging-out"
    cluster.start(node)
    cluster.wait_job(ending, deadline=300)
    assert DATA <= _blocks(cluster) <= DATA + 40
    lines = [create("moved", SIZE, data_src=SET), use("moved"), destroy("moved")]
    again = cluster.sbatch("alice", script(*lines, body=sums))
    cluster.wait_job(again, deadline=240)
    assert output(cluster, again).strip() == shown[1]
