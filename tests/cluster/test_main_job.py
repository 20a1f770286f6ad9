"""Burst buffers as users have them, on a real Slurm: what a job sees, and what nobody else does."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use

DEMO = Path(__file__).with_name("demo")


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """After each test: no job, totals of zero."""
    yield
    for user in ("alice", "bob"):
        cluster.exec("controller", ["scancel", "--hurry", f"--user={user}"])
    cluster.wait_until(lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 60, "an empty queue")
    cluster.wait_until(cluster.all_destroyed, 90, "totals of zero", cluster.bbstat_text)


def output(cluster: Cluster, user: str, job: int) -> str:
    """What a batch job printed."""
    return (cluster.home(user) / f"slurm-{job}.out").read_text()


def test_the_demo_passes_and_leaves_nothing() -> None:
    done = subprocess.run([str(DEMO)], capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert "nothing is left of it" in done.stdout


def test_two_users_with_the_same_path_see_their_own_data_only(cluster: Cluster) -> None:
    cluster.exec("controller", ["install", "-d", "-m", "1777", "/home/shared"])
    for user in ("alice", "bob"):
        cluster.run(user, ["mkdir", "-p", "same"])
        cluster.wait_job(cluster.sbatch(user, script(create(f"of-{user}", path=f"/home/{user}/same"))))
    body = """
    echo "$USER" > ~/same/who
    touch ~/ready
    until [ -e ~/go ]; do sleep 0.1; done
    rm ~/ready ~/go
    cat ~/same/who; ls /home/alice/same /home/bob/same 2>&1 | cat"""
    jobs = {user: cluster.sbatch(user, script(use(f"of-{user}"), body=body)) for user in ("alice", "bob")}
    for user in jobs:
        cluster.wait_until((cluster.home(user) / "ready").exists, 60, f"{user}'s job to have written")
    assert cluster.run("alice", ["ls", "-A", "same"]).stdout == ""
    for user, job in jobs.items():
        cluster.run(user, ["touch", "go"])
        cluster.wait_job(job)
        other = "bob" if user == "alice" else "alice"
        said = output(cluster, user, job)
        assert said.startswith(f"{user}\n")
        assert said.count("who") == 1, f"{user} sees a file of {other}: {said}"


def test_every_node_and_step_of_a_job_shares_the_buffer(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "wide"])
    body = """set -e
    cd ~/wide
    srun -N2 -n2 bash -c 'echo "$SLURMD_NODENAME" > ~/wide/$SLURM_PROCID'
    srun -N1 -n1 cat 0 1 | sort
    srun --export=NONE -N1 -n1 /bin/ls ~/wide
    cp 0 late & srun -N2 -n2 ls ~/wide > /dev/null; wait"""
    job = cluster.sbatch("alice", script(create("wide"), use("wide"), body=body), "-N2")
    cluster.wait_job(job)
    said = output(cluster, "alice", job).splitlines()
    # On a busy machine a step may wait for the end of the one before, and srun says so.
    waited = ("step creation temporarily disabled", "Step created for")
    assert [line for line in said if not any(text in line for text in waited)] == ["cn1", "cn2", "0", "1"]


def test_two_buffers_in_one_job(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "one", "two"])
    body = 'echo "$EBB_ONE $EBB_TWO"; cp /etc/hostname ~/one/a && cp ~/one/a ~/two/b && ls ~/one ~/two'
    lines = [create("one"), create("two"), use("one"), use("two")]
    job = cluster.sbatch("alice", script(*lines, body=body))
    cluster.wait_job(job)
    said = output(cluster, "alice", job)
    assert said.startswith("/home/alice/one /home/alice/two\n") and "a\n" in said and "b\n" in said


@pytest.mark.parametrize("command", ["srun", "salloc", "sbatch"])
def test_the_other_ways_to_ask(cluster: Cluster, command: str) -> None:
    cluster.run("alice", ["mkdir", "-p", "asked"])
    cluster.wait_job(cluster.sbatch("alice", script(create("asked"))))
    line = f"#BB_LUA {use('asked')}"
    show = ["findmnt", "--noheadings", "--output", "FSTYPE,OPTIONS", "/home/alice/asked"]
    if command == "srun":
        said = cluster.run("alice", ["srun", "-n1", "--bb", line, *show]).stdout
    elif command == "salloc":
        said = cluster.run("alice", ["salloc", "-n1", "--bb", line, "srun", *show]).stdout
    else:
        (cluster.home("alice") / "bbf").write_text(f"#!/bin/bash\n{line}\n")
        job = cluster.sbatch("alice", script(body=" ".join(show)), "--bbf=bbf", "--export=NONE")
        cluster.wait_job(job)
        said = output(cluster, "alice", job)
    assert said.startswith("xfs") and "nosuid" in said and "nodev" in said, said


def test_io_instrumentation_reports_in_the_steps_log(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "told"])
    body = "srun -n1 bash -c 'head -c 8M /dev/zero > ~/told/zeros; sync -f ~/told/zeros'"
    options = ["--ioinstrumentation=yes", "--export=ALL,IOI_WORKFLOW_NAME=weather"]
    job = cluster.sbatch("alice", script(create("told"), use("told"), body=body), *options)
    cluster.wait_job(job)
    said = output(cluster, "alice", job)
    assert "IOI_WORKFLOW_NAME=weather" in said and "told" in said, said
    done = cluster.run("alice", ["srun", "--ioinstrumentation=maybe", "true"], check=False)
    assert done.returncode != 0 and "yes or no" in done.stderr
    assert cluster.run("alice", ["srun", "--ioinstrumentation=no", "echo", "fine"]).stdout == "fine\n"


def test_a_mountpoint_that_is_swapped_for_a_link_is_not_followed(cluster: Cluster) -> None:
    """Between create and use the user makes Path a link to somebody else's directory."""
    cluster.run("alice", ["mkdir", "-p", "swapped"])
    cluster.wait_job(cluster.sbatch("alice", script(create("swapped"))))
    cluster.run("alice", ["rmdir", "swapped"])
    cluster.run("alice", ["ln", "-s", "/home/bob", "swapped"])
    job = cluster.sbatch("alice", script(use("swapped"), body="echo it ran"))
    cluster.wait_job(job, "FAILED")
    said = output(cluster, "alice", job)
    assert "it ran" not in said and "swapped" in said, said
    cluster.run("alice", ["rm", "swapped"])


