"""The verbs that Slurm's hooks call: setup, data_in, pre_run, post_run, data_out, job_teardown.

Each is idempotent by job id: slurmctld repeats them after a restart, a requeue or a release of a held job.
"""

from __future__ import annotations

import json
import logging
import pwd
import time
from collections.abc import Mapping
from typing import Any

from ebb.errors import Conflict, EnvironmentFault, NotAllowed, NotFound, UserError
from ebb.model import BufferState, Directive
from orchestrator import writers
from orchestrator.admission import Admission, known, where
from orchestrator.buffers import Buffers
from orchestrator.datanodes import Datanodes
from orchestrator.engine import Engine
from orchestrator.forsaken import Forsaken
from orchestrator.hooks import Call
from orchestrator.jobfiles import JobFiles
from orchestrator.placement import Placement
from orchestrator.plan import Want, needs_of, wants_of
from orchestrator.reach import Reach
from orchestrator.records import Buffer, Job, JobStep, Link, Step
from orchestrator.slurm import Slurm
from orchestrator.store import Transaction
from orchestrator.writers import Claim

Reply = Mapping[str, Any]
READY: Reply = {"state": "ready"}
_USABLE = (Step.QUEUED, Step.CREATING, Step.READY)

logger = logging.getLogger(__name__)


