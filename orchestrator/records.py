"""What the store keeps, as frozen dataclasses: a buffer, an allocation, a job, and a job's link to a buffer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from ebb.model import BufferState, Mount, Resources, ServiceType
from orchestrator.plan import SbbOptions


class Step(StrEnum):
    """How far the orchestrator has brought a buffer; recorded before the work of the step begins.

    QUEUED -> CREATING -> READY -> DRAINING -> SAVING -> GONE. CLEARING frees what a failed or withdrawn creation left;
    SAVE_FAILED keeps the data until the owner asks again, and so does UNHEALTHY, which is what a buffer becomes that
    was ready and whose health check failed.
    """

    QUEUED = "queued"
    CREATING = "creating"
    READY = "ready"
    DRAINING = "draining"
    SAVING = "saving"
    SAVE_FAILED = "save-failed"
    UNHEALTHY = "unhealthy"
    CLEARING = "clearing"
    GONE = "gone"

    @property
    def working(self) -> bool:
        """True while a worker has datanodes to talk to; a restart of the orchestrator starts it again."""
        return self in (Step.CREATING, Step.SAVING, Step.CLEARING)


STATE_OF_STEP = {
    Step.QUEUED: BufferState.STAGING_IN,
    Step.CREATING: BufferState.STAGING_IN,
    Step.READY: BufferState.STAGED_IN,
    Step.DRAINING: BufferState.STAGING_OUT,
    Step.SAVING: BufferState.STAGING_OUT,
    Step.SAVE_FAILED: BufferState.TEARDOWN,
    Step.UNHEALTHY: BufferState.TEARDOWN,
    Step.CLEARING: BufferState.TEARDOWN,
}


@dataclass(frozen=True, slots=True)
class Buffer:
    """One buffer. `each`: what it takes on each of its `datanodes` datanodes. Times are seconds since the epoch.
    path: where jobs see it; of an SBB its targets with `:` between.

    sid: its name on datanodes; bbid: the job that created it. scoped: ends with that job.
    destroy_job: who asked for its end (0: an operator or the owner through `ebb`), None: nobody.
    """

    id: int
    sid: str
    bbid: int
    type: ServiceType
    name: str
    uid: int
    gid: int
    user: str
    step: Step
    state: BufferState
    reason: str
    scoped: bool
    create_time: float
    end_time: float | None
    each: Resources
    datanodes: int
    path: str
    data_src: str | None
    data_dst: str | None
    destroy_job: int | None
    discard: bool
    sbb: SbbOptions | None = None

    @property
    def saves(self) -> bool:
        """Whether its end has data to save, unless they are discarded."""
        return self.data_dst is not None or self.type is ServiceType.SBB

    @property
    def total(self) -> Resources:
        """What it takes over all its datanodes."""
        return self.each.times(self.datanodes)

    def told(self) -> str:
        """How messages name it."""
        return f"{self.name} (bbid {self.bbid}, of {self.user}, {self.state})"


@dataclass(frozen=True, slots=True)
class Allocation:
    """A buffer's share of one datanode. mounts: how jobs reach it there, once it is ready."""

    buffer_id: int
    datanode: str
    volume_group: str | None
    resources: Resources
    mounts: tuple[Mount, ...] = ()


class JobStep(StrEnum):
    """What Slurm last told of a job."""

    SET_UP = "set-up"
    RUNNING = "running"
    ENDED = "ended"
    TORN_DOWN = "torn-down"


@dataclass(frozen=True, slots=True)
class Job:
    """A job that asked for buffers. ran: it got as far as pre_run, so its buffers may hold its data."""

    job_id: int
    uid: int
    gid: int
    user: str
    step: JobStep
    ran: bool
    changed: float
    request: str


@dataclass(frozen=True, slots=True)
class Link:
    """What a job does with a buffer. admitted: its nodes were let in and not yet shut out."""

    job_id: int
    buffer_id: int
    creates: bool
    uses: bool
    destroys: bool
    admitted: bool

    @property
    def destroys_alone(self) -> bool:
        """The buffer's end is this job's stage-in; otherwise its stage-out."""
        return self.destroys and not self.uses and not self.creates