def test_datanodes_conf_is_read_again_on_sighup_and_a_bad_one_changes_nothing(cluster: Cluster) -> None:
    total = cluster.bbstat().totals["total storage"]
    path = "/etc/ebb/datanodes.conf"
    good = cluster.exec("controller", ["cat", path]).stdout

    def reload(text: str) -> None:
        cluster.exec("controller", ["tee", path], stdin=text)
        cluster.exec("controller", ["pkill", "--signal", "HUP", "--full", "orchestrator.server"])

    reload(good + "NodeName=dn9 NodeAddr=127.0.0.19 Cores=many\n")
    line = good.count("\n") + 1
    cluster.wait_until(
        lambda: f"datanodes.conf:{line}: " in cluster.log("orchestrator"), 60, "the log to name file and line"
    )
    assert "Cores" in cluster.log("orchestrator").split(f"datanodes.conf:{line}: ")[1].splitlines()[0]
    assert cluster.bbstat().totals["total storage"] == total
    reload(good.replace("StorageSize=20GB", "StorageSize=25GB"))
    more = total * 25 // 20
    cluster.wait_until(
        lambda: cluster.bbstat().totals["total storage"] == more, 60, "the new total", cluster.bbstat_text
    )
    reload(good)
    cluster.wait_until(lambda: cluster.bbstat().totals["total storage"] == total, 60, "the old total")


def test_one_request_id_leads_from_the_hook_to_the_datanode(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "traced"])
    job = cluster.sbatch("alice", script(create("traced")))
    cluster.wait_job(job)
    lines = cluster.log("orchestrator").splitlines()
    born = next(line for line in lines if f"[j{job}-setup-" in line and "traced" in line)
    request = born.split("[")[1].split("]")[0]
    assert any(request in cluster.log(dnd) for dnd in ("dn1", "dn2")), request


def test_metrics_count_what_is_there(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "counted"])
    cluster.wait_job(cluster.sbatch("alice", script(create("counted"))))
    fetch = "import urllib.request; print(urllib.request.urlopen('http://127.0.0.1:8765/metrics').read().decode())"

    def metrics() -> str:
        return cluster.exec("controller", [sys.executable, "-c", fetch]).stdout

    # The datanode was perhaps too busy to answer when it was asked last.
    cluster.wait_until(lambda: 'ebb_datanode_up{datanode="dn1"} 1.0' in metrics(), 60, "dn1 to be up", metrics)
    text = metrics()
    assert 'ebb_buffers{state="staged-in"} 1.0' in text, text
    assert "alice" not in text
    cluster.wait_job(cluster.sbatch("alice", script(destroy("counted"))))
