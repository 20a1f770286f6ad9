"""Paths are used with the user's rights, and nothing that is no regular file gets through."""

import contextlib
import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ebb import as_user_helper, mounts
from ebb.as_user import AsUser, PathMissing
from ebb.errors import EnvironmentFault, UserError
from unit.dnd.nfs4 import wait_for
from unit.fuse import served

NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A directory of the user nobody that the user can reach."""
    place = tmp_path / "home"
    place.mkdir()
    os.chown(place, NOBODY, NOBODY)
    for parent in (tmp_path, *tmp_path.parents):
        if parent.stat().st_mode & 0o011 != 0o011:
            parent.chmod(0o755)
    return place


@pytest.fixture
def user() -> AsUser:
    return AsUser(NOBODY, NOBODY, timeout=10)


def test_a_file_is_made_renamed_and_removed_as_the_user(home: Path, user: AsUser) -> None:
    partial, final = str(home / "a.partial"), str(home / "a")
    descriptor = user.create(partial, like=final)
    os.write(descriptor, b"data")
    os.close(descriptor)
    user.replace(partial, final)
    found = os.stat(final)
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (NOBODY, NOBODY, 0o600)
    descriptor = user.open_source(final)
    assert os.read(descriptor, 10) == b"data"
    os.close(descriptor)
    user.remove(final)
    user.remove(final)
    assert list(home.iterdir()) == []


def test_a_replacement_keeps_the_permissions_of_the_old_file(home: Path, user: AsUser) -> None:
    (home / "a").touch()
    os.chmod(home / "a", 0o640)
    os.close(user.create(str(home / "b"), like=str(home / "a")))
    assert (home / "b").stat().st_mode & 0o777 == 0o640


def test_roots_files_stay_closed(home: Path, user: AsUser) -> None:
    secret = home.parent / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    (home / "link").symlink_to(secret)
    for path in (secret, home / "link"):
        with pytest.raises(UserError, match="Permission denied"):
            user.open_source(str(path))


@pytest.mark.parametrize("kind", ["directory", "FIFO", "socket", "character device"])
def test_what_is_no_regular_file_is_refused_and_does_not_hang(home: Path, user: AsUser, kind: str) -> None:
    path = home / "x"
    holder = socket.socket(socket.AF_UNIX)
    if kind == "directory":
        path.mkdir()
    elif kind == "FIFO":
        os.mkfifo(path)
    elif kind == "socket":
        os.chdir(home)
        holder.bind("x")
        os.chdir("/")
    else:
        path = Path("/dev/null")
    os.chmod(path, 0o777 if kind == "directory" else 0o666)
    begin = time.monotonic()
    with pytest.raises(UserError, match=kind if kind != "socket" else "No such device"):
        user.open_source(str(path))
    with pytest.raises(UserError, match=kind):
        user.check_target(str(path))
    assert time.monotonic() - begin < 5
    holder.close()


def test_a_target_is_refused_where_it_could_not_be_written(home: Path, user: AsUser) -> None:
    user.check_target(str(home / "new"))
    with pytest.raises(UserError, match=f"no permission to write in {home.parent}"):
        user.check_target(str(home.parent / "new"))
    with pytest.raises(PathMissing, match="No such file"):
        user.check_target(str(home / "no-such" / "new"))
    (home / "link").symlink_to(home / "elsewhere")
    with pytest.raises(UserError, match="symbolic link"):
        user.check_target(str(home / "link"))


def test_nothing_is_followed_or_overwritten_by_create(home: Path, user: AsUser) -> None:
    (home / "link").symlink_to(home / "elsewhere")
    (home / "there").write_text("kept")
    for name in ("link", "there"):
        with pytest.raises(UserError, match="File exists"):
            user.create(str(home / name), like=str(home / "none"))
    assert (home / "there").read_text() == "kept"
    assert not (home / "elsewhere").exists()


def test_supplementary_groups_count(home: Path) -> None:
    # nogroup is nobody's own group; a file of it is readable through the group list alone
    shared = home.parent / "shared"
    shared.write_text("x")
    os.chown(shared, 0, NOBODY)
    shared.chmod(0o640)
    os.close(AsUser(NOBODY, NOBODY).open_source(str(shared)))


def test_unknown_users_root_and_relative_paths_are_refused(home: Path, user: AsUser) -> None:
    with pytest.raises(EnvironmentFault, match="no user with uid 4123456"):
        AsUser(4123456, 4123456).status(str(home))
    with pytest.raises(UserError, match="root's buffers"):
        AsUser(0, 0).status(str(home))
    with pytest.raises(UserError, match="absolute path"):
        user.open_source("relative")


def test_status_says_whose_directory_it_is(home: Path, user: AsUser) -> None:
    found = user.status(str(home))
    assert found.is_directory and found.uid == NOBODY
    with pytest.raises(PathMissing):
        user.status(str(home / "none"))


def helpers() -> list[str]:
    """Processes that act as the user for us."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            status = (entry / "status").read_text()
            if f"\nPPid:\t{os.getpid()}\n" in status and f"\nUid:\t{NOBODY}\t" in status:
                found.append(entry.name)
    return found


