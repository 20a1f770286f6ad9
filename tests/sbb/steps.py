"""Programs that do random things in a buffer and beside it (checker.py), and what must be the same afterwards."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from sbb.engine import Engine, wait_until

BUSY = {"drain_delay": "0.05", "stripe": 65536, "memory": 32 << 20}
"""Settings: drains all the time, and stripes in small pieces."""


def same(left: Path | None, right: Path) -> None:
    """Both trees hold the same names and bytes."""
    done = subprocess.run(["diff", "-r", "--no-dereference", str(left), str(right)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def random_steps(
    engine: Engine, plain: Path, *, steps: int, programs: int = 4, largest: int = 300_000,
    meanwhile: Callable[[int], None] = lambda seed: None,
) -> None:  # fmt: skip
    """Programs on two nodes do random things to trees of their own; the target ends as the plain directory.

    meanwhile: what happens to the servers while they run; it gets the seed.
    """
    clients = [engine.client(), engine.client()]
    wanted = {"unix"} if engine.unix else {"tcp"}
    wait_until("they use what they should", lambda: [client.transports() for client in clients] == [wanted] * 2)
    checker = shutil.copy(Path(__file__).with_name("checker.py"), engine.folder / "checker.py")
    seed = int(time.time())
    running = [
        clients[n % 2].start(
            "/usr/bin/python3", str(checker), f"{engine.target}/p{n}", f"{plain}/p{n}", str(seed + n), str(steps),
            str(largest), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )
        for n in range(programs)
    ]  # fmt: skip
    meanwhile(seed)
    for process in running:
        output, _ = process.communicate(timeout=240)
        assert process.returncode == 0, output.decode()
    for client in clients:
        client.unmount()
    engine.drain(120)
    same(engine.target, plain)
