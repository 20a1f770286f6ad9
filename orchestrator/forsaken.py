"""Jobs that slurmctld says are staging in, but for which none of its hooks asks any more.

slurmctld saves within seconds that a job is staging in, but every 30 s only that it was begun. After a kill -9 or a
power cut in between, it believes for ever that somebody is at it. Nothing but the job's end takes it out of that state,
so whoever looks at the job is told.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable

from ebb.errors import EbbError
from orchestrator.slurm import Slurm, SlurmJobs

SECONDS = 600.0
"""Hooks ask every few seconds, or every PollInterval."""

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

    def look(self, job_ids: Iterable[int], jobs: SlurmJobs) -> None:
        """Tell of those jobs, all set up and not yet running, that have been left alone; once of each."""
        now = time.monotonic()
        for job_id in job_ids:
            with self._lock:
                if not jobs.staging_in(job_id):
                    self._heard[job_id] = now
                    continue
                quiet = now - self._heard.setdefault(job_id, now)
                if quiet < SECONDS or job_id in self._told:
                    continue
                self._told.add(job_id)
            self._tell(job_id, quiet)

    def _tell(self, job_id: int, quiet: float) -> None:
        text = (
            f"Ebb: Slurm says that this job is staging in, but has not asked for it for {quiet / 60:.0f} min: "
            "slurmctld was killed in the midst of it. Cancel the job and submit it again; its buffers stay as bbstat "
            "shows them"
        )
        logger.error("job %d: %s", job_id, text)
        try:
            self._slurm.comment(job_id, text)
        except EbbError as error:
            logger.warning("job %d: its AdminComment cannot be set: %s", job_id, error.text)
