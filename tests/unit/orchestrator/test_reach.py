"""A datanode that does not answer: jobs that are to use its buffers wait, told why, and not for ever."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ebb.errors import EnvironmentFault
from ebb.model import BufferState
from orchestrator import reach
from unit.orchestrator.conftest import Inside, create, create_sbb, destroy, use

READY = {"state": "ready"}


def test_a_job_waits_until_the_datanode_answers(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.datanodes.down = {"dn1"}
    inside.setup(2, use("toto"))
    assert inside.data_in(2) == {"state": "wait", "reason": "datanode dn1 does not answer (dn1 did not answer)"}
    inside.reconcile()
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.STAGED_IN
    assert shown.reason == "Global Bunch of Flash ready - datanode dn1 does not answer, jobs wait for it"
    inside.datanodes.down.clear()
    assert inside.data_in(2) == READY
    inside.run(2)
    inside.end(2)
    inside.reconcile()
    shown = inside.shown("toto")
    assert shown and shown.reason == "Global Bunch of Flash ready"


def test_it_waits_until_the_buffer_is_served_again(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    key = ("dn1", "1")
    whole = inside.datanodes.services[key]
    inside.datanodes.services[key] = replace(whole, mounts=(), error="Ganesha has not started")
    inside.setup(2, use("toto"))
    reply = inside.data_in(2)
    assert reply == {"state": "wait", "reason": "datanode dn1 does not serve buffer 1 now: Ganesha has not started"}
    inside.datanodes.services[key] = whole
    assert inside.data_in(2) == READY


def test_all_datanodes_of_a_buffer_must_answer(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.datanodes.down = {"dn2"}
    inside.setup(2, use("fast"))
    assert inside.data_in(2)["reason"].startswith("datanode dn2 does not answer")
    inside.reconcile()
    shown = inside.shown("fast")
    assert shown and shown.reason == "SBB running on 2 servers - datanode dn2 does not answer, jobs wait for it"


def test_a_limit_ends_the_wait_with_a_line_and_a_release_begins_it_anew(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.whole_job(1, create("toto"))
    inside.datanodes.down = {"dn1"}
    inside.setup(2, use("toto"))
    assert inside.data_in(2)["state"] == "wait"
    monkeypatch.setattr(reach, "LIMIT_SECONDS", 0)
    with pytest.raises(EnvironmentFault, match=r"datanode dn1 does not answer .* waited for 0 min: tell your admin"):
        inside.data_in(2)
    inside.call("job_teardown", 2, hurry=True)
    monkeypatch.undo()
    inside.setup(2, use("toto"))
    assert inside.data_in(2)["state"] == "wait"
    inside.datanodes.down.clear()
    assert inside.data_in(2) == READY


def test_jobs_that_only_create_or_destroy_do_not_wait_for_it(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.datanodes.down = {"dn1"}
    inside.whole_job(2, create("other"))
    inside.datanodes.down.clear()
    inside.whole_job(3, destroy("toto"))
