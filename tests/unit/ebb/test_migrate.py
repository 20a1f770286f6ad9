"""`ebb migrate` without a cluster: scanning, balancing, quoting, reading words, copying and comparing."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from ebb import cli
from ebb.errors import EnvironmentFault, UserError
from ebb.migrate import follow, meter, names, place, prepare, report, rsync, scan, script, slurm, sparse, task, verify
from ebb.migrate.balance import FILE_COST, balance
from ebb.migrate.pattern import matcher
from ebb.migrate.scan import Entry, Kind, Source
from ebb.migrate.work import Request, Work

NASTY = [
    b"a b",
    b"new\nline",
    b"$(touch pwned)",
    b"-rf",
    b"'\"",
    b"#hash",
    b";",
    b"\xff\xfe",
    b"back\\",
    b"h:p",
    b"x" * 255,
]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with everything that a file system can hold."""
    top = tmp_path / "top"
    (top / "sub").mkdir(parents=True)
    for name in NASTY:
        Path(os.fsdecode(os.fsencode(top / "sub") + b"/" + name)).write_bytes(name * 9)
    os.link(top / "sub" / "a b", top / "second")
    (top / "dangling").symlink_to("nowhere")
    os.mkfifo(top / "fifo")
    with (top / "sparse").open("wb") as file:
        file.truncate(64 << 20)
        file.seek(32 << 20)
        file.write(b"middle")
    (top / "sub").chmod(0o550)
    return tmp_path


def copied(tree: Path, target: Path) -> list[verify.Finding]:
    """Copy `tree` as a job does, and compare."""
    sources, goal = [Source(os.fsencode(tree), b"top")], os.fsencode(target)
    found = scan.scan(sources)
    entries = found.of(Kind.FILE, Kind.SYMLINK)
    place.make_directories(goal, found.of(Kind.DIRECTORY))
    told: list[tuple[int, int]] = []
    rsync.copy([e.path for e in entries], tree / "names", sources[0].base, goal, xattrs=True,
               told=lambda *done: told.append(done))  # fmt: skip
    assert told[-1] in ((found.size, len(found.of(Kind.FILE))), (0, 0)), "all, or nothing when all was there"
    place.make_links(goal, found.of(Kind.LINK))
    place.finish_directories(sources, goal, found.of(Kind.DIRECTORY), xattrs=True)
    assert place.wrong_links(goal, found.of(Kind.LINK)) == []
    compared = (
        verify.compare(os.path.join(sources[0].base, e.path), os.path.join(goal, e.path), e, lambda _: None)
        for e in entries
    )
    return [finding for finding in compared if finding]


