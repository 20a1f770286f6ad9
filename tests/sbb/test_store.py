"""The store: power cuts, torn logs, NVMe that returns errors."""

from __future__ import annotations

import random
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from sbb.engine import Client, Engine, wait_until

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"


def write(client: Client, path: str, data: str, *, durable: bool = True, flush: bool = False) -> None:
    """Writes what the expression `data` says."""
    end = f"os.setxattr({path!r}, 'user.ebb.flush', b'now')" if flush else ""
    sync = "os.fsync(f.fileno())" if durable else ""
    client.run(
        PYTHON, "-c", f"import os\nwith open({path!r}, 'wb') as f:\n f.write({data})\n f.flush()\n {sync}\n{end}"
    )


def cut_power(engine: Engine) -> None:
    """Kills the server and takes away what no sync said of the log."""
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    for segment in (engine.run_folder(0) / "store").glob("log.*"):
        mark = segment.with_name(f"synced.{segment.name}")
        with segment.open("r+b") as log:
            log.truncate(mark.stat().st_size if mark.exists() else 0)


@pytest.mark.parametrize("size", [1000, 300_000], ids=["small", "large"])
def test_a_power_cut_writes_nothing_old_over_what_is_on_the_target(
    buffer: Make, slow: dict[str, str], size: int
) -> None:
    engine = buffer(store=True, settings={"drain_delay": 1000}, environment={**slow, "SYNCED": "1"})
    client, target = engine.client(), engine.target
    write(client, f"{target}/f", f"b'a' * {size}")
    write(client, f"{target}/f", f"b'b' * {size}", durable=False, flush=True)
    write(client, f"{target}/f", f"b'c' * {size}", durable=False, flush=True)
    cut_power(engine)
    engine.start_server(0)
    engine.drain()
    assert target is not None
    assert (target / "f").read_bytes() == b"c" * size


