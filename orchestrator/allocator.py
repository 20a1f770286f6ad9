"""Which request gets which shares of which datanodes, and which one waits. Pure: no I/O, no clock, no threads.

First come, first served; a request is placed on all its datanodes at once or not at all. A later request may overtake
waiting ones if that delays none of them. Buffers have no known end, so this is what is promised, and no more can be:

- The **head** (the first that waits) starts no later than if nobody overtook it, whatever ends in whatever order. A
  request may take room on a datanode only if the head could use that datanode now beside it, or could not use it now
  and each end of an allocation there would make room for both, or never could use it.
- **Every other** waiting request keeps a reservation: room on as many datanodes as it needs, counted on what there is
  when all that came before it has ended, less the reservations of those before it. Nobody takes reserved room, so it
  waits only for those that came before it, never for one that came later. Where no room is left to reserve, the queue
  is closed: nothing behind that request starts, until those before it have.

A request that could not be placed on the available datanodes even if they were empty (a datanode is down) is passed
over: nobody waits for it. The first promise is exact for requests of one buffer; see `rooms.search` for several.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from ebb.model import Datanode, Resources
from orchestrator import shortage
from orchestrator.head import Head
from orchestrator.rooms import (
    CORES,
    GROUPS,
    MEMORY,
    NO_FIT,
    Chooser,
    Node,
    Placement,
    Ranking,
    Request,
    Room,
    Shape,
    Share,
    fitting_group,
    search,
)


@dataclass(frozen=True, slots=True)
class Grant:
    """A request that was placed: shares for each of its asks' keys."""

    request: Request
    placement: Placement


@dataclass(frozen=True, slots=True)
class Totals:
    """Over all configured datanodes. used may be more than total after capacity was taken away."""

    total: Resources
    used: Resources


@dataclass(slots=True)
class _Waiting:
    request: Request
    reservation: list[tuple[Node, Room]] | None = None


