"""The life of a buffer: its steps, who may change them, and what they free. Decisions only; the work is in workers.py.

Every step is recorded before its work begins, so a restart finds in the store what is left to do.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from ebb.model import BufferState, Directive, ServiceType
from orchestrator.placement import Placement
from orchestrator.plan import Needs, path_of, sbb_options_of
from orchestrator.records import STATE_OF_STEP, Buffer, Job, JobStep, Step
from orchestrator.store import Transaction

RELEASED_REASON = "Resources released"
DRAINED_REASON = "Stage out completed"

logger = logging.getLogger(__name__)


class Buffers:
    """Moves buffers from step to step. All methods want the engine's lock held and its transaction.

    start_work: set by the workers; called with a buffer's id whenever there is work on datanodes for it.
    """

    def __init__(self, placement: Placement) -> None:
        self._placement = placement
        self.start_work: Callable[[int], None] = lambda _buffer_id: None

    def move(self, tx: Transaction, buffer: Buffer, step: Step, reason: str, **more: object) -> Buffer:
        """Record a step with its reason; the log line of every transition comes from here."""
        state = STATE_OF_STEP.get(step, buffer.state)
        after = tx.set_buffer(buffer.id, **{"step": step.value, "state": state.value, "reason": reason, **more})
        if (buffer.step, buffer.state) != (after.step, after.state):
            logger.info(
                "buffer %s %s uid %d: %s -> %s (%s): %s",
                after.sid,
                after.name,
                after.uid,
                buffer.step,
                after.step,
                after.state,
                reason,
            )
        if after.step.working:
            self.start_work(after.id)
        return after

    def create(self, tx: Transaction, job: Job, directive: Directive, scoped: bool, needs: Needs) -> Buffer:
        """A new buffer for `job`; it waits for `place`."""
        args = directive.args
        buffer = tx.add_buffer(
            bbid=job.job_id,
            type=directive.type,
            name=directive.name,
            uid=job.uid,
            gid=job.gid,
            user=job.user,
            scoped=scoped,
            now=time.time(),
            each=needs.each,
            datanodes=needs.datanodes,
            path=path_of(directive),
            data_src=args.get("data_src"),
            data_dst=args.get("data_dst"),
            reason=f"Waiting for {directive.type} Resources",
            sbb=sbb_options_of(directive),
        )
        logger.info(
            "buffer %s %s uid %d: new, %s, %d bytes of storage on each of %d datanodes",
            buffer.sid,
            buffer.name,
            buffer.uid,
            buffer.type,
            buffer.each.storage,
            buffer.datanodes,
        )
        return buffer

    def place(self, tx: Transaction) -> None:
        """Give resources to whoever's turn it is; say to the others what they wait for."""
        for placed in self._placement.place():
            for allocation in placed.allocations:
                tx.allocate(allocation)
            names = ", ".join(allocation.datanode for allocation in placed.allocations)
            self.move(tx, tx.buffer(placed.buffer_id), Step.CREATING, f"Creating on {names}")
        for buffer in tx.buffers_in(Step.QUEUED):
            reason = f"Waiting for {buffer.type} Resources - {self._placement.why_waiting(buffer.id)}"
            if reason != buffer.reason:
                self.move(tx, buffer, Step.QUEUED, reason)

    def created(self, tx: Transaction, buffer: Buffer) -> None:
        """All its datanodes report ready."""
        self.move(tx, buffer, Step.READY, ready_reason(buffer))

    def lost(self, tx: Transaction, buffer: Buffer, why: str) -> None:
        """A datanode says that data of a ready buffer is gone: no job may use it any more, and its owner must know."""
        advice = "destroy_persistent saves what the other datanodes hold, with Discard=yes it ends the buffer"
        self.move(tx, buffer, Step.SAVE_FAILED, f"Data lost - {why}; {advice}")

    def troubled(self, tx: Transaction, buffer: Buffer, trouble: str) -> None:
        """What datanodes have to say of a ready buffer that works on: a file cannot be drained, say. Empty: nothing."""
        reason = ready_reason(buffer) + (f" - {trouble}" if trouble else "")
        if buffer.step is Step.READY and buffer.reason != reason:
            self.move(tx, buffer, Step.READY, reason)

    def failed(self, tx: Transaction, buffer: Buffer, why: str) -> None:
        """Its creation failed: the name is free at once, what was taken is freed by a worker."""
        self.move(tx, buffer, Step.CLEARING, f"Failed to allocate resources - {why}", alive_name=None)

    def save_failed(self, tx: Transaction, buffer: Buffer, why: str) -> None:
        """Its data could not be saved: they stay on the datanode until the owner asks again."""
        advice = "the data are kept; run destroy_persistent again when this is mended, or with Discard=yes to drop them"
        self.move(tx, buffer, Step.SAVE_FAILED, f"Stage out failed - {why}; {advice}")

    def unhealthy(self, tx: Transaction, buffer: Buffer, datanode: str, why: str) -> None:
        """Its health check failed: no job uses it from now on, its data stay until the owner ends it.

        Nothing happens to a buffer that is not ready: its end was asked for already, or it has not begun.
        """
        if buffer.step is Step.READY:
            end = f"saves them to {buffer.data_dst}" if buffer.data_dst else "drops them, for it has no data_dst"
            advice = f"no job can use it; its data are kept until destroy_persistent, which {end}"
            self.move(tx, buffer, Step.UNHEALTHY, f"{datanode}: {why}; {advice}")

    def released(self, tx: Transaction, buffer: Buffer, datanode: str) -> None:
        """One datanode has nothing of it any more; others may move up."""
        tx.free(buffer.id, datanode)
        self._placement.free(buffer.id, datanode)

    def gone(self, tx: Transaction, buffer: Buffer) -> None:
        """No datanode has anything of it any more."""
        ended: dict[str, object] = {"alive_name": None, "end_time": time.time()}
        if buffer.step is Step.CLEARING and not buffer.destroy_job:
            self.move(tx, buffer, Step.GONE, buffer.reason, **ended)
        else:
            drained = buffer.type is ServiceType.SBB and buffer.step is Step.SAVING and not buffer.discard
            reason = DRAINED_REASON if drained else RELEASED_REASON
            self.move(tx, buffer, Step.GONE, reason, **{**ended, "state": BufferState.STAGED_OUT.value})
        self.place(tx)

    def destroy(self, tx: Transaction, buffer: Buffer, job_id: int, discard: bool) -> Buffer:
        """Begin its end on the word of `job_id` (0: the `ebb` tool). Asking again tries again what had failed.

        Before it was ready there is nothing to save. Jobs that use it are waited for.
        """
        asked = {"destroy_job": job_id, "discard": discard}
        if buffer.step is Step.QUEUED:
            self._placement.withdraw(buffer.id)
            after = self.move(
                tx, buffer, Step.CLEARING, "Withdrawn before it was given resources", alive_name=None, **asked
            )
        elif buffer.step is Step.CREATING:
            after = self.move(tx, buffer, Step.CLEARING, "Withdrawn while it was created", alive_name=None, **asked)
        elif buffer.step in (Step.READY, Step.DRAINING, Step.UNHEALTHY):
            after = self.move(tx, buffer, Step.DRAINING, "Waiting for the jobs that use it", **asked)
            self.drain(tx, after)
            after = tx.buffer(buffer.id)
        elif buffer.step is Step.SAVE_FAILED:
            after = self._begin_saving(tx, tx.set_buffer(buffer.id, **asked))
        else:
            after = buffer
        return after

    def withdraw_destroy(self, tx: Transaction, buffer: Buffer) -> None:
        """The job that asked for its end was cancelled while it waited: it lives on."""
        if buffer.step is Step.DRAINING:
            self.move(tx, buffer, Step.READY, ready_reason(buffer), destroy_job=None, discard=False)

    def drain(self, tx: Transaction, buffer: Buffer) -> None:
        """A buffer whose end was asked for: begin it if no job uses it any more, else say who does."""
        users = [
            job
            for link, job in tx.users_of(buffer.id)
            if not (job.job_id == buffer.destroy_job and job.step is JobStep.ENDED)
        ]
        if not users:
            self._begin_saving(tx, buffer)
            return
        named = ", ".join(str(job.job_id) for job in users[:5]) + (", ..." if len(users) > 5 else "")
        reason = f"Waiting for {buffer.type} inactivity - used by job{'s' if len(users) > 1 else ''} {named}"
        if reason != buffer.reason:
            self.move(tx, buffer, Step.DRAINING, reason)

    def drain_all(self, tx: Transaction) -> None:
        """Look again at every buffer that waits for its users."""
        for buffer in tx.buffers_in(Step.DRAINING):
            self.drain(tx, buffer)

    def _begin_saving(self, tx: Transaction, buffer: Buffer) -> Buffer:
        saves = buffer.saves and not buffer.discard
        to = buffer.data_dst or buffer.path
        return self.move(tx, buffer, Step.SAVING, f"Stage out to {to}" if saves else "Releasing resources")


def ready_reason(buffer: Buffer) -> str:
    """What bbstat says of a buffer that jobs may use. Texts: *contract*."""
    if buffer.type is ServiceType.SBB:
        return f"SBB running on {buffer.datanodes} servers"
    return "Global Bunch of Flash ready"
