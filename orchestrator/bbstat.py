"""The files that hooks only read: the ready answer to `scontrol show bbstat`, and what can ever fit.

Rendering is pure. `write_atomic` puts a text where readers see the old one or the new one, never a part.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Final

from ebb.datanodes import Site
from ebb.model import BufferState, Datanode, Flavor, Resources, ServiceType
from ebb.sizes import format_total

_REASON_MOST: Final = 500
"""Longer reasons are cut: the line is for people, the log has the rest."""

_UNFIT: Final = re.compile(r"[^\x20-\x7e\xa1-\U0010ffff]+")
_PRETENDER: Final = re.compile(r"\b(Name|State)=")


@dataclass(frozen=True, slots=True)
class Row:
    """One buffer. create_time: seconds since the epoch. memory, storage: bytes over all its datanodes."""

    type: ServiceType
    bbid: int
    name: str
    state: BufferState
    create_time: float
    memory: int
    storage: int
    uid: int
    user: str
    reason: str


def render(rows: Iterable[Row], total: Resources, used: Resources) -> str:
    """The whole answer: a line for each row, in the order given, then the six totals. Format: *contract*.

    Called by the orchestrator after every change. What is used beyond total (capacity was taken away) shows as no free.
    """
    lines = [_line(row) for row in rows]
    for what, all_of_it, taken in (("storage", total.storage, used.storage), ("memory", total.memory, used.memory)):
        lines.append(f"FA: Total {what} : {format_total(all_of_it)}")
        lines.append(f"FA: Used {what} : {format_total(taken)}")
        lines.append(f"FA: Free {what} : {format_total(max(0, all_of_it - taken))}")
    return "\n".join(lines) + "\n"


@lru_cache(maxsize=32768)
def _line(row: Row) -> str:
    """Most lines are the same as in the answer before."""
    created = datetime.fromtimestamp(int(row.create_time)).isoformat()
    # What has ended takes nothing any more, and clients tell by the missing fields.
    size = "" if row.state is BufferState.STAGED_OUT else f"Memory={row.memory} StorageSize={row.storage} "
    return (
        f"FA: BB Type={row.type} bbid={row.bbid} Name={row.name} State={row.state} CreateTime={created} "
        f'{size}UserId={row.uid}({row.user}) Reason="{clean_reason(row.reason)}"'
    )


@lru_cache(maxsize=4096)
def clean_reason(reason: str) -> str:
    """`reason` as it may stand between the quotes: one line of printable text that no client takes for a field.

    Reasons quote error lines, which quote what users wrote: quotes would end the field, and clients that look for
    ` Name=<name> ` must not find another buffer's name here.
    """
    text = _UNFIT.sub(" ", reason).replace('"', "'")
    text = _PRETENDER.sub(r"\1:", " ".join(text.split()))
    return text if len(text) <= _REASON_MOST else text[: _REASON_MOST - 3] + "..."


def render_capacity(site: Site, offers: Mapping[str, str]) -> str:
    """The text of /run/ebb/capacity (docs/interfaces.md): what empty datanodes hold, and what is offered on them.

    Written at start and on reload.
    """
    nodes = site.datanodes
    largest = max((_largest(node) for node in nodes), default=0)
    lines = [
        "Version=1",
        f"Total Datanodes={len(nodes)} StorageSize={sum(node.storage for node in nodes)} LargestStorageSize={largest} "
        f"MemorySize={sum(node.memory for node in nodes)}",
        "Offers " + " ".join(f"{key}={value}" for key, value in offers.items()),
    ]
    for flavor in site.flavors:
        lines.append(
            f"Flavor Name={flavor.name} MemorySize={flavor.memory} Cores={flavor.cores} "
            f"StorageSize={flavor.storage} Datanodes={sum(_holds(node, flavor) for node in nodes)}"
        )
    return "\n".join(lines) + "\n"


def _largest(node: Datanode) -> int:
    return max((group.size for group in node.volume_groups), default=0)


def _holds(node: Datanode, flavor: Flavor) -> bool:
    return node.memory >= flavor.memory and node.cores >= flavor.cores and _largest(node) >= flavor.storage


def write_atomic(path: Path, content: bytes, mode: int = 0o644, owner: int = -1) -> None:
    """Write `content` aside and rename it to `path`; one writer a path. A reader never waits and never sees a part.

    mode: permissions of the file, whatever the umask is. owner: its uid, -1 for the writer's. Not flushed to disk:
    such files live in /run.
    Raises OSError; the old file then stands, and nothing is left aside.
    """
    aside = path.with_name(f".{path.name}.new")
    try:
        aside.unlink(missing_ok=True)
        descriptor = os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content)
            os.fchown(file.fileno(), owner, -1)
            os.fchmod(file.fileno(), mode)
        aside.rename(path)
    except OSError:
        aside.unlink(missing_ok=True)
        raise
