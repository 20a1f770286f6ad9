"""Which objects are dropped of a save that was cut off, whatever step it was in and whatever the user did since."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from dnd.hestia.embedded import EmbeddedStore
from dnd.hestia.ledger import Entry, Ledger
from dnd.hestia.stores import open_store
from ebb.as_user import AsUser
from ebb.objectpair import Pair
from ebb.objectstore import ObjectStore, StoreKind

USER = AsUser(65534, 65534)
OLD, OTHER = Pair("old-header", "old-data"), Pair("other-header", "other-data")


class Site:
    """A store, a ledger, a user's folder."""

    def __init__(self, folder: Path) -> None:
        folder.chmod(0o755)
        (folder / "store").mkdir()
        self.home = folder / "home"
        self.home.mkdir()
        os.chown(self.home, USER.uid, USER.gid)
        self.spec = ObjectStore(StoreKind.EMBEDDED, str(folder / "store"), 2, 5)
        self.store = EmbeddedStore(folder / "store", 2)
        self.ledger_folder = folder / "objects"
        self.ledger = self.restarted()
        self.file, self.aside = self.home / "ds", self.home / "ds.ebb-1.partial"

    def restarted(self) -> Ledger:
        return Ledger(self.ledger_folder, open_store)

    def put(self, pair: Pair) -> None:
        for object_id in (pair.header, pair.data):
            self.store.create(object_id, "x")
            self.store.put(object_id, 1, lambda: iter([b"x"]))

    def write(self, path: Path, pair: Pair) -> None:
        path.write_text(pair.text)
        os.chown(path, USER.uid, USER.gid)

    def begin(self) -> Entry:
        entry = self.ledger.begin(self.spec, USER, str(self.file), str(self.aside))
        for pair in (entry.new, OLD, OTHER):
            self.put(pair)
        return entry

    def left(self) -> set[str]:
        self.restarted().settle_all()
        return set(self.store.list())


def ids(*pairs: Pair) -> set[str]:
    return {object_id for pair in pairs for object_id in (pair.header, pair.data)}


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    folder = tmp_path_factory.mktemp("site")
    for parent in (folder, *folder.parents[:2]):
        parent.chmod(0o755)
    return Site(folder)


def test_while_it_writes_the_new_objects_are_nobodys(site: Site) -> None:
    site.write(site.file, OLD)
    site.begin()
    assert site.left() == ids(OLD, OTHER)
    assert list(site.ledger_folder.iterdir()) == []


def test_a_save_under_way_is_left_alone(site: Site) -> None:
    entry = site.begin()
    site.ledger.settle_all()
    assert ids(entry.new) <= set(site.store.list())
    site.ledger.close(entry)
    assert site.left() == ids(OLD, OTHER)


@pytest.mark.parametrize(
    ("in_file", "in_aside", "kept"),
    [
        ("old", "new", ("old", "other")),  # not renamed
        ("new", None, ("new", "other")),  # renamed
        ("new", "other", ("new", "other")),  # renamed, and another save has written its file aside
        ("old", None, ("old", "other")),  # not even written aside
        ("other", None, ("other",)),  # renamed, and another save has been since
        (None, None, ("new", "old", "other")),  # nobody can tell: it may have been moved away
        (None, "new", ("old", "other")),  # the first save of all, not renamed
    ],
)
def test_while_it_renames_the_file_tells(
    site: Site, in_file: str | None, in_aside: str | None, kept: tuple[str, ...]
) -> None:
    entry = site.begin()
    named = {"old": OLD, "new": entry.new, "other": OTHER}
    for path, which in ((site.file, in_file), (site.aside, in_aside)):
        if which is not None:
            site.write(path, named[which])
    site.ledger.renaming(entry, OLD)
    assert site.left() == ids(*(named[which] for which in kept))
    assert site.aside.exists() is (in_aside == "other"), "only its own file aside is removed"
    assert len(list(site.ledger_folder.iterdir())) == (1 if in_file is in_aside is None else 0)


def test_after_the_renaming_the_old_objects_go(site: Site) -> None:
    entry = site.begin()
    site.ledger.cleaning(site.ledger.renaming(entry, OLD))
    assert site.left() == ids(entry.new, OTHER)


@pytest.mark.parametrize("damage", [lambda path: path.write_text("{"), lambda path: path.write_text('{"id": 1}')])
def test_an_entry_that_cannot_be_read_stops_nothing(site: Site, damage: Callable[[Path], object]) -> None:
    site.begin()
    damage(site.ledger_folder / "0000.json")
    assert site.left() == ids(OLD, OTHER)
    assert [path.name for path in site.ledger_folder.iterdir()] == ["0000.json"]


def test_a_save_that_will_go_on_keeps_its_objects_and_is_found_again(site: Site) -> None:
    checkpoints = site.ledger_folder.parent / "volume.out"
    checkpoints.touch()
    entry = site.ledger.begin(site.spec, USER, str(site.file), str(site.aside), str(checkpoints))
    site.put(entry.new)
    site.ledger.close(entry)
    assert site.left() == ids(entry.new)
    ledger = site.restarted()
    assert ledger.resume("none") is None and ledger.resume("../objects/none") is None
    assert ledger.resume(entry.id) == entry
    assert ledger.resume(entry.id) is None, "one goes on with it"
    checkpoints.unlink()
    ledger.settle_all()
    assert set(site.store.list()) == ids(entry.new), "it is at it"
    ledger.close(entry)
    assert site.store.list() == [] and list(site.ledger_folder.iterdir()) == []
    assert ledger.resume(entry.id) is None


def test_what_is_renamed_is_not_gone_on_with(site: Site) -> None:
    entry = site.begin()
    site.ledger.renaming(entry, OLD)
    assert site.restarted().resume(entry.id) is None


@pytest.mark.parametrize("step", ["begin", "renaming"])
def test_a_daemon_that_is_killed_while_it_writes_leaves_nothing_for_ever(
    site: Site, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    entry = site.ledger.begin(site.spec, USER, str(site.file), str(site.aside)) if step == "renaming" else None
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", killed)
        with pytest.raises(KeyboardInterrupt):
            if entry is None:
                site.ledger.begin(site.spec, USER, str(site.file), str(site.aside))
            else:
                site.ledger.renaming(entry, OLD)
    assert list(site.ledger_folder.iterdir())
    site.restarted().settle_all()
    assert list(site.ledger_folder.iterdir()) == []
