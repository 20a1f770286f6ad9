"""What the orchestrator asks of Slurm, through its own commands: which jobs there are and where they run.

Never called from a hook that runs inside slurmctld (`job_process`, `paths`): a Slurm command there would deadlock.
"""

from __future__ import annotations

import socket
from dataclasses import dataclass, field

from ebb.errors import EnvironmentFault
from ebb.run import Runner, run

# Job states (squeue --state, squeue(1)) after which nothing of the job runs any more.
_OVER = frozenset(
    {
        "BOOT_FAIL",
        "CANCELLED",
        "COMPLETED",
        "DEADLINE",
        "FAILED",
        "NODE_FAIL",
        "OUT_OF_MEMORY",
        "PREEMPTED",
        "REVOKED",
        "TIMEOUT",
        "LAUNCH_FAILED",
    }
)


@dataclass(frozen=True, slots=True)
class SlurmJobs:
    """One look at the queue. Slurm forgets jobs some minutes after their end (MinJobAge). reasons: why they wait."""

    states: dict[int, str]
    reasons: dict[int, str] = field(default_factory=dict)

    def over(self, job_id: int) -> bool:
        """Whether Slurm has ended or forgotten the job."""
        state = self.states.get(job_id)
        return state is None or state in _OVER

    def staging_in(self, job_id: int) -> bool:
        """Whether Slurm says that the job waits for its buffers."""
        return self.states.get(job_id) == "PENDING" and self.reasons.get(job_id) == "BurstBufferStageIn"

    def before_setup(self, job_id: int) -> bool:
        """Whether Slurm says that it has yet to ask for the job's buffers."""
        return self.states.get(job_id) == "PENDING" and self.reasons.get(job_id) == "BurstBufferResources"


class Slurm:
    """Asks the cluster's slurmctld. run: how commands are started."""

    def __init__(self, run: Runner = run) -> None:
        self._run = run

    def jobs(self) -> SlurmJobs:
        """All jobs that slurmctld knows, by the id that hooks get (%A: each array task and het component its own).

        Raises EnvironmentFault while slurmctld does not answer.
        """
        done = self._run(["squeue", "--noheader", "--all", "--array", "--states=all", "--format=%A %T %r"], timeout=60)
        rows = [words for line in done.stdout.splitlines() if len(words := line.split(None, 2)) >= 2]
        states = {int(words[0]): words[1] for words in rows}
        return SlurmJobs(states, {int(words[0]): words[2].strip() for words in rows if len(words) == 3})

    def comment(self, job_id: int, text: str) -> None:
        """Write a text for user and operators where `scontrol show job` shows it. Raises EnvironmentFault."""
        self._run(["scontrol", "update", f"JobId={job_id}", f"AdminComment={text}"], timeout=60)

    def nodes_of(self, job_id: int) -> str:
        """The hostlist of the nodes given to a job; empty while it has none."""
        done = self._run(
            ["squeue", "--noheader", "--array", "--states=all", f"--jobs={job_id}", "--format=%A %N"], timeout=60
        )
        for line in done.stdout.splitlines():
            words = line.split()
            if len(words) == 2 and words[0] == str(job_id):
                return words[1]
        return ""

    def addresses(self, nodes: str) -> tuple[str, ...]:
        """The IP addresses of a hostlist's nodes, as slurm.conf (NodeAddr) and the resolver give them.

        Raises EnvironmentFault for a node whose address cannot be found.
        """
        done = self._run(["scontrol", "--oneliner", "show", "node", nodes], timeout=60)
        found = []
        for line in done.stdout.splitlines():
            fields = dict(word.partition("=")[::2] for word in line.split())
            if "NodeName" in fields:
                found.append(_resolve(fields["NodeName"], fields.get("NodeAddr") or fields["NodeName"]))
        if not found:
            raise EnvironmentFault(f"slurmctld knows no addresses of the nodes {nodes}")
        return tuple(found)


def _resolve(node: str, address: str) -> str:
    try:
        return str(socket.getaddrinfo(address, None, proto=socket.IPPROTO_TCP)[0][4][0])
    except OSError as error:
        raise EnvironmentFault(f"node {node}: its address {address} cannot be resolved: {error.strerror}") from error
