"""The allocator's promises, checked against plain re-computation: capacity, all or nothing, who waits for whom."""

from __future__ import annotations

import random
from collections.abc import Iterable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebb.model import Datanode, Resources, VolumeGroup
from orchestrator.allocator import Allocator, Grant
from orchestrator.rooms import Ask, Request, Share

GB = 1000**3


def node(name: str, memory: int = 100, cores: int = 32, *groups: int) -> Datanode:
    sizes = groups or (1000,)
    return Datanode(
        name, name, 8766, memory * GB, cores, tuple(VolumeGroup(f"vg{n}", size * GB) for n, size in enumerate(sizes, 1))
    )


def gbf(order: int, storage: int, datanodes: int = 1) -> Request:
    return Request(order, (Ask(order, Resources(storage=storage * GB), datanodes),))


def started(grants: Iterable[Grant]) -> list[int]:
    return [grant.request.order for grant in grants]


def run(allocator: Allocator, *requests: Request) -> list[int]:
    for request in requests:
        allocator.submit(request)
    return started(allocator.schedule())


def where(allocator: Allocator, key: int) -> list[str]:
    return [share.datanode for share in allocator.shares(key)]


def test_a_buffer_gets_its_share_on_different_datanodes() -> None:
    allocator = Allocator([node("dn1"), node("dn2"), node("dn3")])
    assert run(allocator, gbf(1, 500, datanodes=2)) == [1]
    assert allocator.shares(1) == (
        Share("dn1", "vg1", Resources(storage=500 * GB)),
        Share("dn2", "vg1", Resources(storage=500 * GB)),
    )
    totals = allocator.totals()
    assert totals.total == Resources(300 * GB, 96, 3000 * GB)
    assert totals.used == Resources(0, 0, 1000 * GB)


def test_placement_spreads_and_is_the_same_every_time() -> None:
    allocator = Allocator([node("dn1"), node("dn2", 100, 32, 2000)])
    run(allocator, *(gbf(order, 250) for order in range(1, 9)))
    # By free share, not by free bytes; ties go to the first datanode.
    assert [where(allocator, key) for key in range(1, 9)] == [
        ["dn1"], ["dn2"], ["dn2"], ["dn1"], ["dn2"], ["dn2"], ["dn1"], ["dn2"],
    ]  # fmt: skip


def test_the_scarcest_asked_resource_decides() -> None:
    allocator = Allocator([node("dn1", 100, 32), node("dn2", 100, 8)])
    run(allocator, Request(1, (Ask(1, Resources(10 * GB, 4)),)), Request(2, (Ask(2, Resources(10 * GB, 4)),)))
    run(allocator, Request(3, (Ask(3, Resources(1 * GB, 1)),)))
    assert [where(allocator, key) for key in (1, 2, 3)] == [["dn1"], ["dn2"], ["dn1"]]
    assert run(allocator, gbf(4, 1)) == [4]
    assert where(allocator, 4) == ["dn1"]  # storage is free on both alike: memory and cores do not count here


def test_a_share_lies_in_one_volume_group() -> None:
    allocator = Allocator([node("dn1", 100, 32, 600, 500)])
    assert allocator.never_fits(gbf(9, 700)) is not None
    assert run(allocator, gbf(1, 400), gbf(2, 400)) == [1, 2]
    assert [allocator.shares(key)[0].volume_group for key in (1, 2)] == ["vg1", "vg2"]
    assert run(allocator, gbf(3, 250)) == []
    allocator.release(2)
    assert started(allocator.schedule()) == [3]


def test_a_group_is_placed_all_or_nothing() -> None:
    allocator = Allocator([node("dn1"), node("dn2")])
    run(allocator, gbf(1, 800))
    group = Request(2, (Ask(20, Resources(storage=500 * GB)), Ask(21, Resources(storage=600 * GB))))
    assert run(allocator, group) == []
    assert allocator.shares(20) == allocator.shares(21) == ()
    allocator.release(1)
    assert started(allocator.schedule()) == [2]
    assert where(allocator, 21) + where(allocator, 20) == ["dn1", "dn2"]


