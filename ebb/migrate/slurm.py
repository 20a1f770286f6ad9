"""What a migration asks of Slurm: sbatch, squeue, scontrol, scancel, with the calling user's environment."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from ebb.errors import EnvironmentFault, UserError
from ebb.run import Completed, run

_BUFFER = re.compile(r'^FA: BB .* Name=(?P<name>\S+) State=(?P<state>\S+) .*Reason="(?P<reason>.*)"$')
_STATE_WIDTH = 20
FINAL = {
    "BOOT_FAIL",
    "CANCELLED",
    "COMPLETED",
    "DEADLINE",
    "FAILED",
    "NODE_FAIL",
    "OUT_OF_MEMORY",
    "PREEMPTED",
    "TIMEOUT",
}


class Refused(UserError):
    """sbatch refused a job; `said` is its own text, of several lines."""

    def __init__(self, said: str) -> None:
        self.said = said
        super().__init__("sbatch did not take the job: nothing was changed")


@dataclass(frozen=True, slots=True)
class Stand:
    """How a job or a buffer stands: Slurm's state, and the reason for it."""

    state: str
    reason: str


def require() -> None:
    """Raises EnvironmentFault if Slurm's commands are not to be found."""
    for name in ("sbatch", "squeue", "scontrol", "scancel"):
        if shutil.which(name) is None:
            raise EnvironmentFault(f"{name} is not on your PATH: run this on a login node, or load Slurm's module")


def submit(script: str, options: Sequence[str]) -> int:
    """The new job's id. Raises Refused."""
    done = _run(["sbatch", "--parsable", *options], script)
    if done.returncode != 0:
        raise Refused(done.stderr.strip() or done.stdout.strip())
    try:
        return int(done.stdout.split(";")[0])
    except ValueError:  # such as of --test-only
        raise Refused(f"sbatch named no job: {done.stderr.strip() or done.stdout.strip()}") from None


def job(job_id: int) -> Stand | None:
    """None: Slurm knows no such job any more. Raises EnvironmentFault if it does not answer."""
    form = f"--Format=State:{_STATE_WIDTH},Reason:1000"
    done = _run(["squeue", "--noheader", "--states=all", f"--jobs={job_id}", form])
    if done.returncode != 0 and "Invalid job id" not in done.stderr:
        raise EnvironmentFault(f"squeue: {done.stderr.strip() or done.returncode}")
    line = done.stdout.partition("\n")[0]
    return Stand(line[:_STATE_WIDTH].strip(), line[_STATE_WIDTH:].strip()) if line.strip() else None


def buffer(name: str) -> Stand | None:
    """The buffer's line in bbstat, the living one first; None if there is none. Raises EnvironmentFault."""
    done = _run(["scontrol", "show", "bbstat"])
    if done.returncode != 0:
        raise EnvironmentFault(f"scontrol show bbstat: {done.stderr.strip() or done.returncode}")
    return find_buffer(done.stdout, name)


def find_buffer(text: str, name: str) -> Stand | None:
    """The same, in the text of `scontrol show bbstat`."""
    matches = (_BUFFER.match(line.strip()) for line in text.splitlines())
    stands = [Stand(m["state"], m["reason"]) for m in matches if m and m["name"] == name]
    return next((stand for stand in stands if stand.state != "staged-out"), stands[-1] if stands else None)


def cancel(job_id: int) -> None:
    """No error if it has ended already."""
    _run(["scancel", "--quiet", str(job_id)])


def _run(argv: Sequence[str], text: str | None = None) -> Completed:
    # All of it: the job gets it, and SLURM_CONF and the like say which cluster it is.
    return run(argv, input=text, check=False, env=os.environ)
