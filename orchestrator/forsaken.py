"""Jobs that slurmctld says are staging in, or about to, but for which none of its hooks asks any more.

slurmctld saves within seconds that a job is staging in, but every 30 s only that it was begun. After a kill -9 or a
power cut in between, it believes for ever that somebody is at it. After a restart it takes down what pending jobs had;
a second one, or from 23.11 on a reconfiguration, that ends it in the midst of that leaves them in teardown [24.11].
Nothing but the job's end takes it out of such a state, so whoever looks at the job is told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from ebb.errors import EbbError
from orchestrator.slurm import Slurm, SlurmJobs

SECONDS = 600.0
"""Hooks ask every few seconds, or every PollInterval; after a restart jobs are set up again within minutes."""
RECENT_SECONDS = 3600.0
"""So long a job that was torn down is looked at."""
_STAGING = "is staging in, but has not asked for it for {:.0f} min: slurmctld was killed in the midst of it"
_TAKEN_DOWN = (
    "waits for its buffers, but has taken them down and not asked again for {:.0f} min: slurmctld was started again in "
    "the midst of it"
)

logger = logging.getLogger(__name__)


class Forsaken:
    """Remembers when Slurm last asked for each job; a restart begins anew."""

    def __init__(self, slurm: Slurm) -> None:
        self._slurm = slurm
        self._heard: dict[int, float] = {}
        self._told: set[int] = set()
        self._lock = threading.Lock()

    def heard(self, job_id: int) -> None:
        """A hook asks for the job, or has its answer."""
        with self._lock:
            self._heard[job_id] = time.monotonic()
            self._told.discard(job_id)

    def forget(self, job_id: int) -> None:
        """The job is over, or begins again."""
        with self._lock:
            self._heard.pop(job_id, None)
            self._told.discard(job_id)

    def look(self, set_up: Iterable[int], torn_down: Iterable[int], jobs: SlurmJobs) -> None:
        """Tell of those jobs that have been left alone; once of each. None of them runs yet, or does no more."""
        now = time.monotonic()
        waiting = {job_id: _STAGING for job_id in set_up if jobs.staging_in(job_id)}
        waiting |= {job_id: _TAKEN_DOWN for job_id in torn_down if jobs.before_setup(job_id)}
        alone: list[tuple[int, str]] = []
        with self._lock:
            self._heard = {job_id: since for job_id, since in self._heard.items() if job_id in waiting}
            self._told &= waiting.keys()
            for job_id, what in waiting.items():
                quiet = now - self._heard.setdefault(job_id, now)
                if quiet >= SECONDS and job_id not in self._told:
                    self._told.add(job_id)
                    alone.append((job_id, what.format(quiet / 60)))
        for job_id, what in alone:
            with self._lock:
                left = job_id in self._told
            if left:  # not asked for while Slurm took its time to comment on those before it
                self._tell(job_id, what)

    def _tell(self, job_id: int, what: str) -> None:
        text = (
            f"Ebb: Slurm says that this job {what}. Cancel the job and submit it again; its buffers stay as bbstat "
            "shows them"
        )
        logger.error("job %d: %s", job_id, text)
        try:
            self._slurm.comment(job_id, text)
        except EbbError as error:
            logger.warning("job %d: its AdminComment cannot be set: %s", job_id, error.text)
