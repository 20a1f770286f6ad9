"""Programs that stand where datanodes.conf says the health checker is."""

from __future__ import annotations

import sys
from pathlib import Path

_SOURCES = Path(__file__).parents[3]


def a_program(folder: Path, script: str) -> Path:
    """A shell script of root's."""
    path = folder / f"checker-{len(list(folder.glob('checker-*')))}"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


def the_checker(folder: Path, before: str = "true") -> Path:
    """The real one, as an installed system has it; `before` is done first in every call."""
    return a_program(folder, f'{before}\nPYTHONPATH={_SOURCES} exec {sys.executable} -P -m healthchecker "$@"')
