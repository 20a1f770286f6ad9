"""What a waiting or impossible request lacks, in one line for the user. Called by the allocator only."""

from __future__ import annotations

from collections.abc import Sequence

from ebb.model import Resources
from ebb.sizes import format_human
from orchestrator.rooms import CORES, GROUPS, MEMORY, NO_FIT, Ask, Node, Request, Room, fitting_group

_FEW = 4
"""Up to so many datanodes, or buffers of a request, are named one by one; of more only a count is told."""


def amount(asked: Resources, memory: int, cores: int, storage: int) -> str:
    """`5GB memory, 2 cores, 500GB`: only what was asked for; storage stands without a word, it is the usual one."""
    parts = []
    if asked.memory:
        parts.append(f"{format_human(max(0, memory))} memory")
    if asked.cores:
        parts.append(f"{max(0, cores)} cores" if cores != 1 else "1 core")
    if asked.storage:
        parts.append(format_human(max(0, storage)) + (" storage" if parts else ""))
    return " and ".join(parts) or "nothing"


def _needs(ask: Ask) -> str:
    each = amount(ask.each, ask.each.memory, ask.each.cores, ask.each.storage)
    return f"{each} on each of {ask.datanodes} datanodes" if ask.datanodes > 1 else f"{each} on one datanode"


def needs(request: Request) -> str:
    """`needs 500GB on each of 2 datanodes`, the asks of a group joined."""
    together = ", together" if len(request.asks) > 1 else ""
    more = len(request.asks) - _FEW
    rest = [f"what {more} more {'buffer' if more == 1 else 'buffers'} of the job need"] if more > 0 else []
    return "needs " + " plus ".join([_needs(ask) for ask in request.asks[:_FEW]] + rest) + together


def _rooms(ask: Ask, nodes: Sequence[Node], *, empty: bool) -> str:
    """What nodes have of what was asked: each by name if they are few, else how many have enough."""

    def room(node: Node) -> Room:
        return node.cap if empty else node.free

    if len(nodes) <= _FEW:
        return ", ".join(
            f"{node.name} "
            + (amount(ask.each, room(node)[MEMORY], room(node)[CORES], max(room(node)[GROUPS:]))
               if node.available or empty else "unavailable")
            for node in nodes
        ) or "no datanode"  # fmt: skip
    enough = sum((node.available or empty) and fitting_group(node, room(node), ask.each) != NO_FIT for node in nodes)
    down = sum(not node.available for node in nodes)
    missing = f", {down} {_be(down)} unavailable" if down and not empty else ""
    return f"{enough} of {len(nodes)} datanodes {'have' if enough != 1 else 'has'} that{missing}"


def _be(count: int) -> str:
    return "is" if count == 1 else "are"


def _unavailable(nodes: Sequence[Node]) -> str:
    down = sum(not node.available for node in nodes)
    return f"{down} of {len(nodes)} {_be(down)} unavailable"


def _short(request: Request, nodes: Sequence[Node]) -> Ask:
    """The ask to talk about: the first that alone finds too few datanodes now, else the first."""
    for ask in request.asks:
        if sum(n.available and fitting_group(n, n.free, ask.each) != NO_FIT for n in nodes) < ask.datanodes:
            return ask
    return request.asks[0]


def why(request: Request, nodes: Sequence[Node], fits_now: bool, possible: bool) -> str:
    """Why the request waits. fits_now: there is room. possible: there would be on empty available datanodes."""
    if fits_now:
        return f"{needs(request)}; there is room, but taking it could delay earlier requests"
    free = _rooms(_short(request, nodes), nodes, empty=False)
    if not possible:
        return f"{needs(request)}; waits for datanodes to come back, {_unavailable(nodes)}"
    return f"{needs(request)}; free: {free}"


def never(request: Request, nodes: Sequence[Node]) -> str:
    """Why the request can never be placed."""
    for ask in request.asks:
        if sum(fitting_group(node, node.cap, ask.each) != NO_FIT for node in nodes) < ask.datanodes:
            if ask.datanodes > len(nodes):
                return f"needs {_needs(ask)}; there are only {len(nodes)} datanodes"
            return f"needs {_needs(ask)}; when empty: {_rooms(ask, nodes, empty=True)}"
    return f"{needs(request)}; that is more than all {len(nodes)} datanodes have when empty"
