"""A buffer whose health check fails when a job is to use it: no job uses it any more, its data are its owner's."""

from __future__ import annotations

from dataclasses import replace

import pytest

from ebb.errors import Conflict, EnvironmentFault
from ebb.model import BufferState
from unit.orchestrator.conftest import GIB, Inside, create, destroy, use

SICK = "health check failed: ganesha: Ganesha (process 7) is not alive"


def make_sick(inside: Inside) -> None:
    """Buffer toto of job 1, found sick when job 2 is to use it."""
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.datanodes.sick["1"] = SICK
    inside.setup(2, use("toto"))
    assert inside.data_in(2) == {"state": "ready"}
    with pytest.raises(EnvironmentFault, match="process 7"):
        inside.run(2)


def test_it_goes_to_teardown_and_no_later_job_uses_it(inside: Inside) -> None:
    make_sick(inside)
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.TEARDOWN
    kept = "its data are kept until destroy_persistent, which saves them to /home/alice/ds"
    assert shown.reason == f"dn1: {SICK}; no job can use it; {kept}"
    assert inside.used() == GIB
    with pytest.raises(Conflict, match="takes no new jobs: dn1: health check failed"):
        inside.setup(3, use("toto"))
    with pytest.raises(Conflict, match="a buffer of this name exists"):
        inside.setup(4, create("toto"))


def test_its_owner_has_the_data_saved(inside: Inside) -> None:
    make_sick(inside)
    inside.restart()
    inside.reconcile()
    assert (inside.datanodes.saved, inside.datanodes.discarded) == ([], [])
    inside.call("job_teardown", 2, hurry=True)
    inside.whole_job(5, destroy("toto"))
    assert (inside.datanodes.saved, inside.datanodes.discarded, inside.used()) == (["1"], [], 0)
    inside.datanodes.sick.clear()
    inside.whole_job(6, create("toto"))


def test_jobs_that_use_it_already_are_waited_for(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    inside.run(2)
    inside.datanodes.sick["1"] = SICK
    inside.setup(3, use("toto"))
    inside.data_in(3)
    with pytest.raises(EnvironmentFault):
        inside.run(3)
    inside.call("job_teardown", 3, hurry=True)
    inside.setup(4, destroy("toto"))
    assert inside.data_in(4, wait=0.2)["state"] == "wait"
    assert inside.datanodes.saved == []
    inside.end(2)
    assert inside.data_in(4) == {"state": "ready"}
    assert inside.datanodes.saved == ["1"]


def test_a_job_scoped_buffer_is_saved_when_its_job_is_torn_down(inside: Inside) -> None:
    inside.setup(1, create("toto", data_dst="/home/alice/ds"), use("toto"))
    inside.data_in(1)
    inside.datanodes.sick["1"] = SICK
    with pytest.raises(EnvironmentFault):
        inside.run(1)
    inside.call("job_teardown", 1, hurry=True)
    inside.wait(lambda: inside.used() == 0)
    assert (inside.datanodes.saved, inside.datanodes.discarded) == (["1"], [])


def test_what_a_killed_orchestrator_did_not_write_down_is_found_again(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    key = ("dn1", "1")
    inside.datanodes.services[key] = replace(inside.datanodes.services[key], health=SICK)
    inside.restart()
    inside.reconcile()
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.TEARDOWN
    assert shown.reason.endswith("until destroy_persistent, which drops them, for it has no data_dst")