class JobVerbs:
    """What happens to buffers as a job goes through Slurm. Methods run in a thread of the hooks' socket."""

    def __init__(
        self,
        engine: Engine,
        buffers: Buffers,
        placement: Placement,
        datanodes: Datanodes,
        slurm: Slurm,
        files: JobFiles,
    ) -> None:
        self._engine, self._buffers, self._placement = engine, buffers, placement
        self._files = files
        self._reach = Reach(datanodes)
        self.admission = Admission(engine, buffers, datanodes, slurm)
        self.forsaken = Forsaken(slurm)

    # Before the job runs

    def setup(self, call: Call) -> Reply:
        """Record what the job wants and reserve what fits, in one transaction: all of it or nothing.

        Raises UserError for what cannot be: the job is held and the text is its Reason.
        """
        job_id = call.integer("job_id", 1)
        job = _job(job_id, call.integer("uid"), call.integer("gid"), call.body.get("directives"))
        wants = wants_of(Directive.from_wire(item) for item in call.body["directives"])
        claims = writers.claims_of(wants, job.uid, job.gid)
        self.forsaken.heard(job_id)
        with self._engine.change() as tx:
            known = tx.job(job_id)
            if known is not None and known.step is not JobStep.TORN_DOWN and self._still_good(tx, known, job):
                return READY
            self._files.forget(job_id)
            self._reach.forget(job_id)
            tx.put_job(job)
            new = [buffer for want in wants if (buffer := self._take(tx, job, want, claims)) is not None]
            self._placement.refuse_impossible((buffer.each, buffer.datanodes) for buffer in new)
            self._placement.enqueue(new)
            self._buffers.place(tx)
        logger.info("job %d of %s set up: %s", job_id, job.user, ", ".join(want.name for want in wants))
        return READY

    def _still_good(self, tx: Transaction, known: Job, job: Job) -> bool:
        linked = [tx.buffer(link.buffer_id) for link in tx.links_of_job(known.job_id) if not link.destroys_alone]
        same = (known.request, known.uid) == (job.request, job.uid)
        return same and all(buffer.step in _USABLE for buffer in linked)

    def _take(self, tx: Transaction, job: Job, want: Want, claims: Mapping[str, Claim]) -> Buffer | None:
        """Link the job to the buffer it wants; a buffer just made is returned, to be placed."""
        buffer, new = tx.buffer_named(want.name), None
        if want.create is not None:
            if buffer is None:
                needs = needs_of(want.create, self._placement.flavors)
                buffer = new = self._buffers.create(tx, job, want.create, want.scoped, needs)
                if want.name in claims:
                    writers.take(tx, buffer, claims[want.name])
            elif (buffer.bbid, buffer.uid) != (job.job_id, job.uid) or buffer.step not in _USABLE:
                raise Conflict(
                    f"create_persistent Name={want.name}: a buffer of this name exists: {buffer.told()}; "
                    "take another name or destroy that buffer first"
                )
        elif buffer is None and want.destroys_alone and (ended := _ended_already(tx, job, want)) is not None:
            buffer = ended
        elif buffer is None:
            raise NotFound(
                f"{_verb(want)} Name={want.name}: no such buffer; `scontrol show bbstat` lists those that "
                "there are. Cancel this job, and submit it again once the buffer is created"
            )
        else:
            _check_allowed(buffer, job, want)
        tx.add_link(
            Link(
                job.job_id,
                buffer.id,
                want.create is not None,
                want.use or want.scoped,
                want.destroy or want.scoped,
                False,
            )
        )
        if want.destroys_alone:
            self._buffers.destroy(tx, buffer, job.job_id, want.discard)
        return new

    def data_in(self, call: Call) -> Reply:
        """Ready once the buffers that the job creates or uses are, and those it only destroys are gone.

        Those it uses must be served at this moment: while a datanode does not answer, the job waits (`Reach`).
        """
        job_id = call.integer("job_id", 1)

        def check(tx: Transaction) -> list[tuple[str, str]] | None:
            job = known(tx, job_id)
            waiting = [reason for link in tx.links_of_job(job_id) if (reason := _stage_in(tx, link))]
            if waiting:
                return None
            used = [link for link in tx.links_of_job(job_id) if link.uses]
            self._files.write(job, [(tx.buffer(link.buffer_id), tx.allocations_of(link.buffer_id)) for link in used])
            return where(tx, used)

        self.forsaken.heard(job_id)
        parts = self._engine.wait_for(check, call.wait)
        if parts is None:
            return self._waits(job_id)
        missing = self._reach.missing(job_id, parts)
        return READY if missing is None else {"state": "wait", "reason": missing}

    def _waits(self, job_id: int) -> Reply:
        with self._engine.look() as tx:
            buffers = [tx.buffer(link.buffer_id) for link in tx.links_of_job(job_id)]
        return {"state": "wait", "reason": "; ".join(b.reason for b in buffers if b.step is not Step.READY)}

    # While it runs

    def pre_run(self, call: Call) -> Reply:
        """Let the job's nodes in to the buffers it uses; recorded first, so that they are surely shut out again."""
        job_id = call.integer("job_id", 1)
        self.admission.let_in(job_id, call.body.get("nodes"))
        return READY

    def post_run(self, call: Call) -> Reply:
        """Shut the job's nodes out. A datanode that does not answer is asked again by the reconciler."""
        job_id = call.integer("job_id", 1)
        with self._engine.change() as tx:
            job = tx.job(job_id)
            if job is None or job.step is JobStep.TORN_DOWN:
                return READY
            tx.set_job(job_id, step=JobStep.ENDED.value, changed=time.time())
        self.admission.shut_out(job_id)
        with self._engine.change() as tx:
            self._buffers.drain_all(tx)
        return READY

    # After it ran

    def data_out(self, call: Call) -> Reply:
        """Ready once the buffers that end with this job are saved and gone."""
        job_id = call.integer("job_id", 1)
        with self._engine.change() as tx:
            job = tx.job(job_id)
            if job is None or job.step is JobStep.TORN_DOWN:
                return READY
            if job.step is not JobStep.ENDED:
                tx.set_job(job_id, step=JobStep.ENDED.value, changed=time.time())
            self._end_with_job(tx, job)

        def check(tx: Transaction) -> Reply | None:
            ending = [tx.buffer(link.buffer_id) for link in tx.links_of_job(job_id) if link.destroys]
            for buffer in ending:
                if buffer.step is Step.SAVE_FAILED:
                    raise EnvironmentFault(f"buffer {buffer.name}: {buffer.reason}")
            return None if any(buffer.step is not Step.GONE for buffer in ending) else READY

        return self._engine.wait_for(check, call.wait) or self._waits(job_id)

    def job_teardown(self, call: Call) -> Reply:
        """Forget the job. Buffers that were made for this job alone end; no other is touched.

        Data that the job may have written are saved first where the buffer has a data_dst, also when Slurm is in
        a hurry: it says so as well when a hook failed or slurmctld was restarted, and that is nobody's word to drop.
        """
        job_id = call.integer("job_id", 1)
        self.tear_down(job_id)
        return READY

    def tear_down(self, job_id: int, seen: Job | None = None) -> bool:
        """`job_teardown`, also for jobs that Slurm forgot; whether there was anything to do.

        seen: what the job was when it was judged. Nothing is done if it is another by now: Slurm may have begun anew.
        """
        with self._engine.change() as tx:
            job = tx.job(job_id)
            if seen is not None and job != seen:
                return False
            self._files.forget(job_id)
            self._reach.forget(job_id)
            self.forsaken.forget(job_id)
            if job is None or job.step is JobStep.TORN_DOWN:
                return False
            tx.set_job(job_id, step=JobStep.TORN_DOWN.value, changed=time.time())
            self._end_with_job(tx, job)
            self._buffers.drain_all(tx)
        logger.info("job %d torn down", job_id)
        self.admission.shut_out(job_id)
        return True

    def _end_with_job(self, tx: Transaction, job: Job) -> None:
        """Begin the end of the buffers that end with this job."""
        for link in tx.links_of_job(job.job_id):
            buffer = tx.buffer(link.buffer_id)
            if not link.destroys or link.destroys_alone or buffer.destroy_job == job.job_id:
                continue
            if job.ran:
                self._buffers.destroy(tx, buffer, job.job_id, self._discards(job, buffer))
            elif link.creates:
                self._buffers.destroy(tx, buffer, job.job_id, discard=True)

    def _discards(self, job: Job, buffer: Buffer) -> bool:
        wants = wants_of(Directive.from_wire(item) for item in json.loads(job.request))
        return any(want.discard for want in wants if want.name == buffer.name)


