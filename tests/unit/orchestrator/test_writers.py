"""A dataset has one live writer, whatever names it goes by; readers may be many."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ebb.errors import Conflict
from ebb.model import Directive
from orchestrator import writers
from orchestrator.plan import wants_of
from unit.orchestrator.conftest import Inside, create, destroy

NOBODY, NOGROUP = 65534, 65534


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    """A folder of nobody's that nobody can reach."""
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, NOBODY, NOGROUP)
    for each in (home, *home.parents):
        each.chmod(each.stat().st_mode | 0o055)
    return home


def claim(written: str) -> writers.Claim:
    wants = wants_of([Directive.from_wire(create("one", data_dst=written))])
    return writers.claims_of(wants, NOBODY, NOGROUP)["one"]


def test_a_second_writer_is_refused_with_the_name_of_the_first(inside: Inside) -> None:
    inside.whole_job(1, create("first", data_dst="/home/alice/ds"))
    with pytest.raises(Conflict, match=r"data_dst=/home/alice/x/\.\./ds: the buffer first \(bbid 1, .*staged-in\)"):
        inside.setup(2, create("second", data_dst="/home/alice/x/../ds"))
    assert inside.shown("second") is None
    inside.whole_job(
        3,
        create("other", data_dst="/home/alice/ds2"),
    )
    inside.whole_job(4, create("reader", data_src="/home/alice/ds"))
    inside.whole_job(5, create("again", data_src="/home/alice/ds"))


def test_one_script_cannot_write_a_dataset_twice(inside: Inside) -> None:
    with pytest.raises(Conflict, match="saves to this dataset"):
        inside.setup(1, create("first", data_dst="/home/alice/ds"), create("second", data_dst="HESTIA@/home/alice/ds"))
    assert inside.shown("first") is None


def test_the_next_writer_comes_when_the_first_is_gone_and_not_before(inside: Inside) -> None:
    inside.whole_job(1, create("first", data_dst="/home/alice/ds"))
    inside.restart()
    with pytest.raises(Conflict, match="the buffer first"):
        inside.setup(2, create("second", data_dst="/home/alice/ds"))
    inside.whole_job(3, destroy("first"))
    inside.whole_job(4, create("second", data_src="/home/alice/ds", data_dst="/home/alice/ds"))


def test_links_lead_to_the_same_dataset(folder: Path) -> None:
    (folder / "deep").mkdir()
    (folder / "short").symlink_to(folder / "deep")
    assert claim(f"{folder}/short/ds").place == claim(f"{folder}/deep/ds").place
    assert claim(f"{folder}/short/../ds").place == claim(f"{folder}/ds").place
    (folder / "deep/ds").write_text("a dataset")
    os.link(folder / "deep/ds", folder / "hard")
    hard, soft = claim(f"{folder}/hard"), claim(f"{folder}/short/ds")
    assert hard.place != soft.place and hard.file == soft.file is not None


def test_what_cannot_be_seen_from_here_goes_by_its_path() -> None:
    assert claim("/nowhere/../nowhere/ds").place == claim("/nowhere/ds").place != claim("/nowhere/ds2").place
