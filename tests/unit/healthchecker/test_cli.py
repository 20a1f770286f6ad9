"""pshcservcheck as it is called: exit codes, silence, messages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from unit.healthchecker.test_database import command

WHO = ("--uid", "1028", "--gid", "100", "--mode", "gbf", "--name", "toto")


def entries(path: Path) -> list[tuple[str, str, list[dict[str, int]]]]:
    return [(entry["sid"], entry["state"], entry["daemons"]) for entry in json.loads(path.read_text())]


def test_create_use_destroy(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    for words in (("create", "42", *WHO, "--daemon", "7"), ("create", "43", *WHO), ("use", "42")):
        done = command(path, *words)
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert entries(path) == [("42", "in use", [{"pid": 7}]), ("43", "staged-in", [])]
    assert command(path, "use", "42", *WHO, "--daemon", "8").returncode == 0
    assert entries(path)[0] == ("42", "in use", [{"pid": 8}])
    for _ in range(2):
        assert command(path, "destroy", "42").returncode == 0
    assert entries(path) == [("43", "staged-in", [])]
    assert command(path, "retain").returncode == 0
    assert entries(path) == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("use", "9"), "no service 9 is in"),
        (("create", "9", "--uid", "1"), "--gid, --mode, --name is missing"),
        (("check", "9"), "no service 9 is registered here"),
        (("check",), "Missing argument"),
        (("nonsense",), "No such command"),
        (("create", "9", "--flash", "lv", "vg", "/mnt", "large", *WHO), "not a valid integer"),
    ],
)
def test_what_it_cannot_do_has_a_code_of_its_own(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = command(tmp_path / "health.json", *words)
    assert done.returncode == 3
    assert said in done.stderr


def test_all_of_nothing_is_well(tmp_path: Path) -> None:
    assert command(tmp_path / "health.json", "check", "all").returncode == 0
    assert command(tmp_path / "health.json", "check", "9", "--gone").returncode == 0


def test_a_type_without_checks_is_well(tmp_path: Path) -> None:
    path = tmp_path / "health.json"
    assert command(path, "create", "42", *WHO[:5], "sbb", *WHO[6:]).returncode == 0
    assert command(path, "check", "all").returncode == 0
    assert json.loads(path.read_text())[0]["check_results"] == ["OK"]


def test_a_database_that_cannot_be_had(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = command(tmp_path / "file" / "health.json", "create", "42", *WHO)
    assert done.returncode == 3 and "cannot be locked" in done.stderr
