"""Numbers for new services: the n of `ganesha_<n>` and the port that goes with it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from ebb.errors import EnvironmentFault

NoteNumbers = Callable[[Sequence[tuple[int, int]]], None]
"""Writes numbers, each with its port, down for a service before anybody else may have them."""


class Numbers:
    """Hands out numbers from 1 to the size of the port range; number n listens on the n-th port.

    A number is given out again as late as possible: a client that missed the end of a buffer finds nobody where that
    buffer was, rather than the next one. free: whether a number's port and folder can be used now.
    """

    def __init__(self, first_port: int, last_port: int, free: Callable[[int, int], bool]) -> None:
        self._first, self._count = first_port, last_port - first_port + 1
        self._free = free
        self._last = 0

    def port(self, number: int) -> int:
        """The port of a number."""
        return self._first + number - 1

    def take(self, used: Collection[int]) -> int:
        """A number that is not in `used`. Raises EnvironmentFault when the range is exhausted."""
        start = self._last or max(used, default=0)
        for step in range(self._count):
            number = (start + step) % self._count + 1
            if number not in used and self._free(number, self.port(number)):
                self._last = number
                return number
        raise EnvironmentFault(
            f"all {self._count} ports from {self._first} for services are in use; give dnd a larger --ganesha-ports"
        )
