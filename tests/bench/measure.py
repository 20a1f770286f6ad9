"""What a bench gives: rows with a budget each, times of calls, and pairs measured in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Row:
    """One measured number. budget None: told, not judged. against: what the budget or the number is compared with."""

    name: str
    measured: float
    unit: str
    budget: float | None = None
    against: str = ""
    better: Literal["less", "more"] = "less"

    @property
    def kept(self) -> bool:
        """Whether the budget is kept."""
        if self.budget is None:
            return True
        return self.measured <= self.budget if self.better == "less" else self.measured >= self.budget


@dataclass(frozen=True, slots=True)
class Pair:
    """How B did against A, round by round. ratio: median of B/A; low, high: quartiles. Times in seconds."""

    rounds: int
    ratio: float
    low: float
    high: float
    median_a: float
    median_b: float

    @property
    def error(self) -> float:
        """Standard error of `ratio`, estimated from the quartiles as for a normal distribution."""
        return float(1.2533 * (self.high - self.low) / 1.349 / self.rounds**0.5)


def seconds(call: Callable[[], object]) -> float:
    """How long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that `percent` of the values do not exceed; the nearest one that was measured."""
    ranked = sorted(values)
    return ranked[max(0, -(-len(ranked) * percent // 100) - 1)]


def compare(a: Callable[[], float], b: Callable[[], float], rounds: int) -> Pair:
    """Measure A and B in turns, each returning seconds, so that what disturbs the machine disturbs both.

    Every second round begins with B. A first round warms up and does not count.
    """
    a(), b()
    times: list[tuple[float, float]] = []
    for number in range(rounds):
        if number % 2:
            second, first = b(), a()
        else:
            first, second = a(), b()
        times.append((first, second))
    ratios = [second / first for first, second in times]
    quartiles = statistics.quantiles(ratios, n=4)
    return Pair(
        rounds, statistics.median(ratios), quartiles[0], quartiles[2],
        statistics.median(t for t, _ in times), statistics.median(t for _, t in times),
    )  # fmt: skip
