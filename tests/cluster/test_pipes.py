"""A hook that waits holds up no other hook, nor slurmctld, though slurmscriptd gives it the others' pipes."""

import functools
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.conftest import running
from cluster.harness import DEADLINE, Cluster
from cluster.jobs import create, destroy, script, use
from cluster.layout import CHECKOUT, Layout


@pytest.fixture(scope="module")
def slow_pipes(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """A cluster whose slurmscriptd forks long after it made a pipe."""
    library = CHECKOUT / "build" / "slow_pipe.so"
    source = Path(__file__).with_name("slow_pipe.c")
    subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source, "-ldl"], check=True)
    with running(Layout(computes=2, datanodes=1, preload="/opt/ebb/build/slow_pipe.so"), request.session) as cluster:
        yield cluster


def test_bbstat_answers_while_jobs_begin_and_end(slow_pipes: Cluster) -> None:
    """pre_run waits for slurmctld, which waits for bbstat, which must not wait for pre_run."""
    cluster = slow_pipes
    cluster.run("alice", ["mkdir", "-p", "pipes"])
    cluster.sbatch("alice", script(create("pipes")))
    cluster.wait_buffer("pipes", "staged-in")
    for _ in range(2):
        for job in [cluster.sbatch("alice", script(use("pipes"))) for _ in range(4)]:
            cluster.wait_until(functools.partial(_completed, cluster, job), DEADLINE, f"job {job} to be completed")
    cluster.sbatch("alice", script(destroy("pipes")))
    cluster.wait_buffer("pipes", None)


def _completed(cluster: Cluster, job: int) -> bool:
    """Asks as `watch scontrol show bbstat` would; an error of scontrol fails the test."""
    cluster.bbstat()
    return cluster.job_state(job) == "COMPLETED"
