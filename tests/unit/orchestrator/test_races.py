"""What the reconciler saw is old when it acts: jobs begin, end and begin anew while Slurm and datanodes are asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from ebb.model import Phase, Status
from orchestrator import forsaken, reconcile
from orchestrator.slurm import SlurmJobs
from unit.orchestrator.conftest import Inside, create, destroy, use

READY = {"state": "ready"}


def let_in(inside: Inside) -> list[dict[str, tuple[str, ...]]]:
    """By service, the jobs that datanodes let in."""
    return [dict(status.jobs) for status in list(inside.datanodes.services.values())]


def job_2_runs(inside: Inside) -> None:
    """It uses the buffer `toto` of an earlier job."""
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    inside.run(2)


def while_squeue_runs(inside: Inside, monkeypatch: pytest.MonkeyPatch, what: Callable[[], object]) -> None:
    """Slurm's next answer is from before `what`, and comes after it."""
    real = inside.slurm.jobs

    def slow() -> SlurmJobs:
        answer = real()
        monkeypatch.setattr(inside.slurm, "jobs", real)
        what()
        return answer

    monkeypatch.setattr(inside.slurm, "jobs", slow)


@pytest.fixture()
def requeued(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[threading.Thread]]:
    """When a datanode is next told to shut job 2 out, Slurm begins it anew at that moment."""
    real, begun = inside.datanodes.post_run, list[threading.Thread]()

    def begin_anew() -> None:
        inside.setup(2, use("toto"))
        inside.data_in(2)
        inside.run(2)

    def slow(datanode: str, sid: str, job_id: int) -> Status:
        if not begun:
            begun.append(threading.Thread(target=begin_anew))
            begun[0].start()
            begun[0].join(0.5)
        return real(datanode, sid, job_id)

    monkeypatch.setattr(inside.datanodes, "post_run", slow)
    yield begun
    for thread in begun:
        thread.join(10)


def test_a_job_that_began_while_slurm_was_asked_stays_let_in(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))

    def begin() -> None:
        inside.setup(3, use("toto"))
        inside.data_in(3)
        inside.run(3)

    while_squeue_runs(inside, monkeypatch, begin)
    inside.reconcile()
    assert let_in(inside) == [{"3": ("127.0.0.101",)}]
    inside.end(3)
    assert let_in(inside) == [{}]


def test_a_job_set_up_anew_while_slurm_was_asked_is_not_torn_down(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "GRACE_SECONDS", -1.0)
    job_2_runs(inside)
    inside.slurm.states[2] = "NODE_FAIL"

    def requeue() -> None:
        inside.call("post_run", 2)
        inside.call("job_teardown", 2, hurry=True)
        inside.slurm.states[2] = "PENDING"
        inside.setup(2, use("toto"))

    while_squeue_runs(inside, monkeypatch, requeue)
    inside.reconcile()
    assert inside.data_in(2) == READY
    assert (inside.folder / "jobs/2.env").exists()


def test_what_a_job_wants_anew_is_not_withdrawn(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    inside.whole_job(1, create("kept"))
    inside.setup(2, use("kept"))
    inside.data_in(2)
    inside.datanodes.hold.add(Phase.CREATING)
    wanted = {3: create("new"), 4: destroy("kept")}
    for job, directive in wanted.items():
        inside.setup(job, directive)
        inside.slurm.states[job] = "CANCELLED"
        inside.call("job_teardown", job, hurry=True)

    def requeue() -> None:
        for job, directive in wanted.items():
            inside.slurm.states[job] = "PENDING"
            inside.setup(job, directive)

    while_squeue_runs(inside, monkeypatch, requeue)
    inside.reconcile()
    inside.datanodes.hold.clear()
    assert inside.data_in(3) == READY
    inside.end(2)
    assert inside.data_in(4) == READY


def test_one_that_is_over_is_shut_out_when_the_datanode_is_back_also_after_days_without_jobs(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "RECENT_SECONDS", -1.0)
    job_2_runs(inside)
    inside.datanodes.down = {"dn1"}
    inside.end(2)
    inside.reconcile()
    assert let_in(inside) == [{"2": ("127.0.0.101",)}]
    inside.datanodes.down.clear()
    inside.reconcile()
    assert let_in(inside) == [{}]


def test_a_job_that_is_requeued_while_its_last_run_is_shut_out_stays_let_in(
    inside: Inside, requeued: list[threading.Thread]
) -> None:
    job_2_runs(inside)
    inside.call("job_teardown", 2, hurry=True)
    requeued[0].join(10)
    assert let_in(inside) == [{"2": ("127.0.0.101",)}]


def test_nor_is_it_shut_out_for_what_a_datanode_had_listed_before(
    inside: Inside, requeued: list[threading.Thread]
) -> None:
    inside.whole_job(1, create("toto"))
    inside.datanodes.pre_run("dn1", "1", 2, ["127.0.0.101"])
    inside.reconcile()
    requeued[0].join(10)
    assert let_in(inside) == [{"2": ("127.0.0.101",)}]
    inside.reconcile()
    assert let_in(inside) == [{"2": ("127.0.0.101",)}]


def test_a_teardown_while_the_job_is_let_in_shuts_it_out_after_it(
    inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    inside.whole_job(1, create("toto"))
    inside.setup(2, use("toto"))
    inside.data_in(2)
    real = inside.datanodes.pre_run

    def cancelled(datanode: str, sid: str, job_id: int, clients: tuple[str, ...]) -> Status:
        inside.call("job_teardown", 2, hurry=True)
        return real(datanode, sid, job_id, clients)

    monkeypatch.setattr(inside.datanodes, "pre_run", cancelled)
    inside.run(2)
    inside.reconcile()
    assert let_in(inside) == [{}]
    with inside.engine.look() as tx:
        assert tx.admitted_links() == []


def test_a_job_that_asks_while_another_is_told_is_not_told(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forsaken, "SECONDS", 0.0)
    for job in (1, 2):
        inside.setup(job, create(f"b{job}"))
    inside.slurm.reasons = {1: "BurstBufferStageIn", 2: "BurstBufferStageIn"}
    real = inside.slurm.comment

    def slow(job_id: int, text: str) -> None:
        real(job_id, text)
        inside.data_in(2 if job_id == 1 else 1)

    monkeypatch.setattr(inside.slurm, "comment", slow)
    inside.reconcile()
    assert len(inside.slurm.comments) == 1
