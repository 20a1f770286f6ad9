"""The words that all of Ebb's processes share: frozen dataclasses and enums whose values are the names on the wire.

Sizes are int bytes everywhere. Nothing here does I/O. The wires are described in docs/interfaces.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ebb.fields import Fields
from ebb.layout import LINEAR, Layout
from ebb.objectstore import ObjectStore
from ebb.sbb import SbbSpec
from ebb.service_fields import read_jobs, read_pid, read_sid


class ServiceType(StrEnum):
    """The type word behind `#BB_LUA`."""

    SBB = "SBB"
    GBF = "GBF"
    DASI = "DASI"
    KVSNS = "KVSNS"


class Verb(StrEnum):
    """What a directive asks for; the verb keeps this name in every layer."""

    CREATE_PERSISTENT = "create_persistent"
    USE_PERSISTENT = "use_persistent"
    DESTROY_PERSISTENT = "destroy_persistent"


class BufferState(StrEnum):
    """A buffer's state as `scontrol show bbstat` prints it behind `State=`."""

    STAGING_IN = "staging-in"
    STAGED_IN = "staged-in"
    STAGING_OUT = "staging-out"
    STAGED_OUT = "staged-out"
    TEARDOWN = "teardown"


class Phase(StrEnum):
    """How far one service on one datanode is, as dnd reports it."""

    CREATING = "creating"
    READY = "ready"
    SAVING = "saving"
    SAVED = "saved"
    RELEASING = "releasing"
    GONE = "gone"
    FAILED = "failed"
    SAVE_FAILED = "save-failed"
    RELEASE_FAILED = "release-failed"

    @property
    def settled(self) -> bool:
        """True when dnd does nothing more by itself: the orchestrator's turn."""
        return self not in (Phase.CREATING, Phase.SAVING, Phase.RELEASING)

    @property
    def failed(self) -> bool:
        """True when `Status.error` says what went wrong and a further `destroy_persistent` is needed."""
        return self in (Phase.FAILED, Phase.SAVE_FAILED, Phase.RELEASE_FAILED)


class Backend(StrEnum):
    """What makes a datanode's volumes: LVM, or sparse files with loop devices where the kernel lacks device-mapper."""

    LVM = "lvm"
    FILE = "file"


@dataclass(frozen=True, slots=True)
class Directive:
    """One `#BB_LUA` line as the hooks send it: validated, keys as the contract spells them, defaults filled in.

    line: its number in the script, from 1. args: text values, sizes already plain bytes.
    """

    line: int
    type: ServiceType
    verb: Verb
    args: Mapping[str, str]

    @property
    def name(self) -> str:
        """The buffer's name; every directive has one."""
        return self.args["Name"]

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Hooks to orchestrator"."""
        return {"line": self.line, "type": self.type.value, "verb": self.verb.value, "args": dict(self.args)}

    @classmethod
    def from_wire(cls, data: object) -> Directive:
        """Read what a hook sent. Raises UserError naming field, value and what is expected."""
        fields = Fields("directive", data)
        line = fields.integer("line", least=1)
        kind, verb = fields.enum("type", ServiceType), fields.enum("verb", Verb)
        raw = fields.mapping("args")
        fields.done()
        args = Fields(f"directive on line {line}: args", raw)
        values = {name: args.text(name) for name in raw}
        args.text("Name")
        return cls(line, kind, verb, values)


@dataclass(frozen=True, slots=True)
class Resources:
    """What a buffer takes from one datanode, or what a datanode has: bytes, cores, bytes."""

    memory: int = 0
    cores: int = 0
    storage: int = 0

    def __add__(self, other: Resources) -> Resources:
        return Resources(self.memory + other.memory, self.cores + other.cores, self.storage + other.storage)

    def times(self, count: int) -> Resources:
        """The same on `count` datanodes, for totals."""
        return Resources(self.memory * count, self.cores * count, self.storage * count)


