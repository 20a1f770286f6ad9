"""ebb.conf: what is read, what is refused and how that is said, and that pages and example hold every key."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

from ebb import config
from ebb.config import Config
from ebb.errors import UserError

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "ebb.conf.example"
PAGE = ROOT / "docs" / "ebb.conf.md"
MANUAL = ROOT / "packaging" / "man" / "ebb.conf.5"


def refused(text: str) -> str:
    with pytest.raises(UserError) as caught:
        config.parse(text, "e.conf")
    return caught.value.text


def known_keys() -> set[str]:
    """The parser's own keys, as its message for an unknown one lists them."""
    return set(refused("NoSuchKey=1").partition("known: ")[2].split(", "))


def rows() -> dict[str, str]:
    """The page's table: key in lower case -> default as it stands there."""
    found = re.findall(r"^\| `(\w+)` \| [^|]+ \| ([^|]+) \|", PAGE.read_text(), re.MULTILINE)
    return {key.lower(): default.strip("` ") for key, default in found}


def example_lines() -> list[str]:
    return [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]


def test_an_empty_file_means_all_defaults() -> None:
    assert config.parse("") == Config()
    assert config.parse("\n  # only a comment\n\n") == Config()


def test_a_missing_file_means_all_defaults(tmp_path: Path) -> None:
    assert config.load(tmp_path / "none.conf") == Config()


def test_every_key_is_read_into_its_setting() -> None:
    read = config.parse(
        "Orchestrator=10.0.0.1:99\nRunDir=/r\nStateDir=/s\nSiteKey=/k\nDatanodesConf=/d\nDatabase=sqlite:///x\n"
        "MungeSocket=/m\nSlurmUser=me\nOperators=ann, bob\nMountPrefixes=/a,/b/c\nStagedOutSeconds=1\n"
        "ReconcileSeconds=2\nTicketSeconds=3\n"
    )
    assert read == Config(
        orchestrator_address="10.0.0.1", orchestrator_port=99, run_dir=Path("/r"), state_dir=Path("/s"),
        site_key_path=Path("/k"), datanodes_conf=Path("/d"), database="sqlite:///x", munge_socket="/m",
        slurm_user="me", operators=("ann", "bob"), mount_prefixes=("/a", "/b/c"), staged_out_seconds=1,
        reconcile_seconds=2, ticket_seconds=3,
    )  # fmt: skip


def test_case_of_keys_is_free_blanks_and_comments_do_not_count_and_the_last_one_wins() -> None:
    read = config.parse("  STAGEDOUTSECONDS = 5 # five\nslurmuser=a\nSlurmUser=b\n")
    assert (read.staged_out_seconds, read.slurm_user) == (5, "b")


def test_the_database_is_sqlite_in_the_state_folder_unless_a_url_is_given() -> None:
    assert config.parse("StateDir=/s").database_url == "sqlite:////s/ebb.db"
    assert config.parse("StateDir=/s\nDatabase=postgresql://db/ebb").database_url == "postgresql://db/ebb"


def test_the_socket_is_in_the_run_folder() -> None:
    assert config.parse("RunDir=/r").socket_path == Path("/r/orchestrator.sock")


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("Orchestrator=here", "Orchestrator=here: must be a host and a port as host:port"),
        ("Orchestrator=:8765", "must be a host and a port as host:port"),
        ("Orchestrator=here:0", "must be a host and a port as host:port"),
        ("Orchestrator=here:65536", "must be a host and a port as host:port"),
        ("RunDir=run", "RunDir=run: must be an absolute path"),
        ("SiteKey=", "SiteKey=: must be an absolute path"),
        ("StagedOutSeconds=5m", "StagedOutSeconds=5m: must be a whole number of seconds"),
        ("TicketSeconds=-1", "TicketSeconds=-1: must be a whole number of seconds"),
        ("MountPrefixes=/", "must be absolute directories below /, separated by commas"),
        ("MountPrefixes=home", "must be absolute directories below /, separated by commas"),
        ("MountPrefixes=", "must be absolute directories below /, separated by commas"),
    ],
)
def test_a_bad_value_is_named_with_what_is_accepted(line: str, said: str) -> None:
    message = refused(line)
    assert message.startswith("e.conf:1: ")
    assert said in message


@pytest.mark.parametrize("line", ["Colour=red", "RunDir", "= 5"])
def test_what_is_no_setting_is_named_with_the_keys_there_are(line: str) -> None:
    message = refused(line)
    assert f"e.conf:1: `{line}` is no setting; known: " in message
    assert "rundir" in message


def test_all_bad_lines_are_told_at_once() -> None:
    message = refused("SlurmUser=ok\nRunDir=x\n\nColour=red\n")
    assert "e.conf:2: RunDir=x" in message
    assert "e.conf:4: `Colour=red`" in message


def test_a_file_that_cannot_be_read_is_an_error_not_a_default(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"{tmp_path}: cannot be read: Is a directory"):
        config.load(tmp_path)


def test_every_key_stands_in_page_manual_and_example_and_no_other() -> None:
    in_example = [line.partition("=")[0].lower() for line in example_lines()]
    in_manual = re.findall(r"^\.It Ic (\w+) Ns =", MANUAL.read_text(), re.MULTILINE)
    assert set(rows()) == known_keys()
    assert {key.lower() for key in in_manual} == known_keys()
    assert set(in_example) == known_keys()
    assert len(in_example) == len(set(in_example))


def test_every_setting_has_a_key() -> None:
    # One key, Orchestrator, holds two settings.
    assert len(known_keys()) == len(config.field_names()) - 1


def test_the_example_holds_the_defaults() -> None:
    assert config.load(EXAMPLE) == Config()


def test_the_page_holds_the_defaults() -> None:
    text = "".join(f"{key}={'' if default == 'empty' else default}\n" for key, default in rows().items())
    assert dataclasses.asdict(config.parse(text)) == dataclasses.asdict(Config())
