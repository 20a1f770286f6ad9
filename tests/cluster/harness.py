"""A running cluster in the hands of tests and of the demo."""

import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from cluster import bbstat, kinds, wait
from cluster.errors import ClusterError
from cluster.layout import State

DEADLINE = 60.0


class CommandFailed(ClusterError):
    """A command inside the cluster ended with another code than 0."""

    def __init__(self, who: str, argv: Sequence[str], done: "subprocess.CompletedProcess[str]") -> None:
        self.done = done
        super().__init__(f"{who}: {' '.join(argv)}: code {done.returncode}\n{done.stdout}{done.stderr}")


class Cluster:
    """Commands, jobs, faults and waiting. Paths: `home(user)` is a user's home as seen from outside the cluster."""

    def __init__(self, kind: kinds.Kind, state: State) -> None:
        self.kind = kind
        self.state = state

    # -- commands

    def run(
        self, user: str, argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float = DEADLINE
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on the login node as `user`, in the user's home; both outputs are captured as text.

        timeout: seconds, then the command is killed and subprocess.TimeoutExpired raised.
        Raises CommandFailed with both outputs if `check` and the code is not 0.
        """
        return self._enter("controller", user, argv, check, stdin, timeout)

    def exec(
        self, node: str, argv: Sequence[str], *, check: bool = True, stdin: str | None = None, timeout: float = DEADLINE
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on `node` as root; otherwise like `run`."""
        return self._enter(node, "root", argv, check, stdin, timeout)

    def _enter(
        self, node: str, user: str, argv: Sequence[str], check: bool, stdin: str | None, timeout: float
    ) -> "subprocess.CompletedProcess[str]":
        source: Any = {"input": stdin} if stdin is not None else {"stdin": subprocess.DEVNULL}
        done = subprocess.run(
            [*self.kind.enter(node, user), *argv],
            check=False, capture_output=True, text=True, timeout=timeout, **source,
        )  # fmt: skip
        if check and done.returncode != 0:
            raise CommandFailed(user, argv, done)
        return done

    def home(self, user: str) -> Path:
        """The user's home, from outside."""
        return self.state.path / "home" / user

    # -- jobs

    def sbatch(self, user: str, script: str, *options: str) -> int:
        """Submit a script's text; the job's id. Raises CommandFailed if it is refused."""
        return int(self.run(user, ["sbatch", "--parsable", *options], stdin=script).stdout.split(";")[0])

    def job(self, job_id: int) -> dict[str, str]:
        """`scontrol show job` as a table; for an array or heterogeneous job that of its first line."""
        text = self.exec("controller", ["scontrol", "--oneliner", "show", "job", str(job_id)]).stdout
        words = text.splitlines()[0].split(" ")
        return dict(word.split("=", 1) for word in words if "=" in word)

    def job_state(self, job_id: int) -> str:
        """PENDING, RUNNING, COMPLETED, ..."""
        return self.job(job_id)["JobState"]

    def wait_job(self, job_id: int, state: str = "COMPLETED", deadline: float = DEADLINE) -> None:
        """Wait until the job is in `state`. Raises ClusterError at once if it ends in another."""
        ended = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY", "DEADLINE"}

        def there() -> bool:
            job = self.job(job_id)
            if job["JobState"] != state and job["JobState"] in ended:
                raise ClusterError(f"job {job_id} is {job['JobState']}, not {state}: {job}")
            return job["JobState"] == state

        self.wait_until(there, deadline, f"job {job_id} to be {state}", lambda: str(self.job(job_id)))

    # -- buffers

    def bbstat_text(self) -> str:
        """The plain answer of `scontrol show bbstat`."""
        return self.exec("controller", ["scontrol", "show", "bbstat"]).stdout

    def bbstat(self) -> bbstat.BBStat:
        """The parsed answer of `scontrol show bbstat`."""
        return bbstat.parse(self.bbstat_text())

    def wait_buffer(self, name: str, state: str | None, deadline: float = DEADLINE) -> None:
        """Wait until the buffer is in `state`; None: until no living buffer has that name."""
        wanted = (None, "staged-out") if state is None else (state,)
        self.wait_until(
            lambda: self.bbstat().state(name) in wanted, deadline, f"buffer {name} to be {state or 'gone'}",
            self.bbstat_text,
        )  # fmt: skip

    def wait_reason(self, name: str, reason: str, deadline: float = 2 * DEADLINE) -> None:
        """Wait until the buffer's Reason is `reason`, with nothing behind it.

        On a busy machine a datanode may not answer in time, or an SBB's server within half a second, and the Reason
        says so until it is asked again: a server after 30 s.
        """

        def there() -> bool:
            buffer = self.bbstat().buffer(name)
            return buffer is not None and buffer.reason == reason

        self.wait_until(there, deadline, f"the Reason of {name} to be `{reason}`", self.bbstat_text)

    def all_destroyed(self) -> bool:
        """Ask for the end of every buffer; whether none takes anything any more.

        Called until it holds: what a job uses is refused, and one that ended may still be taken down.
        """
        stat = self.bbstat()
        for buffer in stat.buffers:
            if buffer.state in ("staged-in", "teardown"):
                self.exec("controller", ["ebb", "destroy", buffer.name, "--discard"], check=False)
        return stat.totals["used storage"] == stat.totals["used memory"] == 0

    # -- faults

    def kill(self, name: str) -> None:
        """kill -9 of a process: slurmctld, orchestrator, munged, dn1 (its dnd), cn1 (its slurmd)."""
        self.kind.kill(name)

    def start(self, name: str) -> None:
        """Start it again; returns when it listens."""
        self.kind.start(name)

    # -- waiting

    def wait_until(
        self, condition: Callable[[], bool], deadline: float, what: str, found: Callable[[], str] | None = None
    ) -> None:
        """Ask `condition` until it holds. Raises ClusterError with `what`, and with what `found` says then."""
        try:
            wait.until(condition, deadline, what, pause=self.kind.pause)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{found()}" if found else str(error)) from error

    def log(self, process: str) -> str:
        """The log of one process."""
        return (self.state.log / f"{process}.log").read_text(errors="replace")
