"""Servers and clients that are killed, targets that refuse, memory and NVMe that are full."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sbb.engine import UID, Client, Engine, wait_until
from sbb.steps import BUSY, random_steps

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"

WRITER = """
import os, random, sys
folder, name, seed, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
chance = random.Random(seed)
mirror = open(os.path.join(sys.argv[5], name), "w+b", buffering=0)
fd = os.open(os.path.join(folder, name), os.O_RDWR | os.O_CREAT, 0o644)
for n in range(rounds):
    at, size = chance.randrange(4_000_000), chance.choice([100, 4096, 70_000, 500_000])
    if chance.random() < 0.05:
        os.ftruncate(fd, at)
        mirror.truncate(at)
    data = chance.randbytes(size)
    assert os.pwrite(fd, data, at) == size
    os.pwrite(mirror.fileno(), data, at)
    if chance.random() < 0.1:
        os.fsync(fd)
    if chance.random() < 0.1:
        back = os.pread(fd, size, at)
        assert back == data, (n, at, size)
os.close(fd)
"""
"""Writes the same into a file of a buffer and into a plain one."""


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
@pytest.mark.parametrize("servers", [1, 2])
def test_killed_servers_with_a_store_come_back_and_programs_go_on(
    buffer: Make, plain: Path, servers: int, unix: bool
) -> None:
    settings = {"drain_delay": "0.3", "memory": 32 << 20, "stripe": 65536}
    engine = buffer(servers=servers, store=True, unix=unix, settings=settings)
    clients = [engine.client(), engine.client()]
    seed = int(time.time())
    writers = [
        clients[n % 2].start(PYTHON, "-c", WRITER, str(engine.target), f"f{n}", str(seed + n), "250", str(plain))
        for n in range(3)
    ]
    chance = random.Random(seed)
    kills = 0
    while any(writer.poll() is None for writer in writers) and kills < 8:
        time.sleep(chance.uniform(0.1, 0.6))
        index = chance.randrange(servers)
        engine.daemons[index].kill()
        engine.daemons[index].wait()
        engine.start_server(index)
        kills += 1
    assert [writer.wait(timeout=120) for writer in writers] == [0] * 3, f"seed {seed}: {engine.client_log()}"
    assert kills > 0
    for n in range(3):
        assert clients[n % 2].run("cmp", f"{engine.target}/f{n}", f"{plain}/f{n}").returncode == 0
    engine.drain()
    for n in range(3):
        assert (plain / f"f{n}").read_bytes() == (Path(str(engine.target)) / f"f{n}").read_bytes()


@pytest.mark.parametrize("servers", [1, 2])
def test_random_steps_survive_kills_at_random_moments(
    buffer: Make, plain: Path, slow: dict[str, str], servers: int
) -> None:
    engine = buffer(servers=servers, store=True, settings=BUSY, environment=slow)

    def kill(seed: int) -> None:
        chance = random.Random(seed)
        for _ in range(12):
            time.sleep(chance.uniform(0.1, 1.0))
            index = chance.randrange(servers)
            engine.daemons[index].kill()
            engine.daemons[index].wait()
            engine.start_server(index)

    random_steps(engine, plain, steps=500, meanwhile=kill)


def test_a_store_has_all_of_it_after_the_server_was_killed(buffer: Make) -> None:
    engine = buffer(store=True, settings={"drain_delay": 1000})
    target = engine.target
    client = engine.client()
    client.run(
        PYTHON, "-c", f"""
import os
os.mkdir({str(target)!r} + '/d')
for n in range(300):
    open(f'{target}/d/small{{n}}', 'w').write(f'number {{n}}')