def test_one_buffer_of_a_waiting_group_can_be_withdrawn() -> None:
    allocator = Allocator([node("dn1")])
    group = Request(1, (Ask(10, Resources(storage=500 * GB)), Ask(11, Resources(storage=600 * GB))))
    assert run(allocator, group) == []
    allocator.withdraw(1, 11)
    assert started(allocator.schedule()) == [1]
    assert where(allocator, 10) == ["dn1"]


def test_first_come_first_served() -> None:
    allocator = Allocator([node("dn1")])
    assert run(allocator, gbf(1, 900), gbf(2, 500), gbf(3, 500), gbf(4, 500)) == [1]
    allocator.release(1)
    assert started(allocator.schedule()) == [2, 3]
    allocator.release(3)
    assert started(allocator.schedule()) == [4]


def test_smaller_requests_pass_where_the_head_has_no_use_for_the_room() -> None:
    allocator = Allocator([node("small", 100, 32, 100), node("big")])
    assert run(allocator, gbf(1, 800)) == [1]
    # 2 can only go to `big`, and not yet. 3 fits on `small`, which 2 can never use.
    assert run(allocator, gbf(2, 500), gbf(3, 90), gbf(4, 90)) == [3, 4]
    assert where(allocator, 3) == ["small"]
    assert "could delay earlier" not in allocator.why_waiting(2)


def test_what_could_delay_the_head_waits() -> None:
    allocator = Allocator([node("dn1")])
    run(allocator, gbf(1, 300), gbf(2, 300), gbf(3, 300))
    # The head lacks 300GB. After the end of one of the three there are 400GB: enough for it, with nothing to spare.
    assert run(allocator, gbf(4, 400), gbf(5, 50)) == []
    needs = "needs 50GB on one datanode"
    assert allocator.why_waiting(5) == f"{needs}; there is room, but taking it could delay earlier requests"
    allocator.release(2)
    assert started(allocator.schedule()) == [4]
    allocator.release(4)
    assert started(allocator.schedule()) == [5]


def test_passing_is_allowed_where_any_end_makes_room_for_both() -> None:
    allocator = Allocator([node("dn1")])
    run(allocator, gbf(1, 700))
    assert run(allocator, gbf(2, 800), gbf(3, 100)) == [3]
    allocator.release(1)
    assert started(allocator.schedule()) == [2]


def test_other_resources_do_not_disturb() -> None:
    allocator = Allocator([node("dn1")])
    run(allocator, gbf(1, 900))
    assert run(allocator, gbf(2, 500), Request(3, (Ask(3, Resources(5 * GB, 2)),))) == [3]


def test_a_withdrawn_request_waits_no_more() -> None:
    allocator = Allocator([node("dn1")])
    run(allocator, gbf(1, 500), gbf(2, 800), gbf(3, 400))
    allocator.withdraw(2)
    assert started(allocator.schedule()) == [3]
    assert allocator.why_waiting(2) == ""
    allocator.withdraw(2)
    assert allocator.schedule() == []


def test_with_the_head_go_the_limits_it_set() -> None:
    allocator = Allocator([node("dn1"), node("dn2")])
    run(allocator, gbf(1, 300, 2), gbf(2, 300, 2))
    assert run(allocator, gbf(3, 500), gbf(4, 250, 2)) == []
    allocator.withdraw(3)
    assert started(allocator.schedule()) == [4]


def test_a_new_head_sets_limits_of_its_own() -> None:
    allocator = Allocator([node("dn1"), node("dn2")])
    run(allocator, gbf(1, 300, 2), gbf(2, 300, 2))
    assert run(allocator, gbf(3, 500), gbf(4, 600), gbf(5, 250)) == []
    allocator.withdraw(3)
    # After one end there are 700GB: 600 for the new head, 100 to spare.
    assert run(allocator, gbf(6, 150)) == []
    assert run(allocator, gbf(7, 100)) == [7]


