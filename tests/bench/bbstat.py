"""Rendering of bbstat with 10,000 buffers: at start, and after one of them changed."""

from __future__ import annotations

from dataclasses import replace

from bench.measure import Row, percentile, seconds
from ebb.model import BufferState, Resources, ServiceType
from orchestrator import bbstat

BUFFERS = 10_000


def example_rows() -> list[bbstat.Row]:
    """10,000 buffers as a busy site has them."""
    return [
        bbstat.Row(
            ServiceType.GBF, 470000 + n, f"buffer{n}", BufferState.STAGED_IN, 1707230546.0 + n, 0, 1 << 40, 20000 + n,
            f"user{n % 300}", "Global Bunch of Flash ready",
        )
        for n in range(BUFFERS)
    ]  # fmt: skip


def example_text() -> str:
    """What get_status hands out then."""
    return bbstat.render(example_rows(), Resources(400, 1, 10**13), Resources(290, 1, 10**12))


def rows() -> list[Row]:
    """The orchestrator renders after every change."""
    bbstat._line.cache_clear()
    first = seconds(example_text)
    lines = example_rows()
    again = []
    for n in range(50):
        lines[n] = replace(lines[n], state=BufferState.STAGING_OUT)
        again.append(seconds(lambda: bbstat.render(lines, Resources(), Resources())))
    against = f"{BUFFERS} lines"
    return [
        Row("bbstat: first rendering", first * 1000, "ms", 250, against + ", once at start"),
        Row("bbstat: rendering after a change", percentile(again, 50) * 1000, "ms", 50, against),
    ]