class TestScan:
    def test_finds_every_kind_and_no_hole(self, tree: Path) -> None:
        found = scan.scan([Source(os.fsencode(tree), b"top")])
        counts = {kind: len(found.of(kind)) for kind in Kind}
        assert counts == {Kind.FILE: 1 + len(NASTY), Kind.DIRECTORY: 2, Kind.SYMLINK: 1, Kind.LINK: 1}
        assert found.special == [os.fsencode(tree / "top" / "fifo")]
        assert found.size > 64 << 20 and found.need < 1 << 20

    def test_a_directory_comes_before_what_is_in_it(self, tree: Path) -> None:
        seen: set[bytes] = set()
        for entry in scan.scan([Source(os.fsencode(tree), b"top")]).entries:
            assert os.path.dirname(entry.path) in seen | {b""}
            seen.add(entry.path)

    def test_keeps_what_matches_and_the_way_to_it(self, tree: Path) -> None:
        found = scan.scan([Source(os.fsencode(tree), b"")], keep=matcher(b"top/s*/a*"))
        assert [entry.path for entry in found.entries] == [b"top", b"top/sub", b"top/sub/a b"]

    def test_a_directory_that_matches_comes_whole(self, tree: Path) -> None:
        found = scan.scan([Source(os.fsencode(tree), b"")], keep=matcher(b"*/sub"))
        assert len(found.of(Kind.FILE)) == len(NASTY)

    def test_leaves_out_what_is_to_be_skipped(self, tree: Path) -> None:
        found = scan.scan([Source(os.fsencode(tree), b"top")], skip=[os.fsencode(tree / "top" / "sub")])
        assert {entry.path for entry in found.entries} == {b"top", b"top/second", b"top/dangling", b"top/sparse"}

    def test_a_source_that_is_gone(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="cannot be read"):
            scan.scan([Source(os.fsencode(tmp_path), b"gone")])

    @pytest.mark.parametrize("storage", [300 << 20, 1 << 30, 5 << 30])
    def test_the_estimate_is_what_xfs_leaves(self, tmp_path: Path, storage: int) -> None:
        image, mount = tmp_path / "image", tmp_path / "mount"
        with image.open("wb") as file:
            file.truncate(storage)
        subprocess.run(["mkfs.xfs", "-q", image], check=True)
        mount.mkdir()
        subprocess.run(["mount", "-o", "loop", image, mount], check=True)
        try:
            status = os.statvfs(mount)
        finally:
            subprocess.run(["umount", mount], check=True)
        free = status.f_bavail * status.f_frsize
        assert free - (40 << 20) < scan.usable(storage) <= free

    @given(st.integers(0, 1 << 50))
    def test_what_is_advised_is_enough(self, need: int) -> None:
        assert need <= scan.usable(scan.storage_for(need)) < need + (300 << 20)


@given(st.lists(st.integers(0, 1 << 40)), st.integers(1, 20))
def test_balance_gives_each_file_once_and_evenly(sizes: list[int], count: int) -> None:
    parts = balance(sizes, count)
    assert sorted(index for part in parts for index in part) == list(range(len(sizes)))
    loads = [sum(sizes[index] + FILE_COST for index in part) for part in parts]
    assert max(loads) <= sum(loads) / count + (max(sizes, default=0) + FILE_COST)


@pytest.mark.parametrize(
    ("pattern", "matching", "others"),
    [
        ("*.h5", ["a.h5", ".h5"], ["a/b.h5", "a.h5x"]),
        ("**/*.h5", ["a.h5", "a/b/c.h5"], ["h5"]),
        ("a/**", ["a/b", "a/b/c"], ["b/a", "a"]),
        ("a/**/z", ["a/z", "a/b/c/z"], ["az", "a/bz"]),
        ("x[0-9][!a]", ["x1b"], ["x1a", "xbb", "x1/"]),
        ("a\\*", ["a*"], ["ab"]),
        ("new\nline?", ["new\nlines", "new\nline\n"], ["new line"]),
        ("", ["a", "a/b\n"], []),
        ("/a/", ["a"], ["a/b"]),
        ("[", ["["], ["a"]),
        ("(a|b)+$", ["(a|b)+$"], ["a", "b"]),
        ("[]]", ["]"], ["["]),
    ],
)
def test_patterns(pattern: str, matching: Sequence[str], others: Sequence[str]) -> None:
    matches = matcher(pattern.encode())
    assert [name for name in matching if not matches(name.encode())] == []
    assert [name for name in others if matches(name.encode())] == []


@pytest.mark.parametrize("pattern", [b"../x", b"a/./b", b"[z-a]"])
def test_patterns_that_match_nothing_are_refused(pattern: bytes) -> None:
    with pytest.raises(UserError):
        matcher(pattern)