open('{target}/large', 'wb').write(bytes(range(256)) * 40000)
open('{target}/cut', 'wb').write(b'x' * 3000000)
os.truncate('{target}/cut', 1234567)
open('{target}/gone', 'wb').write(b'x' * 3000000)
os.unlink('{target}/gone')
os.utime('{target}/large', ns=(1, 77000000001))
os.rename('{target}/d', '{target}/e')
""",
    )  # fmt: skip
    before = engine.status()
    engine.daemons[0].send_signal(signal.SIGKILL)
    engine.daemons[0].wait()
    engine.start_server(0)
    now = engine.status()
    assert (now["dirty"], now["dirty_files"], now["lost"]) == (before["dirty"], 302, [])
    assert client.run("cat", f"{target}/e/small7").stdout == "number 7"
    engine.drain()
    assert target is not None
    assert (target / "large").read_bytes() == bytes(range(256)) * 40000
    assert (target / "large").stat().st_mtime_ns == 77000000001
    assert (target / "cut").read_bytes() == b"x" * 1234567
    assert [(target / f"e/small{n}").read_text() for n in range(300)] == [f"number {n}" for n in range(300)]
    assert sorted(path.name for path in target.iterdir()) == ["cut", "e", "large"]
    assert engine.control(0, "stop") == {"ok": True}


@pytest.mark.parametrize("unix", [True, False], ids=["unix", "tcp"])
def test_without_a_store_what_was_lost_is_known_by_name_and_programs_get_an_error(buffer: Make, unix: bool) -> None:
    engine = buffer(unix=unix, settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run("sh", "-c", f"echo a > {target}/lost; echo b > {target}/safe; mkdir {target}/d; echo c > {target}/d/x")
    client.run("setfattr", "-n", "user.ebb.flush", "-v", "now", f"{target}/safe", check=False)
    client.run(PYTHON, "-c", f"import os; os.setxattr('{target}/safe', 'user.ebb.flush', b'now')")
    writer = client.start(
        PYTHON, "-c", f"""
import os, sys
f = os.open('{target}/open', os.O_RDWR | os.O_CREAT)
os.write(f, b'abc')
os.fsync(f)
os.write(f, b'def')
os.pread(f, 3, 0)
print('ready', flush=True)
sys.stdin.readline()
try:
    os.fsync(f)
except OSError as error:
    print(error.errno, flush=True)
""", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert writer.stdout is not None and writer.stdout.readline() == b"ready\n"
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    output, _ = writer.communicate(b"\n", timeout=60)
    assert output == b"5\n"
    assert client.run("cat", f"{target}/lost", check=False).returncode == 1
    engine.start_server(0)
    assert engine.status()["lost"] == sorted(f"{target}/{name}" for name in ("lost", "open", "d/x"))
    # Of its several connections one is back before the other, and until then some reads still fail.
    wait_until("the client reads again", lambda: client.run("cat", f"{target}/safe", check=False).stdout == "b\n")
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    engine.start_server(0)
    assert len(engine.status()["lost"]) == 3, "the next one knows it too"


def test_a_status_counts_what_was_lost_and_names_some_of_it(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run(PYTHON, "-c", f"for n in range(150): open(f'{target}/{{n}}', 'w').write('x')")
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    engine.start_server(0)
    found, names = engine.status(), engine.control(0, "list")["lost"]
    assert (found["lost_files"], len(found["lost"])) == (150, 100)
    assert sorted(names) == sorted(f"{target}/{n}" for n in range(150)) and set(found["lost"]) < set(names)


@pytest.mark.parametrize("full", [False, True], ids=["", "no room for a shorter record"])
def test_names_that_were_lost_stay_known_when_all_else_is_drained(buffer: Make, full: bool) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run("sh", "-c", f"echo a > {target}/lost")
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    if full:  # what is written in its place fails
        (engine.run_folder(0) / "dirty.new").symlink_to("/dev/full")
    engine.start_server(0, drain_delay=0)
    client = engine.client()
    client.run(PYTHON, "-c", f"for n in range(300): open(f'{target}/{{n}}', 'w').write('x')")
    wait_until("all else is drained", lambda: engine.dirty() == 0)
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    engine.start_server(0)
    assert engine.status()["lost"] == [f"{target}/lost"]


def test_a_flush_does_not_wait_for_a_writer_that_never_pauses(buffer: Make, plain: Path) -> None:
    engine = buffer(settings={"drain_delay": 1000, "drain_rate": 4 << 20})
    client, target = engine.client(), engine.target
    text = f"""
