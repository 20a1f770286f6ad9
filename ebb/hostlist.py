"""Hostlists such as `dn[1-4],gw7`, expanded in the order in which they are written."""

from __future__ import annotations

import re
from typing import Final

from ClusterShell.NodeSet import RESOLVER_NOGROUP, NodeSet, NodeSetException

_TERM: Final = re.compile(r"(?:[A-Za-z0-9_.-]|\[[0-9,-]+\])+")
_RANGE: Final = re.compile(r"(\d+)-(\d+)")
MOST: Final = 65536
"""More names than that are a slip of the pen, and would cost all memory."""


def expand(text: str) -> list[str]:
    """The names of a hostlist, in the order written, with repetitions kept, so that two lists can be walked in step.

    ClusterShell itself sorts and folds; therefore every range goes to it alone. Node groups (`@rack1`) and set
    operators are not names and are refused. Raises ValueError.
    """
    names: list[str] = []
    for term in _split(text):
        if not _TERM.fullmatch(term):
            raise ValueError(f"`{term}` is no name or hostlist")
        for part in _ranges(term):
            size = 1
            for low, high in _RANGE.findall("".join(re.findall(r"\[.*?\]", part))):
                size *= max(1, int(high) - int(low) + 1)
            if len(names) + size > MOST:
                raise ValueError(f"`{part}` stands for more than {MOST} names")
            try:
                names += NodeSet(part, resolver=RESOLVER_NOGROUP)
            except NodeSetException as error:
                raise ValueError(f"`{part}` is no hostlist") from error
    return names


def _split(text: str) -> list[str]:
    """At the commas outside of brackets."""
    return re.split(r",(?![^\[\]]*\])", text)


def _ranges(term: str) -> list[str]:
    """`dn[4,1-2]` as `dn[4]`, `dn[1-2]`; with several brackets the term stays whole."""
    match = re.fullmatch(r"([^\[\]]*)\[([^\[\]]*)\]([^\[\]]*)", term)
    if not match:
        return [term]
    return [f"{match[1]}[{piece}]{match[3]}" for piece in match[2].split(",")]
