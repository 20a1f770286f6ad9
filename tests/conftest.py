"""What holds for every test of the project."""

import os

import pytest
from hypothesis import HealthCheck, settings

from munged import munge_socket  # noqa: F401 (a fixture)

# How long an example takes depends on what else the machine does, above all if it calls fsync; the default limit is
# 200 ms. Modules of tests are read after this one, so what they set of their own begins with these.
settings.register_profile("ebb", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("ebb")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say why a session with skipped tests fails."""
    skipped = terminalreporter.stats.get("skipped", [])
    if skipped and not _allowed():
        names = ", ".join(report.nodeid for report in skipped)
        terminalreporter.write_line(f"skipped tests count as failures (EBB_ALLOW_SKIP=1 lets them pass): {names}")


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """A test that is skipped, or expected to fail, has shown nothing: the session fails."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if exitstatus == 0 and not _allowed() and reporter and any(reporter.stats.get(k) for k in ("skipped", "xfailed")):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def _allowed() -> bool:
    return bool(os.environ.get("EBB_ALLOW_SKIP"))