import os
f = os.open('{target}/f', os.O_RDWR | os.O_CREAT)
os.write(f, b'x' * 4096)
open('{plain}/begun', 'w')
while not os.path.exists('{plain}/done'):
    os.pwrite(f, b'y' * 100_000, 8192)
"""
    writer = client.start(PYTHON, "-c", text)
    wait_until("it writes", (plain / "begun").exists)
    client.run(PYTHON, "-c", f"import os; os.setxattr('{target}/f', 'user.ebb.flush', b'now')", timeout=20)
    assert engine.control(0, "flush", timeout=20) == {"ok": True}
    assert engine.control(0, f"flush {target}/f", timeout=20) == {"ok": True}
    assert target is not None
    assert (target / "f").read_bytes()[:4096] == b"x" * 4096
    (plain / "done").touch()
    assert writer.wait(timeout=20) == 0


def test_a_program_that_keeps_a_file_open_hears_that_what_it_synced_was_lost(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    text = f"""
import os, sys
f = os.open('{target}/f', os.O_RDWR | os.O_CREAT)
os.write(f, b'abc')
os.fsync(f)
for line in sys.stdin:
    try:
        os.fsync(f)
        print('there', flush=True)
    except OSError as error:
        print(error.errno, flush=True)
"""
    program = client.start(PYTHON, "-c", text, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert asks(program) == b"there\n"
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    engine.start_server(0)
    answers = [asks(program), asks(program)]
    assert b"5\n" in answers, (answers, engine.client_log())
    program.communicate(timeout=20)


READER = """
import os, sys
f = os.open(sys.argv[1], os.O_RDONLY)
for line in sys.stdin:
    print(os.pread(f, 3, 0).decode(), flush=True)