@dataclass(frozen=True, slots=True)
class Flavor:
    """An SBB flavor of datanodes.conf: what one datanode gives to a buffer of it. storage 0: none."""

    name: str
    memory: int
    cores: int
    storage: int = 0

    @property
    def resources(self) -> Resources:
        """The flavor as the allocator asks for it, per datanode."""
        return Resources(self.memory, self.cores, self.storage)


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """One LVM volume group of a datanode, or the folder that stands for one (backend `file`). size in bytes."""

    name: str
    size: int
    backend: Backend = Backend.LVM
    layout: Layout = LINEAR


@dataclass(frozen=True, slots=True)
class Datanode:
    """One line's worth of datanodes.conf. address: where dnd listens and services export. memory in bytes."""

    name: str
    address: str
    port: int
    memory: int
    cores: int
    volume_groups: tuple[VolumeGroup, ...]

    @property
    def storage(self) -> int:
        """Bytes over all volume groups; a buffer must still fit in one of them."""
        return sum(group.size for group in self.volume_groups)

    def volume_group(self, name: str) -> VolumeGroup:
        """The group called `name`. Raises KeyError: callers hold names that came from this datanode."""
        for group in self.volume_groups:
            if group.name == name:
                return group
        raise KeyError(name)


@dataclass(frozen=True, slots=True)
class ServiceSpec:
    """What the orchestrator asks of one datanode with `create_persistent`; the same spec again changes nothing.

    sid: the bbid as text (`42`, `42-2` for a job's second buffer). path: the mountpoint in the job; of a DASI its
    DasiConfig file, of an SBB its targets with `:` between. data_src, data_dst: dataset paths of the user, None for
    none; they are opened as the user, on the datanode. object_store: where HESTIA@ datasets keep their data.
    sbb: of an SBB only, which alone may have no storage (and then no volume group). layout: of its volumes.
    """

    sid: str
    bbid: int
    type: ServiceType
    name: str
    user: str
    uid: int
    gid: int
    storage_size: int
    backend: Backend
    volume_group: str
    path: str
    data_src: str | None = None
    data_dst: str | None = None
    object_store: ObjectStore | None = None
    sbb: SbbSpec | None = None
    layout: Layout = LINEAR

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Service spec"."""
        return {
            "sid": self.sid, "bbid": self.bbid, "type": self.type.value, "name": self.name, "user": self.user,
            "uid": self.uid, "gid": self.gid, "storage_size": self.storage_size, "backend": self.backend.value,
            "volume_group": self.volume_group, "path": self.path, "data_src": self.data_src,
            "data_dst": self.data_dst, "object_store": self.object_store.to_wire() if self.object_store else None,
            "sbb": self.sbb.to_wire() if self.sbb else None, "layout": self.layout.to_wire(),
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: object) -> ServiceSpec:
        """Read the body of `create_persistent`. Raises UserError naming field, value and what is expected."""
        fields = Fields("service spec", data)
        kind, sbb = fields.enum("type", ServiceType), fields.optional("sbb", SbbSpec.from_wire)
        if (sbb is None) is (kind is ServiceType.SBB):
            raise fields.refuse("sbb", "an object of an SBB, null of any other type")
        bare = sbb is not None and fields.integer("storage_size") == 0
        spec = cls(
            sid=read_sid(fields), bbid=fields.integer("bbid", least=1), type=kind,
            name=fields.plain("name"), user=fields.text("user"),
            uid=fields.integer("uid"), gid=fields.integer("gid"),
            storage_size=fields.integer("storage_size", least=0 if bare else 1),
            backend=fields.enum("backend", Backend),
            volume_group=fields.message_or_none("volume_group") or "" if bare else fields.plain("volume_group"),
            path=fields.path("path"),
            data_src=fields.text_or_none("data_src"), data_dst=fields.text_or_none("data_dst"),
            object_store=fields.optional("object_store", ObjectStore.from_wire), sbb=sbb,
            layout=fields.optional("layout", Layout.from_wire) or LINEAR,
        )  # fmt: skip
        fields.done()
        if spec.backend is Backend.FILE and spec.layout != LINEAR:
            raise fields.refuse("layout", "null: files are neither striped nor thin")
        if spec.sid.partition("-")[0] != str(spec.bbid):
            raise fields.refuse("sid", f"{spec.bbid} (the bbid) or {spec.bbid}-<n>")
        return spec


