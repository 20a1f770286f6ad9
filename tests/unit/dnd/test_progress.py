"""Progress is told about once a second while data moves, and also while it does not."""

from __future__ import annotations

import logging
import time

import pytest

from dnd.staging import progress
from dnd.staging.progress import Tracker

MIB = 1 << 20


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now)


def test_rate_and_word_come_every_second_also_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock(monkeypatch)
    told: list[float] = []
    tracker = Tracker(lambda: told.append(clock.now))
    assert tracker.snapshot() is None
    tracker.begin(100 * MIB)
    for _ in range(10):
        clock.now += 0.5
        tracker.advance(5 * MIB)
        tracker.tick()
    shown = tracker.snapshot()
    assert shown is not None and (shown.done, shown.total) == (50 * MIB, 100 * MIB)
    assert shown.rate == pytest.approx(10 * MIB)
    assert told == [100.0, 101.0, 102.0, 103.0, 104.0, 105.0]
    for _ in range(20):
        clock.now += 1
        tracker.tick()
    stalled = tracker.snapshot()
    assert stalled is not None and stalled.rate < MIB / 100
    assert len(told) == 26


def test_the_log_has_a_line_every_five_seconds(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(monkeypatch)
    with caplog.at_level(logging.INFO, logger=progress.__name__):
        tracker = Tracker(what="GBF 42 (toto): stage-out")
        tracker.begin(100 * MIB)
        for _ in range(12):
            clock.now += 1
            tracker.advance(5 * MIB)
            tracker.tick()
    lines = [record.getMessage() for record in caplog.records]
    assert lines == [
        "GBF 42 (toto): stage-out 25% of 100MiB at 5MiB/s",
        "GBF 42 (toto): stage-out 50% of 100MiB at 5MiB/s",
    ]