def test_a_file_system_that_hangs_costs_a_call_its_deadline(home: Path) -> None:
    """Its server never answers at all: the user's own FUSE, or a network file system whose server is away."""
    hanging, elsewhere = home / "hanging", home / "elsewhere"
    hanging.mkdir()
    elsewhere.touch()
    user = AsUser(NOBODY, NOBODY, timeout=0.5)
    path = str(hanging / "x")
    calls: list[Callable[[AsUser], object]] = [
        lambda user: user.open_source(path),
        lambda user: user.check_target(path),
        lambda user: user.create(path, like=path),
        lambda user: user.create_anew(path, like=path),
        lambda user: user.status(path),
        lambda user: user.whereabouts(path),
        lambda user: user.newest(str(hanging)),
        lambda user: user.replace(str(elsewhere), path),
    ]
    with served(hanging, NOBODY, hangs=True):
        for call in calls:
            begun = time.monotonic()
            with pytest.raises(EnvironmentFault, match=r"did not answer within 0\.5 s"):
                call(user)
            assert time.monotonic() - begun < 5
        with user.session() as session:
            with pytest.raises(EnvironmentFault, match=r"did not answer within 0\.5 s"):
                session.open_source(path)
            os.close(dataclasses.replace(session, timeout=10).open_source(str(elsewhere)))
    wait_for(lambda: not helpers(), 10, "no child is left")


def test_no_file_comes_from_a_file_system_that_a_user_serves(home: Path, user: AsUser) -> None:
    """It answers now, and may hang whoever uses the file later."""
    place = home / "place"
    place.mkdir()
    path = str(place / "x")
    with served(place, NOBODY, hangs=False):
        for call in (user.open_source, user.reopen, user.check_target):
            with pytest.raises(UserError, match=r"file system that a user serves \(fuse\.mine on .*place\)"):
                call(path)
    with served(place, 0, hangs=False):
        os.close(user.open_source(path))
        user.check_target(path)


@pytest.mark.parametrize("name", [b"caf\xc3\xa9", b"latin \xe9", b"a\rb \xe2\x80\xa8c\n#\\040"])
def test_a_mount_with_any_name_confuses_nobody(home: Path, user: AsUser, name: bytes) -> None:
    """Users choose where they mount what they serve; the files of others are as usable as before."""
    place, other = home / os.fsdecode(name), home / "other"
    place.mkdir()
    other.touch()
    with served(place, NOBODY, hangs=False):
        found = mounts.find(place)
        assert found is not None and (found.filesystem, found.served_by) == ("fuse.mine", NOBODY)
        with pytest.raises(UserError, match="file system that a user serves"):
            user.open_source(str(place / "x"))
        os.close(user.open_source(str(other)))


def test_a_session_does_all_with_one_helper(home: Path, user: AsUser) -> None:
    with user.session() as session:
        first = helpers()
        os.close(session.create(str(home / "a"), like=str(home / "none")))
        session.replace(str(home / "a"), str(home / "b"))
        with pytest.raises(PathMissing):
            session.open_source(str(home / "a"))
        os.close(session.open_source(str(home / "b")))
        assert helpers() == first and len(first) == 1
    assert helpers() == []


def test_a_file_that_somebody_else_put_there_is_not_renamed(home: Path, user: AsUser) -> None:
    """Two clusters that save to one dataset, and have the same name for what they write aside."""
    partial, final = str(home / "a.partial"), str(home / "a")
    mine = user.create(partial, like=final)
    others = user.create_anew(partial, like=final)
    with pytest.raises(UserError, match="somebody else saves to it"):
        user.replace(partial, final, inode=os.fstat(mine).st_ino)
    user.replace(partial, final, inode=os.fstat(others).st_ino)
    for descriptor in (mine, others):
        os.close(descriptor)
    assert os.listdir(home) == ["a"]


def test_a_link_that_is_swapped_in_while_a_file_is_opened_gives_nothing_that_is_not_the_users(
    home: Path, user: AsUser
) -> None:
    secret = home.parent / "secret"
    secret.write_text("root's")
    secret.chmod(0o600)
    path, stop = home / "ds", threading.Event()
    path.write_text("mine")

    def swap() -> None:
        while not stop.is_set():
            for make in (lambda aside: aside.symlink_to(secret), lambda aside: aside.write_text("mine"), os.mkfifo):
                aside = home / "aside"
                make(aside)
                os.replace(aside, path)

    swapper = threading.Thread(target=swap)
    swapper.start()
    opened = refused = 0
    try:
        with user.session() as session:
            deadline = time.monotonic() + 20
            while (not opened or not refused) and time.monotonic() < deadline:
                for _ in range(50):
                    try:
                        descriptor = session.open_source(str(path))
                    except UserError:
                        refused += 1
                        continue
                    opened += 1
                    assert os.read(descriptor, 10) in (b"mine", b"")
                    os.close(descriptor)
    finally:
        stop.set()
        swapper.join()
    assert opened and refused


def test_what_is_not_there_is_looked_for_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an NFS client needs it that remembers that it was not there."""
    opened: list[str] = []

    def remembered(path: str, _: dict[str, object]) -> tuple[None, dict[str, object]]:
        if not opened:
            raise FileNotFoundError(path)
        return None, {}

    real = os.open

    def note(path: str, flags: int) -> int:
        opened.append(path)
        return real(path, flags)

    monkeypatch.setitem(as_user_helper.ACTIONS, "remembered", remembered)
    monkeypatch.setattr(os, "open", note)
    assert as_user_helper.act({"action": "remembered", "path": f"{tmp_path}/sets/one"}) == (None, {})
    assert opened[0] == "/" and opened[-3:] == [str(tmp_path), f"{tmp_path}/sets", f"{tmp_path}/sets/one"]