@dataclass(frozen=True, slots=True)
class Progress:
    """Data that moves: bytes done, bytes in all, bytes a second of late."""

    done: int
    total: int
    rate: float

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Status"."""
        return {"done": self.done, "total": self.total, "rate": self.rate}

    @classmethod
    def from_wire(cls, data: object) -> Progress:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("status: progress", data)
        progress = cls(fields.integer("done"), fields.integer("total"), fields.number("rate"))
        fields.done()
        return progress


@dataclass(frozen=True, slots=True)
class Mount:
    """How a job's node reaches a service: NFS export, or `data` by bind mount where the node is the datanode.

    path: the mountpoint in the job.
    """

    address: str
    port: int
    export: str
    data: str
    path: str

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Status"."""
        return {
            "address": self.address, "port": self.port, "export": self.export, "data": self.data, "path": self.path,
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: object) -> Mount:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("status: mounts", data)
        mount = cls(
            fields.text("address"), fields.integer("port", 1), fields.path("export"), fields.path("data"),
            fields.path("path"),
        )  # fmt: skip
        fields.done()
        return mount


@dataclass(frozen=True, slots=True)
class Volume:
    """The volume behind a service. name: `gbf_<bbid>_<datanode address>_stg` and the like; size in bytes."""

    backend: Backend
    volume_group: str
    name: str
    size: int

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Status"."""
        return {
            "backend": self.backend.value, "volume_group": self.volume_group, "name": self.name, "size": self.size,
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: object) -> Volume:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("status: volumes", data)
        volume = cls(
            fields.enum("backend", Backend), fields.plain("volume_group"), fields.plain("name"),
            fields.integer("size"),
        )  # fmt: skip
        fields.done()
        return volume


@dataclass(frozen=True, slots=True)
class Status:
    """What dnd says of one service. revision grows with every change.

    mounts: one for each export, none unless ready. daemons: pids. jobs: who is let in, job id -> addresses.
    health: what the last health check found wrong.
    """

    sid: str
    type: ServiceType
    name: str
    uid: int
    phase: Phase
    revision: int
    error: str | None = None
    progress: Progress | None = None
    mounts: tuple[Mount, ...] = ()
    volumes: tuple[Volume, ...] = ()
    daemons: tuple[int, ...] = ()
    jobs: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    health: str | None = None

    @property
    def mount(self) -> Mount | None:
        """The first mount, for services that have one."""
        return self.mounts[0] if self.mounts else None

    @property
    def volume(self) -> Volume | None:
        """The first volume, for services that have one."""
        return self.volumes[0] if self.volumes else None

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Status"."""
        return {
            "sid": self.sid, "type": self.type.value, "name": self.name, "uid": self.uid,
            "phase": self.phase.value, "revision": self.revision, "error": self.error,
            "progress": self.progress.to_wire() if self.progress else None,
            "mounts": [mount.to_wire() for mount in self.mounts],
            "volumes": [volume.to_wire() for volume in self.volumes],
            "daemons": [{"pid": pid} for pid in self.daemons],
            "jobs": {job: list(addresses) for job, addresses in self.jobs.items()},
            "health": self.health,
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: object) -> Status:
        """Read dnd's answer. Raises UserError naming field, value and what is expected."""
        fields = Fields("status", data)
        status = cls(
            sid=read_sid(fields), type=fields.enum("type", ServiceType), name=fields.plain("name"),
            uid=fields.integer("uid"), phase=fields.enum("phase", Phase), revision=fields.integer("revision"),
            error=fields.message_or_none("error"), progress=fields.optional("progress", Progress.from_wire),
            mounts=fields.list_of("mounts", Mount.from_wire), volumes=fields.list_of("volumes", Volume.from_wire),
            daemons=fields.list_of("daemons", read_pid), jobs=read_jobs(fields),
            health=fields.message_or_none("health"),
        )  # fmt: skip
        fields.done()
        return status
