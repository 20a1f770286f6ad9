"""Power cuts, restarts and full volumes: what the user sees, what comes back, and that nothing is stuck."""

import time

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use
from virtual.looks import datanode_of, output, restart_slurmctld, wait_file

SIZE = "320MiB"


def _create(cluster: Cluster, name: str, **more: str) -> int:
    cluster.run("alice", ["mkdir", "-p", name])
    job = cluster.sbatch("alice", script(create(name, SIZE, **more)))
    cluster.wait_job(job, deadline=120)
    return job


def test_an_idle_datanode_loses_its_power_and_its_buffers_come_back(cluster: Cluster) -> None:
    bbid = _create(cluster, "kept")
    body = "echo precious > ~/kept/file; sync -f ~/kept/file"
    cluster.wait_job(cluster.sbatch("alice", script(use("kept"), body=body)), deadline=120)
    node = datanode_of(cluster, bbid)
    cluster.kill(node)
    began = time.monotonic()
    assert "Name=kept " in cluster.bbstat_text()
    cluster.exec("controller", ["squeue"])
    # One call to a datanode that is off takes 15 s until it is given up.
    assert time.monotonic() - began < 12, "Slurm waits for a datanode that is off"
    cluster.start(node)
    job = cluster.sbatch("alice", script(use("kept"), body="cat ~/kept/file"))
    cluster.wait_job(job, deadline=180)
    assert output(cluster, job) == "precious\n"
    cluster.wait_job(cluster.sbatch("alice", script(destroy("kept"))), deadline=120)


def test_a_datanode_loses_its_power_in_use_and_the_job_goes_on(cluster: Cluster) -> None:
    """NFS waits for it; what was synced before is there, what is written after is too."""
    bbid = _create(cluster, "works")
    node = datanode_of(cluster, bbid)
    body = """cd ~/works; head -c 5M /dev/urandom > before; sync before; sha256sum before
    touch ~/on; until [ -e ~/off ]; do sleep 0.2; done; rm ~/on ~/off
    head -c 5M /dev/urandom > after; sync after; sha256sum before after"""
    job = cluster.sbatch("alice", script(use("works"), body=body))
    wait_file(cluster, "on")
    cluster.kill(node)
    cluster.run("alice", ["touch", "off"])
    cluster.wait_until(
        lambda: f"datanode {node} does not answer, jobs wait for it" in cluster.bbstat_text(), 60, "bbstat to say so",
        cluster.bbstat_text,
    )  # fmt: skip
    late = cluster.sbatch("alice", script(use("works"), body="cd ~/works; sha256sum before after"))
    cluster.start(node)
    cluster.wait_job(job, deadline=240)
    before, *both = output(cluster, job).splitlines()
    assert len(both) == 2 and both[0] == before
    cluster.wait_job(late, deadline=180)
    assert output(cluster, late).splitlines() == both
    cluster.wait_job(cluster.sbatch("alice", script(destroy("works"))), deadline=120)


def test_a_compute_node_loses_its_power_in_use(cluster: Cluster) -> None:
    """The job fails, the buffer stays; it can be used from another node, and from this one when it is back."""
    _create(cluster, "used")
    body = "echo before > ~/used/file; sync -f ~/used/file; sleep 600"
    job = cluster.sbatch("alice", script(use("used"), body=body), "-w", "cn2", "--no-requeue")
    cluster.wait_job(job, "RUNNING", 90)
    cluster.wait_until(
        lambda: "used" in cluster.exec("cn2", ["sh", "-c", "cat /proc/[0-9]*/mounts"], check=False).stdout,
        60,
        "the mount",
    )
    cluster.kill("cn2")
    cluster.wait_job(job, "NODE_FAIL", 120)
    assert cluster.bbstat().state("used") == "staged-in"
    other = cluster.sbatch("alice", script(use("used"), body="ls ~/used"), "-w", "cn1")
    cluster.wait_job(other, deadline=120)
    cluster.start("cn2")
    again = cluster.sbatch("alice", script(use("used"), body="ls ~/used"), "-w", "cn2")
    cluster.wait_job(again, deadline=120)
    cluster.wait_job(cluster.sbatch("alice", script(destroy("used"))), deadline=120)


def test_slurmctld_restarts_while_a_buffer_is_there_and_in_use(cluster: Cluster) -> None:
    _create(cluster, "stays")
    body = (
        "echo one > ~/stays/file; touch ~/on; until [ -e ~/off ]; do sleep 0.2; done; rm ~/on ~/off; cat ~/stays/file"
    )
    job = cluster.sbatch("alice", script(use("stays"), body=body))
    wait_file(cluster, "on")
    restart_slurmctld(cluster)
    assert cluster.bbstat().state("stays") == "staged-in"
    cluster.run("alice", ["touch", "off"])
    cluster.wait_job(job, deadline=120)
    assert output(cluster, job) == "one\n"
    cluster.wait_job(cluster.sbatch("alice", script(destroy("stays"))), deadline=120)


def test_a_full_volume_says_so_and_stays_whole(cluster: Cluster) -> None:
    _create(cluster, "full")
    body = """cd ~/full
    dd if=/dev/zero of=zeros bs=1M count=400 conv=fsync
    rm zeros; echo room > file; cat file"""
    job = cluster.sbatch("alice", script(use("full"), body=body))
    cluster.wait_job(job, deadline=180)
    said = output(cluster, job)
    assert "No space left on device" in said and said.endswith("room\n")
    cluster.wait_job(cluster.sbatch("alice", script(destroy("full"))), deadline=120)


def test_a_full_dataset_directory_keeps_the_data_until_there_is_room(cluster: Cluster) -> None:
    for node in ("dn1", "dn2"):
        mount = "mkdir -p /scratch && mount -t tmpfs -o size=8m,mode=1777 tmpfs /scratch"
        cluster.exec(node, ["sh", "-c", mount])
    bbid = _create(cluster, "much", data_dst="/scratch/much")
    node = datanode_of(cluster, bbid)
    body = "head -c 20M /dev/urandom > ~/much/file; sha256sum ~/much/file"
    job = cluster.sbatch("alice", script(use("much"), body=body))
    cluster.wait_job(job, deadline=120)
    ending = cluster.sbatch("alice", script(destroy("much")))
    cluster.wait_buffer("much", "teardown", 120)
    text = cluster.bbstat_text()
    assert "Stage out failed" in text and "No space left" in text and "the data are kept" in text
    cluster.exec("controller", ["scancel", str(ending)])
    cluster.exec(node, ["mount", "-o", "remount,size=200m", "/scratch"])
    cluster.wait_job(cluster.sbatch("alice", script(destroy("much"))), deadline=120)
    # What was saved is whole: its image begins behind a header of 1 MiB.
    mount = "mount -o ro,norecovery,loop,offset=1048576 /scratch/much /mnt"
    found = cluster.exec(node, ["sh", "-c", f"modprobe loop; {mount} && sha256sum /mnt/file; umount /mnt"]).stdout
    assert found.split()[0] == output(cluster, job).split()[0]
    for each in ("dn1", "dn2"):
        cluster.exec(each, ["umount", "/scratch"])