def test_reserved_room_is_not_given_away_bit_by_bit() -> None:
    allocator = Allocator([node("big"), node("small", 100, 32, 600)])
    run(allocator, gbf(1, 900), gbf(2, 300))
    # 3 is the head and can never use `small`; 4 has 400GB of it reserved: 200GB are for others.
    assert run(allocator, gbf(3, 700), gbf(4, 400)) == []
    assert run(allocator, gbf(5, 120)) == [5]
    assert run(allocator, gbf(6, 120)) == []
    assert where(allocator, 5) == ["small"]
    allocator.release(2)
    assert started(allocator.schedule()) == [4]


def test_unavailable_datanodes_get_nothing_new_and_block_nobody() -> None:
    allocator = Allocator([node("dn1"), node("dn2")])
    run(allocator, gbf(1, 600))
    allocator.set_available("dn2", False)
    assert run(allocator, gbf(2, 500, datanodes=2), gbf(3, 300)) == [3]
    assert where(allocator, 3) == ["dn1"]
    assert allocator.why_waiting(2).endswith("waits for datanodes to come back, 1 of 2 is unavailable")
    allocator.release(1)
    assert allocator.schedule() == []
    allocator.set_available("dn2", True)
    assert started(allocator.schedule()) == [2]


def test_shares_can_be_freed_one_datanode_after_the_other() -> None:
    allocator = Allocator([node("dn1"), node("dn2")])
    run(allocator, gbf(1, 900, datanodes=2), gbf(2, 900), gbf(3, 900))
    allocator.release(1, "dn2")
    assert started(allocator.schedule()) == [2]
    assert where(allocator, 2) == ["dn2"]
    assert where(allocator, 1) == ["dn1"]
    allocator.release(1, "dn2")
    allocator.release(1, "dn1")
    assert started(allocator.schedule()) == [3]
    assert allocator.shares(1) == ()
    allocator.release(1)


def test_restored_allocations_count_and_the_queue_goes_on() -> None:
    allocator = Allocator([node("dn1")])
    allocator.restore(1, 1, (Share("dn1", "vg1", Resources(storage=900 * GB)),))
    allocator.restore(1, 1, (Share("dn1", "vg1", Resources(storage=900 * GB)),))
    assert allocator.totals().used == Resources(storage=900 * GB)
    # Given in any order, the queue is by `order`.
    assert run(allocator, gbf(3, 600), gbf(2, 600)) == []
    allocator.release(1)
    assert started(allocator.schedule()) == [2]


def test_capacity_can_change_under_what_is_allocated() -> None:
    allocator = Allocator([node("dn1"), node("dn2")])
    run(allocator, gbf(1, 900), gbf(2, 900), gbf(3, 900))
    allocator.set_datanodes([node("dn1", 100, 32, 500), node("dn3")])
    assert started(allocator.schedule()) == [3]
    assert where(allocator, 3) == ["dn3"]
    assert allocator.totals().used == Resources(storage=1800 * GB)
    allocator.release(2)  # on dn2, which is no longer configured
    allocator.release(1)
    assert run(allocator, gbf(4, 500)) == [4]
    allocator.set_datanodes([node("dn1"), node("dn2"), node("dn3")])
    assert run(allocator, gbf(5, 1000)) == [5]
    assert where(allocator, 5) == ["dn2"]


def test_the_same_request_again_changes_nothing() -> None:
    allocator = Allocator([node("dn1")])
    assert run(allocator, gbf(1, 900), gbf(2, 900), gbf(2, 900)) == [1]
    assert [request.order for request in allocator.waiting()] == [2]
    allocator.release(1)
    assert started(allocator.schedule()) == [2]


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (gbf(9, 500, 2), "needs 500GB on each of 2 datanodes; free: dn1 200GB, dn2 600GB"),
        (Request(9, (Ask(9, Resources(5 * GB, 40, 1000 * GB)),)),
         "needs 5GB memory and 40 cores and 1TB storage on one datanode; "
         "free: dn1 100GB memory and 48 cores and 200GB storage, dn2 100GB memory and 48 cores and 600GB storage"),
        (Request(9, (Ask(9, Resources(storage=700 * GB)), Ask(10, Resources(1, 1)))),
         "needs 700GB on one datanode plus 1 memory and 1 core on one datanode, together; free: dn1 200GB, dn2 600GB"),
    ],
)  # fmt: skip
def test_why_waiting_names_need_and_room(request_: Request, text: str) -> None:
    allocator = Allocator([node("dn1", 100, 48), node("dn2", 100, 48)])
    run(allocator, gbf(1, 800), gbf(2, 400))
    assert where(allocator, 1) == ["dn1"]
    run(allocator, request_)
    assert allocator.why_waiting(9) == text


