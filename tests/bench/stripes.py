"""What the size of stripes does to a buffer of two servers over loopback TCP: why it is 1 MiB by default."""

from __future__ import annotations

import shutil
import statistics
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from bench import sbb
from bench.measure import Row
from sbb.engine import Engine

SIZES = (64, 256, 1024, 4096)
"""KiB."""
CASES = [case for case in sbb.CASES if case[0] in ("write", "read", "small", "random")]
_MEMORY = 640 << 20


def rows() -> list[Row]:
    """A row for each case and size; about a minute. Memory for them: 5 GiB."""
    found: list[Row] = []
    with TemporaryDirectory(prefix="sbb-", dir="/dev/shm", ignore_cleanup_errors=True) as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o755)
        work = str(shutil.copy(sbb.WORK, folder))
        engines = {
            size: stack.enter_context(
                Engine(
                    folder / str(size),
                    servers=2,
                    unix=False,
                    settings={**sbb.SETTINGS, "memory": _MEMORY, "stripe": size << 10},
                )
            )
            for size in SIZES
        }
        clients = {size: (engine, sbb.ready(engine)) for size, engine in engines.items()}
        for what, processes, title in CASES:
            times = sbb.in_turns(
                {
                    str(size): partial(
                        sbb.run_timed, client.command(sbb.command_line(work, what, engine.target, processes))
                    )
                    for size, (engine, client) in clients.items()
                }
            )
            amount, unit = sbb.AMOUNT[what]
            found += [
                Row(f"SBB, stripes of {size} KiB: {title}", amount / statistics.median(taken), unit, better="more")
                for size, taken in times.items()
            ]
    return found
