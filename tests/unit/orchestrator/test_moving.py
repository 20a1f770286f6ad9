"""Data that moves shows in /metrics as long as it moves, under the number of its buffer and no name."""

from __future__ import annotations

from ebb.model import Phase, Progress
from orchestrator.metrics import Metrics
from orchestrator.moving import Move, Moving
from orchestrator.workers import progress_reason
from unit.orchestrator.conftest import GIB, Inside, create


def test_metrics_show_what_moves_and_only_while_it_does(inside: Inside) -> None:
    moving = Moving()
    metrics = Metrics(inside.engine, inside.placement, inside.reconciler, moving)
    move = Move("42", "dn1", "stage-out")
    with moving.watched(move):
        moving.note(move, Progress(300, 1000, 50.0))
        text = metrics.page().body.decode()
        assert 'ebb_staging_done_bytes{datanode="dn1",direction="stage-out",sid="42"} 300.0' in text
        assert 'ebb_staging_total_bytes{datanode="dn1",direction="stage-out",sid="42"} 1000.0' in text
        assert 'ebb_staging_bytes_per_second{datanode="dn1",direction="stage-out",sid="42"} 50.0' in text
    assert "ebb_staging_done_bytes{" not in metrics.page().body.decode()


def test_the_reason_tells_percent_rate_and_time_left() -> None:
    shown = progress_reason("Stage-out", {"dn1": Progress(340 << 20, 1000 << 20, 20 << 20)})
    assert shown == "Stage-out 34% of 1000MiB at 20MiB/s, 33 s left (dn1)"
    assert progress_reason("Stage-in", {"dn1": Progress(0, 1 << 30, 0.0)}) == "Stage-in 0% of 1GiB (dn1)"


def test_several_datanodes_are_one_sum_that_ends_with_the_last() -> None:
    moving = Moving()
    one, two = Move("42", "dn1", "stage-out"), Move("42", "dn2", "stage-out")
    with moving.watched(one), moving.watched(two), moving.watched(Move("43", "dn1", "stage-out")):
        moving.note(two, Progress(100 << 20, 400 << 20, 10 << 20))
        moving.note(one, Progress(200 << 20, 400 << 20, 30 << 20))
        moving.note(Move("43", "dn1", "stage-out"), Progress(1, 2, 1.0))
        shown = progress_reason("Stage-out", moving.of("42", "stage-out"))
        assert shown == "Stage-out 37% of 800MiB at 40MiB/s, 30 s left (2 datanodes)"


def test_bbstat_follows_while_data_move_in_and_out(inside: Inside) -> None:
    moved = [Progress(part * GIB // 10, GIB, 100 << 20) for part in (1, 5, 9)]
    inside.datanodes.hold |= {Phase.CREATING, Phase.SAVING}
    inside.setup(1, create("toto", data_src="/home/alice/ds", data_dst="/home/alice/ds"))
    for progress in moved:
        inside.wait(lambda: ("dn1", "1") in inside.datanodes.services)
        inside.datanodes.move("dn1", "1", progress)
        inside.wait_reason("toto", f"Stage-in {100 * progress.done // GIB}% of 1GiB at 100MiB/s")
    inside.datanodes.hold.remove(Phase.CREATING)
    assert inside.data_in(1) == {"state": "ready"}
    inside.run(1)
    inside.end(1)
    destroy = {"line": 2, "type": "GBF", "verb": "destroy_persistent", "args": {"Name": "toto"}}
    inside.setup(2, destroy)
    inside.wait(lambda: inside.datanodes.services[("dn1", "1")].phase is Phase.SAVING)
    for progress in moved:
        inside.datanodes.move("dn1", "1", progress)
        inside.wait_reason("toto", f"Stage-out {100 * progress.done // GIB}% of 1GiB at 100MiB/s")
    inside.datanodes.hold.clear()
    inside.wait_reason("toto", "Resources released")
