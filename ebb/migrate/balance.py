"""Divides files into parts that take about the same time. Pure."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

FILE_COST = 128 << 10
"""What opening, making and closing a file costs, as bytes of copying."""


def balance(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Indexes of `sizes` in `count` lists of about the same sum; the largest first, each to the emptiest list.

    No list takes more than 4/3 of the best possible. Within a list, order is that of `sizes`: neighbours on disk stay
    neighbours.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    filled = [(0, number) for number in range(count)]
    for index in sorted(range(len(sizes)), key=lambda each: -sizes[each]):
        load, number = filled[0]
        parts[number].append(index)
        heapq.heapreplace(filled, (load + sizes[index] + FILE_COST, number))
    return [sorted(part) for part in parts]