def test_why_waiting_counts_when_there_are_many() -> None:
    allocator = Allocator([node(f"dn{n}") for n in range(100)])
    run(allocator, *(gbf(order, 900) for order in range(98)), gbf(99, 500, datanodes=3))
    allocator.set_available("dn3", False)
    assert allocator.schedule() == []
    text = "needs 500GB on each of 3 datanodes; free: 2 of 100 datanodes have that, 1 is unavailable"
    assert allocator.why_waiting(99) == text


@pytest.mark.parametrize(
    ("request_", "text"),
    [
        (gbf(1, 700), "needs 700GB on one datanode; when empty: dn1 500GB, dn2 600GB"),
        (gbf(1, 550, 2), "needs 550GB on each of 2 datanodes; when empty: dn1 500GB, dn2 600GB"),
        (gbf(1, 1, 3), "needs 1GB on each of 3 datanodes; there are only 2 datanodes"),
        (Request(1, tuple(Ask(key, Resources(storage=400 * GB)) for key in range(3))),
         "needs 400GB on one datanode plus 400GB on one datanode plus 400GB on one datanode, together; "
         "that is more than all 2 datanodes have when empty"),
        (Request(1, tuple(Ask(key, Resources(storage=300 * GB)) for key in range(100))),
         "needs 300GB on one datanode plus 300GB on one datanode plus 300GB on one datanode plus 300GB on one datanode "
         "plus what 96 more buffers of the job need, together; that is more than all 2 datanodes have when empty"),
    ],
)  # fmt: skip
def test_never_fits(request_: Request, text: str) -> None:
    allocator = Allocator([node("dn1", 100, 32, 500), node("dn2", 100, 32, 600)])
    allocator.set_available("dn1", False)
    assert allocator.never_fits(request_) == text
    assert allocator.never_fits(gbf(1, 500, 2)) is None


# --- random sequences -------------------------------------------------------------------------------------------------


def fits(datanode: Datanode, each: Resources, shares: Iterable[tuple[Share, bool]] = ()) -> bool:
    """Whether `each` fits on a datanode that holds `shares`, by plain addition."""
    there = [share for share, counts in shares if counts and share.datanode == datanode.name]
    if each.memory > datanode.memory - sum(share.resources.memory for share in there):
        return False
    if each.cores > datanode.cores - sum(share.resources.cores for share in there):
        return False
    return not each.storage or any(
        each.storage <= group.size - sum(s.resources.storage for s in there if s.volume_group == group.name)
        for group in datanode.volume_groups
    )


def fits_beside(datanodes: list[Datanode], request: Request, shares: list[Share]) -> bool:
    """Whether the only ask of `request` fits on enough datanodes that hold `shares`."""
    (ask,) = request.asks
    return sum(fits(datanode, ask.each, [(s, True) for s in shares]) for datanode in datanodes) >= ask.datanodes


