"""`/run/ebb/jobs/<job id>.env`: what the `paths` hook adds to a job's environment, ticket included."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from ebb import ticket
from orchestrator.bbstat import write_atomic
from orchestrator.records import Allocation, Buffer, Job

TICKET_VARIABLE = "SLURM_EBB_TICKET"


class JobFiles:
    """Writes and removes the files. owner: uid of SlurmUser, who reads them; nobody else may (they hold tickets)."""

    def __init__(self, folder: Path, key: ticket.SiteKey, ticket_seconds: int, owner: int) -> None:
        self._folder, self._key, self._seconds, self._owner = folder, key, ticket_seconds, owner
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o750)
        os.chown(folder, owner, -1)

    def write(self, job: Job, used: Sequence[tuple[Buffer, Sequence[Allocation]]]) -> None:
        """Write a job's file; a job that uses nothing gets none. Again is harmless: the ticket is renewed."""
        if not used:
            self.forget(job.job_id)
            return
        lines = [f"{TICKET_VARIABLE}={self.ticket(job, used)}"]
        lines += [f"{variable_name(buffer.name)}={buffer.path}" for buffer, _ in used if buffer.path]
        text = "".join(line + "\n" for line in lines)
        write_atomic(self._path(job.job_id), text.encode(errors="replace"), 0o600, self._owner)

    def ticket(self, job: Job, used: Sequence[tuple[Buffer, Sequence[Allocation]]]) -> str:
        """The signed text that tells a node's SPANK plugin what to mount for this job."""
        mounts = tuple(mount for buffer, allocations in used for mount in _mounts(buffer, allocations))
        expires = int(time.time()) + self._seconds
        return ticket.sign(ticket.Ticket(job.job_id, job.uid, job.gid, expires, mounts), self._key)

    def forget(self, job_id: int) -> None:
        """Remove a job's file, if there is one."""
        self._path(job_id).unlink(missing_ok=True)

    def _path(self, job_id: int) -> Path:
        return self._folder / f"{job_id}.env"


def _mounts(buffer: Buffer, allocations: Sequence[Allocation]) -> Iterator[ticket.TicketMount | ticket.SbbMount]:
    """One mount for each file system, one for each target of an SBB."""
    served = [mount for allocation in allocations for mount in allocation.mounts]
    named = {"sid": buffer.sid, "name": buffer.name, "type": buffer.type.value}
    if buffer.sbb is None:
        for mount in served:
            yield ticket.TicketMount(
                **named,
                path=mount.path,
                address=mount.address,
                port=mount.port,
                export=mount.export,
                data=mount.data,
            )
        return
    servers = tuple(ticket.SbbServer(mount.address, mount.port, mount.data) for mount in served)
    for number, target in enumerate(buffer.path.split(":")):
        yield ticket.SbbMount(
            **named,
            path=target,
            target=number,
            sync=buffer.sbb.sync.value,
            stripe=buffer.sbb.stripe,
            servers=servers,
        )


def variable_name(name: str) -> str:
    """`EBB_<NAME>`: the variable that holds the path of the buffer `name`."""
    return "EBB_" + re.sub(r"[^A-Z0-9]", "_", name.upper())
