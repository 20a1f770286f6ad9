"""One writer a dataset: which live buffer saves to which file, whatever name the file goes by.

Two paths are one dataset if they lead to one place, through symbolic links or `..`, or to one file, by hard links. The
paths are looked at as their owner, on this node; where it does not have the file system, what was written must do.
"""

from __future__ import annotations

import hashlib
import os.path
from collections.abc import Iterable
from dataclasses import dataclass

from ebb.as_user import AsUser
from ebb.errors import Conflict, EbbError
from ebb.model import Directive, ServiceType
from ebb.objectstore import file_of
from orchestrator.plan import Want
from orchestrator.records import Buffer
from orchestrator.store import Transaction

LOOK_SECONDS = 5.0
"""A file system that hangs must not hold up every submission for long."""


@dataclass(frozen=True, slots=True)
class Claim:
    """A data_dst as it was written, and digests of where it is and of the file that is there, if there is one."""

    written: str
    place: str
    file: str | None


def claims_of(wants: Iterable[Want], uid: int, gid: int) -> dict[str, Claim]:
    """What the buffers that a job creates will write, by their names.

    Called before the engine's lock is taken: it looks at users' file systems.
    """
    found = {}
    for want in wants:
        written = want.create.args.get("data_dst") if want.create is not None else None
        if want.create is not None and written:
            found[want.name] = _claim(AsUser(uid, gid, LOOK_SECONDS), written, _file(want.create, written))
    return found


def take(tx: Transaction, buffer: Buffer, claim: Claim) -> None:
    """Record that a new buffer writes a dataset. Raises Conflict naming the live buffer that does so already."""
    for holder in tx.writers(claim.place, claim.file):
        raise Conflict(
            f"data_dst={claim.written}: the buffer {holder.told()} saves to this dataset; destroy that buffer first, "
            "or name another data_dst (any number of buffers may read a dataset: data_src)"
        )
    tx.add_writer(buffer.id, claim.place, claim.file)


def _file(create: Directive, written: str) -> str:
    """The path to look at. In a directory of HESTIA@ files each buffer has its own; a DASI's directory is one thing."""
    path = file_of(written)
    if path.endswith("/") and create.type is not ServiceType.DASI:
        return path + create.name
    return path.rstrip("/") or "/"


def _claim(user: AsUser, written: str, path: str) -> Claim:
    try:
        where = user.whereabouts(path)
        place, file = where.place, where.file
    except EbbError:
        place, file = os.path.normpath(path), None
    return Claim(written, _digest(place), _digest(file) if file else None)


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()
