"""Tests marked `datanode` run in mount, pid and network namespaces of their own: nothing of them stays behind, not even
after Ctrl-C. One inner pytest runs all of them; its reports are shown here as if they had run in place.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from unit.dnd.datanode import ADDRESS, Datanode

_INSIDE = "EBB_TEST_REPORTS"
_reports: dict[str, list[dict[str, object]]] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "datanode: needs namespaces, mounts and service processes of its own")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    if _INSIDE in os.environ or item.get_closest_marker("datanode") is None:
        return None
    if not _reports:
        wanted = [each for each in item.session.items if each.get_closest_marker("datanode")]
        _reports.update(_run_inside(item.config, wanted))
    item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    for data in _reports.get(item.nodeid, [_lost(item)]):
        report = item.config.hook.pytest_report_from_serializable(config=item.config, data=data)
        item.ihook.pytest_runtest_logreport(report=report)
    # What the test before this one left set up for it is not needed by it.
    item.session._setupstate.teardown_exact(nextitem)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if _INSIDE in os.environ:
        with Path(os.environ[_INSIDE]).open("a") as file:
            data = report._to_json()
            data["$report_type"] = "TestReport"
            file.write(json.dumps({"nodeid": report.nodeid, "data": data}, default=str) + "\n")


def _run_inside(config: pytest.Config, items: list[pytest.Item]) -> dict[str, list[dict[str, object]]]:
    with tempfile.NamedTemporaryFile(prefix="ebb-reports-") as file:
        subprocess.run(
            [
                # Killed with us, and then so is all in its namespaces: a run that is cut short leaves nothing behind.
                "setpriv",
                "--pdeathsig",
                "KILL",
                "unshare",
                "--mount",
                "--propagation",
                "private",
                "--pid",
                "--fork",
                "--kill-child",
                "--mount-proc",
                "--net",
                sys.executable,
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                f"--rootdir={config.rootpath}",
                *(item.nodeid for item in items),
            ],
            cwd=config.rootpath,
            env={**os.environ, _INSIDE: file.name},
            stdout=subprocess.DEVNULL,
            timeout=1800,
            check=False,
        )
        found: dict[str, list[dict[str, object]]] = {"": []}
        for line in file.read().decode().splitlines():
            entry = json.loads(line)
            found.setdefault(entry["nodeid"], []).append(entry["data"])
        return found


def _lost(item: pytest.Item) -> dict[str, object]:
    why = "the inner pytest ended before this test"
    data = pytest.TestReport(item.nodeid, item.location, {}, "failed", why, "call")
    return {**data._to_json(), "$report_type": "TestReport"}


@pytest.fixture(scope="session")
def private_system() -> None:
    """A network and a /run of our own. Ganesha looks addresses up only if one beside 127.0.0.1 is configured."""
    assert _INSIDE in os.environ
    for command in (
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{ADDRESS}/32", "dev", "lo"],
        ["mount", "-t", "tmpfs", "-o", "mode=755", "tmpfs", "/run"],
    ):
        subprocess.run(command, check=True)


@pytest.fixture
def datanode(private_system: None, munge_socket: str, request: pytest.FixtureRequest) -> Iterator[Datanode]:
    """A running daemon with folders of its own; it and its services are stopped after the test."""
    with tempfile.TemporaryDirectory(prefix="dn-", dir="/run") as folder:
        node = Datanode(Path(folder), munge_socket)
        node.start()
        try:
            yield node
        finally:
            node.stop_all()
