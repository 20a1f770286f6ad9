"""One virtual cluster for each Slurm release, shared by all tests; what holds before and after each test."""

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster import kinds
from cluster.harness import Cluster
from cluster.layout import DISK, Layout, State
from cluster.virtual.roots import SUITES

FIRST = next(iter(SUITES))
"""The release that the whole list runs on; a module with `EVERY_RELEASE = True` runs on the others too."""


def _releases() -> list[str]:
    """$SLURM, as in `make test-virtual SLURM=24.11`; several with commas between; or all."""
    wanted = os.environ.get("SLURM")
    found = wanted.split(",") if wanted else list(SUITES)
    if unknown := set(found) - set(SUITES):
        raise pytest.UsageError(f"SLURM={','.join(unknown)}: must be of {', '.join(SUITES)}")
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Which releases a test sees."""
    if "cluster" in metafunc.fixturenames:
        releases = _releases()
        if not getattr(metafunc.module, "EVERY_RELEASE", False) and len(releases) > 1:
            releases = [FIRST]
        metafunc.parametrize("cluster", releases, indirect=True, scope="session")


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Two datanodes, two compute nodes. $EBB_VIRTUAL names a cluster that is up already, for work on one test."""
    if ready := os.environ.get("EBB_VIRTUAL"):
        from cluster.layout import load

        state = load(Path(ready))
        assert state, f"no cluster in {ready}"
        yield Cluster(kinds.of(state), state)
        return
    with tempfile.TemporaryDirectory(prefix="ebb-virtual-", dir=os.environ.get("TMPDIR", DISK)) as folder:
        state = State(Path(folder) / "state", "virtual", Layout(computes=2, datanodes=2), request.param)
        kind = kinds.of(state, tied=True)
        try:
            kind.up(print)
            yield Cluster(kind, state)
        finally:
            if state.record.exists():
                kind.down(print)


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """After each test: everything is up, no job, no buffer, no volume, no mount, totals of zero, nothing in homes."""
    yield
    for name, health in cluster.kind.status():
        if health in ("off", "silent") or health.startswith("ended"):
            cluster.start(name)
    cluster.exec("controller", ["scancel", "--user=alice"])
    cluster.exec("controller", ["scancel", "--user=bob"])
    cluster.wait_until(lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 90, "an empty queue",
                       lambda: cluster.exec("controller", ["squeue"]).stdout)  # fmt: skip
    cluster.wait_until(cluster.all_destroyed, 90, "totals of zero", cluster.bbstat_text)
    for node in ("dn1", "dn2"):
        show = ["sh", "-c", "lvs --noheadings -o lv_name --select 'lv_name=~_stg$'; findmnt -n -l -o TARGET -t xfs; "
                            "ps -C ganesha.nfsd -o args=; true"]  # fmt: skip
        cluster.wait_until(lambda s=show, n=node: not cluster.exec(n, s).stdout.strip(), 60,  # type: ignore[misc]
                           f"{node} to be clean", lambda s=show, n=node: cluster.exec(n, s).stdout)  # type: ignore[misc]  # fmt: skip
    cluster.exec("controller", ["sh", "-c", "rm -rf /home/alice/* /home/alice/.ebb /home/bob/*"])
