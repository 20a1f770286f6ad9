"""Compares the store, the datanodes and Slurm, at start and then all the time, and mends what differs.

What it never does: drop data that nobody asked to drop. A service that the store does not know is reported only.
"""

from __future__ import annotations

import logging
import threading
import time

from ebb import log
from ebb.errors import EbbError
from ebb.model import Phase, ServiceType, Status
from orchestrator.buffers import Buffers
from orchestrator.datanodes import Datanodes, Listing
from orchestrator.engine import Engine
from orchestrator.forsaken import RECENT_SECONDS
from orchestrator.placement import Placement
from orchestrator.records import Buffer, Job, JobStep, Step
from orchestrator.slurm import Slurm, SlurmJobs
from orchestrator.store import Transaction
from orchestrator.verbs import JobVerbs

# A job that ran and that Slurm has ended gets its last hooks soon after; only later has it been forgotten. One that
# never ran has only its teardown to come, which slurmctld may kill together with the hook that waits [22.05]: there is
# nothing to wait for.
GRACE_SECONDS = 60.0
# How long ended buffers and jobs are remembered, to judge what turns up on a datanode.
KEEP_SECONDS = 30 * 86400.0

logger = logging.getLogger(__name__)


class Reconciler:
    """One thread; `kick` makes it look at once. seconds: pause between two rounds."""

    def __init__(
        self,
        engine: Engine,
        buffers: Buffers,
        placement: Placement,
        datanodes: Datanodes,
        slurm: Slurm,
        verbs: JobVerbs,
        seconds: float,
    ) -> None:
        self._engine, self._buffers, self._placement = engine, buffers, placement
        self._datanodes, self._slurm, self._verbs, self._seconds = datanodes, slurm, verbs, seconds
        self._wake, self._stop = threading.Event(), threading.Event()
        self._unknown: set[tuple[str, str]] = set()
        self._troubles: dict[int, dict[str, str]] = {}
        self.datanodes_up: dict[str, bool] = {}
        self._thread = threading.Thread(target=self._loop, name="reconcile", daemon=True)

    def start(self) -> None:
        """Begin with a round at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the round under way."""
        self._stop.set()
        self._wake.set()

    def kick(self) -> None:
        """Look now."""
        self._wake.set()

    @property
    def unknown_services(self) -> int:
        """Services on datanodes that the store knows nothing of."""
        return len(self._unknown)

    def _loop(self) -> None:
        while not self._stop.is_set():
            self._wake.clear()
            with log.request(log.new_request_id("reconcile")):
                for part in (self._with_slurm, self._shut_out, self._with_datanodes, self._purge):
                    try:
                        part()
                    except EbbError as error:
                        logger.warning("%s: %s", part.__name__, error.text)
                    except Exception:
                        logger.exception("%s failed; the next round tries again", part.__name__)
            self._wake.wait(self._seconds)

    # Slurm

    def _with_slurm(self) -> None:
        # The store first: what it knows, Slurm knew before; the other way round a new job would look forgotten.
        with self._engine.look() as tx:
            alive = tx.jobs_in(JobStep.SET_UP, JobStep.RUNNING, JobStep.ENDED)
            torn_down = tx.jobs_in(JobStep.TORN_DOWN)
            pending = self._unfinished(torn_down, tx)
        recent = [job.job_id for job in torn_down if time.time() - job.changed < RECENT_SECONDS]
        if not alive and not pending and not recent:
            return
        jobs = self._slurm.jobs()
        for job in alive:
            grace = 0.0 if job.step is JobStep.SET_UP else GRACE_SECONDS
            forgotten = jobs.over(job.job_id) and time.time() - job.changed > grace
            # Slurm was asked after the store, and takes its time: it may have begun the job anew since.
            if forgotten and self._verbs.tear_down(job.job_id, seen=job):
                logger.warning("job %d is over, but its teardown never came: done now", job.job_id)
        set_up = [job.job_id for job in alive if job.step is JobStep.SET_UP]
        self._verbs.forsaken.look(set_up, recent, jobs)
        self._withdraw(pending, jobs)

    def _unfinished(self, torn_down: list[Job], tx: Transaction) -> list[tuple[Job, int]]:
        """(job, buffer) where a job that was torn down had a creation or a destruction not yet carried out."""
        return [
            (job, link.buffer_id)
            for job in torn_down
            for link in tx.links_of_job(job.job_id)
            if (link.creates and tx.buffer(link.buffer_id).step in (Step.QUEUED, Step.CREATING))
            or (link.destroys_alone and tx.buffer(link.buffer_id).step is Step.DRAINING)
        ]

    def _withdraw(self, pending: list[tuple[Job, int]], jobs: SlurmJobs) -> None:
        """Teardown comes for cancelled jobs and, after a restart of slurmctld, for jobs that will be set up again.

        Only for the former is what they began withdrawn.
        """
        for job, buffer_id in pending:
            job_id = job.job_id
            if not jobs.over(job_id):
                continue
            with self._engine.change() as tx:
                if tx.job(job_id) != job:
                    continue  # set up again since Slurm was asked: it wants its buffers
                buffer = tx.buffer(buffer_id)
                if buffer.step in (Step.QUEUED, Step.CREATING):
                    self._buffers.destroy(tx, buffer, job_id, discard=True)
                elif buffer.step is Step.DRAINING and buffer.destroy_job == job_id:
                    self._buffers.withdraw_destroy(tx, buffer)

    def _shut_out(self) -> None:
        """Whoever is over and still let in, since a datanode did not answer. One look: jobs begin at any moment."""
        with self._engine.look() as tx:
            alive = {job.job_id for job in tx.jobs_in(JobStep.SET_UP, JobStep.RUNNING, JobStep.ENDED)}
            left = {link.job_id for link in tx.admitted_links()} - alive
        for job_id in left:
            self._verbs.admission.shut_out(job_id)

    # Datanodes

    def _with_datanodes(self) -> None:
        for datanode, listing in self._datanodes.list_all().items():
            up = isinstance(listing, Listing)
            if self.datanodes_up.get(datanode) is not up:
                if isinstance(listing, Listing):
                    logger.info("datanode %s answers", datanode)
                else:
                    logger.warning("datanode %s does not answer: %s", datanode, listing.text)
                self._turned(datanode, up)
            if isinstance(listing, Listing):
                for status in listing.services:
                    self._judge(datanode, status)
                for stray in listing.strays:
                    self._report(datanode, stray)

    def _turned(self, datanode: str, up: bool) -> None:
        """A datanode answers again, or no more: whoever waits for its room is looked at, and bbstat says it."""
        self.datanodes_up[datanode] = up
        try:
            with self._engine.change() as tx:
                self._placement.set_available(datanode, up)
                self._buffers.place(tx)
                for buffer in tx.buffers_in(Step.READY):
                    if any(allocation.datanode == datanode for allocation in tx.allocations_of(buffer.id)):
                        self._say(tx, buffer)
        except Exception:
            # Nothing of it was kept: the next round has to find it new.
            self.datanodes_up.pop(datanode, None)
            raise

    def _judge(self, datanode: str, status: Status) -> None:
        """A service that is on a datanode: is it one that should be there?"""
        with self._engine.look() as tx:
            buffer = tx.buffer_with_sid(status.sid)
            held = buffer is not None and any(a.datanode == datanode for a in tx.allocations_of(buffer.id))
            admitted = {str(link.job_id) for link in tx.admitted_links() if buffer and link.buffer_id == buffer.id}
        if buffer is None:
            self._report(datanode, f"service {status.sid} ({status.name}, uid {status.uid})")
        elif not held and buffer.step is Step.GONE:
            # Its end was recorded, so its data were saved or given up by their owner: this is a left-over.
            logger.warning("datanode %s still has %s, which is gone: freed now", datanode, status.sid)
            self._datanodes.destroy_persistent(datanode, status.sid, discard=True)
        elif held and status.health is not None:
            with self._engine.change() as tx:
                self._buffers.unhealthy(tx, tx.buffer(buffer.id), datanode, status.health)
        elif held and buffer.type is ServiceType.SBB:
            self._hear(datanode, buffer, status)
        for job in set(status.jobs) - admitted:
            if held:
                self._verbs.admission.expel(int(job), datanode, status.sid)

    def _hear(self, datanode: str, seen: Buffer, status: Status) -> None:
        """What a server of an SBB has to say while jobs use it: files that it cannot drain, or data that is gone."""
        troubles = self._troubles.setdefault(seen.id, {})
        before = dict(troubles)
        troubles.pop(datanode, None)
        if status.error and status.phase in (Phase.READY, Phase.SAVE_FAILED):
            troubles[datanode] = f"{datanode}: {status.error}"
        if not troubles:
            self._troubles.pop(seen.id, None)
        lost = status.phase is Phase.SAVE_FAILED and seen.step in (Step.READY, Step.DRAINING)
        if not lost and troubles == before:
            return
        try:
            with self._engine.change() as tx:
                buffer = tx.buffer(seen.id)
                if lost and buffer.step in (Step.READY, Step.DRAINING):
                    self._buffers.lost(tx, buffer, troubles.get(datanode, datanode))
                else:
                    self._say(tx, buffer)
        except Exception:
            # Nothing of it was kept: the next round has to find it new.
            self._troubles[seen.id] = before
            raise

    def _say(self, tx: Transaction, buffer: Buffer) -> None:
        """Tell in bbstat what is wrong with a ready buffer: silent datanodes, and what the others report."""
        silent = [
            f"datanode {allocation.datanode} does not answer, jobs wait for it"
            for allocation in tx.allocations_of(buffer.id)
            if self.datanodes_up.get(allocation.datanode) is False
        ]
        self._buffers.troubled(tx, buffer, "; ".join([*silent, *self._troubles.get(buffer.id, {}).values()]))

    def _report(self, datanode: str, what: str) -> None:
        if (datanode, what) not in self._unknown:
            self._unknown.add((datanode, what))
            logger.error(
                "datanode %s has %s, which this orchestrator does not know: left alone; look at it there; "
                "`ebb release` ends a service",
                datanode,
                what,
            )

    def _purge(self) -> None:
        with self._engine.change() as tx:
            tx.purge(time.time() - KEEP_SECONDS)
