"""What the words of the command line name: sources, datasets, patterns. Looks at files, changes nothing."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass

from ebb.dataset import HEADER_SIZE
from ebb.errors import UserError
from ebb.migrate.scan import Source

_HESTIA = "HESTIA@"


@dataclass(frozen=True, slots=True)
class Dataset:
    """A dataset as directives name it: an absolute path, and whether it is in the object store."""

    path: str
    hestia: bool = False

    @property
    def word(self) -> str:
        """As it is written in a directive."""
        return (_HESTIA if self.hestia else "") + self.path

    @property
    def exists(self) -> bool:
        """Whether something is there, a dangling link too."""
        return os.path.lexists(self.path)


def dataset(word: str) -> Dataset:
    """The dataset that `word` names. Raises UserError if no directive could name it."""
    hestia = word.upper().startswith(_HESTIA)
    rest = word[len(_HESTIA) :] if hestia else word
    if not rest:
        raise UserError(f"`{word}` names no dataset: give a file's path")
    path = os.path.abspath(rest)
    check_word(path)
    return Dataset(path, hestia)


def check_word(path: str) -> None:
    """Whether a directive can hold this absolute path (docs/directives.md). Raises UserError."""
    wrong = sorted({c for c in path if c in "%$`" or not c.isprintable()})
    if wrong:
        raise UserError(
            f"`{path}` cannot stand in a #BB_LUA line, which takes no {' '.join(ascii(c) for c in wrong)}: "
            "give another path"
        )


def sources(words: Sequence[str]) -> list[Source]:
    """What is to be copied: `dir` as `dir/...`, `dir/` what is in it. Raises UserError if two would get one name."""
    found: list[Source] = []
    owner: dict[bytes, str] = {}
    for word in words:
        raw = os.fsencode(word)
        if not raw:
            raise UserError("an empty name is no source: give a file or a directory")
        path = os.path.abspath(raw)
        if raw.endswith((b"/", b"/.")) or raw == b"." or path == b"/":
            if not os.path.isdir(path):
                raise UserError(f"`{word}` is no directory: leave the slash away")
            source = Source(path, b"")
            tops = os.listdir(path) if os.access(path, os.R_OK) else []
        else:
            if not os.path.lexists(path):
                raise UserError(f"`{word}` does not exist")
            source = Source(os.path.dirname(path), os.path.basename(path))
            tops = [source.name]
        for top in tops:
            if top in owner:
                raise UserError(
                    f"`{owner[top]}` and `{word}` would both become `{os.fsdecode(top)}` in the dataset: "
                    "rename one of them"
                )
            owner[top] = word
        found.append(source)
    return found


def split_pattern(word: str) -> tuple[Dataset, bytes] | None:
    """`DATASET:PATTERN` at the colon behind which the dataset ends; None if there is no such colon.

    A dataset that is there decides, the longest name first; so names may have colons too.
    """
    colons = [at for at, char in enumerate(word) if char == ":"]
    for at in reversed(colons):
        path = word[:at]
        if path.upper().startswith(_HESTIA) or os.path.isfile(path):
            return dataset(path), os.fsencode(word[at + 1 :])
    return None


def image_size(found: Dataset) -> int:
    """Bytes of the file system in a dataset file: the StorageSize that can hold it. Raises UserError."""
    try:
        status = os.stat(found.path)
    except OSError as error:
        raise UserError(f"dataset `{found.path}` cannot be read: {error.strerror}") from error
    if not stat.S_ISREG(status.st_mode) or status.st_size <= HEADER_SIZE:
        raise UserError(f"`{found.path}` is no dataset: a file of more than {HEADER_SIZE} bytes is")
    return status.st_size - HEADER_SIZE


def stored_size(found: Dataset) -> int:
    """Bytes that a dataset file takes on disk: what its buffer holds, about."""
    return max(0, os.stat(found.path).st_blocks * 512 - HEADER_SIZE)
