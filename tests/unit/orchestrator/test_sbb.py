"""SBB buffers: a flavor on each of K datanodes, all or nothing; drained on all before any is freed; loss is told."""

from __future__ import annotations

import pytest

from ebb import ticket
from ebb.errors import EbbError, UserError
from ebb.model import BufferState, Phase
from ebb.sbb import Sync
from orchestrator.records import Step
from unit.orchestrator.conftest import GIB, KEY, UID, Inside, create, create_sbb, destroy, use


def test_each_datanode_gets_its_server_and_learns_of_the_others(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast", "medium", Sync="target", StripeSize="65536"))
    shown = inside.shown("fast")
    assert shown and (shown.state, shown.reason) == (BufferState.STAGED_IN, "SBB running on 2 servers")
    assert (shown.total.memory, shown.total.cores, shown.total.storage) == (20 * GIB, 8, 2 * GIB)
    parts = [inside.datanodes.given[(node, "1")].sbb for node in ("dn1", "dn2")]
    assert [(p.index, p.count, p.targets, p.memory, p.cores, p.sync, p.stripe) for p in parts if p] == [
        (index, 2, ("/scratch/a", "/scratch/b"), 10 * GIB, 4, Sync.TARGET, 65536) for index in (0, 1)
    ]
    assert inside.datanodes.introduced == {(node, "1"): ("127.0.0.11:20490",) * 2 for node in ("dn1", "dn2")}


def test_without_storage_no_volume_is_asked_for(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    spec = inside.datanodes.given[("dn1", "1")]
    assert (spec.storage_size, spec.volume_group, inside.used()) == (0, "", 0)


def test_more_datanodes_than_there_are_is_refused_and_taken_ones_are_waited_for(inside: Inside) -> None:
    with pytest.raises(UserError, match="can never be had"):
        inside.setup(1, create_sbb("wide", Datanodes="3"))
    inside.whole_job(2, create("other", 20 * GIB))
    inside.setup(3, create_sbb("fast", "medium"))
    inside.wait_reason("fast", "Waiting for SBB Resources")
    assert all(sid != "3" for _, sid in inside.datanodes.services)  # all or nothing: not even on the free one
    inside.whole_job(4, destroy("other"))
    inside.wait_reason("fast", "SBB running on 2 servers")


def test_a_job_mounts_every_target_from_all_servers(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.setup(2, use("fast"))
    inside.data_in(2)
    lines = dict(line.split("=", 1) for line in (inside.folder / "jobs/2.env").read_text().splitlines())
    assert lines["EBB_FAST"] == "/scratch/a:/scratch/b"
    mounts = ticket.verify(lines["SLURM_EBB_TICKET"], KEY, job=2, uid=UID).mounts
    assert [(m.path, m.target, len(m.servers)) for m in mounts if isinstance(m, ticket.SbbMount)] == [
        ("/scratch/a", 0, 2),
        ("/scratch/b", 1, 2),
    ]


def test_destroy_waits_for_inactivity_then_drains_all_then_frees(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast", "medium"))
    inside.setup(2, use("fast"))
    inside.data_in(2)
    inside.run(2)
    inside.setup(3, destroy("fast"))
    inside.wait_reason("fast", "Waiting for SBB inactivity - used by job 2")
    inside.datanodes.refuse[Phase.SAVING] = "cannot drain /scratch/a/x: No space left on device"
    inside.end(2)
    inside.wait_reason("fast", "Stage out failed - dn1: cannot drain /scratch/a/x: No space left on device")
    with pytest.raises(EbbError, match="Stage out failed"):
        inside.data_in(3)
    assert inside.used() == 2 * GIB  # servers and data stay on both
    inside.datanodes.refuse.clear()
    inside.whole_job(4, destroy("fast"))
    shown = inside.shown("fast")
    assert shown and (shown.state, shown.reason) == (BufferState.STAGED_OUT, "Stage out completed")
    assert (inside.used(), inside.datanodes.services) == (0, {})


def test_none_is_freed_before_the_last_has_drained(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.datanodes.hold_on["dn2"] = Phase.SAVING
    inside.setup(2, destroy("fast"))
    inside.wait(lambda: inside.datanodes.services[("dn1", "1")].phase is Phase.SAVED)
    inside.restart()  # and a kill -9 changes nothing of that
    assert inside.datanodes.services[("dn1", "1")].phase is Phase.SAVED
    inside.datanodes.hold_on.clear()
    inside.data_in(2)
    assert inside.datanodes.services == {}


def test_discard_drops_without_draining(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.whole_job(2, destroy("fast", Discard="yes"))
    shown = inside.shown("fast")
    assert shown and shown.reason == "Resources released"
    assert inside.datanodes.saved == []


def test_a_server_that_lost_data_says_so_until_its_owner_discards_the_rest(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.datanodes.report("dn2", "1", Phase.SAVE_FAILED, "its server died; lost of 1 file: /scratch/a/x")
    inside.reconcile()
    shown = inside.shown("fast")
    assert shown and (shown.step, shown.state) == (Step.SAVE_FAILED, BufferState.TEARDOWN)
    assert "Data lost - dn2: its server died; lost of 1 file: /scratch/a/x" in shown.reason
    with pytest.raises(EbbError, match="takes no new jobs"):
        inside.setup(2, use("fast"))
    inside.whole_job(3, destroy("fast", Discard="yes"))
    assert inside.datanodes.services == {}


def test_what_cannot_be_drained_shows_while_the_buffer_works_on(inside: Inside) -> None:
    inside.whole_job(1, create_sbb("fast"))
    inside.datanodes.report("dn1", "1", Phase.READY, "cannot drain /scratch/a/x: Disk quota exceeded")
    inside.reconcile()
    inside.wait_reason("fast", "SBB running on 2 servers - dn1: cannot drain /scratch/a/x: Disk quota exceeded")
    inside.datanodes.report("dn1", "1", Phase.READY, None)
    inside.reconcile()
    shown = inside.shown("fast")
    assert shown and shown.reason == "SBB running on 2 servers"
