"""Calls the site's health checker (`HealthChecker=` in datanodes.conf) for services of this datanode.

Twice for each step, as the contract has it: once to keep the checker's database, once to check. What the checker
finds wrong with a service is raised; what is wrong with the checker itself is logged, and says nothing about anybody's
data. Without a checker nothing is called.
"""

from __future__ import annotations

import logging
import os
import stat
import threading
from collections.abc import Collection
from pathlib import Path

from dnd.journal import Record
from ebb.errors import EnvironmentFault, UserError
from ebb.run import CommandFailed, Completed, Runner

logger = logging.getLogger(__name__)

# The checker's own time limits are shorter: it ends by itself, unless it is broken.
_DATABASE_SECONDS = 10.0
_CHECK_SECONDS = 25.0
_OK, _WARNING, _FAILED = 0, 1, 2
# So many run at a time: each is a process that loads Python, and their time limits are for work, not for waiting. A job
# that is let in waits for two turns and two calls at the most (HEALTH_SECONDS in orchestrator/datanodes.py).
CALLS = 4
_TURN_SECONDS = 10.0

Flash = tuple[str, str, str, int]
"""A volume as the checker has it: name, volume group (a folder for files), mountpoint, size in bytes."""


class HealthFailed(EnvironmentFault):
    """The checker looked, and something is wrong with the service."""


class Health:
    """The checker as the orchestrator names it; the name is kept in `state_dir`, for the time after a restart."""

    def __init__(self, state_dir: Path, run: Runner) -> None:
        self._database = state_dir / "health.json"
        self._file = state_dir / "healthchecker"
        self._run = run
        self._lock = threading.Lock()
        self._turns = threading.BoundedSemaphore(CALLS)
        self._program = self._remembered()

    def use_program(self, program: object) -> None:
        """Take the path that came with a request of the orchestrator's; None: check nothing. Raises UserError."""
        if program is not None and not (isinstance(program, str) and program.startswith("/")):
            raise UserError(f"healthchecker is {program!r}, expected an absolute path or null")
        with self._lock:
            if program == self._program:
                return
            aside = self._file.with_suffix(".new")
            aside.write_text(program or "")
            os.replace(aside, self._file)
            self._program = program
        logger.info("health checker: %s", program or "none")

    def created(self, record: Record, flash: Collection[Flash]) -> None:
        """Register a service that was just made, and check it. Raises HealthFailed."""
        if self._keep("create", record.spec.sid, *_description(record, flash)):
            self._check(record)

    def used(self, record: Record, flash: Collection[Flash]) -> None:
        """Note that a job begins to use a service, and check it. Raises HealthFailed."""
        if self._keep("use", record.spec.sid, *_description(record, flash)):
            self._check(record)

    def register(self, record: Record, flash: Collection[Flash]) -> None:
        """Bring the database in line: other processes serve it now, or other jobs use it."""
        self._keep("use" if record.jobs else "create", record.spec.sid, *_description(record, flash))

    def ending(self, record: Record) -> None:
        """Its data are saved from now on, which takes time: what is missing of it meanwhile is no fault."""
        self._keep("destroy", record.spec.sid, "--begin")

    def ended(self, record: Record) -> None:
        """Nothing should be left of it: look, say so if something is, and forget it."""
        if self._program is None:
            return
        try:
            self._check(record, "--gone")
        except HealthFailed as error:
            logger.error("%s %s: left behind: %s", record.spec.type, record.spec.sid, error.text)
        self._keep("destroy", record.spec.sid)

    def forget(self, record: Record) -> None:
        """It never came to be."""
        self._keep("destroy", record.spec.sid)

    def retain(self, sids: Collection[str]) -> None:
        """At the start: what is registered although no such service lives here is dropped from the database."""
        if self._database.exists():
            self._keep("retain", *sids)

    def _check(self, record: Record, *options: str) -> None:
        done = self._call(_CHECK_SECONDS, "check", record.spec.sid, *(options or ("--tolerate-full",)))
        if done is None:
            return
        lines = _lines(done)
        failures = [line for line in lines if line.startswith("FAILED")]
        if done.returncode == _FAILED and failures:
            text = "; ".join(_found(line) for line in failures)
            raise HealthFailed(f"health check failed: {text}")
        if done.returncode == _WARNING and lines:
            for line in lines:
                logger.warning("health check: %s", line)
        elif done.returncode != _OK:
            self._complain(done.argv, f"ended with {done.returncode}: {'; '.join(lines) or 'no message'}")

    def _keep(self, *arguments: str) -> bool:
        """One operation on the database; whether it was done."""
        done = self._call(_DATABASE_SECONDS, *arguments)
        if done is None:
            return False
        lines = _lines(done)
        if done.returncode == _WARNING and lines:
            logger.warning("health checker: %s", "; ".join(lines))
        elif done.returncode != _OK:
            self._complain(done.argv, f"ended with {done.returncode}: {'; '.join(lines) or 'no message'}")
            return False
        return True

    def _call(self, seconds: float, *arguments: str) -> Completed | None:
        """How a call ended; None if there is no checker, or none that works."""
        program = self._program
        if program is None:
            return None
        argv = (program, "--database", str(self._database), *arguments)
        if (why := _unfit(Path(program))) is not None:
            self._complain(argv, why)
            return None
        # Rather one too many than a service that nobody looks at.
        turn = self._turns.acquire(timeout=_TURN_SECONDS)
        try:
            return self._run(argv, timeout=seconds, check=False)
        except CommandFailed as error:
            self._complain(argv, error.text.rpartition("` ")[2])
            return None
        finally:
            if turn:
                self._turns.release()

    def _complain(self, argv: Collection[str], why: str) -> None:
        logger.error(
            "the health checker does not work, services go on unchecked: %s %s; "
            "see HealthChecker= in datanodes.conf on the controller",
            next(iter(argv)),
            why,
        )

    def _remembered(self) -> str | None:
        try:
            return self._file.read_text() or None
        except FileNotFoundError:
            return None


def _description(record: Record, flash: Collection[Flash]) -> list[str]:
    spec = record.spec
    words = ["--uid", str(spec.uid), "--gid", str(spec.gid), "--mode", spec.type.value.lower(), "--name", spec.name]
    for lv, vg, mountpoint, size in flash:
        words += ["--flash", lv, vg, mountpoint, str(size >> 20)]
    for server in record.servers:
        words += ["--daemon", str(server.pid)]
    return words


def _unfit(program: Path) -> str | None:
    """Why a program is not run as root; None if it is fit. Its path came over the network."""
    try:
        found = program.stat()
    except OSError as error:
        return f"cannot be run: {error.strerror}"
    if not stat.S_ISREG(found.st_mode) or not os.access(program, os.X_OK):
        return "is no program"
    if found.st_uid != 0 or found.st_mode & 0o022:
        return "is not root's alone to change, so it is not run"
    return None


def _lines(done: Completed) -> list[str]:
    return [line for line in (*done.stdout.splitlines(), *done.stderr.splitlines()) if line.strip()]


def _found(line: str) -> str:
    """`FAILED: service 42 (toto, gbf): ganesha: ...` without what the reader knows: whose it is."""
    _, sign, rest = line.partition("): ")
    return rest if sign else line