def _job(job_id: int, uid: int, gid: int, directives: object) -> Job:
    if not isinstance(directives, list):
        raise UserError(f"`setup` of job {job_id} came without its directives")
    try:
        user = pwd.getpwuid(uid).pw_name
    except KeyError:
        raise UserError(f"job {job_id}: uid {uid} is not known on the controller") from None
    return Job(job_id, uid, gid, user, JobStep.SET_UP, False, time.time(), json.dumps(directives, sort_keys=True))


def _ended_already(tx: Transaction, job: Job, want: Want) -> Buffer | None:
    """A buffer whose end is no error to ask for again: this job ended it, or its creation came to nothing."""
    last = tx.last_named(want.name, job.uid)
    if last is None or not (last.destroy_job == job.job_id or last.state is BufferState.TEARDOWN):
        return None
    return last


def _verb(want: Want) -> str:
    return "use_persistent" if want.use else "destroy_persistent"


def _check_allowed(buffer: Buffer, job: Job, want: Want) -> None:
    """Raise if the job may not do with an existing buffer what it wants."""
    asked = f"{_verb(want)} Name={want.name}"
    if buffer.uid != job.uid:
        raise NotAllowed(f"{asked}: the buffer belongs to {buffer.user}; only its owner may use or destroy it")
    if want.use and buffer.step not in _USABLE:
        raise Conflict(f"{asked}: the buffer {buffer.told()} takes no new jobs: {buffer.reason}")
    if want.destroy and buffer.step in (Step.DRAINING, Step.SAVING) and buffer.destroy_job != job.job_id:
        by = f"job {buffer.destroy_job}" if buffer.destroy_job else "the ebb tool"
        raise Conflict(f"{asked}: {by} is destroying it already: {buffer.reason}")


def _stage_in(tx: Transaction, link: Link) -> str | None:
    """What the job still waits for at this buffer, None if nothing. Raises if it waits in vain."""
    buffer = tx.buffer(link.buffer_id)
    if link.destroys_alone:
        if buffer.step is Step.SAVE_FAILED:
            raise EnvironmentFault(f"buffer {buffer.name}: {buffer.reason}")
        return None if buffer.step is Step.GONE else buffer.reason
    if buffer.step in (Step.QUEUED, Step.CREATING):
        return buffer.reason
    if buffer.step is Step.READY or (buffer.step is Step.DRAINING and link.uses):
        return None
    raise Conflict(f"buffer {buffer.name}: {buffer.reason}")
