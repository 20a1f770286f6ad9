"""Whose a job or a buffer is, also after Slurm lost its state and gives job ids out again."""

from __future__ import annotations

import pwd
from unittest.mock import Mock

import pytest

from ebb.errors import Conflict
from orchestrator import owner
from orchestrator.hooks import Call
from unit.orchestrator.conftest import Inside, create, use

OTHER = pwd.getpwnam("nobody").pw_uid


def test_a_job_id_that_comes_again_gives_nobody_anothers_buffer(inside: Inside) -> None:
    inside.setup(7, create("toto"))
    inside.data_in(7)
    with pytest.raises(Conflict, match="exists"):
        inside.setup(7, create("toto"), uid=OTHER)
    with pytest.raises(Conflict, match="exists"):
        inside.setup(7, create("toto"), use("toto"), uid=OTHER)


def test_whoever_lists_buffers_holds_nobody_up(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    """The lock of all decisions is let go between some buffers and the next."""
    monkeypatch.setattr(owner, "_AT_ONCE", 1)
    for job_id in (1, 2, 3):
        inside.setup(job_id, create(f"b{job_id}"))
        inside.data_in(job_id)
    looks = Mock(side_effect=inside.engine.look)
    monkeypatch.setattr(inside.engine, "look", looks)
    listed = inside.owner.list_buffers(Call("list_buffers", OTHER, {}))["buffers"]
    assert [each["name"] for each in listed] == ["b1", "b2", "b3"] and all(each["datanodes"] for each in listed)
    assert looks.call_count == 4
