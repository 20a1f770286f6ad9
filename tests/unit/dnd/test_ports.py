"""Numbers and ports of services."""

from __future__ import annotations

import pytest

from dnd.ports import Numbers
from ebb.errors import EnvironmentFault


def test_numbers_go_round_before_one_comes_again() -> None:
    numbers = Numbers(20490, 20492, lambda number, port: True)
    assert [numbers.take(set()) for _ in range(5)] == [1, 2, 3, 1, 2]
    assert numbers.port(3) == 20492


def test_after_a_restart_it_goes_on_behind_what_is_used() -> None:
    assert Numbers(20490, 20499, lambda number, port: True).take({1, 4}) == 5


def test_what_is_used_or_not_free_is_passed_over() -> None:
    numbers = Numbers(20490, 20492, lambda number, port: port != 20491)
    assert [numbers.take({1}), numbers.take({1})] == [3, 3]
    with pytest.raises(EnvironmentFault, match="all 3 ports"):
        numbers.take({1, 3})
