"""The work on datanodes: one thread a buffer carries out its step by asking the datanodes until they have done it.

Every question to a datanode may be asked again, so a worker that was cut off (orchestrator killed, datanode
restarted) begins anew and ends the same.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

from ebb import log
from ebb.errors import EbbError, EnvironmentFault, NotFound
from ebb.layout import LINEAR
from ebb.model import Backend, Phase, Progress, ServiceSpec, ServiceType, Status
from ebb.objectstore import names_objects
from ebb.sbb import Peer, SbbSpec
from ebb.sizes import format_human
from orchestrator.buffers import Buffers
from orchestrator.datanodes import Datanodes
from orchestrator.engine import Engine
from orchestrator.moving import Move, Moving
from orchestrator.placement import Placement
from orchestrator.records import Allocation, Buffer, Step

THREADS = 64
# Seconds a question to dnd may wait for something new; short, so that a withdrawal is seen soon.
POLL_SECONDS = 2
# How long a creation waits for a datanode that does not answer, before it is given up.
CREATE_PATIENCE_SECONDS = 90.0
BACKOFF_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)

logger = logging.getLogger(__name__)


class _StepChangedError(Exception):
    """The buffer has moved to another step while the worker was at the old one."""


class Workers:
    """Runs at most one worker for each buffer. Made once by the server."""

    def __init__(self, engine: Engine, datanodes: Datanodes, buffers: Buffers, placement: Placement) -> None:
        self._engine, self._datanodes = engine, datanodes
        self._buffers, self._placement = buffers, placement
        self._pool = ThreadPoolExecutor(THREADS, thread_name_prefix="worker")
        self._running: set[int] = set()
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self.moving = Moving()
        buffers.start_work = self.start

    def start(self, buffer_id: int) -> None:
        """Called (under the engine's lock) when a buffer's step has work; nothing if its worker runs already."""
        with self._lock:
            if buffer_id in self._running or self._stop.is_set():
                return
            self._running.add(buffer_id)
        cause = log.current_request_id()
        self._pool.submit(self._run, buffer_id, log.new_request_id("work") if cause == "-" else cause)

    def stop(self) -> None:
        """End all workers; the store has what is left to do."""
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, buffer_id: int, request_id: str) -> None:
        with log.request(request_id):
            buffer: Buffer | None = None
            attempt = 0
            while not self._stop.is_set():
                try:
                    buffer = self._next(buffer_id)
                    if buffer is None:
                        return
                    self._carry_out(buffer)
                    attempt = 0
                except _StepChangedError:
                    attempt = 0
                except Exception:
                    # Also when the database is away: whoever else would begin this work believes that it is under way.
                    what = f"{buffer.sid}: {buffer.step}" if buffer else f"number {buffer_id}: its work"
                    logger.exception("buffer %s goes on in a moment", what)
                    self._pause(attempt)
                    attempt += 1

    def _next(self, buffer_id: int) -> Buffer | None:
        """The buffer if its step has work, else None and the worker is no more: decided under one lock.

        A buffer that is not there is one whose creation was not kept: the work was begun before the database refused.
        """
        ended = False
        try:
            with self._engine.look() as tx:
                buffer = tx.known_buffer(buffer_id)
                if buffer is not None and buffer.step.working:
                    return buffer
                with self._lock:
                    self._running.discard(buffer_id)
                ended = True
        except Exception:
            # Only the end of the look failed: another worker may be at the buffer already, so this one stays away.
            if not ended:
                raise
        return None

    def _carry_out(self, buffer: Buffer) -> None:
        with self._engine.look() as tx:
            allocations = tx.allocations_of(buffer.id)
        logger.info(
            "buffer %s %s: %s on %s",
            buffer.sid,
            buffer.name,
            buffer.step,
            ", ".join(a.datanode for a in allocations) or "no datanode",
        )
        if buffer.step is Step.CREATING:
            self._create(buffer, allocations)
        else:
            nothing_to_save = not buffer.saves or buffer.step is Step.CLEARING
            self._destroy(buffer, allocations, discard=buffer.discard or nothing_to_save)

    # Creating

    def _create(self, buffer: Buffer, allocations: list[Allocation]) -> None:
        waited = 0.0
        statuses: dict[str, Status] = {}
        for index, allocation in enumerate(allocations):
            spec = self._spec(buffer, allocation, index)
            while allocation.datanode not in statuses:
                self._same_step(buffer)
                try:
                    statuses[allocation.datanode] = self._datanodes.create_persistent(allocation.datanode, spec)
                except EnvironmentFault as error:
                    if waited >= CREATE_PATIENCE_SECONDS:
                        self._fail(buffer, f"{allocation.datanode}: {error.text}")
                        return
                    self._say(buffer, f"Waiting for datanode {allocation.datanode} - {error.text}")
                    waited += self._pause(1)
                except EbbError as error:
                    self._fail(buffer, f"{allocation.datanode}: {error.text}")
                    return
        for datanode in statuses:
            status = self._settled(buffer, datanode, statuses[datanode], "Stage-in")
            if status.phase is not Phase.READY:
                self._fail(buffer, f"{datanode}: {status.error or status.phase}")
                return
            statuses[datanode] = status
        if buffer.type is ServiceType.SBB and not self._introduce(buffer, statuses):
            return
        with self._engine.change() as tx:
            now = tx.buffer(buffer.id)
            if now.step is Step.CREATING:
                for datanode, status in statuses.items():
                    tx.set_mounts(buffer.id, datanode, status.mounts)
                self._buffers.created(tx, now)

    def _introduce(self, buffer: Buffer, statuses: Mapping[str, Status]) -> bool:
        """Tell each server of an SBB where all are, now that all are there. False: the creation failed."""
        peers = [Peer(mount.address, mount.port) for status in statuses.values() if (mount := status.mount)]
        for datanode in statuses:
            try:
                self._datanodes.peers(datanode, buffer.sid, peers)
            except EnvironmentFault:
                raise  # it did not answer: the whole step is done again
            except EbbError as error:
                self._fail(buffer, f"{datanode}: {error.text}")
                return False
        return True

    def _spec(self, buffer: Buffer, allocation: Allocation, index: int) -> ServiceSpec:
        name = allocation.volume_group or ""
        group = self._placement.volume_group(allocation.datanode, name) if name else None
        return ServiceSpec(
            sid=buffer.sid,
            bbid=buffer.bbid,
            type=buffer.type,
            name=buffer.name,
            user=buffer.user,
            uid=buffer.uid,
            gid=buffer.gid,
            storage_size=buffer.each.storage,
            backend=group.backend if group else Backend.FILE,
            volume_group=name,
            path=buffer.path,
            data_src=buffer.data_src,
            data_dst=buffer.data_dst,
            object_store=self._placement.site.object_store if self._on_objects(buffer) else None,
            sbb=_sbb_part(buffer, index),
            layout=group.layout if group else LINEAR,
        )

    def _on_objects(self, buffer: Buffer) -> bool:
        return names_objects(buffer.data_src) or names_objects(buffer.data_dst)

    def _fail(self, buffer: Buffer, why: str) -> None:
        with self._engine.change() as tx:
            now = tx.buffer(buffer.id)
            if now.step is Step.CREATING:
                self._buffers.failed(tx, now, why)

    # Destroying

    def _destroy(self, buffer: Buffer, allocations: list[Allocation], discard: bool) -> None:
        if buffer.type is ServiceType.SBB and not discard:
            # Its servers need each other until the last of them has drained: none goes before.
            failures, discard = self._drain(buffer, allocations), True
        else:
            failures = []
        if not failures:
            failures = [why for a in allocations if (why := self._destroy_on(buffer, a, discard)) is not None]
        with self._engine.change() as tx:
            now = tx.buffer(buffer.id)
            if now.step is not buffer.step:
                return
            if failures:
                self._buffers.save_failed(tx, now, "; ".join(failures))
            else:
                self._buffers.gone(tx, now)

    def _drain(self, buffer: Buffer, allocations: list[Allocation]) -> list[str]:
        """Have all servers of an SBB write what they hold to its targets, at the same time; why some could not."""
        request_id = log.current_request_id()

        def drain(allocation: Allocation) -> str | None:
            with log.request(request_id):
                return self._destroy_on(buffer, allocation, discard=False, until=Phase.SAVED)

        with ThreadPoolExecutor(len(allocations) or 1, thread_name_prefix="drain") as pool:
            return [why for why in pool.map(drain, allocations) if why is not None]

    def _destroy_on(
        self, buffer: Buffer, allocation: Allocation, discard: bool, until: Phase = Phase.GONE
    ) -> str | None:
        """Destroy on one datanode, asking until it is gone (or `until`); the reason if its data could not be saved."""
        datanode, attempt = allocation.datanode, 0
        while True:
            self._same_step(buffer)
            try:
                status = self._datanodes.destroy_persistent(datanode, buffer.sid, discard)
                status = self._settled(buffer, datanode, status, "Stage-out")
            except NotFound as error:
                if not discard:
                    # It has forgotten the buffer, so it cannot say that the data are safe: neither do we.
                    return f"{datanode}: {error.text}, so its data were not saved"
                self._held_up(buffer, f"Waiting for datanode {datanode} - {error.text}")
            except EbbError as error:
                self._held_up(buffer, f"Waiting for datanode {datanode} - {error.text}")
            else:
                if status.phase is until is Phase.SAVED:
                    return None
                if status.phase is Phase.GONE:
                    with self._engine.change() as tx:
                        self._buffers.released(tx, buffer, datanode)
                    return None
                if status.phase is Phase.SAVE_FAILED:
                    return f"{datanode}: {status.error}"
                self._held_up(
                    buffer,
                    f"Failed to stop and release the filesystem - {datanode}: {status.error}; tried again by itself",
                )
            self._pause(attempt)
            attempt += 1

    # Waiting

    def _settled(self, buffer: Buffer, datanode: str, status: Status, moving: str) -> Status:
        """Ask for the status until dnd has no more work; Reason and metrics show progress meanwhile."""
        move = Move(buffer.sid, datanode, moving.lower())
        with self.moving.watched(move):
            return self._watch(buffer, move, status, moving)

    def _watch(self, buffer: Buffer, move: Move, status: Status, moving: str) -> Status:
        datanode, attempt = move.datanode, 0
        while not status.phase.settled:
            self._same_step(buffer)
            if status.error:
                self._say(buffer, f"{moving} waits - {datanode}: {status.error}")
            elif status.progress is not None and status.progress.total and buffer.step is not Step.CLEARING:
                self.moving.note(move, status.progress)
                self._say(buffer, progress_reason(moving, self.moving.of(move.sid, move.direction)))
            try:
                status = self._datanodes.status(datanode, buffer.sid, status.revision, POLL_SECONDS)
                attempt = 0
            except EnvironmentFault as error:
                self._say(buffer, f"Waiting for datanode {datanode} - {error.text}")
                self._pause(attempt)
                attempt += 1
        return status

    def _same_step(self, buffer: Buffer) -> None:
        if self._stop.is_set():
            raise _StepChangedError
        with self._engine.look() as tx:
            if tx.buffer(buffer.id).step is not buffer.step:
                raise _StepChangedError

    def _say(self, buffer: Buffer, reason: str) -> None:
        """Change the Reason only, while the step is still the same."""
        with self._engine.change() as tx:
            now = tx.buffer(buffer.id)
            if now.step is buffer.step and now.reason != reason:
                self._buffers.move(tx, now, now.step, reason)

    def _held_up(self, buffer: Buffer, why: str) -> None:
        """Say what holds up the end of a buffer; a failed creation keeps saying first why it failed."""
        first = buffer.reason.partition("; ")[0] if buffer.step is Step.CLEARING else ""
        logger.warning("buffer %s: %s", buffer.sid, why)
        self._say(buffer, f"{first}; {why}" if first else why)

    def _pause(self, attempt: int) -> float:
        seconds = BACKOFF_SECONDS[min(attempt, len(BACKOFF_SECONDS) - 1)]
        self._stop.wait(seconds)
        return seconds


def _sbb_part(buffer: Buffer, index: int) -> SbbSpec | None:
    if buffer.sbb is None:
        return None
    targets, each = tuple(buffer.path.split(":")), buffer.each
    return SbbSpec(index, buffer.datanodes, targets, each.memory, each.cores, buffer.sbb.sync, buffer.sbb.stripe)


def progress_reason(moving: str, parts: Mapping[str, Progress]) -> str:
    """`Stage-out 34% of 1.0GiB at 520MB/s, 2 s left (dn1)`: what bbstat says while data moves, by datanode.

    Of several datanodes it is the sum, and the time of the last one to end.
    """
    total, done = sum(part.total for part in parts.values()), sum(part.done for part in parts.values())
    rate = sum(part.rate for part in parts.values())
    text = f"{moving} {100 * done // total}% of {format_human(total)}"
    if rate > 0:
        left = max((part.total - part.done) / part.rate for part in parts.values() if part.rate > 0)
        text += f" at {format_human(int(rate))}/s, {left:.0f} s left"
    where = next(iter(parts)) if len(parts) == 1 else f"{len(parts)} datanodes"
    return f"{text} ({where})"
