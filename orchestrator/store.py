"""The only SQL. One `Store` a process; every method belongs to a transaction opened with `Store.transaction()`.

Source of the truth for buffers, allocations, jobs and links. Rows of buffers that are gone stay for a while (`purge`),
so that a volume that turns up on a datanode later can still be judged.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine, Row, create_engine, delete, event, func, insert, or_, select, update
from sqlalchemy.exc import SQLAlchemyError

from ebb.errors import EnvironmentFault
from ebb.model import BufferState, Mount, Resources, ServiceType
from ebb.sbb import Sync
from orchestrator.plan import SbbOptions
from orchestrator.records import Allocation, Buffer, Job, JobStep, Link, Step
from orchestrator.schema import allocations, buffers, jobs, links, metadata, writers


class Store:
    """Opens the database and makes missing tables. url: an SQLAlchemy URL.

    Raises EnvironmentFault if the database cannot be opened.
    """

    def __init__(self, url: str) -> None:
        self._engine = _engine(url)
        try:
            metadata.create_all(self._engine)
        except SQLAlchemyError as error:
            raise EnvironmentFault(f"database {self._engine.url!r} cannot be opened: {error}") from error

    @contextmanager
    def transaction(self) -> Iterator[Transaction]:
        """All that happens inside is kept together or not at all."""
        with self._engine.begin() as connection:
            yield Transaction(connection)

    def close(self) -> None:
        """Give back the database's connections."""
        self._engine.dispose()


def _engine(url: str) -> Engine:
    if not url.startswith("sqlite"):
        return create_engine(url, pool_pre_ping=True)
    engine = create_engine(url, connect_args={"timeout": 30, "check_same_thread": False})

    @event.listens_for(engine, "connect")
    def _configure(connection: Any, _record: Any) -> None:
        # WAL: readers never wait. FULL: a step is on disk before it is begun.
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    return engine


