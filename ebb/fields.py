"""Strict reading of JSON objects that came over a wire.

Every reader says which field is wrong, what it holds and what is expected, so that the message alone is enough to
mend the sender. Used by `ebb.model` for the bodies between orchestrator and dnd.
"""

from __future__ import annotations

import reprlib
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any, TypeVar

from ebb.errors import UserError

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_SHOWN = 80
_REPR = reprlib.Repr()
_REPR.maxlevel = 3


def shown(value: object) -> str:
    """How a refused value looks in a message: its repr, cut so that hostile input stays one short line.

    Only the beginning of a value is looked at: lists that hold each other may be larger than any memory.
    """
    text = repr(value[:_SHOWN]) if isinstance(value, str) else _REPR.repr(value)
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."


class Fields:
    """One JSON object being read field by field; `done()` at the end refuses what nobody asked for.

    what: names the object in messages ("service spec", "status: mount").
    Raises UserError at once for anything that is not a JSON object.
    """

    def __init__(self, what: str, data: object) -> None:
        if not isinstance(data, Mapping):
            raise UserError(f"{what}: got {shown(data)}, expected a JSON object")
        self._what = what
        self._data = data
        self._seen: set[str] = set()

    def refuse(self, name: str, expected: str) -> UserError:
        """The error for a field that is there and wrong, or is missing; the caller raises it."""
        if name not in self._data:
            return UserError(f"{self._what}: field {name} is missing, expected {expected}")
        return UserError(f"{self._what}: field {name} is {shown(self._data[name])}, expected {expected}")

    def _take(self, name: str) -> object:
        self._seen.add(name)
        return self._data.get(name)

    def text(self, name: str) -> str:
        """A text that is not empty and holds no control character (none belongs in a name or path)."""
        value = self._take(name)
        if not isinstance(value, str) or not value or any(ord(c) < 32 or ord(c) == 127 for c in value):
            raise self.refuse(name, "a text of one character or more, without control characters")
        return value

    def plain(self, name: str) -> str:
        """A text that may become part of a path, of a volume's name and of a command's argument."""
        value = self.text(name)
        if value[0] in "-." or len(value) > 255 or any(c in "/\\\"'`$%" or c.isspace() for c in value):
            expected = "a plain name: no blank, / \\ quote $ %, no - or . in front, 255 characters at most"
            raise self.refuse(name, expected)
        return value

    def text_or_none(self, name: str) -> str | None:
        """Like `text`; null or a missing field is None."""
        return None if self._take(name) is None else self.text(name)

    def message_or_none(self, name: str) -> str | None:
        """Any text, null or missing: None. For error lines, which quote what they find."""
        value = self._take(name)
        if value is not None and not isinstance(value, str):
            raise self.refuse(name, "a text or null")
        return value

    def path(self, name: str) -> str:
        """An absolute path as text; whether it exists and who may open it is not decided here."""
        value = self.text(name)
        if not value.startswith("/"):
            raise self.refuse(name, "an absolute path")
        return value

    def integer(self, name: str, least: int = 0) -> int:
        """A whole number of at least `least`; true and 1.0 are none."""
        value = self._take(name)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise self.refuse(name, f"a whole number, {least} or more")
        return value

    def number(self, name: str) -> float:
        """A number of 0 or more, whole or not."""
        value = self._take(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise self.refuse(name, "a number, 0 or more")
        return float(value)

    def enum(self, name: str, kind: type[E]) -> E:
        """A member of `kind` by its wire name."""
        value = self._take(name)
        if not isinstance(value, str) or value not in kind.__members__.values():
            raise self.refuse(name, "one of " + ", ".join(kind))
        return kind(value)

    def optional(self, name: str, read: Callable[[object], T]) -> T | None:
        """An object read by `read` (a `from_wire`), or None for null or a missing field."""
        value = self._take(name)
        return None if value is None else read(value)

    def list_of(self, name: str, read: Callable[[object], T]) -> tuple[T, ...]:
        """A list, each element read by `read`."""
        value = self._take(name)
        if not isinstance(value, list):
            raise self.refuse(name, "a list")
        return tuple(read(item) for item in value)

    def mapping(self, name: str) -> Mapping[str, Any]:
        """A JSON object, its values still unread."""
        value = self._take(name)
        if not isinstance(value, Mapping):
            raise self.refuse(name, "a JSON object")
        return value

    def done(self) -> None:
        """Raise UserError for the first field that was never asked for: a sender of another release shows at once."""
        for name in self._data:
            if name not in self._seen:
                known = ", ".join(sorted(self._seen))
                raise UserError(f"{self._what}: unknown field {shown(name)}, expected {known}")
