"""The dataset file of a HESTIA@ path: text of exactly two lines, the header's object id and the data's."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ebb.errors import UserError

LARGEST = 4096
"""A dataset file has no more bytes."""
_ACCEPTED = "exactly two lines, one object id each: the header's, then the data's"
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")


@dataclass(frozen=True, slots=True)
class Pair:
    """The two objects of one dataset."""

    header: str
    data: str

    @property
    def text(self) -> str:
        """As it stands in the file."""
        return f"{self.header}\n{self.data}\n"


def checked_id(object_id: str) -> str:
    """An id that may become part of a path or URL. Raises UserError: ids come out of users' files."""
    if not _ID.fullmatch(object_id):
        raise UserError(f"`{object_id[:80]}` is no object id: letters, digits and . _ : - are, at most 128")
    return object_id


def parse(content: bytes) -> Pair:
    """Read a dataset file's content. Raises UserError with what is wrong with it: the caller puts its path in front."""
    if not content.strip():
        raise UserError(f"is empty; it must hold {_ACCEPTED}")
    try:
        lines = content.decode("ascii").removesuffix("\n").split("\n")
    except UnicodeDecodeError:
        raise UserError(f"is no text; it must hold {_ACCEPTED}") from None
    words = [line.split() for line in lines]
    if len(content) > LARGEST or [len(each) for each in words] != [1, 1]:
        found = ", ".join(str(len(each)) for each in words[:4])
        size = f"more than {LARGEST} bytes" if len(content) > LARGEST else f"{len(lines)} lines, of {found} words"
        raise UserError(f"is malformed: {size}; it must hold {_ACCEPTED}")
    header, data = (checked_id(each[0]) for each in words)
    if header == data:
        raise UserError(f"names one object twice; it must hold {_ACCEPTED}")
    return Pair(header, data)