def test_bytes_that_move_on_in_the_log_do_not_come_back_when_they_were_drained(
    buffer: Make, slow: dict[str, str]
) -> None:
    engine = buffer(store=True, settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run(PYTHON, "-c", f"for n in range(120): open(f'{target}/f{{n}}', 'wb').write(b'%d' % (n % 10) * 3000)")
    for n in range(5):  # a segment each: of the oldest, what is left is moved when most of it is drained
        if n == 4:
            engine.environment = {**slow, "SLOW_US": "30000"}  # so that a read may last longer than all of a drain
        engine.daemons[0].kill()
        engine.daemons[0].wait()
        engine.start_server(0)
    assert engine.control(0, "flush") == {"ok": True}
    assert engine.dirty() == 0
    client.run(
        PYTHON, "-c", f"""
import os
for n in range(120):
    os.truncate(f'{target}/f{{n}}', 10)
    os.truncate(f'{target}/f{{n}}', 5000)
""",
    )  # fmt: skip
    engine.environment = {}
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    engine.start_server(0)
    assert engine.dirty() == 0, "the target had all of it"
    engine.drain()
    assert target is not None
    for n in range(120):
        assert (target / f"f{n}").read_bytes() == b"%d" % (n % 10) * 10 + bytes(4990), n


def test_a_torn_log_is_read_up_to_the_tear(buffer: Make, slow: dict[str, str], folder: Path) -> None:
    engine = buffer(store=True, settings={"drain_delay": 1000}, environment={**slow, "SYNCED": "1"})
    client, target = engine.client(), engine.target
    seed = int(time.time())
    chance = random.Random(seed)
    client.run("mkdir", f"{target}/d")
    for n in range(30):
        write(client, f"{target}/d/f{n}", f"bytes([{n}]) * {chance.choice([10, 5000, 200_000])}", durable=n < 20)
        if n == 19:
            client.run("sync", f"{target}/d/f0")
            synced = {k: client.run("sha256sum", f"{target}/d/f{k}").stdout for k in range(20)}
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    store, kept = engine.run_folder(0) / "store", folder / "kept"
    shutil.copytree(store, kept)
    for _ in range(8):
        shutil.rmtree(store)
        shutil.copytree(kept, store)
        subprocess.run(["chown", "-R", "54321:54321", store], check=True)
        segment = max(store.glob("log.*"))
        safe = segment.with_name(f"synced.{segment.name}").stat().st_size
        with segment.open("r+b") as log:
            size = segment.stat().st_size
            assert size > safe
            for _ in range(chance.choice([1, 1, 5])):
                log.seek(chance.randrange(safe, size))
                log.write(chance.randbytes(chance.choice([1, 8, 100])))
            if chance.random() < 0.5:
                log.truncate(chance.randrange(safe, size))
        engine.start_server(0)
        now = {k: client.run("sha256sum", f"{target}/d/f{k}").stdout for k in range(20)}
        assert now == synced, f"seed {seed}"
        engine.daemons[0].kill()
        engine.daemons[0].wait()
    engine.start_server(0)
    engine.drain()
    assert target is not None
    assert {
        k: subprocess.run(["sha256sum", target / f"d/f{k}"], capture_output=True, text=True).stdout for k in synced
    } == synced


WRITER = """
import os, random, sys
folder, plain, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(seed)
for n in range(int(sys.argv[4])):
    name, data = f"{seed}-{n}", bytearray()
    try:
        f = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT)
    except OSError:
        continue
    good = True
    for step in range(6):
        at, size = chance.randrange(400_000), chance.choice([100, 5000, 60_000, 200_000])
        piece = chance.randbytes(size)
        try:
            if chance.random() < 0.3:
                os.ftruncate(f, at)
                data[at:] = b""
                data.extend(bytes(at - len(data)))
            os.pwrite(f, piece, at)
            data.extend(bytes(max(0, at + size - len(data))))
            data[at : at + size] = piece
            if chance.random() < 0.5 or step == 5:
                os.fsync(f)
        except OSError:
            good = False
    try:
        os.close(f)
    except OSError:
        good = False
    if good:
        with open(os.path.join(plain, name), "wb") as mirror:
            mirror.write(data)
        print(name, flush=True)
"""
"""Writes files; says the name of each of which no call failed."""


@pytest.mark.parametrize("killed", [False, True], ids=["", "killed"])
def test_what_was_acknowledged_by_a_failing_store_is_not_lost(
    buffer: Make, plain: Path, slow: dict[str, str], killed: bool
) -> None:
    settings = {"drain_delay": "0.3", "memory": 16 << 20, "store_size": 128 << 20}
    engine = buffer(store=True, settings=settings, environment={**slow, "SLOW_US": "1000", "FAIL": "300"})
    clients, target = [engine.client(), engine.client()], engine.target
    assert target is not None
    seed = int(time.time())
    writers = [
        clients[n % 2].start(
            PYTHON, "-c", WRITER, str(target), str(plain), str(seed + n), "60", stdout=subprocess.PIPE
        )
        for n in range(3)
    ]  # fmt: skip
    if killed:
        for _ in range(3):
            done = len(list(plain.iterdir()))
            wait_until("they write", lambda done=done: len(list(plain.iterdir())) > done + 5, 60)  # type: ignore[misc]
            engine.daemons[0].kill()
            engine.daemons[0].wait()
            engine.environment = {**engine.environment, "FAIL": "1000000"}
            engine.start_server(0)
    names = {name for writer in writers for name in writer.communicate(timeout=120)[0].decode().split()}
    assert len(names) > 10, f"seed {seed}: too few to say anything"
    if not killed:
        assert len(names) < 180, "nothing failed"
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    engine.environment = slow
    engine.start_server(0)
    engine.drain()
    wrong = {name for name in names if (target / name).read_bytes() != (plain / name).read_bytes()}
    assert not wrong, f"seed {seed}: {sorted(wrong)}"
