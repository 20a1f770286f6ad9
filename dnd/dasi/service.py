"""A DASI buffer on this datanode: a GBF for each root of the user's configuration, made, saved and freed together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from dnd import datasets
from dnd.dasi import config
from dnd.dasi.part import RootWork
from dnd.dasi.roots import dataset_name, share_of
from dnd.gbf import Gbf, Node
from dnd.health import Flash
from dnd.journal import Part, Record
from dnd.ports import NoteNumbers
from dnd.service import NotYet, Service
from dnd.tools import xfs
from ebb.as_user import AsUser, PathMissing
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.model import Phase, Progress, ServiceSpec, Status
from ebb.objectstore import file_of

Claim = Callable[[Service, int, NoteNumbers], None]
"""Lifecycle.claim."""


class Dasi:
    """What the lifecycle does to one DASI buffer. prefixes: where roots may lie."""

    folder = "ganesha"
    gathers = False

    def __init__(self, node: Node, gbf: Gbf, prefixes: Sequence[str], claim: Claim) -> None:
        self._node, self._gbf, self._prefixes, self._claim = node, gbf, prefixes, claim

    def refuse(self, spec: ServiceSpec) -> None:
        """Refuse at once what no work could make good. Raises UserError."""
        datasets.refuse(spec)
        if spec.data_dst is None:
            raise UserError("data_dst is missing: a DASI buffer is saved to datasets in a directory")
        if spec.storage_size < xfs.SMALLEST:
            raise UserError(f"StorageSize {spec.storage_size} is too small: {xfs.SMALLEST} bytes (300 MiB) a root")

    def saves(self, spec: ServiceSpec) -> bool:
        """Always: it has a data_dst."""
        return spec.data_dst is not None

    def volume_name(self, spec: ServiceSpec) -> str:
        """None: its roots have volumes."""
        return ""

    def describe(self, record: Record, moving: Progress | None) -> Status:
        """The status of docs/interfaces.md, with a mount and a volume for each root."""
        roots = [self._gbf.describe(RootWork.record_of(record, index), moving) for index in range(len(record.parts))]
        whole = record.spec
        return Status(
            whole.sid,
            whole.type,
            whole.name,
            whole.uid,
            record.phase,
            record.revision,
            record.error,
            None if record.phase is Phase.RELEASING else moving,
            tuple(mount for root in roots for mount in root.mounts),
            tuple(volume for root in roots for volume in root.volumes),
            tuple(pid for root in roots for pid in root.daemons),
            record.jobs,
            record.health,
        )

    def flash(self, record: Record) -> list[Flash]:
        """The volumes of all roots."""
        roots = [RootWork.record_of(record, index) for index in range(len(record.parts))]
        return [volume for root in roots for volume in self._gbf.flash(root)]

    def create(self, service: Service) -> None:
        """All roots or none: the first that fails ends it, and the lifecycle releases all. Raises EbbError."""
        if not service.record.parts:
            self._plan(service)
        for root in _roots(service):
            with _named(root):
                self._gbf.create(root)

    def save(self, service: Service) -> None:
        """Save each root that is not saved yet; when one fails the others are still saved, and nothing is freed.

        Raises EnvironmentFault naming every root that could not be saved, NotYet if some must wait, or Cancelled.
        """
        failures = []
        waits: list[NotYet] = []
        for root in _roots(service):
            if root.part.saved:
                continue
            try:
                self._gbf.save(root)
                root.update(saved=True)
            except EbbError as error:
                failures.append(f"root {root.part.path}: {error.text}")
            except NotYet as wait:
                waits.append(wait)
        if waits:
            raise NotYet(lambda: any(wait.over() for wait in waits))
        if failures:
            saved = sum(part.saved for part in service.record.parts)
            raise EnvironmentFault(f"{saved} of {len(service.record.parts)} roots saved; {'; '.join(failures)}")

    def release(self, service: Service) -> None:
        """Free all roots. Raises EnvironmentFault with what could not be freed, after all that could was."""

        def release(root: RootWork) -> None:
            self._gbf.release(root)
            root.update(server=None)

        _each(service, release)

    def admit(self, service: Service) -> None:
        """Bring the client lists of all exports in line with the record's jobs: one that fails stops no other."""
        _each(service, self._gbf.admit)

    def resume(self, service: Service) -> None:
        """After the daemon's or the node's restart: all roots are mounted and served, as far as they can be."""
        _each(service, self._gbf.resume)

    def keep(self, service: Service) -> None:
        """Called every second or so: start servers again that died."""
        for root in _roots(service):
            self._gbf.keep(root)

    def _plan(self, service: Service) -> None:
        """Read the configuration and write down what it makes: it is read once, whatever becomes of the file."""
        spec = service.record.spec
        user = AsUser(spec.uid, spec.gid)
        paths = config.read(user, spec.path, self._prefixes)
        share = share_of(spec.storage_size, len(paths))
        sources = self._sources(user, spec, paths)
        target = datasets.directory(str(spec.data_dst))
        address = self._node.address.replace(":", ".")

        def note(numbers: Sequence[tuple[int, int]]) -> None:
            parts = [
                Part(
                    path,
                    number,
                    port,
                    f"gbf_{spec.sid}_{address}_{index}_stg",
                    share,
                    sources[index],
                    target + dataset_name(path),
                )
                for index, (path, (number, port)) in enumerate(zip(paths, numbers, strict=True))
            ]
            service.update(parts=tuple(parts))

        self._claim(service, len(paths), note)

    def _sources(self, user: AsUser, spec: ServiceSpec, paths: Sequence[str]) -> list[str | None]:
        """The dataset that each root begins with, None: it begins empty.

        Datasets that are there are used, so that nobody's data is written over by an empty buffer.
        """
        folder = datasets.directory(spec.data_src or str(spec.data_dst))
        files = [folder + dataset_name(path) for path in paths]
        sources = [file if _is_there(user, file_of(file)) else None for file in files]
        if spec.data_src and datasets.directory(str(spec.data_dst)) != folder and not any(sources):
            raise UserError(
                f"data_src={spec.data_src} has no dataset of any root of `{spec.path}`: looked for "
                f"{', '.join(file.rsplit('/', 1)[-1] for file in files[:3])}; leave data_src out to begin new ones"
            )
        return sources


def _roots(service: Service) -> Iterator[RootWork]:
    for index in range(len(service.record.parts)):
        yield service.roots.setdefault(index, RootWork(service, index))


def _each(service: Service, work: Callable[[RootWork], None]) -> None:
    """Do it to every root. Raises EnvironmentFault at the end, naming the roots where it failed."""
    failures = []
    for root in _roots(service):
        try:
            work(root)
        except EbbError as error:
            failures.append(f"root {root.part.path}: {error.text}")
    if failures:
        raise EnvironmentFault("; ".join(failures))


class _named:
    """Puts the root in front of an error's text."""

    def __init__(self, root: RootWork) -> None:
        self._root = root

    def __enter__(self) -> None:
        pass

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, UserError):
            raise UserError(f"root {self._root.part.path}: {error.text}") from error
        if isinstance(error, EbbError):
            raise EnvironmentFault(f"root {self._root.part.path}: {error.text}") from error


def _is_there(user: AsUser, file: str) -> bool:
    try:
        user.status(file)
    except PathMissing:
        return False
    return True
