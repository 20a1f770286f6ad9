"""Where the shares of a buffer can lie: datanodes as vectors of room, and the search over them. No queue, no I/O.

A room vector is [memory, cores, storage of volume group 0, of volume group 1, ...]. A node has three of them: `cap`
(all there is), `free` (now) and `future` (what the waiting requests' reservations leave), which
`orchestrator.allocator` keeps. Its users need only Ask, Request and Share of this module.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import permutations
from typing import Final

from ebb.model import Datanode, Resources

MEMORY: Final = 0
CORES: Final = 1
GROUPS: Final = 2
"""Index of the first volume group in a room vector."""

NO_FIT: Final = -1
Room = list[int]
Shape = tuple[tuple[Resources, int], ...]


@dataclass(frozen=True, slots=True)
class Ask:
    """One buffer to be placed: `each` on every one of `datanodes` different datanodes. key: unique, the buffer's id."""

    key: int
    each: Resources
    datanodes: int = 1


@dataclass(frozen=True, slots=True)
class Request:
    """What one job asks for, placed all or nothing. order: its place in the queue, unique, lower came earlier."""

    order: int
    asks: tuple[Ask, ...]

    @property
    def shape(self) -> Shape:
        """What decides whether it fits: requests of one shape fit alike."""
        return tuple((ask.each, ask.datanodes) for ask in self.asks)


@dataclass(frozen=True, slots=True)
class Share:
    """What a buffer has of one datanode. volume_group None: no storage there."""

    datanode: str
    volume_group: str | None
    resources: Resources


Placement = dict[int, tuple[Share, ...]]
"""Shares by Ask.key."""


class Node:
    """One datanode's rooms. shares: what lies there, by Ask.key, as vectors like `cap`.

    spare: what the head of the queue leaves to others (`Head.spare`), None: to be computed anew.
    """

    __slots__ = ("_ends", "available", "cap", "free", "future", "groups", "index", "name", "ranks", "shares", "spare")

    def __init__(self, index: int, datanode: Datanode) -> None:
        self.index = index
        self.name = datanode.name
        self.groups = [group.name for group in datanode.volume_groups]
        self.cap: Room = [datanode.memory, datanode.cores, *(group.size for group in datanode.volume_groups)]
        self.free: Room = list(self.cap)
        self.future: Room = list(self.cap)
        self.available = True
        self.shares: dict[int, Room] = {}
        self.spare: Room | None = None
        self._ends: Room | None = None
        self.ranks: dict[int, tuple[float, int]] = {}

    def put(self, key: int, room: Room) -> None:
        """Enter a share."""
        self.shares[key] = room
        self.free[:] = map(int.__sub__, self.free, room)
        self._ends = self.spare = None

    def drop(self, key: int) -> bool:
        """Free a share; False if there was none."""
        room = self.shares.pop(key, None)
        if room is None:
            return False
        self.free[:] = map(int.__add__, self.free, room)
        self._ends = self.spare = None
        return True

    @property
    def ends(self) -> Room:
        """Of each resource, what the share with the least of it (and not none) frees when it ends; 0: none has any."""
        if self._ends is None:
            columns = zip(*self.shares.values(), strict=True) if self.shares else ((0,) for _ in self.cap)
            self._ends = [min(filter(None, column), default=0) for column in columns]
        return self._ends

    def vector(self, resources: Resources, group: int) -> Room:
        """`resources` as a room vector of this node, the storage in volume group `group` (0: none)."""
        room = [0] * len(self.cap)
        room[MEMORY], room[CORES] = resources.memory, resources.cores
        if group:
            room[group] = resources.storage
        return room

    def share(self, resources: Resources, group: int) -> Share:
        """The same for the outside."""
        return Share(self.name, self.groups[group - GROUPS] if group else None, resources)

    def group_index(self, share: Share) -> int:
        """Index of the share's volume group in room vectors; 0 for a share without storage.

        A volume group that the configuration no longer has counts as the first one: its bytes stay taken.
        """
        if share.volume_group is None:
            return 0
        return GROUPS + (self.groups.index(share.volume_group) if share.volume_group in self.groups else 0)


def fitting_group(node: Node, room: Room, each: Resources) -> int:
    """The volume group with the largest free share that `each` fits in, 0 if it asks for no storage, else NO_FIT."""
    # A room can be below zero, after capacity was taken away; that is no matter to who asks for nothing of it.
    if (each.memory > room[MEMORY] and each.memory) or (each.cores > room[CORES] and each.cores):
        return NO_FIT
    storage = each.storage
    if not storage:
        return 0
    if len(room) == GROUPS + 1:
        return GROUPS if storage <= room[GROUPS] else NO_FIT
    best, most = NO_FIT, -1.0
    for group in range(GROUPS, len(room)):
        if storage <= room[group] and room[group] / node.cap[group] > most:
            best, most = group, room[group] / node.cap[group]
    return best


