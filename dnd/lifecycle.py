"""The life of the services on this datanode: what may follow what, who does it, and how it goes on after a crash.

    creating -> ready -> saving -> releasing -> gone           (SBB: saving -> saved, until the next destroy)
    creating -> failed; saving -> save-failed; releasing -> release-failed: the next destroy goes on from there

A verb writes the new phase into the journal and hands the work to a pool, so that it can answer at once. At the start
every record is taken up in the phase in which it was left: each phase's work can be done again from its beginning.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

from dnd.ganesha.config import checked_address
from dnd.gbf import record_name
from dnd.health import Flash, Health, HealthFailed
from dnd.journal import Journal, Record
from dnd.kind import Kind
from dnd.ports import NoteNumbers, Numbers
from dnd.sbb.service import Sbb
from dnd.service import NotYet, Service, Waiting
from dnd.staging.progress import Cancelled
from ebb import log
from ebb.errors import Conflict, EbbError, NotFound, UserError
from ebb.model import Phase, Progress, ServiceSpec, ServiceType, Status
from ebb.sbb import Peer

logger = logging.getLogger(__name__)

WATCH_SECONDS = 1.0
KEEPERS = 8
"""So many services of one type are looked after at a time."""
_LOCK_SECONDS = 60.0
_WORKERS = 32
_REMEMBERED = 2000  # services, those that are gone among them, before the latter are forgotten
_Work = Callable[[Service], None]


class Lifecycle:
    """All services of one datanode. Its public methods are dnd's verbs (docs/interfaces.md), for any thread.

    kinds: who does the work, by the type of service.
    """

    def __init__(self, journal: Journal, kinds: Mapping[ServiceType, Kind], numbers: Numbers, health: Health) -> None:
        self._journal = journal
        self._kinds = kinds
        self._numbers = numbers
        self._health = health
        self._services: dict[str, Service] = {}
        self._table = threading.Lock()
        self._closing = threading.Event()
        # Of each type of service its own: what users can hold up with servers of theirs are servers of that type.
        self._pools = {kind: ThreadPoolExecutor(_WORKERS, f"work {kind}") for kind in kinds}
        self._keepers = {kind: ThreadPoolExecutor(KEEPERS, f"keep {kind}") for kind in kinds}
        self._watcher = threading.Thread(target=self._watch, name="watch", daemon=True)

    def start(self) -> None:
        """Take up every service where the journal says it is, then begin to watch. Called once."""
        loaded = [self._add(record) for record in self._journal.load()]
        self._health.retain([service.record.spec.sid for service in self.alive()])
        for service in loaded:
            self._submit(service, self._work_of(service.record.phase))
        self._watcher.start()

    def close(self) -> None:
        """Stop working: what is under way is left to the next start; service processes go on."""
        self._closing.set()
        for service in self.services():
            service.cancel.set()
        for pool in (*self._pools.values(), *self._keepers.values()):
            pool.shutdown(wait=False, cancel_futures=True)
        for pool in (*self._pools.values(), *self._keepers.values()):
            pool.shutdown(wait=True)

    def services(self) -> list[Service]:
        """All that this daemon knows, those that are gone among them."""
        with self._table:
            return list(self._services.values())

    def alive(self) -> list[Service]:
        """Those that are not gone."""
        return [service for service in self.services() if service.record.phase is not Phase.GONE]

    def create_persistent(self, spec: ServiceSpec) -> Status:
        """Begin to make a service. The same spec again: its status. Raises Conflict for another one with its sid."""
        kind = self._kinds.get(spec.type)
        if kind is None:
            raise UserError(f"{spec.type} buffers are not served by this build")
        kind.refuse(spec)
        with self._table:
            known = self._services.get(spec.sid)
            if known is not None and known.record.phase is not Phase.GONE:
                if known.record.spec != spec:
                    raise Conflict(f"service {spec.sid} exists with another specification ({known.record.spec.name})")
                return known.status()
            if len(self._services) > _REMEMBERED:
                self._services = {
                    sid: each for sid, each in self._services.items() if each.record.phase is not Phase.GONE
                }
            number = self._numbers.take(self._taken_unlocked())
            record = Record(spec, number, self._numbers.port(number), kind.volume_name(spec))
            self._journal.write(record)
            service = self._services[spec.sid] = Service(record, self._journal, self._describe)
        self._submit(service, self._create)
        return service.status()

    def destroy_persistent(self, sid: str, *, discard: bool) -> Status:
        """Begin to save (unless `discard`) and free a service. Again, or of one that is gone: its status.

        Raises NotFound for a service that this daemon does not remember, unless its data are not wanted: to say `gone`
        would be taken for `saved`.
        """
        service = self._services.get(sid)
        if service is None and discard:
            return Status(sid, ServiceType.GBF, "unknown", 0, Phase.GONE, 0)
        service = self._find(sid)
        record = service.record
        if record.phase in (Phase.GONE, Phase.RELEASING):
            return service.status()
        if record.phase in (Phase.SAVING, Phase.SAVED) and not discard:
            return service.status()
        saves = self._kind(record).saves(record.spec)
        if record.phase in (Phase.READY, Phase.SAVE_FAILED) and saves and not discard:
            service.new_tracker()  # the last one told of the stage-in
            service.update(phase=Phase.SAVING, error=None)
            self._submit(service, self._save)
        else:
            # A creation or a save under way stops soon, sees that the phase is no longer its own, and lets go.
            service.cancel.set()
            service.update(phase=Phase.RELEASING, error=None)
            self._submit(service, self._release)
        return service.status()

    def status(self, sid: str, revision: int | None, wait: float) -> Status:
        """The status once its revision is not `revision`, or after `wait` seconds. Raises NotFound."""
        return self._find(sid).wait(revision, wait)

    def pre_run(self, sid: str, job: str, clients: Iterable[str]) -> Status:
        """Let a job's nodes in; returns when they are. Raises Conflict if the service is not ready.

        If its health check fails they are not let in: `health` of the status says why.
        """
        addresses = tuple(sorted({str(checked_address(client)) for client in clients}))
        service = self._find(sid)
        with self._ready(service):
            before = service.record.jobs
            self._admit(service, {**before, job: addresses})
            try:
                self._health.used(service.record, self._flash(service))
                self._note_health(service, None)
            except HealthFailed as error:
                logger.error("%s: %s", record_name(service.record), error.text)
                self._note_health(service, error.text)
                self._admit(service, before)
        return service.status()

    def post_run(self, sid: str, job: str) -> Status:
        """Shut a job's nodes out; returns when they are. No error if the job or the service is gone."""
        service = self._services.get(sid)
        if service is None:
            return Status(sid, ServiceType.GBF, "unknown", 0, Phase.GONE, 0)
        if service.record.phase is not Phase.READY:
            return service.status()
        with self._ready(service):
            if job in service.record.jobs:
                self._admit(service, {name: nodes for name, nodes in service.record.jobs.items() if name != job})
                if not service.record.jobs:
                    self._register(service)
        return service.status()

    def peers(self, sid: str, peers: tuple[Peer, ...]) -> Status:
        """Tell an SBB's server where all servers of its buffer are. Raises Conflict if it is not ready."""
        service = self._find(sid)
        with self._ready(service):
            kind = self._kind(service.record)
            if not isinstance(kind, Sbb):
                raise Conflict(f"service {sid} is a {service.record.spec.type}: it has no peers")
            kind.peers(service, peers)
        return service.status()

    def _admit(self, service: Service, jobs: dict[str, tuple[str, ...]]) -> None:
        before = service.record.clients
        service.update(jobs=jobs)
        if service.record.clients != before or service.stale_clients:
            service.stale_clients = True
            self._kind(service.record).admit(service)
            service.stale_clients = False

    def _note_health(self, service: Service, found: str | None) -> None:
        if service.record.health != found:
            service.update(health=found)

    def _flash(self, service: Service) -> list[Flash]:
        return self._kind(service.record).flash(service.record)

    def _register(self, service: Service) -> None:
        self._health.register(service.record, self._flash(service))

    def _create(self, service: Service) -> None:
        try:
            self._kind(service.record).create(service)
            self._health.created(service.record, self._flash(service))
            service.update(only_in=Phase.CREATING, phase=Phase.READY, error=None)
        except EbbError as error:
            if service.record.phase is Phase.CREATING:
                left = self._undo(service)
                service.update(only_in=Phase.CREATING, phase=Phase.FAILED, error=error.text + left, server=None)
            logger.warning("%s: creation failed: %s", record_name(service.record), error.text)

    def _undo(self, service: Service) -> str:
        try:
            self._kind(service.record).release(service)
            self._health.forget(service.record)
        except EbbError as error:
            return f"; left behind: {error.text}"
        return ""

    def _save(self, service: Service) -> None:
        self._health.ending(service.record)
        try:
            self._kind(service.record).save(service)
        except EbbError as error:
            logger.warning("%s: save failed: %s", record_name(service.record), error.text)
            service.update(only_in=Phase.SAVING, phase=Phase.SAVE_FAILED, error=error.text, jobs={})
            return
        if self._kind(service.record).gathers:
            service.update(only_in=Phase.SAVING, phase=Phase.SAVED, error=None, jobs={})
        elif service.update(only_in=Phase.SAVING, phase=Phase.RELEASING, jobs={}):
            self._release(service)

    def _release(self, service: Service) -> None:
        if service.record.phase is not Phase.RELEASING:
            return
        try:
            self._kind(service.record).release(service)
        except EbbError as error:
            logger.error("%s: release failed: %s", record_name(service.record), error.text)
            service.update(phase=Phase.RELEASE_FAILED, error=error.text)
            return
        self._health.ended(service.record)
        service.update(phase=Phase.GONE, error=None, server=None, jobs={})
        logger.info("%s gone", record_name(service.record))

    def _resume(self, service: Service) -> None:
        if service.record.phase is not Phase.READY:
            return
        try:
            self._kind(service.record).resume(service)
            self._register(service)
        except EbbError as error:
            logger.error("%s: cannot be taken up again: %s", record_name(service.record), error.text)
            service.update(only_in=Phase.READY, error=error.text)

    def _work_of(self, phase: Phase) -> _Work | None:
        return {
            Phase.CREATING: self._create,
            Phase.READY: self._resume,
            Phase.SAVING: self._save,
            Phase.RELEASING: self._release,
        }.get(phase)

    def _submit(self, service: Service, work: _Work | None, request_id: str | None = None) -> None:
        if work is not None:
            pool = self._pools[service.record.spec.type]
            pool.submit(self._do, service, work, request_id or log.current_request_id())

    def _go_on(self, service: Service, waiting: Waiting) -> None:
        """Work that waited begins anew once that is over; another phase has work of its own."""
        if service.record.phase is not waiting.phase:
            return
        try:
            over = waiting.over()
        except EbbError:
            over = True  # the work will tell
        if over and service.waiting is waiting:
            service.waiting = None
            self._submit(service, self._work_of(waiting.phase), waiting.request_id)

    def _do(self, service: Service, work: _Work, request_id: str) -> None:
        with log.request(request_id), service.work:
            if not self._closing.is_set():
                service.cancel.clear()
            service.waiting = None
            if self._work_of(service.record.phase) != work:
                return  # a destroy came before this began
            try:
                work(service)
            except NotYet as wait:
                service.waiting = Waiting(wait.over, service.record.phase, request_id)
            except Cancelled:
                logger.info("%s: stopped in phase %s", record_name(service.record), service.record.phase)
            except Exception:
                logger.exception(
                    "%s: a defect stopped the work in phase %s", record_name(service.record), service.record.phase
                )
                self._give_up(service)

    def _give_up(self, service: Service) -> None:
        failed = {Phase.CREATING: Phase.FAILED, Phase.SAVING: Phase.SAVE_FAILED, Phase.RELEASING: Phase.RELEASE_FAILED}
        phase = service.record.phase
        if phase in failed:
            service.update(phase=failed[phase], error=f"a defect of dnd stopped {phase}; its log has more")

    @contextmanager
    def _ready(self, service: Service) -> Iterator[None]:
        if not service.work.acquire(timeout=_LOCK_SECONDS):
            raise Conflict(f"service {service.record.spec.sid} is busy ({service.record.phase})")
        try:
            if service.record.phase is not Phase.READY:
                spec = service.record.spec
                raise Conflict(f"service {spec.sid} ({spec.name}) is {service.record.phase}, not ready")
            yield
        finally:
            service.work.release()

    def _watch(self) -> None:
        """Waits for nobody: services are looked after by the threads of their type, each by one at a time."""
        while not self._closing.wait(WATCH_SECONDS):
            for service in self.services():
                wanted = service.waiting is not None or service.record.phase is Phase.READY
                if not wanted or service.watched:
                    continue
                service.watched = True
                try:
                    self._keepers[service.record.spec.type].submit(self._look_after, service)
                except RuntimeError:
                    return  # closed meanwhile

    def _look_after(self, service: Service) -> None:
        try:
            if service.waiting is not None:
                self._go_on(service, service.waiting)
            if service.record.phase is Phase.READY and service.work.acquire(blocking=False):
                try:
                    before = service.record.servers
                    if service.record.phase is Phase.READY:
                        self._kind(service.record).keep(service)
                    if service.record.servers != before:
                        self._pools[service.record.spec.type].submit(self._register_again, service)
                finally:
                    service.work.release()
        except Exception:
            if not self._closing.is_set():
                logger.exception("%s: watching failed", record_name(service.record))
        finally:
            service.watched = False

    def _register_again(self, service: Service) -> None:
        """Another process serves it now. Not in a keeper's thread: the checker may take its time."""
        with service.work:
            if service.record.phase is Phase.READY:
                self._register(service)

    def claim(self, service: Service, count: int, note: NoteNumbers) -> None:
        """Find `count` numbers for a service, its own among them, and let `note` write them down with their ports.

        Raises EnvironmentFault when there are none left.
        """
        with self._table:
            numbers = [service.record.number]
            while len(numbers) < count:
                numbers.append(self._numbers.take(self._taken_unlocked() | set(numbers)))
            note([(number, self._numbers.port(number)) for number in numbers])

    def _kind(self, record: Record) -> Kind:
        return self._kinds[record.spec.type]

    def _describe(self, record: Record, moving: Progress | None) -> Status:
        return self._kind(record).describe(record, moving)

    def _add(self, record: Record) -> Service:
        service = Service(record, self._journal, self._describe)
        with self._table:
            self._services[record.spec.sid] = service
        return service

    def _taken_unlocked(self) -> set[int]:
        alive = [each.record for each in self._services.values() if each.record.phase is not Phase.GONE]
        return {number for record in alive for number in record.numbers}

    def _find(self, sid: str) -> Service:
        service = self._services.get(sid)
        if service is None:
            raise NotFound(f"no service {sid} on this datanode")
        return service
