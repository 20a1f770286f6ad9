"""A service that is broken is found before a job uses it: bbstat says what is wrong, and its owner can end it."""

import json
from collections.abc import Iterator

import pytest

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use

CHECKER = "/usr/local/bin/pshcservcheck"


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """No job, no buffer and nothing in the health databases."""
    yield
    cluster.exec("controller", ["scancel", "--user=alice"])
    cluster.wait_until(lambda: cluster.bbstat().totals["used storage"] == 0, 60, "totals of zero", cluster.bbstat_text)
    cluster.wait_until(lambda: registered(cluster) == {}, 60, "no service to be registered")


def registered(cluster: Cluster) -> dict[str, tuple[str, list[str]]]:
    """State and results by the services' names, of all datanodes."""
    found = {}
    for node in ("dn1", "dn2"):
        done = cluster.exec(node, ["cat", f"/var/lib/ebb/{node}/health.json"], check=False)
        for entry in json.loads(done.stdout or "[]"):
            found[entry["id"]["name"]] = (entry["state"], entry["check_results"])
    return found


def reason(cluster: Cluster, name: str) -> str:
    buffer = cluster.bbstat().buffer(name)
    assert buffer is not None, cluster.bbstat_text()
    return buffer.reason


def test_services_are_registered_while_they_live(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "h1"])
    cluster.wait_job(cluster.sbatch("alice", script(create("h1"))))
    assert registered(cluster) == {"h1": ("staged-in", ["OK"])}
    job = cluster.sbatch("alice", script(use("h1"), body="touch ~/h1-runs; until [ -e ~/h1-stop ]; do sleep 0.1; done"))
    cluster.wait_until((cluster.home("alice") / "h1-runs").exists, 60, "the job to run")
    assert registered(cluster) == {"h1": ("in use", ["OK"])}
    assert cluster.exec("dn1", [CHECKER, "check", "all"]).stdout == ""
    cluster.run("alice", ["touch", "h1-stop"])
    cluster.wait_job(job)
    cluster.wait_job(cluster.sbatch("alice", script(destroy("h1"))))
    assert registered(cluster) == {}


def test_a_creation_whose_check_fails_shows_in_bbstat_and_is_ended_by_its_owner(cluster: Cluster) -> None:
    real = cluster.exec("dn1", ["cat", CHECKER]).stdout
    # The server stops answering between its start and its check, which is the real one.
    stop = 'if [ "$3" = check ]; then kill -STOP $(cat /run/ebb/dn?/ganesha/*/ganesha.pid); fi\n'
    first, rest = real.split("\n", 1)
    cluster.exec("dn1", ["tee", CHECKER], stdin=f"{first}\n{stop}{rest}")
    try:
        job = cluster.sbatch("alice", script(create("h2")))
        cluster.wait_buffer("h2", "teardown")
        said = reason(cluster, "h2")
        assert said.startswith("Failed to allocate resources - dn"), said
        assert "health check failed: ganesha: Ganesha (process" in said and "does not answer" in said
        told = "health_check_failed"  # Slurm writes a Reason with _ for blanks
        cluster.wait_until(lambda: told in cluster.job(job)["Reason"], 90, "the job to say it")
    finally:
        cluster.exec("dn1", ["tee", CHECKER], stdin=real)
    cluster.run("alice", ["scancel", str(job)])
    cluster.wait_job(cluster.sbatch("alice", script(destroy("h2"))))


def test_a_buffer_whose_check_fails_at_use_keeps_its_data_for_its_owner(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "h3"])
    line = create("h3", data_dst="/home/alice/h3.ds")
    cluster.wait_job(cluster.sbatch("alice", script(line)))
    cluster.wait_job(cluster.sbatch("alice", script(use("h3"), body="echo precious > ~/h3/kept")))
    mounts = cluster.exec("dn1", ["findmnt", "-rn", "-o", "TARGET", "-t", "xfs"]).stdout.split()
    [data] = [path for path in mounts if path.startswith("/run/ebb/dn") and path.endswith("/data")]
    cluster.exec("dn1", ["mount", "-o", "remount,ro", data])
    job = cluster.sbatch("alice", script(use("h3"), body="cat ~/h3/kept"))
    cluster.wait_buffer("h3", "teardown")
    said = reason(cluster, "h3")
    assert f"health check failed: space: the file system on {data} is read-only" in said, said
    assert "its data are kept until destroy_persistent, which saves them to /home/alice/h3.ds" in said
    cluster.run("alice", ["scancel", str(job)])
    later = cluster.sbatch("alice", script(use("h3"), body="cat ~/h3/kept"))
    cluster.wait_until(lambda: "takes_no_new_jobs" in cluster.job(later)["Reason"], 60, "a later job to be refused")
    cluster.run("alice", ["scancel", str(later)])
    cluster.wait_job(cluster.sbatch("alice", script(destroy("h3"))))
    again = create("h3", data_src="/home/alice/h3.ds")
    read = cluster.sbatch("alice", script(again, use("h3"), body='[ "$(cat ~/h3/kept)" = precious ]'))
    cluster.wait_job(read)
    cluster.wait_buffer("h3", None)
