"""Copies a list of files with rsync(1), and tells how far it is. Reference: rsync(1) of 3.2."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from ebb.errors import EnvironmentFault, one_line
from ebb.migrate.work import here

_BYTES = re.compile(rb"\s*([0-9]+)\s+[0-9]+%")
_FILES = re.compile(rb"xfr#([0-9]+)")
_PARTIAL = {0, 23, 24}
"""Done; some files could not be copied; some vanished: which, the verification tells."""


def require() -> str:
    """The path of rsync on this node. Raises EnvironmentFault."""
    found = shutil.which("rsync")
    if found is None:
        raise EnvironmentFault(f"rsync is not installed on {here()}: ask your administrator for it")
    return found


def copy(
    names: Iterable[bytes],
    listing: Path,
    source: bytes,
    target: bytes,
    *,
    xattrs: bool,
    told: Callable[[int, int], None],
) -> list[str]:
    """Copy the files and links `names`, relative to the directory `source`, to the same names below `target`.

    The directories must be there already. `listing` is a new file for rsync to read the names from. told: called with
    bytes and files done so far. What is there with the same size and time is left alone: a second call goes on.
    Returns rsync's complaints about single files. Raises EnvironmentFault if rsync fails as a whole.
    """
    # Behind ./ no name can be taken for a comment.
    listing.write_bytes(b"".join(b"./" + name + b"\0" for name in names))
    argv: list[str | bytes] = [
        require(), "--links", "--perms", "--times", "--group", "--sparse", "--whole-file", "--relative",
        "--no-implied-dirs", "--omit-dir-times", "--from0", f"--files-from={listing}", "--info=progress2",
        "--no-human-readable", "--outbuf=L", *(["--xattrs"] if xattrs else []),
        "--", source.rstrip(b"/") + b"/", target.rstrip(b"/") + b"/",
    ]  # fmt: skip
    # HOME: the user's aliases in ~/.popt are for hands, not for this.
    environment = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", "HOME": "/"}
    with (
        listing.with_suffix(".errors").open("w+b") as errors,
        subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=environment
        ) as child,
    ):
        assert child.stdout is not None  # noqa: S101 (for the type checker)
        _read(child.stdout.fileno(), told)
        code = child.wait()
        errors.seek(0)
        complaints = errors.read().decode(errors="replace").splitlines()
    if code not in _PARTIAL:
        said = [line for line in complaints if not line.startswith("rsync error")] or complaints or ["no message"]
        raise EnvironmentFault(f"rsync ended with {code} on {here()}: {one_line(said[0])}")
    return complaints


def _read(descriptor: int, told: Callable[[int, int], None]) -> None:
    rest, files = b"", 0
    while block := os.read(descriptor, 1 << 16):
        *lines, rest = re.split(rb"[\r\n]", rest + block)
        for line in lines:
            if match := _BYTES.match(line):
                number = _FILES.search(line)
                files = int(number[1]) if number else files
                told(int(match[1]), files)
