"""The health database: whole after each change, whoever changes it at the same time."""

from __future__ import annotations

import fcntl
import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest

from ebb.errors import EnvironmentFault
from healthchecker.database import Corrupt, Database
from healthchecker.service import Flash, Service

_SOURCES = Path(__file__).parents[3]
CONTRACT = """
    [{"id": {"uid": 1028, "gid": 100, "mode": "gbf", "name": "toto"},
      "flash": [{"lv": "gbf_471967_10.2.19.211_stg", "vg": "MyContainer2", "mountpoint": "/run/x/data", "size": 762}],
      "daemons": [{"pid": 20668}],
      "sid": "471967", "state": "in use",
      "check_date": "2024-02-13 10:51:13.135165", "check_results": ["OK"]}]
"""


def service(sid: str) -> Service:
    return Service(sid, 1, 1, "gbf", f"b{sid}", (Flash("lv", "vg", "/mnt/none", 300),), (1,))


def command(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "healthchecker", "--database", str(path), *words]
    return subprocess.run(argv, cwd=_SOURCES, capture_output=True, text=True, timeout=30)


def test_the_contracts_own_example_is_read_and_written_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    path.write_text(CONTRACT)
    [found] = Database(path).read()
    assert (found.sid, found.flash[0].size, found.daemons, found.state) == ("471967", 762, (20668,), "in use")
    with Database(path).change() as services:
        services["1"] = service("1")
    assert json.loads(path.read_text())[0] == json.loads(CONTRACT)[0]


def _add(path: Path, sids: range) -> None:
    for sid in sids:
        with Database(path, lock_seconds=30).change() as services:
            services[str(sid)] = service(str(sid))


def test_two_writers_at_once_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    writers = [multiprocessing.Process(target=_add, args=(path, range(n * 40, n * 40 + 40))) for n in range(3)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        Database(path).read()  # never a part of one
    assert [writer.exitcode for writer in writers] == [0, 0, 0]
    assert {each.sid for each in Database(path).read()} == {str(sid) for sid in range(120)}
    assert sorted(each.name for each in tmp_path.iterdir()) == [".health.json.lock", "health.json"]


def test_a_lock_that_is_held_is_named(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    with (tmp_path / ".health.json.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EnvironmentFault, match=r"not free within 0.1 s.*health\.json\.lock"):
            _ = Database(path, lock_seconds=0.1).change().__enter__()
    with Database(path).change() as services:
        services["1"] = service("1")


@pytest.mark.parametrize("text", ["", "{}", "[{}]", '[{"id": 3}]', CONTRACT[:100], "[[]]", "\0\0\0"])
def test_a_corrupted_database_is_kept_aside_and_said(tmp_path: Path, text: str) -> None:
    path = tmp_path / "health.json"
    path.write_text(text)
    with pytest.raises(Corrupt, match="is corrupted"):
        Database(path).read()
    done = command(path, "check", "all")
    assert done.returncode == 3 and f"health database {path} is corrupted" in done.stderr
    assert path.read_text() == text, "who only checks changes nothing"
    done = command(path, "create", "1", "--uid", "1", "--gid", "1", "--mode", "gbf", "--name", "x")
    [aside] = tmp_path.glob("health.json.corrupt-*")
    assert done.returncode == 1 and str(aside) in done.stderr
    assert aside.read_text() == text
    assert [each.sid for each in Database(path).read()] == ["1"]


def test_a_failed_write_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    _add(path, range(1))
    before = path.read_text()
    (tmp_path / ".health.json.new").mkdir()
    with (
        pytest.raises(EnvironmentFault, match="cannot be written: Is a directory"),
        Database(path).change() as services,
    ):
        services["2"] = service("2")
    assert path.read_text() == before
