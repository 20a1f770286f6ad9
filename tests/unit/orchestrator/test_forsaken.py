"""A job that slurmctld believes to be staging in, though it has lost whoever did it, is told to look after itself."""

from __future__ import annotations

import pytest

from orchestrator import forsaken
from orchestrator.slurm import Slurm
from unit.orchestrator.conftest import Inside, create, use


def test_a_job_that_slurmctld_has_lost_is_told_once(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.whole_job(1, create("toto"))
    for job in (2, 3):
        inside.setup(job, use("toto"))
        inside.data_in(job)
    inside.slurm.reasons = {2: "BurstBufferStageIn", 3: "Resources"}
    inside.reconcile()
    assert inside.slurm.comments == {}
    monkeypatch.setattr(forsaken, "SECONDS", 0.0)
    inside.reconcile()
    assert list(inside.slurm.comments) == [2]
    assert "Cancel the job and submit it again" in inside.slurm.comments[2]
    inside.slurm.comments.clear()
    inside.reconcile()
    assert inside.slurm.comments == {}


def test_one_that_is_asked_for_again_is_well(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.setup(1, create("toto"))
    inside.slurm.reasons = {1: "BurstBufferStageIn"}
    inside.reconcile()
    monkeypatch.setattr(forsaken, "SECONDS", 3600.0)
    inside.data_in(1)
    inside.reconcile()
    assert inside.slurm.comments == {}


def test_one_that_slurmctld_took_down_and_never_set_up_again_is_told(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.whole_job(1, create("toto"))
    for job in (2, 3, 4):
        inside.setup(job, use("toto"))
        inside.call("job_teardown", job, hurry=True)
        inside.slurm.states[job] = "PENDING"
    inside.slurm.states[4] = "COMPLETED"
    inside.slurm.reasons = {2: "BurstBufferResources", 3: "Priority", 4: "BurstBufferResources"}
    monkeypatch.setattr(forsaken, "SECONDS", 0.0)
    inside.reconcile()
    assert list(inside.slurm.comments) == [2]
    assert "has taken them down and not asked again" in inside.slurm.comments[2]
    inside.slurm.comments.clear()
    inside.setup(2, use("toto"))
    inside.slurm.reasons = {}
    inside.reconcile()
    assert inside.slurm.comments == {}


def test_reasons_are_read_with_the_states() -> None:
    class Done:
        stdout = "7 PENDING BurstBufferStageIn\n8 RUNNING None\n"
        stdout += "9 PENDING burst_buffer/lua: slurm_bb_setup: no buffer\n"
        stdout += "10 PENDING BurstBufferResources\n"

    jobs = Slurm(lambda *_, **__: Done()).jobs()  # type: ignore[arg-type]
    assert jobs.states == {7: "PENDING", 8: "RUNNING", 9: "PENDING", 10: "PENDING"}
    assert [job for job in jobs.states if jobs.staging_in(job)] == [7]
    assert [job for job in jobs.states if jobs.before_setup(job)] == [10]
