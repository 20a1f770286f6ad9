"""Where a buffer's data come from and go to: the user's file, or two objects that the user's file names (HESTIA@)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dnd.hestia import dataset as objects
from dnd.hestia import saving
from dnd.hestia.ledger import Ledger
from dnd.hestia.store import Pauses
from dnd.hestia.stores import open_store
from dnd.journal import Record
from dnd.service import Work
from dnd.staging import source_file, target_file
from dnd.staging.image import Image
from dnd.staging.kept import Kept
from dnd.staging.progress import Tracker
from dnd.tools import xfs
from ebb.as_user import AsUser
from ebb.errors import EbbError, UserError
from ebb.extents import Extents
from ebb.model import ServiceSpec
from ebb.objectstore import PREFIX, file_of, names_objects
from ebb.run import Runner


def refuse(spec: ServiceSpec) -> None:
    """Refuse paths that no work could make good. Raises UserError."""
    for name, value in (("data_src", spec.data_src), ("data_dst", spec.data_dst)):
        if value is None:
            continue
        if names_objects(value) and spec.object_store is None:
            raise UserError(f"{name}={value}: this site has no object store; give the path of a dataset file")
        if not file_of(value).startswith("/"):
            raise UserError(f"{name}={value}: must be an absolute path, {PREFIX} may stand in front")


def directory(path: str) -> str:
    """A namespace directory with one slash at its end, HESTIA@ kept in front."""
    return path.rstrip("/") + "/"


@dataclass(frozen=True, slots=True)
class Datasets:
    """Stage-in and stage-out on one datanode, called by the services' create, save and release.

    key: a call that reads the key of dataset headers. ledger: the objects that no file names. staging_dir: what is kept
    of copies, so that they go on after a crash. foreign: whether files without this site's seal are taken.
    """

    node: str
    key: Callable[[], bytes]
    ledger: Ledger
    staging_dir: Path
    run: Runner
    foreign: bool

    def check(self, work: Work) -> None:
        """Before anything is made: can data_src be read and data_dst be written? Raises EbbError saying what not."""
        spec, user = work.record.spec, _user(work)
        if names_objects(spec.data_src):
            objects.check_source(self._access(work), file_of(str(spec.data_src)), spec.name, spec.storage_size)
        elif spec.data_src is not None:
            source_file.check_source(user, spec.data_src, self.key(), spec.storage_size, foreign=self.foreign)
        if names_objects(spec.data_dst):
            objects.check_target(self._access(work), file_of(str(spec.data_dst)), spec.name, spec.sid)
        elif spec.data_dst is not None:
            try:
                user.check_target(spec.data_dst)
                # Its name is longer: one that fits only just must be refused now, not when the data are to be saved.
                user.check_target(target_file.partial_path(spec.data_dst, spec.sid))
            except UserError as error:
                raise UserError(f"data_dst {error.text}") from error

    def stage_in(self, work: Work, device: Path) -> None:
        """Fill a volume from data_src: a new one, or one that `goes_on`. Raises EbbError or Cancelled."""
        spec, tracker = work.record.spec, work.new_tracker("stage-in")
        source, size = str(spec.data_src), spec.storage_size
        if names_objects(source):
            filling = self._kept(work.record).filling
            objects.stage_in(self._access(work), file_of(source), spec.name, device, size, filling, tracker)
        else:
            self._stage_in_file(work, source, device, tracker)

    def _stage_in_file(self, work: Work, source: str, device: Path, tracker: Tracker) -> None:
        user, key, size, kept = _user(work), self.key(), work.record.spec.storage_size, self._kept(work.record)
        if source_file.check_source(user, source, key, size, foreign=self.foreign):
            kept.mark_foreign()
        header = source_file.stage_in(user, source, key, device, size, kept, tracker, foreign=kept.foreign)
        if header.foreign:
            # Its seal vouches for nothing: the kernel gets it only after the checker had it.
            try:
                xfs.check(self.run, device)
            except UserError as error:
                raise UserError(f"data_src `{source}` has no seal of this site, and {error.text}") from error

    def mount_options(self, record: Record) -> tuple[str, ...]:
        """Options beside the usual ones for mounting what is in the volume: nothing of a foreign image is run here."""
        return ("noexec",) if self._kept(record).foreign else ()

    def goes_on(self, record: Record) -> bool:
        """Whether a stage-in was begun on the volume that is there, which must stay then."""
        return self._kept(record).filling.load() is not None

    def filled(self, record: Record) -> None:
        """The volume is going to be changed: a stage-in that does not end now begins anew."""
        self._kept(record).filling.forget()

    def stage_out(self, work: Work, device: Path, used: Callable[[], Extents]) -> None:
        """Save an unmounted volume to data_dst; `used` says where it holds something. Raises EbbError or Cancelled."""
        spec, tracker = work.record.spec, work.new_tracker("stage-out")
        notes = {"name": spec.name, "sid": spec.sid, "datanode": self.node}
        target, image = str(spec.data_dst), Image(device, spec.storage_size, notes, used)
        if names_objects(target):
            kept = self._kept(work.record)
            saving.stage_out(self._access(work), file_of(target), image, spec.sid, tracker, self.ledger, kept.saving)
        else:
            target_file.stage_out(_user(work), target, self.key(), image, spec.sid, self._kept(work.record), tracker)

    def forget(self, record: Record) -> None:
        """Drop what is kept of copies, and what a save that did not end left beside data_dst."""
        spec = record.spec
        self._kept(record).forget()
        if spec.data_dst is not None:
            with contextlib.suppress(EbbError):
                user = AsUser(spec.uid, spec.gid, timeout=5)
                user.remove(target_file.partial_path(file_of(spec.data_dst), spec.sid))

    def _kept(self, record: Record) -> Kept:
        return Kept(self.staging_dir, record.volume)

    def _access(self, work: Work) -> objects.Access:
        spec = work.record.spec
        if spec.object_store is None:  # `refuse` lets none pass
            raise UserError("HESTIA@ needs an object store, and this site has none")
        pause = Pauses(work.cancel)
        store = open_store(spec.object_store, pause)
        return objects.Access(_user(work), self.key(), spec.object_store, store, pause)


def _user(work: Work) -> AsUser:
    return AsUser(work.record.spec.uid, work.record.spec.gid)
