"""What others choose ends up in log lines as text, whatever it is."""

from __future__ import annotations

import subprocess
import sys

_SETUP = "import logging; from ebb import log; log.setup('dnd[dn1]')\n"


def logged(program: str) -> list[str]:
    """The lines that a process writes to its error output."""
    done = subprocess.run([sys.executable, "-c", _SETUP + program], stderr=subprocess.PIPE, check=True)
    return done.stderr.decode().split("\n")[:-1]


def test_nobody_writes_log_lines_of_their_own() -> None:
    """A path, a URL or a file's name may hold line ends and what a terminal takes for commands."""
    text = "/v1/x\n2026-11-30T10:00:00.000 dnd[dn1] INFO gone\x1b[2J\u2028\udce4"
    (line,) = logged(f"with log.request('j42-setup-1a2b'): logging.warning('%s: refused', {text!a})")
    escaped = r"/v1/x\n2026-11-30T10:00:00.000 dnd[dn1] INFO gone\x1b[2J\u2028\udce4"
    assert line.endswith(f" dnd[dn1] WARNING [j42-setup-1a2b] {escaped}: refused")


def test_lines_of_a_traceback_are_told_from_lines_of_the_log() -> None:
    text = "bad\n2026-11-30T10:00:00.000 dnd[dn1] INFO gone\r"
    head, *rest = logged(f"try: raise ValueError({text!a})\nexcept ValueError: logging.exception('a defect')")
    assert head.endswith(" dnd[dn1] ERROR [-] a defect")
    assert "    ValueError: bad" in rest
    assert all(line.startswith("    ") and line.isprintable() for line in rest)
