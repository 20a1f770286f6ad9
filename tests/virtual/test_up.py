"""A cluster that is given up while it comes up."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import leftovers, wait
from cluster.harness import Cluster
from cluster.layout import load

CTL = Path(__file__).parents[1] / "cluster" / "ctl"


def test_ctrl_c_leaves_nothing(cluster: Cluster, tmp_path: Path) -> None:
    """After the first node was powered on: no process, no mount, no state."""
    state = tmp_path / "state"
    argv = [str(CTL), "up", "--kind", "virtual", "--slurm", cluster.state.release, "--computes", "1",
            "--datanodes", "1", "--state", str(state)]  # fmt: skip
    try:
        with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as up:
            console = state / "log" / "controller.log"
            wait.until(lambda: console.exists() and console.stat().st_size > 0, 300, "the controller to boot")
            found = load(state)
            assert found and found.pid_namespace
            up.send_signal(signal.SIGINT)
            said, _ = up.communicate(timeout=60)
        assert up.returncode != 0, said
        assert not state.exists(), said
        assert leftovers.remaining(state, found.pid_namespace) == []
    finally:
        if state.exists():
            subprocess.run([str(CTL), "down", "--state", str(state)], check=True)


@pytest.fixture(autouse=True)
def interruptible() -> Iterator[None]:
    """Who runs the tests in the background of a shell has SIGINT ignored, and so has what he starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