class Allocator:
    """The queue and what is allocated. One thread's: callers that share it hold a lock of their own."""

    def __init__(self, datanodes: Iterable[Datanode]) -> None:
        self._placed: dict[int, tuple[int, tuple[Share, ...]]] = {}
        self._by_order: list[tuple[int, int]] = []
        self._waiting: dict[int, _Waiting] = {}
        self._down: set[str] = set()
        self.set_datanodes(datanodes)

    # --- what the outside tells ---------------------------------------------------------------------------------------

    def set_datanodes(self, datanodes: Iterable[Datanode]) -> None:
        """Replace the configuration; at start and on reload.

        Shares on datanodes that it no longer has stay known and come back with the datanode; nothing new goes there.
        """
        self._datanodes = tuple(datanodes)
        self._nodes = {datanode.name: Node(index, datanode) for index, datanode in enumerate(self._datanodes)}
        for key, (_, shares) in self._placed.items():
            self._take(key, shares)
        for node in self._nodes.values():
            node.available = node.name not in self._down
        self._ranking = Ranking(self._nodes.values())
        self._forget_reservations()

    def set_available(self, datanode: str, available: bool) -> None:
        """Whether new shares may go to `datanode` (up and not draining). What lies there stays."""
        if available:
            self._down.discard(datanode)
        else:
            self._down.add(datanode)
        node = self._nodes.get(datanode)
        if node and node.available != available:
            node.available = available
            self._forget_reservations()

    def restore(self, order: int, key: int, shares: tuple[Share, ...]) -> None:
        """An allocation that exists already, from the store at start. The same key again replaces it."""
        self.release(key)
        self._place(order, key, shares)
        self._changed = True

    def submit(self, request: Request) -> None:
        """Queue `request`; `schedule` decides. The same order again replaces what waits under it."""
        last = self._waiting and request.order > next(reversed(self._waiting))
        known = self._waiting.get(request.order)
        if known and known.request == request:
            return
        self._waiting[request.order] = _Waiting(request)
        if last or len(self._waiting) == 1:
            self._new.append(request.order)
        else:
            self._waiting = dict(sorted(self._waiting.items()))
            self._changed = True
            self._failed.clear()

    def withdraw(self, order: int, key: int | None = None) -> None:
        """Take a waiting request, or of a group only the ask `key`, out of the queue; nothing happens if none waits."""
        entry = self._waiting.pop(order, None)
        if entry is None:
            return
        self._give_back(entry)
        self._changed = True
        rest = tuple(ask for ask in entry.request.asks if key is not None and ask.key != key)
        if rest:
            self.submit(Request(order, rest))

    def release(self, key: int, datanode: str | None = None) -> None:
        """Free the shares of a buffer, or only the one on `datanode`; nothing happens if it has none there."""
        if key not in self._placed:
            return
        order, shares = self._placed.pop(key)
        kept = tuple(share for share in shares if datanode is not None and share.datanode != datanode)
        if kept:
            self._placed[key] = (order, kept)
        else:
            del self._by_order[bisect_left(self._by_order, (order, key))]
        for share in shares:
            node = self._nodes.get(share.datanode)
            if node and share not in kept and node.drop(key):
                self._ranking.changed(node)
                self._improved[node.index] = node
        self._changed = True

    # --- what the outside asks ----------------------------------------------------------------------------------------

    def schedule(self) -> list[Grant]:
        """Place what can be placed, in order; every grant is allocated when this returns, until `release`.

        Call it after any change; without one it costs nothing.
        """
        if self._changed:
            queue = self._start_over()
        else:
            queue = [self._waiting[order] for order in self._new if order in self._waiting]
        self._new.clear()
        grants = []
        for entry in queue:
            if self._closed:
                break
            grant = self._decide(entry)
            if grant:
                grants.append(grant)
        self._improved.clear()
        self._why.clear()
        return grants

    def waiting(self) -> list[Request]:
        """The queue, first to last."""
        return [entry.request for entry in self._waiting.values()]

    def shares(self, key: int) -> tuple[Share, ...]:
        """What the buffer `key` has; empty if nothing."""
        return self._placed.get(key, (0, ()))[1]

    def totals(self) -> Totals:
        """For bbstat and metrics."""
        total, used = Resources(), Resources()
        for node in self._nodes.values():
            total += Resources(node.cap[MEMORY], node.cap[CORES], sum(node.cap[GROUPS:]))
            rooms = list(node.shares.values())
            used += Resources(
                sum(r[MEMORY] for r in rooms), sum(r[CORES] for r in rooms), sum(sum(r[GROUPS:]) for r in rooms)
            )
        return Totals(total, used)

    def never_fits(self, request: Request) -> str | None:
        """Why `request` could not be placed on all configured datanodes if they were empty and up; None if it could."""
        empty = Allocator(self._datanodes)
        if empty._fits_empty(request):
            return None
        return shortage.never(request, list(empty._nodes.values()))

    def why_waiting(self, order: int) -> str:
        """One line on what the request lacks; empty if it does not wait."""
        entry = self._waiting.get(order)
        if not entry:
            return ""
        shape = entry.request.shape
        if shape not in self._why:
            fits_now = search(entry.request, self._ranking.best, _choose_now).places is not None
            possible = fits_now or self._fits_empty(entry.request)
            self._why[shape] = shortage.why(entry.request, list(self._nodes.values()), fits_now, possible)
        return self._why[shape]

    # --- the queue ----------------------------------------------------------------------------------------------------

    def _forget_reservations(self) -> None:
        """The datanodes are others: all that was found out about them is found out anew."""
        for entry in self._waiting.values():
            entry.reservation = None
        self._head: Head | None = None
        self._last_head: int | None = None
        self._spare_for: Request | None = None
        self._closed = False
        self._changed = True
        self._new: list[int] = []
        self._possible: dict[Shape, bool] = {}
        # Shapes that found too few datanodes, with how many they lacked, and the datanodes that got better since.
        self._failed: dict[Shape, int] = {}
        self._improved: dict[int, Node] = {}
        self._why: dict[Shape, str] = {}

    def _start_over(self) -> list[_Waiting]:
        """Walk the whole queue again; what failed before and cannot have got better is not searched for again."""
        self._changed = False
        self._closed = False
        queue = list(self._waiting.values())
        waits = {entry.request.shape for entry in queue}
        self._failed = {shape: missing for shape, missing in self._failed.items() if shape in waits}
        self._last_head = self._head.order if self._head else None
        self._head = None
        return queue

    def _decide(self, entry: _Waiting) -> Grant | None:
        """Place one request, or note that it waits: as the head, with a reservation, or by closing the queue."""
        request, shape = entry.request, entry.request.shape
        if shape not in self._possible:
            self._possible[shape] = self._fits_empty(request)
        if not self._possible[shape]:
            return None
        choose, candidates = (
            (_choose_now, self._ranking.best) if self._head is None else (_choose_beside, self._candidates_beside)
        )
        if self._head is None and request.order != self._last_head:
            self._failed.clear()  # what was found out under another head says nothing
        if not self._fails_again(request, shape, choose):
            found = search(request, candidates, choose)
            if found.places is not None:
                return self._grant(entry, found.places)
            self._failed[shape] = found.missing
        if self._head is None:
            self._become_head(request)
        self._closed = not self._reserve(entry)
        return None

    def _fails_again(self, request: Request, shape: Shape, choose: Chooser) -> bool:
        """Whether a search would find too few datanodes again: since the last one only `_improved` got better."""
        missing = self._failed.get(shape)
        if missing is None:
            return False
        if len(request.asks) > 1:
            return not self._improved
        each = request.asks[0].each
        better = sum(n.available and choose(n, each, None) != NO_FIT for n in self._with_spare(self._improved.values()))
        self._failed[shape] = missing - better
        return better < missing

    def _become_head(self, request: Request) -> None:
        self._head = Head(request)
        for node in self._nodes.values():
            node.future[:] = node.cap
        if self._spare_for != request:
            self._spare_for = request
            for node in self._nodes.values():
                node.spare = None
        for _, key in self._by_order[bisect_right(self._by_order, (request.order, 1 << 63)) :]:
            self._shrink_future(key)

    def _shrink_future(self, key: int) -> None:
        """An allocation that is younger than the head's request is still there when all older ones have ended."""
        for share in self._placed[key][1]:
            node = self._nodes.get(share.datanode)
            if node:
                node.future[:] = map(int.__sub__, node.future, node.shares[key])

    def _reserve(self, entry: _Waiting) -> bool:
        """Keep the request's reservation if it still fits, else look for one; False if there is no room for any."""
        kept = entry.reservation
        if kept is None or any(min(map(int.__sub__, node.future, room)) < 0 for node, room in kept):
            places = search(entry.request, lambda _: self._nodes.values(), _choose_future).places
            if places is None:
                entry.reservation = None
                return False
            asks = entry.request.asks
            kept = [(node, node.vector(ask.each, group)) for ask in asks for node, group in places[ask.key]]
            entry.reservation = kept
        for node, room in kept:
            node.future[:] = map(int.__sub__, node.future, room)
        return True

    def _give_back(self, entry: _Waiting) -> None:
        """The entry leaves the queue: what it had reserved others may find."""
        for node, _ in entry.reservation or ():
            self._improved[node.index] = node

    def _with_spare(self, nodes: Iterable[Node]) -> Iterator[Node]:
        """`nodes`, their `spare` made up to date."""
        for node in nodes:
            if node.spare is None and self._head:
                node.spare = self._head.spare(node)
            yield node

    def _candidates_beside(self, each: Resources) -> Iterator[Node]:
        """Where `each` may fit without taking a chance from the head; a quick sieve, for most nodes fall through it."""
        memory, cores, storage = each.memory, each.cores, each.storage
        nodes, head = self._ranking.nodes, self._head
        for _, index in self._ranking.ranked(each):
            node = nodes[index]
            spare = node.spare
            if spare is None and head:
                spare = node.spare = head.spare(node)
            if (
                spare
                and memory <= spare[MEMORY]
                and cores <= spare[CORES]
                and (storage <= spare[GROUPS] or len(spare) > GROUPS + 1)
            ):
                yield node

    # --- the books ----------------------------------------------------------------------------------------------------

    def _grant(self, entry: _Waiting, found: Mapping[int, list[tuple[Node, int]]]) -> Grant:
        request = entry.request
        del self._waiting[request.order]
        self._give_back(entry)
        placement: Placement = {}
        for ask in request.asks:
            placement[ask.key] = tuple(node.share(ask.each, group) for node, group in found[ask.key])
            self._place(request.order, ask.key, placement[ask.key])
            if self._head and request.order > self._head.order:
                self._shrink_future(ask.key)
        return Grant(request, placement)

    def _place(self, order: int, key: int, shares: tuple[Share, ...]) -> None:
        self._placed[key] = (order, shares)
        insort(self._by_order, (order, key))
        for node in self._take(key, shares):
            self._ranking.changed(node)

    def _take(self, key: int, shares: tuple[Share, ...]) -> list[Node]:
        """Enter shares into their nodes' rooms; the nodes that changed."""
        nodes = []
        for share in shares:
            node = self._nodes.get(share.datanode)
            if node:
                node.put(key, node.vector(share.resources, node.group_index(share)))
                nodes.append(node)
        return nodes

    def _fits_empty(self, request: Request) -> bool:
        """Whether `request` fits on the available datanodes if nothing else were there."""
        return search(request, lambda _: self._nodes.values(), _choose_empty).places is not None


def _choose_now(node: Node, each: Resources, taken: Room | None) -> int:
    return fitting_group(node, list(map(int.__sub__, node.free, taken)) if taken else node.free, each)


def _choose_beside(node: Node, each: Resources, taken: Room | None) -> int:
    """Where `each` fits now, in no reservation, and without taking a chance from the head; `spare` is up to date."""
    room = map(min, node.spare or node.free, node.future)
    return fitting_group(node, list(map(int.__sub__, room, taken) if taken else room), each)


def _choose_future(node: Node, each: Resources, taken: Room | None) -> int:
    return fitting_group(node, list(map(int.__sub__, node.future, taken)) if taken else node.future, each)


def _choose_empty(node: Node, each: Resources, taken: Room | None) -> int:
    return fitting_group(node, list(map(int.__sub__, node.cap, taken)) if taken else node.cap, each)