class Transaction:
    """Reads and writes inside one transaction."""

    def __init__(self, connection: Connection) -> None:
        self._db = connection

    # Buffers

    def buffer(self, buffer_id: int) -> Buffer:
        """The buffer with that id; it exists."""
        return _buffer(self._db.execute(select(buffers).where(buffers.c.id == buffer_id)).one())

    def known_buffer(self, buffer_id: int) -> Buffer | None:
        """The buffer with that id, if there is one."""
        row = self._db.execute(select(buffers).where(buffers.c.id == buffer_id)).first()
        return _buffer(row) if row else None

    def buffer_named(self, name: str) -> Buffer | None:
        """The live buffer of that name."""
        row = self._db.execute(select(buffers).where(buffers.c.alive_name == name)).first()
        return _buffer(row) if row else None

    def buffer_with_sid(self, sid: str) -> Buffer | None:
        """The buffer, live or gone, that a datanode knows as `sid`."""
        row = self._db.execute(select(buffers).where(buffers.c.sid == sid)).first()
        return _buffer(row) if row else None

    def last_named(self, name: str, uid: int) -> Buffer | None:
        """The youngest buffer of that name and owner, live or gone."""
        query = select(buffers).where(buffers.c.name == name, buffers.c.uid == uid).order_by(buffers.c.id.desc())
        row = self._db.execute(query.limit(1)).first()
        return _buffer(row) if row else None

    def buffers_in(self, *steps: Step) -> list[Buffer]:
        """All buffers in these steps, oldest first."""
        query = select(buffers).where(buffers.c.step.in_([s.value for s in steps])).order_by(buffers.c.id)
        return [_buffer(row) for row in self._db.execute(query)]

    def shown_buffers(self, ended_after: float) -> list[Buffer]:
        """What bbstat shows: all that live or hold something, and what ended lately."""
        query = select(buffers).where(or_(buffers.c.step != Step.GONE.value, buffers.c.end_time > ended_after))
        return [_buffer(row) for row in self._db.execute(query.order_by(buffers.c.id))]

    def add_buffer(
        self,
        *,
        bbid: int,
        type: ServiceType,
        name: str,
        uid: int,
        gid: int,
        user: str,
        scoped: bool,
        now: float,
        each: Resources,
        datanodes: int,
        path: str,
        data_src: str | None,
        data_dst: str | None,
        reason: str,
        sbb: SbbOptions | None = None,
    ) -> Buffer:
        """A new buffer that waits for resources. Its sid counts the buffers that this job has made."""
        made = self._db.execute(select(func.count()).select_from(buffers).where(buffers.c.bbid == bbid)).scalar_one()
        sid = str(bbid) if made == 0 else f"{bbid}-{made + 1}"
        self._db.execute(
            insert(buffers).values(
                sid=sid,
                bbid=bbid,
                type=type.value,
                name=name,
                alive_name=name,
                uid=uid,
                gid=gid,
                user=user,
                step=Step.QUEUED.value,
                state=BufferState.STAGING_IN.value,
                reason=reason,
                scoped=scoped,
                create_time=now,
                end_time=None,
                memory=each.memory,
                cores=each.cores,
                storage=each.storage,
                datanodes=datanodes,
                path=path,
                data_src=data_src,
                data_dst=data_dst,
                destroy_job=None,
                discard=False,
                sync=sbb.sync.value if sbb else None,
                stripe=sbb.stripe if sbb else None,
            )
        )
        return _buffer(self._db.execute(select(buffers).where(buffers.c.sid == sid)).one())

    def set_buffer(self, buffer_id: int, **values: Any) -> Buffer:
        """Change columns of a buffer; step and state by their enums."""
        self._db.execute(update(buffers).where(buffers.c.id == buffer_id).values(**values))
        return self.buffer(buffer_id)

    def writers(self, place: str, file: str | None) -> list[Buffer]:
        """Live buffers that write the dataset at that place, or that file."""
        same = writers.c.place == place if file is None else or_(writers.c.place == place, writers.c.file == file)
        ended = (Step.CLEARING.value, Step.GONE.value)
        query = select(buffers).join(writers, writers.c.buffer_id == buffers.c.id)
        return [_buffer(row) for row in self._db.execute(query.where(same, buffers.c.step.not_in(ended)))]

    def add_writer(self, buffer_id: int, place: str, file: str | None) -> None:
        """Record what a buffer writes; it counts for as long as the buffer lives."""
        self._db.execute(insert(writers).values(buffer_id=buffer_id, place=place, file=file))

    # Allocations

    def allocations(self) -> list[Allocation]:
        """Every share of every datanode that is taken."""
        return [_allocation(row) for row in self._db.execute(select(allocations))]

    def allocations_of(self, buffer_id: int) -> list[Allocation]:
        """A buffer's shares, by datanode."""
        query = select(allocations).where(allocations.c.buffer_id == buffer_id).order_by(allocations.c.datanode)
        return [_allocation(row) for row in self._db.execute(query)]

    def allocate(self, allocation: Allocation) -> None:
        """Take a share."""
        self._db.execute(
            insert(allocations).values(
                buffer_id=allocation.buffer_id,
                datanode=allocation.datanode,
                volume_group=allocation.volume_group,
                memory=allocation.resources.memory,
                cores=allocation.resources.cores,
                storage=allocation.resources.storage,
            )
        )

    def set_mounts(self, buffer_id: int, datanode: str, mounts: Sequence[Mount]) -> None:
        """Record how a datanode serves a buffer."""
        text = json.dumps([mount.to_wire() for mount in mounts])
        self._db.execute(
            update(allocations)
            .where(allocations.c.buffer_id == buffer_id, allocations.c.datanode == datanode)
            .values(mounts=text)
        )

    def free(self, buffer_id: int, datanode: str) -> None:
        """Give a share back; nothing if it is not taken."""
        self._db.execute(
            delete(allocations).where(allocations.c.buffer_id == buffer_id, allocations.c.datanode == datanode)
        )

    # Jobs and links

    def job(self, job_id: int) -> Job | None:
        """What is known of a job."""
        row = self._db.execute(select(jobs).where(jobs.c.job_id == job_id)).first()
        return _job(row) if row else None

    def jobs_in(self, *steps: JobStep) -> list[Job]:
        """All jobs in these steps."""
        return [_job(row) for row in self._db.execute(select(jobs).where(jobs.c.step.in_([s.value for s in steps])))]

    def put_job(self, job: Job) -> None:
        """Record a job anew, its links forgotten: a requeued job begins again at setup."""
        self._db.execute(delete(links).where(links.c.job_id == job.job_id))
        self._db.execute(delete(jobs).where(jobs.c.job_id == job.job_id))
        self._db.execute(
            insert(jobs).values(
                job_id=job.job_id,
                uid=job.uid,
                gid=job.gid,
                user=job.user,
                step=job.step.value,
                ran=job.ran,
                changed=job.changed,
                request=job.request,
            )
        )

    def set_job(self, job_id: int, **values: Any) -> None:
        """Change columns of a job."""
        self._db.execute(update(jobs).where(jobs.c.job_id == job_id).values(**values))

    def add_link(self, link: Link) -> None:
        """Record what a job does with a buffer."""
        self._db.execute(
            insert(links).values(
                job_id=link.job_id,
                buffer_id=link.buffer_id,
                creates=link.creates,
                uses=link.uses,
                destroys=link.destroys,
                admitted=link.admitted,
            )
        )

    def links_of_job(self, job_id: int) -> list[Link]:
        """What a job does with which buffers."""
        query = select(links).where(links.c.job_id == job_id).order_by(links.c.buffer_id)
        return [_link(row) for row in self._db.execute(query)]

    def users_of(self, buffer_id: int) -> list[tuple[Link, Job]]:
        """Jobs not yet torn down that use a buffer, in order of their ids."""
        query = (
            select(links, jobs)
            .join(jobs, jobs.c.job_id == links.c.job_id)
            .where(links.c.buffer_id == buffer_id, links.c.uses.is_(True), jobs.c.step != JobStep.TORN_DOWN.value)
            .order_by(jobs.c.job_id)
        )
        return [(_link(row), _job(row)) for row in self._db.execute(query)]

    def admitted_links(self) -> list[Link]:
        """Links whose job's nodes are still let in."""
        return [_link(row) for row in self._db.execute(select(links).where(links.c.admitted.is_(True)))]

    def set_admitted(self, job_id: int, buffer_id: int, admitted: bool) -> None:
        """Record that a job's nodes are let in, or shut out."""
        self._db.execute(
            update(links).where(links.c.job_id == job_id, links.c.buffer_id == buffer_id).values(admitted=admitted)
        )

    def purge(self, before: float) -> int:
        """Forget buffers gone and jobs torn down before that time; the number of buffers forgotten."""
        old_jobs = select(jobs.c.job_id).where(jobs.c.step == JobStep.TORN_DOWN.value, jobs.c.changed < before)
        self._db.execute(delete(links).where(links.c.job_id.in_(old_jobs)))
        self._db.execute(delete(jobs).where(jobs.c.step == JobStep.TORN_DOWN.value, jobs.c.changed < before))
        linked = select(links.c.buffer_id)
        old = (buffers.c.step == Step.GONE.value, buffers.c.end_time < before, buffers.c.id.not_in(linked))
        self._db.execute(delete(writers).where(writers.c.buffer_id.in_(select(buffers.c.id).where(*old))))
        done = self._db.execute(delete(buffers).where(*old))
        return int(done.rowcount)


