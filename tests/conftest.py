"""What holds for every test of the project."""

import os

import pytest

from munged import munge_socket  # noqa: F401 (a fixture)


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