Chooser = Callable[[Node, Resources, Room | None], int]
"""(node, each, what this search has put there already) -> index of the volume group, 0 without storage, NO_FIT."""


class Ranking:
    """Nodes by free share of the scarcest asked resource, largest first; ties go to the node named first in the file.

    One sorted list for each set of resources that was ever asked for together.
    """

    def __init__(self, nodes: Iterable[Node]) -> None:
        self.nodes = list(nodes)
        self._lists: dict[int, list[tuple[float, int]]] = {}
        self._most = [
            max((node.cap[MEMORY] for node in self.nodes), default=1),
            max((node.cap[CORES] for node in self.nodes), default=1),
            max((max(node.cap[GROUPS:]) for node in self.nodes), default=1),
        ]

    @staticmethod
    def _rank(node: Node, mask: int) -> tuple[float, int]:
        free, cap = node.free, node.cap
        share = 1.0
        if mask & 1:
            share = free[MEMORY] / cap[MEMORY]
        if mask & 2:
            share = min(share, free[CORES] / cap[CORES])
        if mask & 4:
            share = min(share, max(room / size for room, size in zip(free[GROUPS:], cap[GROUPS:], strict=True)))
        return (-share, node.index)

    def changed(self, node: Node) -> None:
        """`node.free` is another now."""
        for mask, ranks in self._lists.items():
            del ranks[bisect_left(ranks, node.ranks[mask])]
            node.ranks[mask] = self._rank(node, mask)
            insort(ranks, node.ranks[mask])

    def best(self, each: Resources) -> Iterator[Node]:
        """Nodes to try for `each`, best first; ends where none that follows can fit."""
        nodes = self.nodes
        for _, index in self.ranked(each):
            yield nodes[index]

    def ranked(self, each: Resources) -> list[tuple[float, int]]:
        """The same as pairs (minus the share, index in `nodes`); a copy."""
        asked = (each.memory, each.cores, each.storage)
        mask = sum(1 << bit for bit, amount in enumerate(asked) if amount)
        ranks = self._lists.get(mask)
        if ranks is None:
            for node in self.nodes:
                node.ranks[mask] = self._rank(node, mask)
            ranks = self._lists[mask] = sorted(node.ranks[mask] for node in self.nodes)
        # A node whose scarcest share is below this has too little of that resource, whichever it is.
        least = min((amount / most for amount, most in zip(asked, self._most, strict=True) if amount), default=0.0)
        return ranks[: bisect_right(ranks, (-least, len(ranks)))]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search came to. places: nodes and volume groups by Ask.key, None if there are not enough of them.

    missing: for a request of one ask, how many datanodes lack; for a group 1.
    """

    places: dict[int, list[tuple[Node, int]]] | None
    missing: int = 0


def search(request: Request, candidates: Callable[[Resources], Iterable[Node]], choose: Chooser) -> Found:
    """Nodes and volume groups for every ask of `request`: all or nothing.

    For one ask the answer is exact. Several asks are placed one after the other, in every order for up to three and
    the largest first for more, so a way that needs a cleverer mix is not found.
    """
    asks = request.asks
    if len(asks) == 1:
        found = _pick(asks[0], candidates, choose, {})
        missing = asks[0].datanodes - len(found)
        return Found(None, missing) if missing else Found({asks[0].key: found})
    largest_first = sorted(asks, key=lambda ask: (-ask.datanodes, -ask.each.storage, -ask.each.memory, -ask.each.cores))
    orders = permutations(largest_first) if len(asks) <= 3 else iter([tuple(largest_first)])
    for order in orders:
        taken: dict[int, Room] = {}
        result: dict[int, list[tuple[Node, int]]] = {}
        for ask in order:
            found = _pick(ask, candidates, choose, taken)
            if len(found) < ask.datanodes:
                break
            for node, group in found:
                room = taken.setdefault(node.index, [0] * len(node.cap))
                room[:] = map(int.__add__, room, node.vector(ask.each, group))
            result[ask.key] = found
        else:
            return Found(result)
    return Found(None, 1)


def _pick(
    ask: Ask, candidates: Callable[[Resources], Iterable[Node]], choose: Chooser, taken: dict[int, Room]
) -> list[tuple[Node, int]]:
    """The first candidates that `ask` fits on; fewer than it asks for if there are no more."""
    found: list[tuple[Node, int]] = []
    for node in candidates(ask.each):
        if node.available:
            group = choose(node, ask.each, taken.get(node.index))
            if group != NO_FIT:
                found.append((node, group))
                if len(found) == ask.datanodes:
                    break
    return found