class World:
    """An allocator under random arrivals and ends, watched by plain re-computation."""

    def __init__(self, seed: int, groups: bool) -> None:
        self.random = random.Random(seed)
        self.groups = groups
        dice = self.random
        self.datanodes = [
            node(f"dn{n}", dice.choice([10, 20]), dice.choice([8, 16]),
                 *(dice.choice([10, 15, 20]) for _ in range(dice.choice([1, 1, 2]))))
            for n in range(dice.randint(1, 5))
        ]  # fmt: skip
        self.allocator = Allocator(self.datanodes)
        self.requests: dict[int, Request] = {}
        self.live: dict[int, tuple[int, tuple[Share, ...]]] = {}
        self.head: int | None = None
        self.without_passing: dict[int, tuple[Share, ...]] = {}

    def ask(self, key: int) -> Ask:
        dice = self.random
        each = dice.choice([
            Resources(storage=dice.randint(1, 20) * GB),
            Resources(dice.randint(1, 12) * GB, dice.randint(1, 8)),
            Resources(dice.randint(1, 12) * GB, dice.randint(1, 8), dice.randint(1, 10) * GB),
        ])  # fmt: skip
        return Ask(key, each, min(dice.choice([1, 1, 1, 2, 3]), len(self.datanodes)))

    def step(self, order: int) -> None:
        if self.allocator.waiting() and self.random.random() < 0.05:
            self.allocator.withdraw(self.random.choice(self.allocator.waiting()).order)
        elif self.live and self.random.random() < 0.5:
            self.end(self.random.choice(list(self.live)))
        else:
            count = self.random.choice([1, 1, 2, 3]) if self.groups else 1
            request = Request(order, tuple(self.ask(order * 10 + n) for n in range(count)))
            if self.allocator.never_fits(request) is None:
                self.requests[order] = request
                self.allocator.submit(request)
        self.settle()

    def end(self, key: int) -> None:
        self.allocator.release(key)
        del self.live[key]
        self.without_passing.pop(key, None)

    def settle(self) -> None:
        granted = self.allocator.schedule()
        for grant in granted:
            assert set(grant.placement) == {ask.key for ask in grant.request.asks}, "all or nothing"
            for ask in grant.request.asks:
                shares = grant.placement[ask.key]
                assert len({share.datanode for share in shares}) == len(shares) == ask.datanodes
                assert all(share.resources == ask.each for share in shares)
                self.live[ask.key] = (grant.request.order, shares)
        self.check_capacity()
        if not self.groups:
            self.check_head()
            self.check_waits_for_older_only()
        queue = [request.order for request in self.allocator.waiting()]
        head = queue[0] if queue else None
        if head != self.head:
            self.head = head
            self.without_passing = {key: shares for key, (_, shares) in self.live.items()}

    def check_capacity(self) -> None:
        shares = [share for _, held in self.live.values() for share in held]
        for datanode in self.datanodes:
            there = [share.resources for share in shares if share.datanode == datanode.name]
            assert sum(r.memory for r in there) <= datanode.memory
            assert sum(r.cores for r in there) <= datanode.cores
            for group in datanode.volume_groups:
                inside = [s for s in shares if (s.datanode, s.volume_group) == (datanode.name, group.name)]
                assert sum(s.resources.storage for s in inside) <= group.size

    def check_head(self) -> None:
        """Had nobody passed since the head became the head, would it have started by now? Then it has."""
        if self.head is not None:
            held = [share for shares in self.without_passing.values() for share in shares]
            if fits_beside(self.datanodes, self.requests[self.head], held):
                assert self.head in {order for order, _ in self.live.values()}, "the head was delayed"

    def check_waits_for_older_only(self) -> None:
        """Every waiting request could start if all that came before it had ended."""
        for request in self.allocator.waiting():
            younger = [s for order, held in self.live.values() if order > request.order for s in held]
            assert fits_beside(self.datanodes, request, younger), "waits for one that came later"

    def finish(self) -> None:
        """Nothing is forgotten: with ends alone everybody gets their turn."""
        while self.live:
            self.end(self.random.choice(list(self.live)))
            self.settle()
        assert self.allocator.waiting() == []
        assert self.allocator.totals().used == Resources()


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 60), groups=st.booleans())
def test_promises_hold_whatever_comes_and_ends(seed: int, steps: int, groups: bool) -> None:
    world = World(seed, groups)
    for order in range(1, steps + 1):
        world.step(order)
    world.finish()


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 60))
def test_what_is_remembered_of_failures_hides_no_room(seed: int, steps: int) -> None:
    world = World(seed, groups=False)
    for order in range(1, steps + 1):
        world.step(order)
        world.allocator._failed.clear()
        world.allocator._changed = True
        assert world.allocator.schedule() == []


def test_somebody_passes_at_all() -> None:
    """The promises would hold without any passing too; so count that it happens."""
    passed = 0
    for seed in range(50):
        world = World(seed, groups=False)
        for order in range(1, 60):
            world.step(order)
            waiting = world.allocator.waiting()
            passed += bool(waiting) and any(held > waiting[0].order for held, _ in world.live.values())
    assert passed > 50
