"""Watches a migration's job and its buffer until both have ended, and shows how far they are."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, TextIO

import click

from ebb.errors import EnvironmentFault
from ebb.migrate import slurm
from ebb.migrate.meter import Meter
from ebb.migrate.work import Request, Work

_PAUSE = 1.0
_PATIENCE = 300.0
"""Seconds for which Slurm may not answer: a controller that restarts costs nobody a migration."""
_EVERY = 10.0
"""Seconds between two lines where the output is no terminal."""


_ENDING = slurm.FINAL | {"COMPLETING", "STAGE_OUT"}


class Left(Exception):
    """The user let the job go on alone."""


class Screen:
    """One line that changes on a terminal; elsewhere a line now and then."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = self._stream.isatty()
        self._last, self._kind, self._when = "", "", 0.0

    def show(self, kind: str, text: str) -> None:
        """kind: what the line is about; a line about something new is always shown."""
        now = time.monotonic()
        if text == self._last or (not self._live and kind == self._kind and now - self._when < _EVERY):
            return
        self._last, self._kind, self._when = text, kind, now
        self._stream.write(f"\r\033[Kebb: {text}" if self._live else f"ebb: {text}\n")
        self._stream.flush()

    def close(self) -> None:
        """End the line that changes."""
        if self._live and self._last:
            self._stream.write("\n")
            self._last = ""


class Follower:
    """Follows one job. `run` returns how job and buffer ended; None: Slurm does not know any more."""

    def __init__(self, work: Work, request: Request, screen: Screen) -> None:
        self.work, self.request, self.screen = work, request, screen
        self.meter = Meter()
        self.cancelled = False
        self.held: str | None = None
        self._answered = time.monotonic()
        self._summed = False

    def run(self) -> tuple[slurm.Stand | None, slurm.Stand | None]:
        """Ctrl-C asks what to do, and cancels where nobody can be asked. Raises Left, EnvironmentFault."""
        while True:
            try:
                return self._until_end()
            except KeyboardInterrupt:
                self._interrupted()

    def _until_end(self) -> tuple[slurm.Stand | None, slurm.Stand | None]:
        while True:
            try:
                job, buffer = slurm.job(self.request.job), slurm.buffer(self.request.name)
                self._answered = time.monotonic()
            except EnvironmentFault as error:
                if time.monotonic() - self._answered > _PATIENCE:
                    raise
                self.screen.show("silent", f"waiting for Slurm to answer: {error.text}")
                time.sleep(_PAUSE)
                continue
            if job is None or job.state in _ENDING:
                self._sum_up()
            if (job is None or job.state in slurm.FINAL) and is_over(buffer):
                self.screen.close()
                return job, buffer
            if job is not None and is_held(job) and self.held is None:
                self.held = job.reason
                slurm.cancel(self.request.job)
            self.screen.show(*self._line(job, buffer))
            time.sleep(_PAUSE)

    def _line(self, job: slurm.Stand | None, buffer: slurm.Stand | None) -> tuple[str, str]:
        if job is not None and job.state == "PENDING":
            reason = buffer.reason if buffer and buffer.state == "staging-in" else job.reason
            return f"pending {reason.partition(' ')[0]}", f"job {self.request.job} waits: {reason}"
        if job is None or job.state in _ENDING:
            reason = buffer.reason if buffer and buffer.state != "staged-in" else "its buffer comes next"
            return f"ending {reason.partition(' ')[0]}", f"job {self.request.job} ends: {reason}"
        plan = self.work.get("plan.json")
        if plan is None:
            return "starting", f"job {self.request.job} starts"
        return plan["phase"], self._how_far(plan)

    def _how_far(self, plan: Mapping[str, Any]) -> str:
        total = (int(plan.get("bytes", 0)), int(plan.get("files", 0)))
        return self.meter.line(plan["phase"], self.work.progress(plan["phase"]), total, time.monotonic())

    def _sum_up(self) -> None:
        """How far it came, once at its end: it may have been too fast to be seen on its way."""
        plan = self.work.get("plan.json")
        if plan is not None and not self._summed and not self.cancelled:
            self._summed = True
            self.screen.show("came", self._how_far(plan))

    def _interrupted(self) -> None:
        self.screen.close()
        if self.cancelled:
            raise Left
        if sys.stdin.isatty():
            choice = click.prompt(
                f"ebb: job {self.request.job}: cancel it, leave it running, or go on watching",
                type=click.Choice(["cancel", "leave", "watch"]), default="cancel", err=True,
            )  # fmt: skip
            if choice == "leave":
                raise Left
            if choice == "watch":
                return
        self.cancelled = True
        self.screen.show("cancel", f"cancelling job {self.request.job}; waiting for its buffer to end")
        slurm.cancel(self.request.job)


def is_over(buffer: slurm.Stand | None) -> bool:
    """Whether nothing more will happen to the buffer by itself."""
    if buffer is None or buffer.state == "staged-out":
        return True
    return buffer.state == "teardown" and buffer.reason.startswith(("Stage out failed", "Failed to allocate resources"))


def is_held(job: slurm.Stand) -> bool:
    """Whether a hook of Ebb's refused the job: Slurm keeps it in the queue, but it will never start."""
    return job.state == "PENDING" and job.reason.startswith("burst_buffer/lua:")
