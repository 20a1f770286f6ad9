"""The first of the waiting requests, and what those behind it must leave to it. See `orchestrator.allocator`."""

from __future__ import annotations

from orchestrator.rooms import CORES, GROUPS, MEMORY, Node, Request, Room


class Head:
    """What the first waiting request asks of one datanode, all its asks together.

    single: it is one ask, for which the answers are exact; for a group they err on the head's side.
    """

    __slots__ = ("order", "single", "wants")

    def __init__(self, request: Request) -> None:
        self.order = request.order
        self.single = len(request.asks) == 1
        each = [ask.each for ask in request.asks]
        self.wants = (sum(r.memory for r in each), sum(r.cores for r in each), sum(r.storage for r in each))

    def spare(self, node: Node) -> Room:
        """How much of each resource of `node` others may take now so that the head keeps every chance it has there."""
        memory, cores, storage = self.wants
        cap = node.cap
        if self.single and (memory > cap[MEMORY] or cores > cap[CORES] or storage > max(cap[GROUPS:])):
            return [max(0, free) for free in node.free]
        return [
            self._spare(node, MEMORY, memory),
            self._spare(node, CORES, cores),
            *(self._spare(node, group, storage) for group in range(GROUPS, len(cap))),
        ]

    def _spare(self, node: Node, index: int, wanted: int) -> int:
        free = node.free[index]
        if not wanted or (self.single and wanted > node.cap[index]):
            return max(0, free)
        if free >= wanted or not self.single:
            return max(0, free - wanted)
        # The head does not fit now. If already the smallest end makes room for both, there is no moment in between.
        return max(0, min(free, free + node.ends[index] - wanted))
