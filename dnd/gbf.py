"""A Global Bunch of Flash on this datanode: a volume, an XFS, a Ganesha. Every step can be done twice.

The lifecycle calls it from its worker threads, with the service's work lock held and the phase already in the journal.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dnd import datasets
from dnd.datasets import Datasets
from dnd.ganesha.config import GaneshaConfig
from dnd.ganesha.server import Ganesha
from dnd.health import Flash
from dnd.hestia.ledger import Ledger
from dnd.journal import Record
from dnd.service import NotYet, Work
from dnd.staging import settled
from dnd.staging.progress import Cancelled
from dnd.tools import mounts, process, xfs
from dnd.tools.identities import Identities
from dnd.tools.process import ProcessId
from dnd.tools.volumes import VolumeBackend
from ebb.as_user import AsUser, PathMissing, UnknownUser
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.model import Backend, Mount, Phase, Progress, ServiceSpec, Status, Volume
from ebb.run import Runner

logger = logging.getLogger(__name__)

_DEATHS_ALLOWED = 5
_DEATHS_SECONDS = 60.0
_RETRY_SECONDS = 30.0
_UNUSED_SECONDS = 900.0
_UNUSED_BRIEFLY_SECONDS = 1.0
_UNUSED_PAUSE_SECONDS = 0.05
_REMOVAL_SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Node:
    """This datanode. run_dir: where services' files are; staging_dir: what is kept of copies, over a restart of the
    node too; key: a call that reads the key of dataset headers; ledger: objects in the object store that no dataset
    file names; foreign_images: as in ebb.conf.
    """

    name: str
    address: str
    run_dir: Path
    staging_dir: Path
    backends: Mapping[Backend, VolumeBackend]
    run: Runner
    key: Callable[[], bytes]
    ledger: Ledger
    foreign_images: bool = False


class Gbf:
    """What the lifecycle does to one GBF."""

    folder = "ganesha"
    gathers = False

    def __init__(self, node: Node) -> None:
        self._node = node
        self._datasets = Datasets(node.name, node.key, node.ledger, node.staging_dir, node.run, node.foreign_images)
        self._identities = Identities(node.staging_dir / "identities", node.run)

    def refuse(self, spec: ServiceSpec) -> None:
        """Refuse at once what no work could make good. Raises UserError."""
        datasets.refuse(spec)
        if spec.storage_size < xfs.SMALLEST:
            raise UserError(
                f"StorageSize {spec.storage_size} is too small: {xfs.SMALLEST} bytes (300 MiB) is the least"
            )

    def saves(self, spec: ServiceSpec) -> bool:
        """Only into a dataset that the owner named."""
        return spec.data_dst is not None

    def volume_name(self, spec: ServiceSpec) -> str:
        """`gbf_<sid>_<address>_stg`; colons of an IPv6 address are no part of a volume's name."""
        return f"gbf_{spec.sid}_{self._node.address.replace(':', '.')}_stg"

    def describe(self, record: Record, moving: Progress | None) -> Status:
        """The status of docs/interfaces.md."""
        if record.phase is Phase.RELEASING:
            moving = None  # no data moves
        spec, config = record.spec, self._config(record)
        ready = record.phase is Phase.READY
        mount = Mount(self._node.address, record.port, config.export, str(config.data), spec.path)
        volume = Volume(spec.backend, spec.volume_group, record.volume, spec.storage_size)
        return Status(
            spec.sid,
            spec.type,
            spec.name,
            spec.uid,
            record.phase,
            record.revision,
            record.error,
            moving,
            (mount,) if ready else (),
            () if record.phase is Phase.GONE else (volume,),
            (record.server.pid,) if record.server else (),
            record.jobs,
            record.health,
        )

    def flash(self, record: Record) -> list[Flash]:
        """Its volumes as the health checker has them: for volumes that are files the folder stands for the group."""
        spec = record.spec
        group = spec.volume_group
        if spec.backend is Backend.FILE:
            group = str(self._backend(spec).device(group, record.volume).parent)
        return [(record.volume, group, str(self._config(record).data), spec.storage_size)]

    def create(self, service: Work) -> None:
        """From nothing, or from a creation that was cut short, to a server that answers.

        Raises EbbError; what was made is still there then: the lifecycle calls `undo`.
        """
        spec = service.record.spec
        begun = time.monotonic()
        self._check_paths(service)
        backend = self._backend(spec)
        config = self._config(service.record)
        if mounts.find(config.data) is None:
            self._fill(service, backend)
        self._mount(service.record)
        if spec.data_src is None:
            os.chown(config.data, spec.uid, spec.gid)
            config.data.chmod(0o755)
        else:
            xfs.grow(self._node.run, config.data, spec.storage_size)
        mounted = time.monotonic()
        self._serve(service)
        logger.info(
            "%s ready: volume and file system %.0f ms, Ganesha %.0f ms",
            record_name(service.record),
            (mounted - begun) * 1000,
            (time.monotonic() - mounted) * 1000,
        )

    def save(self, service: Work) -> None:
        """Write the data to data_dst. The volume is left as it is, unmounted. Raises EbbError, NotYet, Cancelled."""
        record, spec = service.record, service.record.spec
        self._unserve(record)
        service.update(server=None)
        if spec.data_dst is None:
            return
        backend = self._backend(spec)
        self._require_unused(service, backend)
        device = backend.device(spec.volume_group, record.volume)
        begun = time.monotonic()
        mountpoint = self._config(record).data
        options = (*backend.mount_options, *self._datasets.mount_options(record))
        self._datasets.stage_out(
            service, device, lambda: settled.used_bytes(self._node.run, device, mountpoint, options)
        )
        logger.info("%s saved to %s in %.1f s", record_name(record), spec.data_dst, time.monotonic() - begun)

    def release(self, service: Work) -> None:
        """Free everything: server, mount, volume, folder. Raises EnvironmentFault with what could not be freed."""
        record, spec = service.record, service.record.spec
        self._unserve(record)
        self._backend(spec).remove(spec.volume_group, record.volume)
        self._identities.forget(record.volume)
        self._datasets.forget(record)
        remove_folder(self._node.run, self._config(record).folder)

    def admit(self, service: Work) -> None:
        """Bring the export's client list in line with the record's jobs."""
        record = service.record
        if record.server is not None and record.server.alive:
            try:
                self._ganesha(record).reload(record.server, record.clients)
            except EnvironmentFault:
                if record.server.alive:
                    raise
            else:
                return
        self._serve(service)

    def resume(self, service: Work) -> None:
        """After the daemon's or the node's restart: mounted, served, the right clients admitted."""
        self._mount(service.record)
        self.admit(service)

    def keep(self, service: Work) -> None:
        """Called every second or so: start a server again that died, on the same port, so that its clients go on."""
        record = service.record
        now = time.monotonic()
        if record.server is not None and record.server.alive:
            if record.error is not None and (not service.deaths or now - service.deaths[-1] > _DEATHS_SECONDS):
                service.deaths.clear()
                service.update(error=None)
            return
        if len(service.deaths) >= _DEATHS_ALLOWED and now - service.deaths[-1] < _RETRY_SECONDS:
            return
        service.deaths = [*(death for death in service.deaths if now - death < _DEATHS_SECONDS), now]
        logger.warning("%s: its Ganesha died; starting it again", record_name(record))
        error = None
        try:
            self.resume(service)
        except EbbError as failure:
            error = failure.text
        if len(service.deaths) >= _DEATHS_ALLOWED:
            error = (
                f"Ganesha of {record.spec.name} died {len(service.deaths)} times in {_DEATHS_SECONDS:g} s: "
                f"{error or self._ganesha(record).complaint()}"
            )
        if error != service.record.error:
            service.update(error=error)

    def _require_unused(self, service: Work, backend: VolumeBackend) -> None:
        """A job on this node has the file system in a mount namespace of its own: its last words must be in the image.

        Such a job mostly ends at once; while it does not, no thread waits for it. Raises NotYet then, EnvironmentFault
        if some process of it does not end for long, Cancelled if nobody wants the data any more.
        """
        group, volume = service.record.spec.volume_group, service.record.volume
        told = "the file system is still mounted in a job's namespace on this node"
        begun = time.monotonic()
        since = service.waits_since = begun if service.waits_since is None else service.waits_since
        while backend.in_use(group, volume):
            now = time.monotonic()
            if now - since > _UNUSED_SECONDS:
                service.waits_since = None
                raise EnvironmentFault(f"{told} after {_UNUSED_SECONDS:g} s; end what is left of that job")
            if service.record.error is None:
                service.update(error=told)
            if now - begun > _UNUSED_BRIEFLY_SECONDS:
                raise NotYet(lambda: not backend.in_use(group, volume) or time.monotonic() - since > _UNUSED_SECONDS)
            if service.cancel.wait(_UNUSED_PAUSE_SECONDS):
                raise Cancelled
        service.waits_since = None
        if service.record.error is not None:
            service.update(error=None)

    def _check_paths(self, service: Work) -> None:
        spec = service.record.spec
        user = AsUser(spec.uid, spec.gid)
        try:
            found = user.status(spec.path)
            if not found.is_directory or found.uid != spec.uid:
                raise UserError(
                    f"Path `{spec.path}` is {found.kind} of uid {found.uid}; a directory of your own is needed"
                )
        except (PathMissing, UnknownUser):
            pass  # nothing to see from this node: the job's node will look again
        self._datasets.check(service)

    def _fill(self, service: Work, backend: VolumeBackend) -> None:
        """A volume with a file system in it: an empty one, or the dataset's. A stage-in that was cut short goes on."""
        spec, name = service.record.spec, service.record.volume
        if spec.data_src is not None and not self._datasets.goes_on(service.record):
            # Holes of the image are not written: what an earlier try left there must go.
            backend.remove(spec.volume_group, name)
        backend.create(spec.volume_group, name, spec.storage_size, spec.layout)
        device = backend.device(spec.volume_group, name)
        if spec.data_src is None:
            xfs.make(self._node.run, device, spec.storage_size, f"ebb{spec.sid}")
        else:
            self._datasets.stage_in(service, device)
            # From here on the volume is not what was copied: after a crash it is filled anew.
            self._datasets.filled(service.record)
        self._identities.settle(device, name)

    def _mount(self, record: Record) -> None:
        backend, spec = self._backend(record.spec), record.spec
        mounts.mount_xfs(
            self._node.run,
            backend.device(spec.volume_group, record.volume),
            self._config(record).data,
            (*backend.mount_options, *self._datasets.mount_options(record)),
        )

    def _serve(self, service: Work) -> None:
        record = service.record
        ganesha = self._ganesha(record)
        if record.server is not None and not record.server.alive:
            process.stop(record.server, grace=0)  # reaps our dead child

        def note(server: ProcessId) -> None:
            service.update(server=server)

        ganesha.start(record.clients, note)

    def _unserve(self, record: Record) -> None:
        self._ganesha(record).stop(record.server)
        mounts.unmount(self._config(record).data)

    def _ganesha(self, record: Record) -> Ganesha:
        return Ganesha(self._config(record))

    def _config(self, record: Record) -> GaneshaConfig:
        folder = self._node.run_dir / "ganesha" / str(record.number)
        return GaneshaConfig(record.number, self._node.address, record.port, folder)

    def _backend(self, spec: ServiceSpec) -> VolumeBackend:
        backend = self._node.backends.get(spec.backend)
        if backend is None:
            raise EnvironmentFault(f"datanode {self._node.name} has no volumes of kind `{spec.backend}`")
        return backend


def remove_folder(run: Runner, folder: Path) -> None:
    """Drop a service's run folder, but never what might be mounted in it for its data.

    What its user may write into is a file system of its own, and goes as a whole (dnd/sbb/server.py). What else is left
    is told in the log, keeps no buffer from being gone, and is tried again as a stray.
    Raises EnvironmentFault if its data is there still.
    """
    data = folder / "data"
    if data.exists():
        try:
            data.rmdir()  # refuses a mountpoint and a folder that is not empty
        except OSError as error:
            raise EnvironmentFault(f"{data} cannot be dropped: {error.strerror}") from error
    try:
        mounts.detach(folder)
        # Unlike Python's, it goes as deep as there are folders, follows no link and leaves mounts alone.
        run(["rm", "-rf", "--one-file-system", "--", str(folder)], timeout=_REMOVAL_SECONDS)
    except EbbError as error:
        logger.error("%s is left behind: %s", folder, error.text)


def record_name(record: Record) -> str:
    """How a log line calls a service."""
    return f"{record.spec.type} {record.spec.sid} ({record.spec.name})"
