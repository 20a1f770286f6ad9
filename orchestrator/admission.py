"""Jobs' nodes in the exports of the buffers they use: let in for the run, shut out after it.

Datanodes are asked outside of the engine's lock, so for each job one caller at a time does so. Otherwise a job that was
requeued could be let in between the look that found it over and the word to the datanode: it would run shut out.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from ebb.errors import Conflict, EbbError, EnvironmentFault, NotFound
from orchestrator.buffers import Buffers
from orchestrator.datanodes import Datanodes
from orchestrator.engine import Engine
from orchestrator.records import Job, JobStep, Link, Step
from orchestrator.slurm import Slurm
from orchestrator.store import Transaction

logger = logging.getLogger(__name__)


class Admission:
    """Lets in and shuts out. Made once, by the hooks' verbs; threads share it."""

    def __init__(self, engine: Engine, buffers: Buffers, datanodes: Datanodes, slurm: Slurm) -> None:
        self._engine, self._buffers, self._datanodes, self._slurm = engine, buffers, datanodes, slurm
        self._turns = _Turns()

    def let_in(self, job_id: int, nodes: object) -> None:
        """Let a job's nodes in to all buffers it uses; recorded first, so that they are surely shut out again.

        nodes: their hostlist; Slurm is asked if there is none. Raises NotFound for a job that was not set up, Conflict
        for a buffer that is not ready, EnvironmentFault for one that is not served now.
        """
        with self._turns.of(job_id, wait=True):
            self._let_in(job_id, nodes)

    def _let_in(self, job_id: int, nodes: object) -> None:
        with self._engine.change() as tx:
            known(tx, job_id)
            links = [link for link in tx.links_of_job(job_id) if link.uses]
            for link in links:
                buffer = tx.buffer(link.buffer_id)
                if buffer.step not in (Step.READY, Step.DRAINING):
                    raise Conflict(f"buffer {buffer.told()} is not ready: {buffer.reason}")
                tx.set_admitted(job_id, link.buffer_id, True)
            tx.set_job(job_id, step=JobStep.RUNNING.value, ran=True, changed=time.time())
            work = where(tx, links)
        if not links:
            return
        nodes = nodes or self._slurm.nodes_of(job_id)
        if not isinstance(nodes, str) or not nodes:
            raise EnvironmentFault(f"Slurm does not say which nodes job {job_id} has")
        addresses = self._slurm.addresses(nodes)
        for datanode, sid in work:
            status = self._datanodes.pre_run(datanode, sid, job_id, addresses)
            if status.health is not None:
                with self._engine.change() as tx:
                    found = tx.buffer_with_sid(sid)
                    if found is not None:
                        self._buffers.unhealthy(tx, found, datanode, status.health)
                raise EnvironmentFault(f"buffer {sid} on datanode {datanode} cannot be used: {status.health}")
            if not status.mounts:
                raise EnvironmentFault(
                    f"datanode {datanode} does not serve buffer {sid} now: {status.error or status.phase}"
                )
        logger.info("job %d: %s let in", job_id, nodes)

    def shut_out(self, job_id: int) -> None:
        """Take a job's nodes out of every export they are in; what fails stays recorded as admitted.

        Nothing is done to a job that runs (again), nor while its nodes are being let in: the reconciler looks again.
        """
        with self._turns.of(job_id, wait=False) as mine:
            if mine:
                self._shut_out(job_id)
            else:
                logger.info("job %d is being let in or shut out by another call: looked at again soon", job_id)

    def _shut_out(self, job_id: int) -> None:
        with self._engine.look() as tx:
            job = tx.job(job_id)
            if job is not None and job.step is JobStep.RUNNING:
                return
            links = [link for link in tx.links_of_job(job_id) if link.admitted]
            work = [(link.buffer_id, datanode, sid) for link in links for datanode, sid in where(tx, [link])]
        failed = {buffer_id for buffer_id, datanode, sid in work if not self._shut_out_of(job_id, datanode, sid)}
        with self._engine.change() as tx:
            for link in links:
                if link.buffer_id not in failed:
                    tx.set_admitted(job_id, link.buffer_id, False)

    def expel(self, job_id: int, datanode: str, sid: str) -> None:
        """Shut a job out that a datanode lets in to a buffer, unless the store says now that it is admitted."""
        with self._turns.of(job_id, wait=False) as mine:
            if not mine:
                return
            with self._engine.look() as tx:
                buffer = tx.buffer_with_sid(sid)
                links = tx.links_of_job(job_id)
            if buffer is not None and any(link.admitted and link.buffer_id == buffer.id for link in links):
                return
            logger.warning("job %d is still let in to %s on %s: shut out now", job_id, sid, datanode)
            self._shut_out_of(job_id, datanode, sid)

    def _shut_out_of(self, job_id: int, datanode: str, sid: str) -> bool:
        """Whether the datanode lets the job in no more."""
        try:
            self._datanodes.post_run(datanode, sid, job_id)
        except NotFound:
            return True
        except EbbError as error:
            logger.warning("job %d is still let in to buffer %s on %s: %s", job_id, sid, datanode, error.text)
            return False
        return True


class _Turns:
    """Remembers whose nodes are being let in or shut out at this moment."""

    def __init__(self) -> None:
        self._busy: set[int] = set()
        self._freed = threading.Condition()

    @contextmanager
    def of(self, job_id: int, wait: bool) -> Iterator[bool]:
        """Hold the job's turn; False if another has it and `wait` is not asked for: then nothing is held."""
        with self._freed:
            if wait:
                self._freed.wait_for(lambda: job_id not in self._busy)
            mine = job_id not in self._busy
            if mine:
                self._busy.add(job_id)
        try:
            yield mine
        finally:
            if mine:
                with self._freed:
                    self._busy.discard(job_id)
                    self._freed.notify_all()


def known(tx: Transaction, job_id: int) -> Job:
    """The job, set up and not torn down. Raises NotFound."""
    job = tx.job(job_id)
    if job is None or job.step is JobStep.TORN_DOWN:
        raise NotFound(f"job {job_id} was not set up here (or is torn down already); requeue or submit it again")
    return job


def where(tx: Transaction, links: Iterable[Link]) -> list[tuple[str, str]]:
    """Datanode and sid of every part of the linked buffers."""
    return [
        (allocation.datanode, tx.buffer(link.buffer_id).sid)
        for link in links
        for allocation in tx.allocations_of(link.buffer_id)
    ]
