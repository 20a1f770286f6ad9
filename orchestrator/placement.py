"""Joins the pure allocator with the store's records: buffers queue by their ids, allocations go by datanode."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ebb.datanodes import Site
from ebb.errors import UserError
from ebb.model import Flavor, Resources, VolumeGroup
from orchestrator.allocator import Allocator
from orchestrator.records import Allocation, Buffer, Step
from orchestrator.rooms import Ask, Request, Share
from orchestrator.store import Transaction


@dataclass(frozen=True, slots=True)
class Placed:
    """A buffer whose turn it is, with its shares."""

    buffer_id: int
    allocations: tuple[Allocation, ...]


class Placement:
    """Who gets what, under the engine's lock. Begins with what the store says is taken and who waits."""

    def __init__(self, site: Site, tx: Transaction) -> None:
        self.site = site
        self._down: set[str] = set()
        self._touched = False
        self._load(tx)

    @property
    def flavors(self) -> Mapping[str, Flavor]:
        """The flavors of datanodes.conf by lower-case name."""
        return {flavor.name.lower(): flavor for flavor in self.site.flavors}

    def _load(self, tx: Transaction) -> None:
        # Read first: a database that fails in the midst of it must not leave half of what there is.
        allocations, queued = tx.allocations(), tx.buffers_in(Step.QUEUED)
        self._allocator = Allocator(self.site.datanodes)
        self._orders: dict[int, int] = {}
        for datanode in self._down:
            self._allocator.set_available(datanode, False)
        taken: dict[int, list[Share]] = {}
        for a in allocations:
            taken.setdefault(a.buffer_id, []).append(Share(a.datanode, a.volume_group, a.resources))
        for buffer_id, shares in taken.items():
            self._allocator.restore(buffer_id, buffer_id, tuple(shares))
        waiting: dict[int, list[Buffer]] = {}
        for buffer in queued:
            waiting.setdefault(buffer.bbid, []).append(buffer)
        for group in waiting.values():
            self.enqueue(group)
        self._touched = False

    def kept(self) -> None:
        """The store keeps all that was taken, freed and queued."""
        self._touched = False

    def reload(self, tx: Transaction) -> None:
        """Begin anew from the store, after a decision that came to nothing; nothing if it had not come to this.

        Most scripts with an error have not, and a full queue takes its time to load.
        """
        if self._touched:
            self._load(tx)

    def replace(self, site: Site, tx: Transaction) -> None:
        """Take a new datanodes.conf.

        Raises UserError if it lacks a datanode that still holds buffers: they could not be reached any more.
        """
        holding = {a.datanode for a in tx.allocations()} - {node.name for node in site.datanodes}
        if holding:
            names = ", ".join(sorted(holding))
            raise UserError(f"{names}: not in the new file, but holding buffers; destroy these first")
        self.site = site
        self._allocator.set_datanodes(site.datanodes)

    def set_available(self, datanode: str, available: bool) -> None:
        """Whether new buffers may go to a datanode."""
        (self._down.discard if available else self._down.add)(datanode)
        self._allocator.set_available(datanode, available)

    def enqueue(self, buffers: Sequence[Buffer]) -> None:
        """The buffers of one job queue together: all or none of them are placed."""
        if not buffers:
            return
        self._touched = True
        order = buffers[0].id
        for buffer in buffers:
            self._orders[buffer.id] = order
        self._allocator.submit(Request(order, tuple(Ask(b.id, b.each, b.datanodes) for b in buffers)))

    def withdraw(self, buffer_id: int) -> None:
        """Take a buffer out of the queue."""
        self._touched = True
        order = self._orders.pop(buffer_id, None)
        if order is not None:
            self._allocator.withdraw(order, buffer_id)

    def free(self, buffer_id: int, datanode: str) -> None:
        """One datanode has nothing of the buffer any more."""
        self._touched = True
        self._allocator.release(buffer_id, datanode)

    def place(self) -> list[Placed]:
        """Whose turn it is now."""
        self._touched = True
        placed = []
        for grant in self._allocator.schedule():
            for buffer_id, shares in grant.placement.items():
                self._orders.pop(buffer_id, None)
                placed.append(
                    Placed(
                        buffer_id,
                        tuple(
                            Allocation(buffer_id, share.datanode, share.volume_group, share.resources)
                            for share in shares
                        ),
                    )
                )
        return placed

    def why_waiting(self, buffer_id: int) -> str:
        """What a queued buffer lacks, in one line."""
        order = self._orders.get(buffer_id)
        return self._allocator.why_waiting(order) if order is not None else ""

    def refuse_impossible(self, asks: Iterable[tuple[Resources, int]]) -> None:
        """Raise UserError if buffers could not be had together even with all datanodes empty."""
        request = Request(0, tuple(Ask(key, each, count) for key, (each, count) in enumerate(asks)))
        why = self._allocator.never_fits(request) if request.asks else None
        if why:
            raise UserError(f"can never be had here: {why}")

    def totals(self) -> tuple[Resources, Resources]:
        """All there is, and what of it is taken."""
        totals = self._allocator.totals()
        return totals.total, totals.used

    def volume_group(self, datanode: str, name: str) -> VolumeGroup:
        """What makes the volumes of a volume group, and how they lie in it."""
        node = self.site.datanode(datanode)
        if node is None:
            raise UserError(f"datanode {datanode} is not in datanodes.conf")
        return node.volume_group(name)
