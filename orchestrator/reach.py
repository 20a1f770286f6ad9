"""Whether the datanodes of the buffers that a job is to use serve them now: a job is not given nodes before they do.

A datanode that reboots costs the job time, not a failed start; Slurm holds a job whose start failed three times.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from ebb.errors import EnvironmentFault
from orchestrator.datanodes import Datanodes

LIMIT_SECONDS = 3600.0
"""So long a job waits: servers take minutes to start, and a held job is released by operators alone."""


class Reach:
    """Asks datanodes for `data_in`, and remembers since when each job waits for one; a restart begins anew."""

    def __init__(self, datanodes: Datanodes) -> None:
        self._datanodes = datanodes
        self._since: dict[int, float] = {}
        self._lock = threading.Lock()

    def forget(self, job_id: int) -> None:
        """The job begins or ends: what it waited for before does not count."""
        with self._lock:
            self._since.pop(job_id, None)

    def missing(self, job_id: int, parts: Iterable[tuple[str, str]]) -> str | None:
        """Which datanode does not serve its part, and why; None if all do. Takes as long as they take to answer.

        parts: (datanode, sid) of every part of the buffers. Raises EnvironmentFault when the job has waited for
        LIMIT_SECONDS, NotFound when a datanode answers that it has no such buffer.
        """
        why = next((why for datanode, sid in parts if (why := self._why(datanode, sid))), None)
        if why is None:
            self.forget(job_id)
            return None
        with self._lock:
            waited = time.monotonic() - self._since.setdefault(job_id, time.monotonic())
        if waited < LIMIT_SECONDS:
            return why
        self.forget(job_id)
        raise EnvironmentFault(f"{why}; waited for {waited / 60:.0f} min: tell your administrator")

    def _why(self, datanode: str, sid: str) -> str | None:
        try:
            status = self._datanodes.status(datanode, sid, 0, 0)
        except EnvironmentFault as error:
            return f"datanode {datanode} does not answer ({error.text})"
        if status.mounts:
            return None
        return f"datanode {datanode} does not serve buffer {sid} now: {status.error or status.phase}"
