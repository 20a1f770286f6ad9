"""The dataset file of a HESTIA@ path (`ebb/objectpair.py`) as dnd reads and writes it.

It is the user's file: only ever opened, made and renamed as the user.
"""

from __future__ import annotations

import contextlib
import os

from ebb.as_user import AsUser, PathMissing
from ebb.errors import EnvironmentFault, UserError
from ebb.objectpair import LARGEST, Pair, parse


def read(user: AsUser, path: str) -> Pair:
    """The pair that a dataset file names. Raises PathMissing if there is no file, UserError if it is malformed."""
    descriptor = user.open_source(path)
    try:
        content = os.pread(descriptor, LARGEST + 1, 0)
    except OSError as error:
        raise EnvironmentFault(f"`{path}` cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    try:
        return parse(content)
    except UserError as error:
        raise UserError(f"`{path}` {error.text}") from error


def resolve(user: AsUser, path: str, name: str) -> str:
    """The dataset file that `path` means: itself, or in a directory the newest file, `name` if there is none."""
    with contextlib.suppress(PathMissing):
        if user.status(path).is_directory:
            newest = user.newest(path)
            return f"{path.rstrip('/')}/{newest if newest is not None else name}"
    return path


def write_aside(user: AsUser, aside: str, like: str, pair: Pair) -> None:
    """Write a dataset file beside its place, and to disk; renaming it comes next."""
    user.remove(aside)
    descriptor = user.create(aside, like=like)
    try:
        os.pwrite(descriptor, pair.text.encode(), 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