def _resources(row: Row[Any]) -> Resources:
    return Resources(row.memory, row.cores, row.storage)


def _buffer(row: Row[Any]) -> Buffer:
    return Buffer(
        id=row.id,
        sid=row.sid,
        bbid=row.bbid,
        type=ServiceType(row.type),
        name=row.name,
        uid=row.uid,
        gid=row.gid,
        user=row.user,
        step=Step(row.step),
        state=BufferState(row.state),
        reason=row.reason,
        scoped=row.scoped,
        create_time=row.create_time,
        end_time=row.end_time,
        each=_resources(row),
        datanodes=row.datanodes,
        path=row.path,
        data_src=row.data_src,
        data_dst=row.data_dst,
        destroy_job=row.destroy_job,
        discard=row.discard,
        sbb=SbbOptions(Sync(row.sync), row.stripe) if row.sync else None,
    )


def _allocation(row: Row[Any]) -> Allocation:
    mounts = tuple(Mount.from_wire(each) for each in json.loads(row.mounts)) if row.mounts else ()
    return Allocation(row.buffer_id, row.datanode, row.volume_group, _resources(row), mounts)


def _job(row: Row[Any]) -> Job:
    return Job(row.job_id, row.uid, row.gid, row.user, JobStep(row.step), row.ran, row.changed, row.request)


def _link(row: Row[Any]) -> Link:
    return Link(row.job_id, row.buffer_id, row.creates, row.uses, row.destroys, row.admitted)


__all__: Sequence[str] = ("Store", "Transaction")
