"""Sizes: the contract's examples verbatim, and that what is printed reads back as the same number."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ebb import sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("4096", 4096),
        ("1K", 1024), ("1KiB", 1024), ("1KB", 1000),
        ("1M", 1024**2), ("1MiB", 1024**2), ("1MB", 1000**2),
        ("6G", 6 * 1024**3), ("1GiB", 1024**3), ("500GB", 500 * 1000**3),
        ("1T", 1024**4), ("1TiB", 1024**4), ("1TB", 1000**4),
        ("2P", 2 * 1024**5), ("2PiB", 2 * 1024**5), ("2PB", 2 * 1000**5),
        ("1gib", 1024**3), ("1GIB", 1024**3), ("1gb", 1000**3), ("1g", 1024**3),
        ("007K", 7 * 1024),
    ],
)  # fmt: skip
def test_reads(text: str, size: int) -> None:
    assert sizes.parse(text) == size


@pytest.mark.parametrize(
    "text",
    ["", "G", "12XB", "1.5G", "-1", "+1", "1 G", " 1", "1\n", "0x10", "1e9", "1Ki", "1B", "1iB", "1E", "1GBB",
     "\u0661G", "1\u212a", "99999999999999999999"],
)  # fmt: skip
def test_refuses_and_says_what_is_accepted(text: str) -> None:
    with pytest.raises(ValueError, match=r"KiB\.\.PiB .*1024.* KB\.\.PB .*1000"):
        sizes.parse(text)


def test_zero_only_where_it_is_a_size() -> None:
    assert sizes.parse("0G", zero=True) == 0
    with pytest.raises(ValueError, match="more than zero"):
        sizes.parse("0G")


def test_largest_size_fits_the_database() -> None:
    assert sizes.parse(str(2**63 - 1)) == 2**63 - 1
    with pytest.raises(ValueError, match="8192P"):
        sizes.parse("8192P")


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (10 * 1000**4, "10TB"),
        (5693557494 * 1024, "5693557494KiB"),
        (4072067506 * 1024, "4072067506KiB"),
        (400 * 1000**3, "400GB"),
        (290 * 1000**3, "290GB"),
        (0, "0"),
        (1023, "1023"),
        (1024**3, "1GiB"),
        (1024 * 1000, "1000KiB"),
        (1024**2 * 1000**2, "1000000MiB"),
        (3 * 1024**5, "3PiB"),
    ],
)
def test_total_is_the_largest_exact_unit(size: int, text: str) -> None:
    assert sizes.format_total(size) == text


@given(st.integers(0, 2**63 - 1))
def test_total_reads_back(size: int) -> None:
    assert sizes.parse(sizes.format_total(size), zero=True) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [(500 * 1000**3, "500GB"), (6 * 1024**3, "6GiB"), (799014912, "762MiB"), (799014913, "799.0MB"),
     (499_999_999_999, "499.9GB"), (5693557494 * 1024, "5.8TB"), (12345, "12.3KB"), (0, "0"), (17, "17")],
)  # fmt: skip
def test_human(size: int, text: str) -> None:
    assert sizes.format_human(size) == text


@given(st.integers(0, 2**63 - 1))
def test_human_is_short_and_never_more_than_there_is(size: int) -> None:
    text = sizes.format_human(size)
    assert len(text) <= 9
    number, unit = text.rstrip("KMGTPiB"), text[len(text.rstrip("KMGTPiB")) :]
    factor = sizes.parse("1" + unit)
    whole, _, tenth = number.partition(".")
    shown = int(whole) * factor + int(tenth or 0) * factor // 10
    assert shown <= size <= shown + factor // 10 + 1
