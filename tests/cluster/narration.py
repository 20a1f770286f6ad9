"""Tells on the terminal what the demo does, as it happens, and keeps count of what it checked."""

import time
from collections.abc import Callable

from cluster.errors import ClusterError
from cluster.harness import Cluster

ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "BOOT_FAIL", "OUT_OF_MEMORY"}


class CheckFailed(ClusterError):
    """Something is not as the demo says it is."""


class Narrator:
    """Prints with the seconds since the start in front."""

    def __init__(self) -> None:
        self.began = time.monotonic()
        self.checks = 0

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.monotonic() - self.began

    def say(self, text: str) -> None:
        """One line of what happens."""
        print(f"[{self.seconds:5.1f} s] {text}", flush=True)

    def chapter(self, text: str) -> None:
        """A new part."""
        print(flush=True)
        self.say(f"=== {text}")

    def show(self, text: str) -> None:
        """Text of others: a script, an output."""
        for line in text.rstrip("\n").splitlines():
            print(f"            | {line}", flush=True)

    def check(self, holds: bool, what: str, found: object = None) -> None:
        """Say that `what` holds. Raises CheckFailed with what was found if it does not."""
        if not holds:
            raise CheckFailed(f"this should hold and does not: {what}" + (f"; found: {found}" if found else ""))
        self.checks += 1
        self.say(f"ok: {what}")


def follow(
    tell: Narrator, cluster: Cluster, job_id: int, buffer: str, meanwhile: Callable[[], None] | None = None,
    deadline: float = 120,
) -> None:  # fmt: skip
    """Show the buffer's line of bbstat and the job's state whenever one changes, until the job is complete.

    meanwhile: called again and again while the job runs. Raises ClusterError if the job ends otherwise.
    """
    line = state = ""
    end = time.monotonic() + deadline
    while True:
        lines = [ln for ln in cluster.bbstat_text().splitlines() if f" Name={buffer} " in ln]
        if lines and lines[-1] != line:
            line = lines[-1]
            tell.say(line)
        job = cluster.job(job_id)
        now = job["JobState"] + (f" ({job['Reason']})" if job.get("Reason", "None") != "None" else "")
        if now != state:
            state = now
            tell.say(f"job {job_id} is {state}")
        if job["JobState"] == "COMPLETED":
            return
        if job["JobState"] in ENDED:
            raise ClusterError(f"job {job_id} is {state}")
        if time.monotonic() > end:
            raise ClusterError(f"job {job_id} is {state} after {deadline:g} s")
        if meanwhile and job["JobState"] == "RUNNING":
            meanwhile()
        time.sleep(0.15)  # the pace of looking; the deadline is above
