"""The smart burst buffer between machines: clients on compute nodes reach the servers of two datanodes over TCP."""

import re

from cluster.harness import Cluster
from cluster.jobs import create_sbb, destroy, script, use
from virtual.looks import output, wait_file

FLAVORS = ("small", "medium")
HOLD = "touch ~/written; until [ -e ~/go ]; do sleep 0.2; done; rm ~/go ~/written"


def _bounded(cluster: Cluster, node: str) -> list[str]:
    """Of each cgroup of Ebb's on a node: its bound, and the programs in it."""
    look = "cat $group/memory.max; ps -o comm= $(cat $group/cgroup.procs)"
    script = f"for group in $(find /sys/fs/cgroup/ebb -mindepth 1 -type d); do echo $({look}); done"
    return cluster.exec(node, ["sh", "-c", script]).stdout.splitlines()


def test_written_on_one_node_read_on_another_then_in_the_directory(cluster: Cluster) -> None:
    """A buffer without and one with storage, in one job; while it runs, destroy waits and another node reads."""
    lines = [create_sbb(f"sbb-{flavor}", flavor=flavor) for flavor in FLAVORS]
    cluster.wait_job(cluster.sbatch("alice", script(*lines)), deadline=150)
    for flavor in FLAVORS:
        cluster.wait_reason(f"sbb-{flavor}", "SBB running on 2 servers")
    for node in ("dn1", "dn2"):
        bounds = _bounded(cluster, node)
        assert len(bounds) == 2 and all(re.fullmatch(r"\d+ sbbd", line) for line in bounds), bounds
    uses = [use(f"sbb-{flavor}") for flavor in FLAVORS]
    read = "cd ~; sha256sum sbb-*/*"
    write = f"""set -e
    for flavor in {" ".join(FLAVORS)}; do
        head -c 5M /dev/urandom > ~/sbb-$flavor/big; for i in 1 2 3; do echo line $i > ~/sbb-$flavor/f$i; done
    done
    {read}
    {HOLD}"""
    job = cluster.sbatch("alice", script(*uses, body=write), "-w", "cn1")
    wait_file(cluster, "written")
    other = cluster.sbatch("alice", script(*uses, body=read), "-w", "cn2")
    cluster.wait_job(other, deadline=120)
    sums = output(cluster, job)
    assert len(sums.splitlines()) == 8 and output(cluster, other) == sums
    ending = cluster.sbatch("alice", script(*(destroy(f"sbb-{flavor}") for flavor in FLAVORS)))
    cluster.wait_until(
        lambda: cluster.bbstat_text().count("Waiting for SBB inactivity") == 2, 90, "destroy to wait",
        cluster.bbstat_text,
    )  # fmt: skip
    cluster.run("alice", ["touch", "go"])
    cluster.wait_job(job, deadline=120)
    cluster.wait_job(ending, deadline=150)
    assert cluster.run("alice", ["sh", "-c", read]).stdout == sums
    assert _bounded(cluster, "dn1") == _bounded(cluster, "dn2") == []


def test_a_datanode_loses_its_power_and_what_was_synced_is_there(cluster: Cluster) -> None:
    """With storage; the job that uses it goes on when the datanode is back."""
    cluster.wait_job(cluster.sbatch("alice", script(create_sbb("safe", flavor="medium"))), deadline=120)
    body = f"""set -e
    for i in 1 2 3 4; do head -c 1M /dev/urandom > ~/safe/$i; sync ~/safe/$i; done; sha256sum ~/safe/*
    {HOLD}
    head -c 1M /dev/urandom > ~/safe/after; sync ~/safe/after; sha256sum ~/safe/*"""
    job = cluster.sbatch("alice", script(use("safe"), body=body))
    wait_file(cluster, "written")
    before = output(cluster, job)
    cluster.kill("dn1")
    cluster.start("dn1")
    cluster.run("alice", ["touch", "go"])
    cluster.wait_job(job, deadline=180)
    sums = output(cluster, job)[len(before) :]
    assert set(before.splitlines()) < set(sums.splitlines())
    cluster.wait_job(cluster.sbatch("alice", script(destroy("safe"))), deadline=150)
    assert cluster.run("alice", ["sh", "-c", "sha256sum ~/safe/*"]).stdout == sums