class TestCopy:
    def test_everything_arrives(self, tree: Path) -> None:
        target = tree / "target"
        target.mkdir()
        (tree / "top" / "fifo").unlink()
        os.setxattr(tree / "top" / "sparse", "user.color", b"blue")
        assert copied(tree, target) == []
        (tree / "names").unlink()
        shown = subprocess.run(
            ["rsync", "-aHXSni", "--checksum", "--delete", tree / "top", target], check=True, capture_output=True
        )
        assert shown.stdout == b""
        assert (target / "top" / "sparse").stat().st_blocks < 100
        assert not Path("pwned").exists()
        assert copied(tree, target) == []  # again: all is there

    @pytest.mark.parametrize(
        ("spoil", "said"),
        [
            (lambda path: path.write_bytes(b"X" + path.read_bytes()[1:]), "content"),
            (lambda path: path.write_bytes(b""), "became 0"),
            (lambda path: path.unlink(), "cannot be read"),
            (lambda path: path.chmod(0o777), "mode"),
        ],
    )
    def test_what_differs_is_found(self, tree: Path, spoil: Callable[[Path], Any], said: str) -> None:
        target = tree / "target"
        target.mkdir()
        copied(tree, target)
        found = scan.scan([Source(os.fsencode(tree), b"top")])
        entry = next(e for e in found.of(Kind.FILE) if e.path.endswith(b"-rf"))
        path = target / os.fsdecode(entry.path)
        spoil(path)
        if path.exists():
            os.utime(path, ns=(entry.mtime_ns, entry.mtime_ns))
        source = os.path.join(os.fsencode(tree), entry.path)
        finding = verify.compare(source, os.fsencode(path), entry, lambda _: None)
        assert finding is not None and finding[0] is verify.Verdict.DIFFERS and said in finding[1]

    def test_a_source_that_changed_is_told(self, tree: Path) -> None:
        target = tree / "target"
        target.mkdir()
        copied(tree, target)
        found = scan.scan([Source(os.fsencode(tree), b"top")])
        entry = next(e for e in found.of(Kind.FILE) if e.path.endswith(b"-rf"))
        source = tree / os.fsdecode(entry.path)
        source.write_bytes(source.read_bytes())
        os.utime(source, ns=(0, entry.mtime_ns + 1))
        finding = verify.compare(os.fsencode(source), os.fsencode(target / "x"), entry, lambda _: None)
        assert finding == (verify.Verdict.CHANGED, "written while it was copied")

    def test_a_full_target(self, tree: Path) -> None:
        found = scan.scan([Source(os.fsencode(tree), b"top")])
        found.need = 1 << 60
        with pytest.raises(UserError, match=r"need 1024PiB more, but the buffer has .* free: nothing was copied"):
            place.check_room(os.fsencode(tree), found, 0, "the buffer")
        place.check_room(os.fsencode(tree), found, 1 << 60, "the buffer")

    def test_what_is_there_is_not_overwritten_unasked(self, tree: Path) -> None:
        target = tree / "target"
        (target / "top").mkdir(parents=True)
        (target / "top" / "sparse").write_text("mine")
        found = scan.scan([Source(os.fsencode(tree), b"top")])
        with pytest.raises(UserError, match=r"top/sparse.*--replace"):
            place.check_conflicts(os.fsencode(target), found, replace=False)
        place.check_conflicts(os.fsencode(target), found, replace=True)
        copied(tree, target)
        assert 0 < place.check_conflicts(os.fsencode(target), found, replace=False) < 1 << 20
        (target / "top" / "sub").chmod(0o700)
        shutil.rmtree(target / "top" / "sub")
        (target / "top" / "sub").write_text("a file")
        with pytest.raises(UserError, match="directory on one side only"):
            place.check_conflicts(os.fsencode(target), found, replace=True)

    def test_a_target_that_fills_up_is_told_by_rsyncs_own_line(self, tree: Path) -> None:
        target = tree / "target"
        target.mkdir()
        (tree / "top" / "large").write_bytes(os.urandom(2 << 20))
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target], check=True)
        try:
            with pytest.raises(EnvironmentFault, match=r"rsync ended with 11 on .*No space left on device"):
                rsync.copy([b"top/large"], tree / "names", os.fsencode(tree), os.fsencode(target), xattrs=True,
                           told=lambda *_: None)  # fmt: skip
        finally:
            subprocess.run(["umount", target], check=True)

    def test_a_file_of_holes_is_copied_and_compared_without_reading_them(self, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        with source.open("wb") as file:
            file.truncate(1 << 40)
            for at in (0, (3 << 20) - 3, 1 << 39, (1 << 40) - 1):
                file.seek(at)
                file.write(b"data!"[: (1 << 40) - at])
        source.chmod(0o640)
        os.utime(source, ns=(10**18, 10**18 + 5))
        status = source.stat()
        assert sparse.is_sparse(os.fsencode(source), status.st_size)
        paths = (os.fsencode(source), os.fsencode(target))
        assert sparse.copy(*paths, xattrs=True, told=lambda _: None) is None
        assert sparse.copy(*paths, xattrs=True, told=lambda _: pytest.fail("copied again")) is None
        assert target.stat().st_blocks < 1000 and sorted(tmp_path.iterdir()) == [source, target]
        entry = Entry(Kind.FILE, 0, b"source", status.st_size, 0o640, status.st_mtime_ns)
        told: list[int] = []
        assert verify.compare(*paths, entry, told.append) is None
        assert sum(told) == status.st_size
        with target.open("r+b") as file:
            file.seek(1 << 38)
            file.write(b"x")
        os.utime(target, ns=(10**18, 10**18 + 5))
        finding = verify.compare(*paths, entry, told.append)
        assert finding is not None and "content" in finding[1]

    def test_holes_and_zeros_are_the_same(self, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        content = bytes(3 << 20) + b"x" + bytes(2 << 20)
        source.write_bytes(content)
        with target.open("wb") as file:
            file.seek(3 << 20)
            file.write(b"x")
            file.truncate(len(content))
        os.utime(target, ns=(0, source.stat().st_mtime_ns))
        target.chmod(0o644)
        source.chmod(0o644)
        entry = Entry(Kind.FILE, 0, b"source", len(content), 0o644, source.stat().st_mtime_ns)
        assert verify.compare(os.fsencode(source), os.fsencode(target), entry, lambda _: None) is None

    def test_a_target_without_room_for_a_file_of_holes(self, tmp_path: Path) -> None:
        source, target = tmp_path / "source", tmp_path / "target"
        with source.open("wb") as file:
            file.write(os.urandom(2 << 20))
            file.truncate(64 << 20)
        target.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", target], check=True)
        try:
            why = sparse.copy(os.fsencode(source), os.fsencode(target / "x"), xattrs=True, told=lambda _: None)
            assert why is not None and "No space left on device" in why and not list(target.iterdir())
        finally:
            subprocess.run(["umount", target], check=True)

    def test_attributes_that_the_target_does_not_take_are_counted(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(task, "check_mount", lambda _: None)
        os.setxattr(tree / "top" / "sparse", "user.color", b"blue")
        (tree / "target").mkdir()
        work = Work(tree / "work")
        work.make()
        work.put_request(request(pattern="", target=str(tree / "target")))
        monkeypatch.setattr(Work, "sources", lambda *_: [Source(os.fsencode(tree), b"top")])
        found = scan.scan(work.sources(work.request()))
        place.make_directories(os.fsencode(tree / "target"), found.of(Kind.DIRECTORY))
        work.put_entries("0", found.of(Kind.FILE))
        work.put("plan.json", {"xattrs": False})
        for phase in ("copy", "verify"):
            task.Node(work, phase, 0).run()
            assert work.progress(phase) == (found.size, len(found.of(Kind.FILE)))
        assert os.listxattr(tree / "target" / "top" / "sparse") == []
        expected = {"files": len(found.of(Kind.FILE)), "bytes": found.size, "found": [], "bare": 1}
        assert work.get("parts/0.found") == expected

    def test_nothing_is_copied_below_a_mountpoint_without_a_mount(self, tmp_path: Path) -> None:
        work = Work(tmp_path / "w")
        work.make()
        with pytest.raises(EnvironmentFault, match=r"not mounted at .*SPANK plugin.*Nothing was copied"):
            task.check_mount(work)


class TestWords:
    def test_a_dataset_word(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        assert names.dataset("ds").word == f"{tmp_path}/ds"
        assert names.dataset("hestia@ds").word == f"HESTIA@{tmp_path}/ds"

    @pytest.mark.parametrize("word", ["a%j", "a\n#BB_LUA x", "$HOME/x", "`id`", "a\udcff", "HESTIA@"])
    def test_a_dataset_that_no_directive_can_hold(self, word: str) -> None:
        with pytest.raises(UserError):
            names.dataset(word)

    def test_sources(self, tree: Path) -> None:
        top = os.fsencode(tree)
        assert names.sources([f"{tree}/top"]) == [Source(top, b"top")]
        assert names.sources([f"{tree}/top/"]) == [Source(top + b"/top", b"")]
        assert names.sources([f"{tree}/top/dangling"]) == [Source(top + b"/top", b"dangling")]

    def test_two_sources_of_one_name(self, tree: Path) -> None:
        with pytest.raises(UserError, match="would both become `sub`"):
            names.sources([f"{tree}/top/", f"{tree}/top/sub"])

    def test_the_colon_is_where_the_dataset_ends(self, tmp_path: Path) -> None:
        (tmp_path / "a:b").touch()
        split = names.split_pattern(f"{tmp_path}/a:b:c:d")
        assert split and (split[0].path, split[1]) == (f"{tmp_path}/a:b", b"c:d")
        assert names.split_pattern(f"{tmp_path}/x:y") is None
        split = names.split_pattern("HESTIA@/x:y")
        assert split and split[0].word == "HESTIA@/x"


def test_the_script_quotes_what_the_user_named(tmp_path: Path) -> None:
    dataset = '/home/a b/it\'s "x" \\'
    buffer = script.Buffer("n", 1 << 30, "/home/a/mnt", data_dst=dataset)
    text = script.text(buffer, "/opt/py thon", "/opt/ebb", "/home/a b/$(id)")
    assert "exec '/opt/py thon' -P -m ebb.migrate.job '/home/a b/$(id)'" in text
    (tmp_path / "script").write_text(text)
    lua = (
        f"package.path = '{Path(cli.__file__).parents[1]}/slurm_bb_lua/?.lua'\n"
        f"local entries, errors = require('ebb.header').read(io.open('{tmp_path}/script'))\n"
        "local list = require('ebb.directives').check(entries, errors)\n"
        "assert(#errors == 0, errors[1] and errors[1].message)\n"
        "io.write(#list, ' ', list[1].args.StorageSize, ' ', list[1].args.data_dst)"
    )
    done = subprocess.run(["lua5.1", "-"], input=lua, check=True, capture_output=True, text=True)
    assert done.stdout == f"2 {1 << 30} {dataset}"


def request(**more: Any) -> Request:
    given: dict[str, Any] = {
        "name": "migrate-1-ab", "dataset": "/d", "dataset_path": "/d", "pattern": None, "target": "/d",
        "sources": [("/a\udcff", "b\n")], "nodes": 1, "parallel": 1, "storage": 1, "replace": False, "add": False,
    }  # fmt: skip
    return Request(**given | more)


def test_requests_and_manifests_survive_any_name(tmp_path: Path) -> None:
    work = Work(tmp_path / "w")
    work.make()
    work.put_request(request(job=7))
    assert work.request() == request(job=7)
    entries = [Entry(Kind.SYMLINK, n, name, 0, 0o777, 10**18, b"to\n") for n, name in enumerate(NASTY)]
    work.put_entries("0", entries)
    assert list(work.entries("0")) == entries
    work.put("progress/copy.0", [10, 1])
    work.put("progress/copy.1", [5, 2])
    assert work.progress("copy") == (15, 3)


class TestAfterAFailure:
    """The dataset that was there is whole again, and nothing of the new one is dropped."""

    def work(self, tmp_path: Path, phase: str) -> Work:
        work = Work(tmp_path / "w")
        work.make()
        work.put("plan.json", {"phase": phase})
        return work

    def test_the_old_dataset_comes_back(self, tmp_path: Path) -> None:
        dataset, before = tmp_path / "ds", tmp_path / "ds.before-ab"
        before.write_text("old")
        dataset.write_text("half")
        asked = request(dataset=str(dataset), dataset_path=str(dataset), before=str(before))
        for _ in range(2):
            said = report.leftovers(asked, self.work(tmp_path / os.urandom(4).hex(), "copy"), not_saved=False)
            assert "as it was before" in said[0]
            assert dataset.read_text() == "old"
            assert (tmp_path / "ds.incomplete-ab").read_text() == "half"

    def test_one_that_was_not_replaced_yet(self, tmp_path: Path) -> None:
        dataset, before = tmp_path / "ds", tmp_path / "ds.before-ab"
        dataset.write_text("old")
        os.link(dataset, before)
        asked = request(dataset=str(dataset), dataset_path=str(dataset), before=str(before))
        report.leftovers(asked, self.work(tmp_path, "copy"), not_saved=False)
        assert dataset.read_text() == "old" and not before.exists()

    @pytest.mark.parametrize(("phase", "kept"), [("copy", True), ("verify", True), ("scan", False)])
    def test_a_new_dataset_gets_its_name_only_when_it_is_whole(self, tmp_path: Path, phase: str, kept: bool) -> None:
        dataset = tmp_path / "ds"
        dataset.write_text("half")
        asked = request(dataset=str(dataset), dataset_path=str(dataset))
        report.leftovers(asked, self.work(tmp_path, phase), not_saved=False)
        assert not dataset.exists() and (tmp_path / "ds.incomplete-ab").exists() == kept

    def test_a_buffer_that_was_dropped_is_not_taken_for_saved(self, tmp_path: Path) -> None:
        dataset, before = tmp_path / "ds", tmp_path / "ds.before-ab"
        dataset.write_text("old")
        os.link(dataset, before)
        asked = request(dataset=str(dataset), dataset_path=str(dataset), before=str(before))
        work = self.work(tmp_path, "verify")
        work.put("result.json", {"ok": True, "wrong": []})
        ended = slurm.Stand("COMPLETED", "None")
        with pytest.raises(EnvironmentFault, match=r"ds was not saved"):
            report.finish(work, asked, ended, None, held=None, cancelled=False)
        assert dataset.read_text() == "old" and not before.exists()
        before.write_text("old")
        report.finish(work, asked, ended, None, held=None, cancelled=False)
        assert dataset.exists() and not before.exists() and not work.path.exists()

    def test_while_the_buffer_has_the_data_nothing_is_touched(self, tmp_path: Path) -> None:
        dataset, before = tmp_path / "ds", tmp_path / "ds.before-ab"
        dataset.write_text("old")
        os.link(dataset, before)
        asked = request(dataset=str(dataset), dataset_path=str(dataset), before=str(before))
        said = report.leftovers(asked, self.work(tmp_path, "verify"), not_saved=True)
        assert "migrate-1-ab keeps the data" in said[0] and before.exists()


def test_a_buffer_is_found_in_bbstat() -> None:
    line = 'FA: BB Type=GBF bbid=1 Name={} State={} CreateTime=x Memory=0 StorageSize=1 UserId=1(a) Reason="{}"'
    text = "\n".join([line.format("m", "staged-out", "old"), line.format("m2", "staged-in", "x"),
                      line.format("m", "staging-in", 'Waiting for "x" - y')])  # fmt: skip
    assert slurm.find_buffer(text, "m") == slurm.Stand("staging-in", 'Waiting for "x" - y')
    assert slurm.find_buffer(text, "m3") is None


@pytest.mark.parametrize(
    ("state", "reason", "over"),
    [
        ("staging-out", "Stage-out 3%", False),
        ("staged-out", "Resources released", True),
        ("teardown", "Stage out failed - x", True),
        ("teardown", "Failed to stop and release the filesystem - x; tried again by itself", False),
    ],
)
def test_when_a_buffer_has_ended(state: str, reason: str, over: bool) -> None:
    assert follow.is_over(slurm.Stand(state, reason)) == over


def test_the_meter_tells_rate_and_time_left() -> None:
    shown = meter.Meter()
    assert shown.line("scan", (0, 0), (0, 0), 0.0) == "looking at the files"
    shown.line("copy", (0, 0), (1000_000, 10), 100.0)
    line = shown.line("copy", (250_000, 2), (1000_000, 10), 110.0)
    assert line == "copying: 25%, 250KB of 1MB, 2 of 10 files, 25KB/s, 30 s left"
    assert meter.duration(7500) == "2 h 5 min"


class TestCommand:
    def ebb(self, *words: str) -> tuple[int, str]:
        done = CliRunner().invoke(cli.main, ["migrate", *words])
        return done.exit_code, done.output

    def test_no_slurm(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        code, said = self.ebb("-S", "1G", "/etc", "ds")
        assert (
            code == 2 and said == "ebb: sbatch is not on your PATH: run this on a login node, or load Slurm's module\n"
        )

    def test_no_rsync(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", "/nowhere")
        with pytest.raises(EnvironmentFault, match="rsync is not installed on"):
            rsync.require()

    @pytest.mark.parametrize(
        ("words", "said"),
        [
            (["ds"], "give SRC... DATASET"),
            (["top", "ds"], "-S is missing"),
            (["-S", "310MiB", "large", "ds"], "400MB in 1 entries need 400.0MB, but a buffer of 310MiB has about"),
            (["-S", "1G", "nothing", "ds"], "`nothing` does not exist"),
            (["-S", "1G", "large", "old"], "exists: give --add"),
            (["-S", "1G", "--add", "large", "ds"], "leave --add out"),
            (["-S", "1G", "--add", "large", "old"], "is no dataset"),
            (["-S", "1G", "large", "top"], "is a directory"),
            (["-S", "1G", "--replace", "large", "top/dangling"], "is a symbolic link"),
            (["-S", "1G", "large", "no/ds"], "does not exist: make the dataset's directory first"),
            (["old:*", "no"], "is no directory: make it first"),
            (["old:*", "top"], "is no dataset"),
            (["old:../*", "top"], "relative to the dataset's root"),
            (["HESTIA@/x:*", "top"], "-S is missing"),
            (["-S", "1G", "--add", "old:*", "top"], "--add is for moving in"),
        ],
    )
    def test_refused_before_anything_is_made(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], said: str
    ) -> None:
        monkeypatch.chdir(tree)
        monkeypatch.setattr(slurm, "require", lambda: None)
        monkeypatch.setattr(prepare, "work_base", lambda: tree / "base")
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        Path("old").write_text("old")
        with Path("large").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, 400_000_000)
        code, output = self.ebb(*words)
        shutil.rmtree(tree / "base", ignore_errors=True)
        assert code == 1 and said in output, output
        assert not Path("base").exists()

    def test_what_sbatch_says_is_passed_on_and_nothing_is_left(
        self, tree: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(tree)
        bin_ = tree / "bin"
        bin_.mkdir()
        for name in ("sbatch", "squeue", "scontrol", "scancel"):
            (bin_ / name).write_text(
                "#!/bin/sh\necho 'sbatch: error: no' >&2\necho 'sbatch: error: never' >&2\nexit 1\n"
            )
            (bin_ / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{bin_}:/usr/bin:/bin")
        monkeypatch.setattr(prepare, "work_base", lambda: tree / "base")
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        Path("old").write_text("old")
        code, said = self.ebb("-S", "1G", "--replace", "top", "old")
        assert code == 1
        assert said.startswith("sbatch: error: no\nsbatch: error: never\nebb: sbatch did not take the job")
        assert list((tree / "base").iterdir()) == [] and sorted(tree.glob("old*")) == [tree / "old"]
