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
from dnd.sbb.control import ServerStatus, Silent, listed
from dnd.sbb.drain import PATIENCE_SECONDS, SHARE, Drain
from dnd.sbb.server import START_SECONDS, SbbServer, Settings, refuse_memory
from dnd.service import NotYet, Service
from dnd.tools import mounts, process, xfs
from dnd.tools.process import ProcessId
from dnd.tools.volumes import VolumeBackend
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.model import Backend, Mount, Phase, Progress, ServiceSpec, Status, Volume
from ebb.sbb import Peer, SbbSpec

logger = logging.getLogger(__name__)

_LOOK_SECONDS = 2.0
_PATIENCE_SECONDS = 0.5
_MISSES = 3
_SILENT_SECONDS = 30.0
_PEERS_SECONDS = 5.0
_RETRY_SECONDS = 10.0
_REVIVED_SECONDS = 10.0


@dataclass(slots=True)
class _Watch:
    """What is remembered of a service between two looks, while the daemon runs."""

    next_look: float = 0.0
    deaths: int = 0
    retry: float = 0.0
    misses: int = 0


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
        self._drains: dict[str, Drain] = {}
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

        Raises EnvironmentFault with what could not be drained by file, or what was lost; NotYet while it drains;
        Cancelled.
        """
        record = service.record
        if record.lost:
            raise EnvironmentFault(_loss(record.lost, record.lost_files))
        drain = self._drains.pop(record.spec.sid, None)
        if drain is None:
            self._ensure(service)
            drain = Drain(service, record_name(record), lambda request: self._ask(record, request, PATIENCE_SECONDS))
        try:
            found = drain.follow()
        except NotYet:
            self._drains[record.spec.sid] = drain
            raise
        if found.lost:
            service.update(lost=found.lost, lost_files=found.lost_files)
            raise EnvironmentFault(_loss(found.lost, found.lost_files))
        logger.info("%s drained in %.1f s", record_name(record), drain.seconds)

    def release(self, service: Service) -> None:
        """Free everything: server, cgroup, mount, volume, folder. Raises EnvironmentFault with what could not be."""
        record = service.record
        server = self._server(record)
        server.stop(record.server)
        confine.drop_group(record.group)
        mounts.unmount(server.data)
        if record.volume:
            self._backend(record).remove(record.spec.volume_group, record.volume)
        remove_folder(self._node.run, server.folder)
        self._watches.pop(record.spec.sid, None)
        self._drains.pop(record.spec.sid, None)

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
            error = _loss(service.record.lost, service.record.lost_files)
            service.update(only_in=Phase.READY, phase=Phase.SAVE_FAILED, error=error)

    def keep(self, service: Service) -> None:
        """Start a server again that died, on its port; show what it cannot drain.

        The longer a server makes others wait, the longer it is left alone: see SHARE.
        """
        record = service.record
        watch = self._watches.setdefault(record.spec.sid, _Watch())
        begun = time.monotonic()
        if record.server is None or not record.server.alive:
            if begun >= watch.retry:
                pause = min(_RETRY_SECONDS, watch.deaths)
                watch.deaths += 1
                self._revive(service)
                now = time.monotonic()
                watch.retry = max(begun + pause, now + SHARE * (now - begun))
        elif begun >= watch.next_look:
            try:
                found = self._ask(record, "status", _PATIENCE_SECONDS)
            except EnvironmentFault as error:
                watch.misses += 1
                if isinstance(error, Silent) and watch.misses < _MISSES:
                    self._look_again(watch, begun)  # on a busy node anything may be late once
                else:
                    watch.next_look = begun + _SILENT_SECONDS  # it may be stopped by its owner
                    self._note(service, error.text)
            else:
                self._look_again(watch, begun)
                watch.deaths = watch.misses = 0
                self._judge(service, found)

    def _look_again(self, watch: _Watch, begun: float) -> None:
        now = time.monotonic()
        watch.next_look = max(begun + _LOOK_SECONDS, now + SHARE * (now - begun))

    def _revive(self, service: Service) -> None:
        record = service.record
        logger.warning(
            "%s: its sbbd died; its log ends with `%s` (no error: it was killed, see dmesg); starting it again",
            record_name(record),
            self._server(record).complaint(),
        )
        try:
            self._ensure(service, _REVIVED_SECONDS)
            self._judge(service, self._ask(record, "status", _PATIENCE_SECONDS))
        except EbbError as error:
            self._note(service, error.text)

    def _judge(self, service: Service, found: ServerStatus) -> None:
        if found.lost:
            error = _loss(found.lost, found.lost_files)
            logger.error("%s: %s", record_name(service.record), error)
            service.update(
                only_in=Phase.READY,
                phase=Phase.SAVE_FAILED,
                lost=found.lost,
                lost_files=found.lost_files,
                error=error,
            )
            return
        self._note(service, f"cannot drain {listed(found.errors)}" if found.errors else None)
        if service.record.dirty and not service.record.jobs and not found.clients and not found.dirty:
            service.update(dirty=False)

    def _note(self, service: Service, error: str | None) -> None:
        if error != service.record.error:
            service.update(only_in=Phase.READY, error=error)

    def _ask(self, record: Record, request: str, timeout: float) -> ServerStatus:
        return control.status(self._server(record).control, record.spec.uid, request, timeout=timeout)

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

    def _ensure(self, service: Service, patience: float = START_SECONDS) -> None:
        """Mounted, and a server that runs and knows its peers. patience: for one that is started, until it answers."""
        record = service.record
        server = self._server(record)
        server.mount_folder(self._node.run)
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

            server.start(self._key(record.spec.sid), record.cores, group, note, patience)
        self._tell_peers(service.record)

    def _tell_peers(self, record: Record) -> None:
        if record.peers:
            request = "peers " + ",".join(map(str, record.peers))
            control.ask(self._server(record).control, record.spec.uid, request, timeout=_PEERS_SECONDS)

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


def _loss(lost: tuple[str, ...], count: int) -> str:
    count = max(count, len(lost))
    files = f"{count} file{'s' if count > 1 else ''}"
    return f"its server died with data in memory that was not drained yet; lost of {files}: {listed(lost, count)}"
