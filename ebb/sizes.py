"""Sizes as people write and read them; inside Ebb a size is always an int of bytes.

`KB` is 1000 bytes; `KiB` and the bare letter `K` are 1024, and so on to P. The case of a unit is free. This is the
grammar of directives, datanodes.conf and `bbstat` alike; slurm_bb_lua speaks the same.
"""

from __future__ import annotations

import re
from typing import Final

_LETTERS: Final = "KMGTP"
_DECIMAL: Final[dict[str, int]] = {letter + "B": 1000**power for power, letter in enumerate(_LETTERS, 1)}
_BINARY: Final[dict[str, int]] = {letter + "iB": 1024**power for power, letter in enumerate(_LETTERS, 1)}
_BARE: Final[dict[str, int]] = {letter: 1024**power for power, letter in enumerate(_LETTERS, 1)}
_BY_CASE_FREE_NAME: Final = {name.upper(): factor for name, factor in (_DECIMAL | _BINARY | _BARE).items()} | {"": 1}
_LARGEST_FIRST: Final = sorted((_DECIMAL | _BINARY).items(), key=lambda unit: -unit[1])

_SIZE: Final = re.compile(r"([0-9]{1,19})([A-Za-z]*)")
_MOST: Final = 2**63 - 1
"""A size has to fit a signed 64-bit number: the database's and the kernel's."""

ACCEPTED: Final = "a whole number of bytes or one with K M G T P, KiB..PiB (powers of 1024) or KB..PB (powers of 1000)"
"""What `parse` takes, for error messages and documentation."""


def parse(text: str, *, zero: bool = False) -> int:
    """Bytes of a size such as `1GiB`, `500GB`, `4096`.

    zero: whether 0 is a size. Raises ValueError with what is accepted; callers add which key held the value.
    """
    match = _SIZE.fullmatch(text)
    factor = _BY_CASE_FREE_NAME.get(match[2].upper()) if match else None
    if match is None or factor is None:
        raise ValueError(ACCEPTED)
    size = int(match[1]) * factor
    if size == 0 and not zero:
        raise ValueError("more than zero: " + ACCEPTED)
    if size > _MOST:
        raise ValueError("less than 8192P: " + ACCEPTED)
    return size


def format_total(size: int) -> str:
    """`size` in the largest unit, decimal or binary, that is exact: `10TB`, `400GB`, `5693557494KiB`, `512`, `0`.

    For the totals of `bbstat`, which programs read back. Source: docs of `scontrol show bbstat`, *contract*.
    """
    for name, factor in _LARGEST_FIRST:
        if size and size % factor == 0:
            return f"{size // factor}{name}"
    return str(size)


def format_human(size: int) -> str:
    """`size` for a sentence: exact where that is short (`6GiB`, `500GB`), else decimal and cut down to `799.0MB`.

    Never rounded up: what is said to be free is free.
    """
    exact = format_total(size)
    if len(exact.rstrip("KMGTPiB")) <= 4:
        return exact
    name, factor = next((unit for unit in _LARGEST_FIRST if unit[1] <= size and unit[0] in _DECIMAL), ("KB", 1000))
    return f"{size // factor}.{size % factor * 10 // factor}{name}"
