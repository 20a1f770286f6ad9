"""What becomes of buffers as jobs go through their hooks, also when something on the way fails."""

from __future__ import annotations

import os

import pytest

from ebb import ticket
from ebb.errors import Conflict, EnvironmentFault, NotAllowed, NotFound, UserError
from ebb.model import BufferState, Phase
from orchestrator.hooks import Call
from unit.orchestrator.conftest import GIB, KEY, UID, Inside, create, destroy, use


def test_a_buffer_outlives_the_job_that_made_it_until_it_is_destroyed(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    shown = inside.shown("toto")
    assert shown and (shown.state, shown.reason, shown.bbid) == (
        BufferState.STAGED_IN,
        "Global Bunch of Flash ready",
        1,
    )
    assert inside.used() == GIB
    inside.whole_job(2, use("toto"))
    inside.whole_job(3, destroy("toto"))
    shown = inside.shown("toto")
    assert shown and (shown.state, shown.reason) == (BufferState.STAGED_OUT, "Resources released")
    assert (inside.used(), inside.datanodes.saved, inside.datanodes.discarded) == (0, ["1"], [])


def test_a_job_gets_its_paths_and_a_ticket_that_is_its_own(inside: Inside) -> None:
    inside.whole_job(1, create("my-data"))
    inside.setup(2, use("my-data"))
    inside.data_in(2)
    lines = dict(line.split("=", 1) for line in (inside.folder / "jobs/2.env").read_text().splitlines())
    assert lines["EBB_MY_DATA"] == "/home/alice/my-data"
    opened = ticket.verify(lines["SLURM_EBB_TICKET"], KEY, job=2, uid=UID)
    assert [(m.name, m.path) for m in opened.mounts] == [("my-data", "/home/alice/my-data")]
    assert isinstance(opened.mounts[0], ticket.TicketMount) and opened.mounts[0].address == "127.0.0.11"
    inside.run(2)
    inside.end(2)
    assert not (inside.folder / "jobs/2.env").exists()


def test_nodes_are_let_in_for_the_run_and_no_longer(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    assert [s.jobs for s in list(inside.datanodes.services.values())] == [{}]
    inside.run(2)
    assert [s.jobs for s in list(inside.datanodes.services.values())] == [{"2": ("127.0.0.101",)}]
    inside.end(2)
    assert [s.jobs for s in list(inside.datanodes.services.values())] == [{}]


def test_a_buffer_for_one_job_is_saved_and_gone_when_data_out_is_done(inside: Inside) -> None:
    inside.whole_job(1, create("mine", data_dst="/home/alice/ds"), use("mine"))
    assert (inside.datanodes.saved, inside.used(), inside.datanodes.services) == (["1"], 0, {})


def test_use_and_destroy_in_one_script_destroys_after_the_job(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.setup(2, use("toto"), destroy("toto"))
    inside.data_in(2)
    inside.run(2)
    assert inside.shown("toto").state is BufferState.STAGED_IN  # type: ignore[union-attr]
    inside.end(2)
    assert (inside.datanodes.saved, inside.used()) == (["1"], 0)


def test_destroy_waits_for_the_jobs_that_use_it_and_says_so(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    inside.run(2)
    inside.setup(3, destroy("toto"))
    reply = inside.data_in(3, wait=0)
    assert reply["state"] == "wait" and "used by job 2" in reply["reason"]
    shown = inside.shown("toto")
    assert (
        shown
        and shown.state is BufferState.STAGING_OUT
        and shown.reason == "Waiting for GBF inactivity - used by job 2"
    )
    with pytest.raises(Conflict, match="takes no new jobs"):
        inside.setup(4, use("toto"))
    inside.end(2)
    assert inside.data_in(3) == {"state": "ready"}
    assert inside.used() == 0


def test_a_name_is_taken_while_its_buffer_lives_and_free_at_once_after(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    with pytest.raises(Conflict, match=r"a buffer of this name exists: toto \(bbid 1, of .*, staged-in\)"):
        inside.setup(2, create("toto"))
    inside.whole_job(3, destroy("toto"))
    inside.whole_job(4, create("toto"))
    assert inside.used() == GIB


def test_only_the_owner_uses_and_destroys(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    nobody = 65534
    for directive in (use("toto"), destroy("toto", Discard="yes")):
        with pytest.raises(NotAllowed, match="belongs to"):
            inside.setup(2, directive, uid=nobody)
    assert inside.used() == GIB


@pytest.mark.parametrize("directive", [use("toto"), destroy("toto")])
def test_a_name_that_never_was_is_an_error(inside: Inside, directive: dict[str, object]) -> None:
    with pytest.raises(NotFound, match="Name=toto: no such buffer"):
        inside.setup(1, directive)


def test_what_can_never_be_had_is_refused_and_leaves_nothing(inside: Inside) -> None:
    with pytest.raises(UserError, match="can never be had"):
        inside.setup(1, create("small"), create("large", 21 * GIB))
    assert inside.used() == 0 and inside.shown("small") is None
    inside.setup(2, create("small"))


def test_what_does_not_fit_now_waits_in_order_and_says_for_what(inside: Inside) -> None:
    inside.whole_job(1, create("a", 15 * GIB))
    inside.whole_job(2, create("b", 15 * GIB))
    inside.setup(3, create("c", 10 * GIB))
    reply = inside.data_in(3, wait=0)
    assert reply["state"] == "wait" and reply["reason"].startswith("Waiting for GBF Resources - ")
    inside.whole_job(4, destroy("a"))
    assert inside.data_in(3) == {"state": "ready"}


def test_two_buffers_of_one_job_are_placed_together_or_not_at_all(inside: Inside) -> None:
    inside.whole_job(1, create("a", 15 * GIB))
    inside.setup(2, create("b", 15 * GIB), create("c", 15 * GIB))
    assert inside.data_in(2, wait=0)["state"] == "wait"
    assert inside.used() == 15 * GIB
    inside.whole_job(3, destroy("a"))
    assert inside.data_in(2) == {"state": "ready"}
    assert sorted(sid for _, sid in inside.datanodes.services) == ["2", "2-2"]


def test_a_creation_that_fails_says_why_and_frees_everything_by_itself(inside: Inside) -> None:
    inside.datanodes.refuse[Phase.CREATING] = "data_src /home/alice/ds: no such file"
    inside.setup(1, create("toto"))
    with pytest.raises(Conflict, match="no such file"):
        inside.data_in(1)
    inside.wait(lambda: inside.used() == 0)
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.TEARDOWN
    assert shown.reason == "Failed to allocate resources - dn1: data_src /home/alice/ds: no such file"
    inside.datanodes.refuse.clear()
    inside.whole_job(2, create("toto"))


def test_a_released_job_tries_again_under_its_own_id(inside: Inside) -> None:
    inside.datanodes.refuse[Phase.CREATING] = "disk error"
    inside.setup(1, create("toto"))
    with pytest.raises(Conflict):
        inside.data_in(1)
    inside.call("job_teardown", 1, hurry=True)
    inside.datanodes.refuse.clear()
    inside.whole_job(1, create("toto"))
    assert [sid for _, sid in inside.datanodes.services] == ["1-2"]


def test_destroying_what_could_not_be_created_is_no_error(inside: Inside) -> None:
    inside.datanodes.refuse[Phase.CREATING] = "disk error"
    inside.setup(1, create("toto"))
    with pytest.raises(Conflict):
        inside.data_in(1)
    inside.setup(2, destroy("toto"))
    assert inside.data_in(2) == {"state": "ready"}


def test_data_that_cannot_be_saved_are_kept_until_the_owner_has_them_saved(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.datanodes.refuse[Phase.SAVING] = "/home/alice/ds: no space left on device"
    inside.setup(2, destroy("toto"))
    with pytest.raises(EnvironmentFault, match="no space left on device"):
        inside.data_in(2)
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.TEARDOWN
    assert shown.reason.startswith("Stage out failed - dn1: /home/alice/ds: no space left on device; the data are kept")
    assert inside.used() == GIB
    inside.datanodes.refuse.clear()
    inside.whole_job(3, destroy("toto"))
    assert (inside.datanodes.saved, inside.datanodes.discarded, inside.used()) == (["1"], [], 0)


def test_data_that_cannot_be_saved_are_dropped_on_the_owners_word_only(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.datanodes.refuse[Phase.SAVING] = "permission denied"
    inside.setup(2, destroy("toto"))
    with pytest.raises(EnvironmentFault):
        inside.data_in(2)
    inside.reconcile()
    assert inside.datanodes.discarded == []
    inside.whole_job(3, destroy("toto", Discard="yes"))
    assert (inside.datanodes.discarded, inside.used()) == (["1"], 0)


def test_a_release_that_fails_is_tried_again_by_itself(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.datanodes.refuse[Phase.RELEASING] = "target is busy"
    inside.setup(2, destroy("toto"))
    inside.wait_reason("toto", "Failed to stop and release the filesystem - dn1: target is busy")
    inside.datanodes.refuse.clear()
    assert inside.data_in(2) == {"state": "ready"}


def test_a_datanode_that_lost_a_buffer_is_not_taken_for_one_that_saved_it(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.datanodes.services.clear()
    inside.setup(2, destroy("toto"))
    with pytest.raises(EnvironmentFault, match="no service 1 on this datanode"):
        inside.data_in(2)
    assert inside.datanodes.saved == []
    inside.whole_job(3, destroy("toto", Discard="yes"))
    assert inside.used() == 0


def test_a_datanode_that_does_not_answer_is_waited_for(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    inside.datanodes.down.add("dn1")
    inside.setup(2, destroy("toto"))
    inside.wait_reason("toto", "Waiting for datanode dn1 - dn1 did not answer")
    inside.datanodes.down.clear()
    assert inside.data_in(2) == {"state": "ready"}
    assert inside.datanodes.saved == ["1"]


def test_nothing_new_goes_to_a_datanode_that_does_not_answer(inside: Inside) -> None:
    inside.datanodes.down.add("dn1")
    inside.reconcile()
    inside.whole_job(1, create("toto"))
    assert [node for node, _ in inside.datanodes.services] == ["dn2"]


# Cancelled, requeued, repeated


def test_a_cancelled_creation_is_withdrawn_but_not_one_that_slurm_will_set_up_again(inside: Inside) -> None:
    inside.datanodes.hold.add(Phase.CREATING)
    inside.setup(1, create("a"))
    inside.setup(2, create("b"))
    for job in (1, 2):
        inside.call("job_teardown", job, hurry=True)
    inside.slurm.states[1] = "CANCELLED"
    inside.reconcile()
    inside.wait(lambda: inside.used() == GIB)
    inside.datanodes.hold.clear()
    inside.whole_job(2, create("b"))
    assert [sid for _, sid in inside.datanodes.services] == ["2"]


def test_a_cancelled_creation_that_waits_leaves_the_queue(inside: Inside) -> None:
    inside.whole_job(1, create("a", 20 * GIB))
    inside.whole_job(2, create("b", 20 * GIB))
    inside.setup(3, create("c", 20 * GIB))
    inside.slurm.states[3] = "CANCELLED"
    inside.call("job_teardown", 3, hurry=True)
    inside.reconcile()
    inside.wait(lambda: inside.shown("c").reason == "Resources released")  # type: ignore[union-attr]
    inside.setup(4, create("c", 20 * GIB))
    assert inside.data_in(4, wait=0)["state"] == "wait"


def test_a_cancelled_destroy_that_still_waits_is_withdrawn(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    inside.setup(3, destroy("toto"))
    inside.slurm.states[3] = "CANCELLED"
    inside.call("job_teardown", 3, hurry=True)
    inside.reconcile()
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.STAGED_IN
    inside.run(2)


def test_every_hook_may_be_repeated(inside: Inside) -> None:
    for _ in range(2):
        inside.setup(1, create("toto", data_dst="/home/alice/ds"), use("toto"))
    for _ in range(2):
        assert inside.data_in(1) == {"state": "ready"}
    for _ in range(2):
        inside.run(1)
    for _ in range(2):
        inside.call("post_run", 1)
    for _ in range(2):
        assert inside.call("data_out", 1, wait=10) == {"state": "ready"}
    for _ in range(2):
        inside.call("job_teardown", 1, hurry=False)
    assert (inside.datanodes.saved, inside.used()) == (["1"], 0)


def test_teardown_of_its_creator_never_touches_a_persistent_buffer(inside: Inside) -> None:
    inside.setup(1, create("toto", data_dst="/home/alice/ds"))
    inside.data_in(1)
    inside.call("job_teardown", 1, hurry=True)
    inside.slurm.states[1] = "CANCELLED"
    inside.reconcile()
    shown = inside.shown("toto")
    assert shown and shown.state is BufferState.STAGED_IN
    inside.setup(1, create("toto", data_dst="/home/alice/ds"))
    assert inside.data_in(1) == {"state": "ready"}
    assert len(inside.datanodes.services) == 1


def test_a_destroy_that_slurm_repeats_after_it_was_done_is_done(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    inside.setup(2, destroy("toto"))
    inside.data_in(2)
    inside.call("job_teardown", 2, hurry=True)
    inside.setup(2, destroy("toto"))
    assert inside.data_in(2) == {"state": "ready"}


def test_in_a_hurry_data_that_a_job_may_have_written_are_saved_all_the_same(inside: Inside) -> None:
    inside.setup(1, create("mine", data_dst="/home/alice/ds"), use("mine"))
    inside.data_in(1)
    inside.run(1)
    inside.call("job_teardown", 1, hurry=True)
    inside.wait(lambda: inside.used() == 0)
    assert inside.datanodes.saved == ["1"]


def test_a_job_that_slurm_forgot_is_torn_down(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orchestrator.reconcile.GRACE_SECONDS", -1)
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    inside.run(2)
    del inside.slurm.states[2]
    inside.reconcile()
    assert [s.jobs for s in list(inside.datanodes.services.values())] == [{}]
    inside.whole_job(3, destroy("toto"))


def test_what_a_cancelled_job_waits_for_is_withdrawn_also_if_its_teardown_never_comes(inside: Inside) -> None:
    inside.setup(1, create("big", size=20 * GIB), use("big"))
    inside.setup(2, create("small"))
    inside.data_in(2)
    inside.wait_reason("small", "ready")
    inside.wait_reason("big", "ready")
    inside.datanodes.hold.add(Phase.CREATING)
    inside.setup(3, create("late"), use("late"))
    inside.slurm.states[3] = "CANCELLED"
    inside.reconcile()
    inside.wait_reason("late", "released")
    assert [getattr(inside.shown(name), "state", None) for name in ("big", "small")] == [BufferState.STAGED_IN] * 2


# Kill -9 of the orchestrator


@pytest.mark.parametrize("phase", [Phase.CREATING, Phase.SAVING, Phase.RELEASING])
def test_a_restart_goes_on_where_it_was(inside: Inside, phase: Phase) -> None:
    if phase is Phase.CREATING:
        inside.datanodes.hold.add(phase)
        inside.setup(1, create("toto", data_dst="/home/alice/ds"))
    else:
        inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
        inside.datanodes.hold.add(phase)
        inside.setup(2, destroy("toto"))
    inside.wait(lambda: any(s.phase is phase for s in list(inside.datanodes.services.values())))
    inside.restart()
    inside.datanodes.hold.clear()
    if phase is Phase.CREATING:
        assert inside.data_in(1) == {"state": "ready"}
        assert inside.used() == GIB
    else:
        assert inside.data_in(2) == {"state": "ready"}
        assert (inside.datanodes.saved, inside.used()) == (["1"], 0)


def test_a_restart_keeps_the_queue_and_its_order(inside: Inside) -> None:
    inside.whole_job(1, create("a", 20 * GIB))
    inside.whole_job(2, create("b", 20 * GIB))
    inside.setup(3, create("c", 20 * GIB))
    inside.setup(4, create("d", 20 * GIB))
    inside.restart()
    inside.whole_job(5, destroy("a"))
    assert inside.data_in(3) == {"state": "ready"}
    assert inside.data_in(4, wait=0)["state"] == "wait"


# Left-overs on datanodes


def test_a_service_that_is_gone_in_the_store_is_freed_and_an_unknown_one_is_left_alone(inside: Inside) -> None:
    inside.whole_job(1, create("toto"))
    ((key, status),) = inside.datanodes.services.items()
    inside.whole_job(2, destroy("toto"))
    inside.datanodes.services[key] = status
    inside.datanodes.services[("dn2", "999")] = status.__class__("999", status.type, "x", 1, Phase.READY, 1)
    inside.datanodes.specs["999"] = inside.datanodes.specs["1"]
    inside.reconcile()
    assert "999" not in inside.datanodes.discarded and ("dn2", "999") in inside.datanodes.services
    assert "1" in inside.datanodes.discarded
    assert inside.reconciler.unknown_services == 1


# The ebb tool


def test_an_operator_or_the_owner_may_end_a_buffer_outside_of_any_job(inside: Inside) -> None:
    inside.whole_job(1, create("toto", data_dst="/home/alice/ds"))
    with pytest.raises(NotAllowed, match="belongs to"):
        inside.owner.destroy_persistent(Call("destroy_persistent", 65534, {"name": "toto"}))
    listed = inside.owner.list_buffers(Call("list_buffers", 65534, {}))["buffers"]
    assert [(b["name"], b["state"], b["datanodes"]) for b in listed] == [("toto", "staged-in", ["dn1"])]
    inside.owner.destroy_persistent(Call("destroy_persistent", os.getuid(), {"name": "toto"}))
    inside.wait(lambda: inside.used() == 0)
    assert inside.datanodes.saved == ["1"]


def test_what_a_hook_sends_is_read_strictly(inside: Inside) -> None:
    with pytest.raises(UserError, match="type"):
        inside.setup(1, {**create("toto"), "type": "FOO"})
    with pytest.raises(UserError, match="StorageSize=0"):
        inside.setup(1, create("toto", 0))
    with pytest.raises(UserError, match="not served here"):
        inside.setup(1, {**create("toto"), "type": "KVSNS"})
    assert inside.used() == 0
