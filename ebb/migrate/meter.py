"""The line that shows how far a phase is. Pure but for the clock that is handed in."""

from __future__ import annotations

from collections import deque

from ebb import sizes

_WINDOW = 15.0
_WORDS = {"scan": "looking at the files", "copy": "copying", "verify": "verifying"}


class Meter:
    """Remembers the last seconds of a phase, for its rate."""

    def __init__(self) -> None:
        self._phase = ""
        self._samples: deque[tuple[float, int]] = deque()

    def line(self, phase: str, done: tuple[int, int], total: tuple[int, int], now: float) -> str:
        """done, total: bytes and files. now: seconds of a monotonic clock."""
        if phase != self._phase:
            self._phase = phase
            self._samples.clear()
        words = _WORDS.get(phase, phase)
        if phase == "scan":
            return words
        size, files = min(done[0], total[0]), min(done[1], total[1])
        self._samples.append((now, size))
        while now - self._samples[0][0] > _WINDOW and len(self._samples) > 2:
            self._samples.popleft()
        share = size * 100 // total[0] if total[0] else files * 100 // total[1] if total[1] else 100
        line = (
            f"{words}: {share}%, {sizes.format_human(size)} of {sizes.format_human(total[0])}, "
            f"{files} of {total[1]} files"
        )
        return line + self._rate(total[0] - size)

    def _rate(self, left: int) -> str:
        began, first = self._samples[0]
        now, last = self._samples[-1]
        if now - began < 1 or last <= first:
            return ""
        rate = (last - first) / (now - began)
        return f", {sizes.format_human(round(rate))}/s, {duration(left / rate)} left"


def duration(seconds: float) -> str:
    """`8 s`, `3 min`, `2 h 5 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
