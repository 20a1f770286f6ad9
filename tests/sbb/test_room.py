"""Memory and NVMe that are full, and what writers then wait for: never for each other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from sbb.engine import Engine

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"


@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_an_unlinked_file_may_be_larger_than_the_buffer(buffer: Make, store: bool) -> None:
    settings = {"memory": 16 << 20, "store_size": 64 << 20, "drain_delay": 1000}
    engine = buffer(store=store, settings=settings)
    client, target = engine.client(), engine.target
    client.run(
        PYTHON, "-c", f"""
import os
f = os.open('{target}/scratch', os.O_RDWR | os.O_CREAT)
os.unlink('{target}/scratch')
for n in range(100):
    os.pwrite(f, bytes([n]) * (1 << 20), n << 20)
for n in range(100):
    assert os.pread(f, 1 << 20, n << 20) == bytes([n]) * (1 << 20), n
""", timeout=60,
    )  # fmt: skip
    engine.drain()
    assert target is not None
    assert list(target.iterdir()) == []


def test_a_truncate_and_a_writer_on_another_node_do_not_wait_for_each_other(buffer: Make, plain: Path) -> None:
    engine = buffer(settings={"memory": 16 << 20, "drain_delay": 1000})
    clients, target = [engine.client(), engine.client()], engine.target
    writer = """
import os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for n in range(400):
    os.pwrite(f, bytes([n % 256]) * (1 << 20), (8 + n % 40) << 20)
os.close(f)
"""
    cutter = """
import os, sys
f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
while not os.path.exists(sys.argv[2]):
    os.ftruncate(f, 4 << 20)
"""
    writing = clients[0].start(PYTHON, "-c", writer, f"{target}/f")
    cutting = clients[1].start(PYTHON, "-c", cutter, f"{target}/f", str(plain / "done"))
    assert writing.wait(timeout=60) == 0
    (plain / "done").touch()
    assert cutting.wait(timeout=60) == 0
    engine.drain()