"""
"""Says what an open file begins with, a line for each that it gets."""


def asks(reader: subprocess.Popen[bytes]) -> bytes:
    assert reader.stdin is not None
    assert reader.stdout is not None
    reader.stdin.write(b"\n")
    reader.stdin.flush()
    return reader.stdout.readline()


def opened(client: Client, path: str) -> subprocess.Popen[bytes]:
    reader = client.start(PYTHON, "-c", READER, path, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert asks(reader) == b"old\n"
    return reader


def test_what_was_written_before_a_client_found_its_server_again_is_read(buffer: Make) -> None:
    engine = buffer(store=True, settings={"drain_delay": 1000})
    writer, other, path = engine.client(), engine.client(), f"{engine.target}/f"
    writer.run("sh", "-c", f"printf old > {path}")
    reader = opened(other, path)
    engine.daemons[0].kill()
    engine.daemons[0].wait()
    other.process.send_signal(signal.SIGSTOP)
    engine.start_server(0)
    writer.run("sh", "-c", f"printf new 1<> {path}")
    other.process.send_signal(signal.SIGCONT)
    wait_until("it reads what is new", lambda: asks(reader) == b"new\n")
    reader.communicate(timeout=20)


def test_a_client_that_hears_nothing_delays_others_once(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    writer, other, path = engine.client(), engine.client(), f"{engine.target}/f"
    writer.run("sh", "-c", f"printf old > {path}")
    reader = opened(other, path)
    other.process.send_signal(signal.SIGSTOP)
    writer.run("sh", "-c", f"printf 222 1<> {path}", timeout=20)
    writer.run("sh", "-c", f"printf new 1<> {path}", timeout=9)  # less than once more
    other.process.send_signal(signal.SIGCONT)
    wait_until("it reads what is new", lambda: asks(reader) == b"new\n")
    reader.communicate(timeout=20)


APPENDER = """
import os, sys
f = os.open(sys.argv[1], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
for n in range(1500):
    os.write(f, f'{sys.argv[2]} {n:06}\\n'.encode())
os.close(f)
"""


def test_connections_that_break_repeat_nothing_that_shows(buffer: Make) -> None:
    engine = buffer(servers=2, unix=False, settings={"drain_delay": "0.1"})
    clients, target = [engine.client(), engine.client()], engine.target
    wait_until("they are connected", lambda: engine.client_log().count("showing") == 2)
    writers = [clients[n].start(PYTHON, "-c", APPENDER, f"{target}/f", str(n)) for n in range(2)]
    chance = random.Random(1)
    while any(writer.poll() is None for writer in writers):
        port = engine.ports[chance.randrange(2)]
        subprocess.run(["ss", "-K", "state", "established", "dport", "=", f":{port}"], check=True, capture_output=True)
        time.sleep(chance.uniform(0.02, 0.2))
    assert [writer.wait() for writer in writers] == [0, 0]
    engine.drain()
    assert target is not None
    lines = sorted((target / "f").read_text().splitlines())
    assert lines == [f"{writer} {n:06}" for writer in range(2) for n in range(1500)]


CLOSER = """
import os, random, sys
folder, plain, seed = sys.argv[1], sys.argv[2], int(sys.argv[3])
chance = random.Random(seed)
for n in range(100_000):
    name, data = f"{seed}-{n}", chance.randbytes(chance.choice([100, 5000, 100_000]))
    with open(os.path.join(plain, name), "wb") as mirror:
        mirror.write(data)
    with open(os.path.join(folder, name), "wb") as file:
        file.write(data)
        if n % 2:
            file.flush()
            os.fsync(file.fileno())
    print(name, flush=True)
"""
"""Writes files, and says the name of each that is closed; ends with an error when the buffer has one."""


def closed_until(engine: Engine, plain: Path, kill: Callable[[], None]) -> set[str]:
    """The names of files that three programs closed before `kill`, at a random moment, ended the buffer for them."""
    clients = [engine.client(), engine.client()]
    seed = int(time.time())
    said = [engine.folder / f"said{n}" for n in range(3)]
    writers = []
    for n, path in enumerate(said):
        with path.open("wb") as output:
            argv = [PYTHON, "-c", CLOSER, str(engine.target), str(plain), str(seed + n)]
            writers.append(clients[n % 2].start(*argv, stdout=output, stderr=subprocess.DEVNULL))

    def names() -> set[str]:
        return {name for path in said for name in path.read_text().split()}

    enough = random.Random(seed).randrange(20, 300)
    wait_until(f"{enough} files are closed", lambda: len(names()) >= enough, 90)
    kill()
    assert all(writer.wait(timeout=60) for writer in writers), "each was told of an error"
    return names()


def test_a_server_without_a_store_killed_at_a_random_moment_knows_all_that_is_lost(
    buffer: Make, plain: Path, slow: dict[str, str]
) -> None:
    engine = buffer(servers=2, settings={"drain_delay": "0.1", "stripe": 65536}, environment=slow)

    def kill() -> None:
        engine.daemons[1].kill()
        engine.daemons[1].wait()

    names = closed_until(engine, plain, kill)
    engine.start_server(1)
    lost = {Path(path).name for path in engine.control(1, "list")["lost"]}
    engine.drain()
    target = engine.target
    assert target is not None
    wrong = {name for name in names if (target / name).read_bytes() != (plain / name).read_bytes()}
    assert wrong <= lost, f"not told: {sorted(wrong - lost)}"


@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_clients_killed_at_a_random_moment_lose_nothing_that_was_closed(
    buffer: Make, plain: Path, slow: dict[str, str], store: bool
) -> None:
    engine = buffer(servers=2, store=store, settings={"drain_delay": "0.1", "stripe": 65536}, environment=slow)

    def kill() -> None:
        for client in engine.clients:
            client.process.kill()
            client.process.wait()

    names = closed_until(engine, plain, kill)
    engine.drain()
    target = engine.target
    assert target is not None
    assert [name for name in sorted(names) if (target / name).read_bytes() != (plain / name).read_bytes()] == []


def test_a_killed_client_loses_nothing_that_was_closed_or_synced(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run("sh", "-c", f"for n in 1 2 3; do head -c 3000000 /dev/zero > {target}/f$n; done")
    client.process.kill()
    client.process.wait()
    other = engine.client()
    assert other.run("stat", "-c", "%s", f"{target}/f1", f"{target}/f3").stdout == "3000000\n3000000\n"
    engine.drain()
    assert target is not None
    assert (target / "f2").read_bytes() == bytes(3000000)
    wait_until("the dead client is forgotten", lambda: engine.status()["clients"] == 1)


@pytest.fixture
def small_target(folder: Path) -> Iterator[Path]:
    """A target with room for 4 MiB."""
    path = folder / "small"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size=4m,uid={UID},gid={UID}", "sbb-test", path], check=True)
    yield path
    subprocess.run(["umount", "-l", path], check=True)


def test_a_full_target_is_told_and_tried_again_and_nothing_is_lost(buffer: Make, small_target: Path) -> None:
    engine = buffer(target=small_target, settings={"drain_delay": "0.1"})
    client = engine.client()
    filler = small_target / "filler"
    filler.write_bytes(bytes(3 << 20))
    client.run("sh", "-c", f"head -c 2500000 /dev/urandom > {small_target}/data; sha256sum < {small_target}/data")
    digest = client.run("sha256sum", f"{small_target}/data").stdout.split()[0]
    wait_until("the error shows", lambda: bool(engine.status()["errors"]))
    assert engine.status()["errors"][0]["path"] == f"{small_target}/data"
    assert "No space left" in engine.status()["errors"][0]["error"]
    engine.control(0, "drain")
    assert engine.status()["state"] in ("draining", "failed")
    assert "error" in engine.control(0, "stop")
    assert client.run("sha256sum", f"{small_target}/data").stdout.split()[0] == digest
    filler.unlink()
    wait_until("it is drained", lambda: engine.status()["state"] == "drained")
    assert (
        subprocess.run(["sha256sum", small_target / "data"], capture_output=True, text=True).stdout.split()[0] == digest
    )


@pytest.mark.parametrize(("store", "size"), [(False, 40), (True, 150)])
def test_writers_slow_down_when_all_is_full(buffer: Make, store: bool, size: int) -> None:
    settings = {"memory": 16 << 20, "store_size": 64 << 20, "drain_delay": 1000, "drain_rate": 50 << 20}
    engine = buffer(store=store, settings=settings)
    client, target = engine.client(), engine.target
    client.run(PYTHON, "-c", f"f = open('{target}/f', 'wb')\nfor n in range({size}): f.write(bytes([n]) * (1 << 20))")
    assert client.run("stat", "-c", "%s", f"{target}/f").stdout == f"{size << 20}\n"
    client.run(
        PYTHON,
        "-c",
        f"f = open('{target}/f', 'rb')\nfor n in range({size}): assert f.read(1 << 20) == bytes([n]) * (1 << 20)",
    )
    engine.drain()
    assert target is not None
    with (target / "f").open("rb") as file:
        assert all(file.read(1 << 20) == bytes([n]) * (1 << 20) for n in range(size))


def test_a_final_drain_refuses_new_bytes(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run("sh", "-c", f"echo old > {target}/file")
    engine.drain()
    refused = client.run(PYTHON, "-c", f"with open('{target}/other', 'w') as f: f.write('new')", check=False)
    assert "Read-only file system" in refused.stderr
    assert client.run("cat", f"{target}/file").stdout == "old\n"
    assert engine.control(0, "stop") == {"ok": True}


def test_stop_discards_only_when_it_is_told_to(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run("sh", "-c", f"echo old > {target}/file")
    assert "1 files" in engine.control(0, "stop")["error"]
    assert engine.control(0, "list")["files"] == [{"path": f"{target}/file", "dirty": 4, "error": None}]
    assert engine.control(0, "stop discard") == {"ok": True}
    assert engine.daemons[0].wait(timeout=10) == 0


def test_a_file_that_was_renamed_outside_is_found_again(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    client.run("sh", "-c", f"mkdir {target}/d; echo bytes > {target}/d/file")
    assert target is not None
    (target / "d/file").rename(target / "elsewhere")
    (target / "d").rmdir()
    engine.drain()
    assert (target / "elsewhere").read_text() == "bytes\n"
    assert os.listdir(target) == ["elsewhere"]
