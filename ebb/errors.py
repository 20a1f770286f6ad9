"""Errors of Ebb, by whose they are.

    EbbError
    ├── UserError           what was asked cannot be: the user can mend it (exit 1, HTTP 400)
    │   ├── NotAllowed      asked by somebody who may not (HTTP 403)
    │   ├── NotFound        names something that is not there (HTTP 404)
    │   └── Conflict        the state of the thing forbids it now (HTTP 409)
    ├── EnvironmentFault    the machine, a tool or another process failed: an administrator can mend it (HTTP 503)
    │   └── CommandFailed   a command ended badly (ebb.run)
    └── InternalError       a defect of Ebb (HTTP 500)

The text is one line: what was asked, what was found, what to do. It goes to people as it stands (sbatch, bbstat,
logs), so it never holds a secret.
"""

from __future__ import annotations

from typing import ClassVar


class EbbError(Exception):
    """Base of every error that Ebb raises on purpose. `kind` is its name on the wire."""

    kind: ClassVar[str] = "internal"
    http_status: ClassVar[int] = 500

    def __init__(self, text: str) -> None:
        super().__init__(one_line(text))

    @property
    def text(self) -> str:
        """The one line for people."""
        return str(self.args[0])


class UserError(EbbError):
    """The request is wrong; whoever made it can mend it."""

    kind = "user"
    http_status = 400


class NotAllowed(UserError):
    """The caller may not do this."""

    http_status = 403


class NotFound(UserError):
    """The thing named in the request is not there."""

    http_status = 404


class Conflict(UserError):
    """The thing is there, but its state forbids the request for now."""

    http_status = 409


class EnvironmentFault(EbbError):
    """A tool, a disk, another process or the network failed."""

    kind = "environment"
    http_status = 503


class InternalError(EbbError):
    """A defect of Ebb itself."""

    kind = "internal"
    http_status = 500


def one_line(text: str) -> str:
    """Fold `text` into one printable line: messages travel through Slurm, logs and bbstat."""
    return "".join(c if c.isprintable() else " " for c in " ".join(text.split()))


def printable(text: str) -> str:
    """The text with what cannot be printed written as an escape: one line, and every character still to be seen."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def from_wire(kind: str, http_status: int, text: str) -> EbbError:
    """Rebuild the error that the other side answered with (see docs/interfaces.md)."""
    if kind == "user":
        by_status = {cls.http_status: cls for cls in (NotAllowed, NotFound, Conflict)}
        return by_status.get(http_status, UserError)(text)
    if kind == "environment":
        return EnvironmentFault(text)
    return InternalError(text)
