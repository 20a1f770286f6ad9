"""Globs over the paths in a dataset. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from ebb.errors import UserError


def matcher(pattern: bytes) -> Callable[[bytes], bool]:
    r"""Whether a relative path matches.

    `*` and `?` stand for anything but `/`, `**` for any number of directories, `[a-z]` and `[!a-z]` for one character,
    a backslash takes the next character as it is. Names that begin with a dot match as all others. An empty pattern is
    `**`. Raises UserError for a pattern that can match nothing.
    """
    stripped = pattern.strip(b"/")
    if any(part in (b".", b"..") for part in stripped.split(b"/")):
        raise UserError(
            f"pattern `{pattern.decode(errors='replace')}`: `.` and `..` match nothing; "
            "it is relative to the dataset's root"
        )
    try:
        compiled = re.compile(_regex(stripped or b"**"), re.DOTALL)
    except re.error as error:
        raise UserError(f"pattern `{pattern.decode(errors='replace')}` is no pattern: {error.msg}") from None
    return lambda path: compiled.fullmatch(path) is not None


def _regex(pattern: bytes) -> bytes:
    parts = pattern.split(b"/")
    out = b""
    for number, part in enumerate(parts):
        last = number == len(parts) - 1
        if part == b"**":
            out += b".*" if last else b"(?:.*/)?"
        else:
            out += _part(part) + (b"" if last else b"/")
    return out


def _part(part: bytes) -> bytes:
    out, at = b"", 0
    while at < len(part):
        char = part[at : at + 1]
        at += 1
        if char == b"*":
            out += b"[^/]*"
        elif char == b"?":
            out += b"[^/]"
        elif char == b"\\" and at < len(part):
            out += re.escape(part[at : at + 1])
            at += 1
        elif char == b"[" and (end := part.find(b"]", at + 2 if part[at : at + 1] == b"!" else at + 1)) > 0:
            inner = part[at:end]
            negated = inner.startswith(b"!")
            inner = inner[1:] if negated else inner
            # Not re.escape: it would take the dash of a range as a dash.
            inner = re.sub(rb"([\\\[\]^&~|])", rb"\\\1", inner)
            out += (b"[^/" if negated else b"[") + inner + b"]"
            at = end + 1
        else:
            out += re.escape(char)
    return out
