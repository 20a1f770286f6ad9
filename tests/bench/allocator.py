"""Decisions a second of the allocator at the size of the design: 1,000 datanodes, 10,000 buffers, and a queue."""

from __future__ import annotations

import random
import time

from bench.measure import Row, percentile
from ebb.model import Datanode, Resources, VolumeGroup
from orchestrator.allocator import Allocator
from orchestrator.rooms import Ask, Request

GB = 1000**3
DATANODES = 1000
BUFFERS = 10_000
DECISIONS = 4000
QUEUE = 100

KINDS = (
    Resources(storage=1 << 30),
    Resources(storage=100 * GB),
    Resources(storage=500 * GB),
    Resources(5 * GB, 2),
    Resources(10 * GB, 4, 500 * GB),
    Resources(50 * GB, 8, 1000 * GB),
)


class Load:
    """A site at work: buffers of all kinds come and end, on one datanode or several."""

    def __init__(self, storage: int) -> None:
        self.dice = random.Random(20240206)
        group = (VolumeGroup("ebb", storage),)
        self.allocator = Allocator(Datanode(f"dn{n}", f"dn{n}", 8766, 400 * GB, 128, group) for n in range(DATANODES))
        self.order = 0
        self.live: list[int] = []

    def arrive(self) -> None:
        """One more request, and what follows from it."""
        self.order += 1
        ask = Ask(self.order, self.dice.choice(KINDS), self.dice.choice((1, 1, 1, 1, 1, 1, 2, 4)))
        self.allocator.submit(Request(self.order, (ask,)))
        self.settle()

    def end(self) -> None:
        """One buffer less, and what follows from it."""
        index = self.dice.randrange(len(self.live))
        self.live[index], self.live[-1] = self.live[-1], self.live[index]
        self.allocator.release(self.live.pop())
        self.settle()

    def settle(self) -> None:
        """Every decision that is due."""
        self.live += [grant.request.order for grant in self.allocator.schedule()]


def rows() -> list[Row]:
    """An empty site that fills; a site with room; a full site with a queue, where every decision looks at the queue."""
    spacious = Load(storage=10_000 * GB)
    start = time.perf_counter()
    while len(spacious.live) < BUFFERS:
        spacious.arrive()
    filling = BUFFERS / (time.perf_counter() - start)
    shares = sum(len(spacious.allocator.shares(key)) for key in spacious.live)
    with_room, _ = _decide(spacious, queue=0)

    full = Load(storage=5_900 * GB)
    while len(full.allocator.waiting()) < QUEUE:
        full.arrive()
    with_queue, slowest = _decide(full)
    size = f"{DATANODES} datanodes, {len(full.live)} buffers, queue of {QUEUE}"
    return [
        Row("allocator: filling an empty site", filling, "decisions/s", 1000, f"{shares} shares at the end", "more"),
        Row("allocator: site with room", with_room, "decisions/s", 1000, f"{BUFFERS} buffers", "more"),
        Row("allocator: full site", with_queue, "decisions/s", 1000, size, "more"),
        Row("allocator: full site, slowest of 100", slowest * 1000, "ms", None, "one arrival or end"),
    ]


def _decide(load: Load, queue: int = QUEUE) -> tuple[float, float]:
    """Ends and arrivals: decisions a second, and the time that 99 of 100 stay below.

    queue: about so many wait all the time; 0: ends and arrivals in turn.
    """
    times = []
    for number in range(DECISIONS):
        arrives = len(load.allocator.waiting()) < queue if queue else number % 2
        start = time.perf_counter()
        load.arrive() if arrives else load.end()
        times.append(time.perf_counter() - start)
    return DECISIONS / sum(times), percentile(times, 99)
