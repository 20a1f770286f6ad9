"""The SBB server of one buffer on this datanode: made, watched, drained, freed. Every step can be done twice.

The data is in the server's memory, and on its volume if the flavor has storage. With a volume, a server that died is
started again and replays its log. Without one, what it had not drained is lost, and said so by name.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from dnd.gbf import Node, record_name, remove_folder
from dnd.health import Flash
from dnd.journal import Record
from dnd.sbb import confine, control
from dnd.sbb.control import ServerStatus, listed
from dnd.sbb.server import SbbServer, Settings, refuse_memory
from dnd.service import Service
from dnd.staging.progress import Cancelled, Tracker
from dnd.tools import mounts, process, xfs
from dnd.tools.process import ProcessId
from dnd.tools.volumes import VolumeBackend
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.model import Backend, Mount, Phase, Progress, ServiceSpec, Status, Volume
from ebb.sbb import Peer, SbbSpec

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 0.5
_SILENT_SECONDS = 30.0
_DRAIN_PAUSE_SECONDS = 0.2
_CLIENTS_SECONDS = 60.0
_RETRY_SECONDS = 10.0
# sbbd tries a file again that it could not drain: for so long nothing may get less before the drain is given up.
_FAILING_SECONDS = 15.0


@dataclass(slots=True)
class _Watch:
    """What is remembered of a service between two looks, while the daemon runs."""

    next_look: float = 0.0
    deaths: int = 0
    retry: float = 0.0


class Sbb:
    """What the lifecycle does to one server of an SBB.

    key: the secret of a buffer's servers, by its sid. others: the records of all living services; their cores are
    taken.
    """

    folder = "sbb"
    gathers = True

    def __init__(
        self, node: Node, settings: Settings, key: Callable[[str], bytes], others: Callable[[], Iterable[Record]]
    ) -> None:
        self._node, self._settings, self._key, self._others = node, settings, key, others
        self._watches: dict[str, _Watch] = {}
        self._cores = threading.Lock()

    def refuse(self, spec: ServiceSpec) -> None:
        """Refuse at once what no work could make good. Raises UserError."""
        refuse_memory(_part(spec))
        if 0 < spec.storage_size < xfs.SMALLEST:
            raise UserError(f"StorageSize {spec.storage_size} of the flavor is too small: 300 MiB is the least")

    def saves(self, _: ServiceSpec) -> bool:
        """There may always be data to drain."""
        return True

    def volume_name(self, spec: ServiceSpec) -> str:
        """`sbb_<sid>_<address>_stg`, or empty without storage."""
        return f"sbb_{spec.sid}_{self._node.address.replace(':', '.')}_stg" if spec.storage_size else ""

    def describe(self, record: Record, moving: Progress | None) -> Status:
        """The status of docs/interfaces.md. Its mount is where clients find the server."""
        spec, server = record.spec, self._server(record)
        held = record.volume and record.phase is not Phase.GONE
        ready = record.phase is Phase.READY
        mount = Mount(self._node.address, record.port, f"/sbb_{record.number}", str(server.unix), spec.path)
        return Status(
            spec.sid,
            spec.type,
            spec.name,
            spec.uid,
            record.phase,
            record.revision,
            record.error,
            None if record.phase is Phase.RELEASING else moving,
            (mount,) if ready else (),
            (Volume(spec.backend, spec.volume_group, record.volume, spec.storage_size),) if held else (),
            (record.server.pid,) if record.server else (),
            record.jobs,
        )

    def flash(self, record: Record) -> list[Flash]:
        """Its volume, if the flavor has storage, as the health checker has it: of a file the folder is the group."""
        if not record.volume:
            return []
        spec, group = record.spec, record.spec.volume_group
        if spec.backend is Backend.FILE:
            group = str(self._backend(record).device(group, record.volume).parent)
        return [(record.volume, group, str(self._server(record).data), spec.storage_size)]

    def create(self, service: Service) -> None:
        """From nothing, or from a creation that was cut short, to a server that answers. Raises EbbError."""
        record, begun = service.record, time.monotonic()
        if record.volume and mounts.find(self._server(record).data) is None:
            backend, spec = self._backend(record), record.spec
            backend.create(spec.volume_group, record.volume, spec.storage_size, spec.layout)
            device = backend.device(spec.volume_group, record.volume)
            xfs.make(self._node.run, device, spec.storage_size, f"ebb{spec.sid}")
        self._choose_cores(service)
        self._ensure(service)
        logger.info("%s ready in %.0f ms", record_name(record), (time.monotonic() - begun) * 1000)

    def peers(self, service: Service, peers: tuple[Peer, ...]) -> None:
        """Tell the server where all of its buffer's are; it is told again whenever it is started. Raises EbbError."""
        service.update(peers=peers)
        self._tell_peers(service.record)

    def save(self, service: Service) -> None:
        """Drain all to the targets: final, no new writes are taken. The server and its data stay.

        Raises EnvironmentFault with what could not be drained by file, or what was lost; Cancelled.
        """
        record = service.record
        if record.lost:
            raise EnvironmentFault(_loss(record.lost))
        self._ensure(service)
        self._wait_for_clients(service)
        begun, tracker = time.monotonic(), service.new_tracker()
        control.ask(self._server(record).control, record.spec.uid, "drain", timeout=30)
        self._follow_drain(service, tracker)
        logger.info("%s drained in %.1f s", record_name(record), time.monotonic() - begun)

    def release(self, service: Service) -> None:
        """Free everything: server, cgroup, mount, volume, folder. Raises EnvironmentFault with what could not be."""
        record = service.record
        server = self._server(record)
        server.stop(record.server)
        confine.drop_group(record.group)
        mounts.unmount(server.data)
        if record.volume:
            self._backend(record).remove(record.spec.volume_group, record.volume)
        remove_folder(server.folder)
        self._watches.pop(record.spec.sid, None)

    def admit(self, service: Service) -> None:
        """Each connection proves itself with the job's token, which expires: only that data may come is noted."""
        if service.record.jobs and not service.record.dirty:
            service.update(dirty=True)

    def resume(self, service: Service) -> None:
        """After the daemon's or the node's restart: mounted, and a server that runs.

        What was in memory when the node went down is lost, and the names with it.
        """
        record = service.record
        if record.dirty and not record.volume and record.boot not in ("", boot_id()):
            service.update(lost=("what jobs wrote before the datanode restarted, as far as it is not in the targets",))
        self._ensure(service)
        if service.record.lost:
            service.update(only_in=Phase.READY, phase=Phase.SAVE_FAILED, error=_loss(service.record.lost))

    def keep(self, service: Service) -> None:
        """Start a server again that died, on its port; show what it cannot drain."""
        record = service.record
        watch = self._watches.setdefault(record.spec.sid, _Watch())
        now = time.monotonic()
        if record.server is None or not record.server.alive:
            if now >= watch.retry:
                watch.retry = now + min(_RETRY_SECONDS, watch.deaths)
                watch.deaths += 1
                self._revive(service)
        elif now >= watch.next_look:
            watch.next_look = now + _LOOK_SECONDS
            try:
                found = control.status(self._server(record).control, record.spec.uid, timeout=_PATIENCE_SECONDS)
            except EnvironmentFault as error:
                watch.next_look = now + _SILENT_SECONDS  # it may be stopped by its owner: others are watched too
                self._note(service, error.text)
            else:
                watch.deaths = 0
                self._judge(service, found)

    def _revive(self, service: Service) -> None:
        record = service.record
        logger.warning(
            "%s: its sbbd died; its log ends with `%s` (no error: it was killed, see dmesg); starting it again",
            record_name(record),
            self._server(record).complaint(),
        )
        try:
            self._ensure(service)
            self._judge(service, control.status(self._server(record).control, record.spec.uid))
        except EbbError as error:
            self._note(service, error.text)

    def _judge(self, service: Service, found: ServerStatus) -> None:
        if found.lost:
            error = _loss(found.lost)
            logger.error("%s: %s", record_name(service.record), error)
            service.update(only_in=Phase.READY, phase=Phase.SAVE_FAILED, lost=found.lost, error=error)
            return
        self._note(service, f"cannot drain {listed(found.errors)}" if found.errors else None)
        if service.record.dirty and not service.record.jobs and not found.clients and not found.dirty:
            service.update(dirty=False)

    def _note(self, service: Service, error: str | None) -> None:
        if error != service.record.error:
            service.update(only_in=Phase.READY, error=error)

    def _wait_for_clients(self, service: Service) -> None:
        """A job's last words may still be on their way: its client goes with its mount namespace, soon."""
        record, deadline = service.record, time.monotonic() + _CLIENTS_SECONDS
        while clients := self._look(record).clients:
            if time.monotonic() > deadline:
                logger.warning("%s: drained with %d clients still connected", record_name(record), clients)
                break
            text = f"waiting for {clients} client{'s' if clients > 1 else ''} to let go"
            if service.record.error != text:
                service.update(error=text)
            if service.cancel.wait(_DRAIN_PAUSE_SECONDS):
                raise Cancelled
        if service.record.error is not None:
            service.update(error=None)

    def _follow_drain(self, service: Service, tracker: Tracker) -> None:
        found, moved = self._look(service.record), time.monotonic()
        left = found.dirty
        tracker.begin(left)
        while found.state != "drained":
            if found.state == "failed" and time.monotonic() - moved > _FAILING_SECONDS:
                raise EnvironmentFault(f"cannot drain {listed(found.errors) or 'everything'}")
            if service.cancel.wait(_DRAIN_PAUSE_SECONDS):
                raise Cancelled
            found = self._look(service.record)
            if found.dirty < left:
                tracker.advance(left - found.dirty)
                left, moved = found.dirty, time.monotonic()
        if found.lost:
            service.update(lost=found.lost)
            raise EnvironmentFault(_loss(found.lost))

    def _look(self, record: Record) -> ServerStatus:
        return control.status(self._server(record).control, record.spec.uid, timeout=30)

    def _choose_cores(self, service: Service) -> None:
        """Recorded before they are used, under a lock: two servers never get the same."""
        record = service.record
        with self._cores:
            if record.cores:
                return
            taken = {core for other in self._others() for core in other.cores}
            cores = confine.choose_cores(_part(record.spec).cores, taken)
            service.update(cores=cores)
        if not cores:
            logger.info("%s: too few free cores to pin it to %d", record_name(record), _part(record.spec).cores)

    def _ensure(self, service: Service) -> None:
        """Mounted, and a server that runs and knows its peers."""
        record = service.record
        server = self._server(record)
        if record.volume:
            backend, spec = self._backend(record), record.spec
            device = backend.device(spec.volume_group, record.volume)
            mounts.mount_xfs(self._node.run, device, server.data, backend.mount_options)
        if record.server is None or not record.server.alive:
            if record.server is not None:
                process.stop(record.server, grace=0)  # reaps our dead child
            name = f"{self._node.name}.{record.spec.sid}"
            group = confine.make_group(name, _part(record.spec).memory, record.cores)
            service.update(group=group, boot=boot_id())

            def note(started: ProcessId) -> None:
                service.update(server=started)

            server.start(self._key(record.spec.sid), record.cores, group, note)
        self._tell_peers(service.record)

    def _tell_peers(self, record: Record) -> None:
        if record.peers:
            request = "peers " + ",".join(map(str, record.peers))
            control.ask(self._server(record).control, record.spec.uid, request, timeout=30)

    def _server(self, record: Record) -> SbbServer:
        folder = self._node.run_dir / self.folder / str(record.number)
        return SbbServer(record.spec, _part(record.spec), self._node.address, record.port, folder, self._settings)

    def _backend(self, record: Record) -> VolumeBackend:
        backend = self._node.backends.get(record.spec.backend)
        if backend is None:
            raise EnvironmentFault(f"datanode {self._node.name} has no volumes of kind `{record.spec.backend}`")
        return backend


def _part(spec: ServiceSpec) -> SbbSpec:
    if spec.sbb is None:
        raise UserError(f"service {spec.sid} is a {spec.type}, not an SBB")
    return spec.sbb


def boot_id() -> str:
    """Differs after every start of the kernel."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _loss(lost: tuple[str, ...]) -> str:
    files = f"{len(lost)} file{'s' if len(lost) > 1 else ''}"
    return f"its server died with data in memory that was not drained yet; lost of {files}: {listed(lost)}"
