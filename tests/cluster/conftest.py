"""One cluster for all end-to-end tests of a session, with a state directory of its own."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cluster import kinds
from cluster.harness import Cluster
from cluster.layout import CHECKOUT, DISK, Layout, State

LOGS = CHECKOUT / "build" / "test-logs"


@contextmanager
def running(layout: Layout, session: pytest.Session) -> Iterator[Cluster]:
    """A cluster; its logs are kept in build/test-logs if a test of the session failed."""
    with tempfile.TemporaryDirectory(prefix="ebb-cluster-test-", dir=os.environ.get("TMPDIR", DISK)) as folder:
        state = State(Path(folder) / "state", "local", layout)
        kind = kinds.of(state, tied=True)  # to this process: even its kill -9 leaves no daemon
        try:
            kind.up(print)
            yield Cluster(kind, state)
        finally:
            if session.testsfailed:
                shutil.rmtree(LOGS, ignore_errors=True)
                shutil.copytree(state.log, LOGS, ignore_dangling_symlinks=True)
            if state.record.exists():
                kind.down(print)


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """The whole of Ebb, shared by the session's tests: two compute nodes, two datanodes."""
    with running(Layout(computes=2, datanodes=2), request.session) as cluster:
        yield cluster


@pytest.fixture(scope="module")
def plain_cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    """Slurm alone on two compute nodes, for tests of the cluster tool itself."""
    with running(Layout(computes=2, datanodes=1, plain=True), request.session) as cluster:
        yield cluster
