"""What programs see in a buffer: as in a plain directory, on one node and on two."""

from __future__ import annotations

import hashlib
import os
import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sbb.engine import UID, Client, Engine, wait_until
from sbb.steps import BUSY, random_steps

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"


def python(client: Client, text: str, timeout: float = 60) -> str:
    return client.run(PYTHON, "-c", text, timeout=timeout).stdout


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"servers": 3},
        {"store": True},
        {"store": True, "servers": 2},
        {"servers": 3, "unix": False},
        {"servers": 2, "store": True, "unix": False},
    ],
    ids=["memory", "three-servers", "store", "two-stores", "tcp", "tcp-store"],
)
def test_random_steps_do_what_they_do_in_a_plain_directory(
    buffer: Make, plain: Path, settings: dict[str, object]
) -> None:
    random_steps(buffer(settings=BUSY, **settings), plain, steps=1500)


@pytest.mark.parametrize("largest", [300_000, 2_000_000], ids=["room", "tight"])
@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_the_order_in_which_threads_of_a_slow_server_run_does_not_show(
    buffer: Make, plain: Path, slow: dict[str, str], store: bool, largest: int
) -> None:
    engine = buffer(servers=2, store=store, settings={**BUSY, "memory": 16 << 20}, environment=slow)
    random_steps(engine, plain, steps=300, largest=largest)


@pytest.mark.parametrize("servers", [1, 2])
def test_what_one_node_wrote_another_reads(buffer: Make, servers: int) -> None:
    engine = buffer(servers=servers, settings={"drain_delay": 1000})
    one, two = engine.client(), engine.client()
    file = f"{engine.target}/file"
    reader = two.start(
        PYTHON, "-c", f"""
import os, sys
sys.stdin.readline()
fd = os.open({file!r}, os.O_RDONLY)
print(os.pread(fd, 100, 0).decode(), flush=True)
sys.stdin.readline()
print(os.pread(fd, 100, 0).decode(), os.fstat(fd).st_size, flush=True)
sys.stdin.readline()
print(os.pread(fd, 100, 0).decode(), os.fstat(fd).st_size, flush=True)
""", stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert reader.stdin is not None and reader.stdout is not None

    def read() -> str:
        assert reader.stdin is not None and reader.stdout is not None
        reader.stdin.write(b"\n")
        reader.stdin.flush()
        return reader.stdout.readline().decode().strip()

    python(one, f"open({file!r}, 'w').write('first')")
    assert read() == "first"
    python(one, f"import os; f = os.open({file!r}, os.O_RDWR); os.pwrite(f, b'F', 0); os.fsync(f); os._exit(0)")
    assert read() == "First 5", "what was fsynced shows in a file that was open and cached"
    python(one, f"import os; f = os.open({file!r}, os.O_RDWR); os.ftruncate(f, 3); os.pwrite(f, b'x', 4)")
    assert read() == "Fir\0x 5"
    assert reader.wait(timeout=10) == 0
    assert (engine.target / "file").stat().st_size < 5 if engine.target else False, "nothing was drained yet"


def test_what_a_program_wrote_another_on_its_node_reads_at_once(buffer: Make) -> None:
    """The write has returned: whoever is told of it by whatever means finds it. Pairs of any pace, at the same time."""
    engine = buffer(servers=2, settings=BUSY)
    client = engine.client()
    code = f"""
import os, random, sys
name, chance = f"{engine.target}/{{sys.argv[1]}}", random.Random(sys.argv[1])
file, (told, tell), (heard, hear) = os.open(name, os.O_WRONLY | os.O_CREAT), os.pipe(), os.pipe()
if not os.fork():
    os.close(tell)
    seen, at = os.open(name, os.O_RDONLY), 0
    while told_now := os.read(told, 9):
        size, byte = int(told_now[:8]), told_now[8:]
        assert os.pread(seen, size, at) == byte * size and os.fstat(seen).st_size == at + size
        at += size
        os.write(hear, b"+")
    os._exit(0)
os.close(told), os.close(hear)
for number in range(500):
    size, byte = chance.choice([1, 100, 4096, 5000, 70000, 200000]), bytes([65 + number % 26])
    assert os.write(file, byte * size) == size
    os.write(tell, b"%08d%c" % (size, byte))
    assert os.read(heard, 1) == b"+", "the reader has ended"
os.close(tell)
sys.exit(os.wait()[1] != 0)
"""
    pairs = [client.start(PYTHON, "-c", code, str(number)) for number in range(4)]
    assert [process.wait(timeout=60) for process in pairs] == [0] * 4


def test_ranks_write_one_file_at_disjoint_offsets_that_share_pages(buffer: Make) -> None:
    engine = buffer(servers=2, settings=BUSY)
    clients = [engine.client(), engine.client()]
    file, ranks, piece, rounds = f"{engine.target}/shared", 6, 733, 400
    code = f"""
import os, sys
rank = int(sys.argv[1])
fd = os.open({file!r}, os.O_RDWR | os.O_CREAT, 0o644)
for n in range({rounds}):
    at = (n * {ranks} + rank) * {piece}
    assert os.pwrite(fd, bytes([65 + rank]) * {piece}, at) == {piece}
    if n % 50 == 0:
        assert os.pread(fd, {piece}, at) == bytes([65 + rank]) * {piece}
os.close(fd)
"""
    running = [clients[rank % 2].start(PYTHON, "-c", code, str(rank)) for rank in range(ranks)]
    assert [process.wait(timeout=60) for process in running] == [0] * ranks
    expected = b"".join(bytes([65 + rank]) * piece for rank in range(ranks)) * rounds
    digest = hashlib.sha256(expected).hexdigest()
    for client in clients:
        assert client.run("sha256sum", file).stdout.split()[0] == digest
    engine.drain()
    assert Path(file).read_bytes() == expected


@pytest.mark.parametrize("store", [False, True], ids=["memory", "store"])
def test_reading_beside_what_another_node_writes_takes_nothing_away(
    buffer: Make, slow: dict[str, str], store: bool
) -> None:
    """Both touch the same 64 KiB for the first time: the server fills them from the target while new bytes come in."""
    engine = buffer(store=store, settings=BUSY, environment=slow)
    one, two = engine.client(), engine.client()
    file, blocks, size = Path(f"{engine.target}/shared"), 300, 40_000
    file.write_bytes(b"-" * blocks * 65536)
    os.chown(file, UID, UID)
    both = f"""
import os, sys
fd = os.open({str(file)!r}, os.O_RDWR)
for n, line in enumerate(sys.stdin):
    """
    codes = ["os.pread(fd, 1, n * 65536 + 65000)", f"os.pwrite(fd, bytes([n % 251]) * {size}, n * 65536); os.fsync(fd)"]
    running = [
        client.start(PYTHON, "-u", "-c", f"{both}{code}\n    print()", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for client, code in zip((two, one), codes, strict=True)
    ]
    for _ in range(blocks):
        for process in running:
            assert process.stdin is not None
            process.stdin.write(b"\n")
            process.stdin.flush()
        for process in running:
            assert process.stdout is not None and process.stdout.readline() == b"\n"
    for process in running:
        process.communicate(timeout=60)
    expected = b"".join(bytes([n % 251]) * size + b"-" * (65536 - size) for n in range(blocks))
    assert two.run("sha256sum", str(file)).stdout.split()[0] == hashlib.sha256(expected).hexdigest()
    engine.drain()
    assert file.read_bytes() == expected


def test_appends_of_two_nodes_never_overwrite_each_other(buffer: Make) -> None:
    engine = buffer(servers=2, settings=BUSY)
    clients = [engine.client(), engine.client()]
    file = f"{engine.target}/log"
    code = f"""
import os, sys
fd = os.open({file!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
for n in range(200):
    os.write(fd, f"{{sys.argv[1]}} {{n}}\\n".encode())
"""
    running = [clients[n % 2].start(PYTHON, "-c", code, str(n)) for n in range(4)]
    assert [process.wait(timeout=60) for process in running] == [0] * 4
    lines = clients[0].run("cat", file).stdout.splitlines()
    assert sorted(lines) == sorted(f"{n} {m}" for n in range(4) for m in range(200))


def test_an_unlinked_file_lives_until_it_is_closed_and_never_reaches_the_target(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    one, two = engine.client(), engine.client()
    file = f"{engine.target}/temporary"
    python(one, f"open({file!r}, 'w').write('old ' * 1000)")
    holder = two.start(
        PYTHON, "-c", f"import sys; f = open({file!r}, 'r+'); print('open', flush=True); sys.stdin.readline();"
        "f.seek(4); f.write('new '); f.flush(); f.seek(0); print(f.read(12), flush=True)",
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == b"open\n"
    one.run("rm", file)
    assert one.run("ls", str(engine.target)).stdout == ""
    output, _ = holder.communicate(b"\n", timeout=20)
    assert output == b"old new old \n"
    wait_until("its bytes are gone", lambda: engine.dirty() == 0)
    assert engine.status()["drained"] == 0


def test_times_stay_as_they_are_when_a_file_is_drained(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client = engine.client()
    file = f"{engine.target}/file"
    python(client, f"open({file!r}, 'w').write('x' * 100000)")
    written = python(client, f"import os; print(os.stat({file!r}).st_mtime_ns)")
    assert engine.control(0, "flush")["ok"]
    assert (
        Path(file).stat().st_mtime_ns
        == int(written)
        == int(python(client, f"import os; print(os.stat({file!r}).st_mtime_ns)"))
    )
    python(client, f"import os; open({file!r}, 'a').write('y'); os.utime({file!r}, ns=(5, 123456789))")
    assert engine.control(0, "flush")["ok"]
    assert Path(file).stat().st_mtime_ns == 123456789
    assert Path(file).stat().st_size == 100001


def test_a_hint_puts_a_file_on_the_target_at_once(buffer: Make) -> None:
    engine = buffer(servers=2, settings={"drain_delay": 1000})
    client = engine.client()
    file = f"{engine.target}/checkpoint"
    python(client, f"open({file!r}, 'wb').write(bytes(range(256)) * 20000); open({file!r} + '2', 'w').write('later')")
    assert Path(file).stat().st_size == 0
    python(client, f"import os; os.setxattr({file!r}, 'user.ebb.flush', b'now')")
    assert Path(file).read_bytes() == bytes(range(256)) * 20000
    assert Path(file + "2").stat().st_size == 0


def test_fsync_may_mean_the_target(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000, "sync": "target"})
    client = engine.client()
    file = f"{engine.target}/file"
    python(client, f"import os; f = os.open({file!r}, os.O_RDWR | os.O_CREAT); os.write(f, b'abc'); os.fsync(f)")
    assert Path(file).read_bytes() == b"abc"


def test_many_readers_cost_the_target_one_read(buffer: Make, folder: Path) -> None:
    engine = buffer(settings={"memory": 64 << 20})
    assert engine.target is not None
    data = os.urandom(8 << 20)
    (engine.target / "input").write_bytes(data)
    clients = [engine.client(), engine.client()]
    daemon = engine.daemons[0].pid

    def read_bytes() -> int:
        lines = Path(f"/proc/{daemon}/io").read_text().splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("rchar")))

    before = read_bytes()
    for client in clients * 2:
        assert client.run("sha256sum", f"{engine.target}/input").stdout.split()[0] == hashlib.sha256(data).hexdigest()
    assert read_bytes() - before < 1.5 * len(data)


def test_a_file_that_was_changed_outside_is_read_anew(buffer: Make) -> None:
    engine = buffer()
    assert engine.target is not None
    client, file = engine.client(), engine.target / "input"
    file.write_text("before")
    assert client.run("cat", str(file)).stdout == "before"
    file.write_text("behind")
    assert client.run("cat", str(file)).stdout == "behind"


def test_only_the_job_with_its_key_and_in_its_time_gets_in(buffer: Make) -> None:
    engine = buffer()
    for settings, word in (({"expires": 1}, "Stale"), ({"key": b"x" * 32}, "Permission")):
        client = engine.client(**settings)
        assert client.process.wait(timeout=20) == 1
        assert word in engine.client_log()
    assert engine.status()["clients"] == 0


def test_the_servers_refuse_root(folder: Path) -> None:
    config = folder / "config"
    config.write_text(f"sid=1\ncontrol={folder}/c\nmemory=33554432\ntarget={folder}\nlisten=127.0.0.1:0\n")
    program = Path(__file__).resolve().parents[2] / "build/sbbd"
    done = subprocess.run([program, "--config", config, "--key-fd", "0"], input=b"k" * 32, capture_output=True)
    assert done.returncode == 1
    assert b"never as root" in done.stderr


def test_a_read_only_file_is_drained(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client = engine.client()
    file = f"{engine.target}/object"
    python(client, f"import os; f = os.open({file!r}, os.O_CREAT | os.O_WRONLY, 0o444); os.write(f, b'x' * 5000)")
    engine.drain()
    assert Path(file).read_bytes() == b"x" * 5000
    assert Path(file).stat().st_mode & 0o777 == 0o444
    assert Path(file).stat().st_uid == UID


def test_more_names_than_descriptors(buffer: Make) -> None:
    engine = buffer(servers=2, settings=BUSY)
    client, target = engine.client(limits={resource.RLIMIT_NOFILE: 400}), engine.target
    assert target is not None
    python(client, f"""
import os
for d in range(5):
    os.mkdir(f'{target}/d{{d}}')
    for n in range(200):
        open(f'{target}/d{{d}}/f{{n}}', 'w').write(f'{{d}} {{n}}')
os.rename('{target}/d3', '{target}/e')
for n in range(200):
    os.rename(f'{target}/e/f{{n}}', f'{target}/e/g{{n}}')
for n in range(200):
    assert open(f'{target}/e/g{{n}}').read() == f'3 {{n}}'
    assert open(f'{target}/d1/f{{n}}').read() == f'1 {{n}}'
    open(f'{target}/d1/f{{n}}', 'a').write('!')
""")  # fmt: skip
    descriptors = len(os.listdir(f"/proc/{client.process.pid}/fd"))
    assert descriptors < 400
    engine.drain()
    assert [(target / f"e/g{n}").read_text() for n in range(200)] == [f"3 {n}" for n in range(200)]
    assert [(target / f"d1/f{n}").read_text() for n in range(200)] == [f"1 {n}!" for n in range(200)]


def test_names_that_the_kernel_remembers_need_no_more_descriptors(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(limits={resource.RLIMIT_NOFILE: 400}), engine.target
    code = f"""
import os
names = [f'{target}/f{{n}}' for n in range(1500)]
for name in names:
    os.close(os.open(name, os.O_WRONLY | os.O_CREAT))
for turn in range(5):
    for name in names[turn * 300 : turn * 300 + 700]:
        os.stat(name)
    for name in names[turn * 300 : turn * 300 + 700]:
        os.chmod(name, 0o600 + turn)
"""
    python(client, code)
    assert len(os.listdir(f"/proc/{client.process.pid}/fd")) < 400


def test_a_server_answers_before_all_of_its_memory_is_touched(buffer: Make) -> None:
    def touched(name: str) -> int:
        """Bytes, when it answered for the first time."""
        engine = buffer(name, settings={"memory": 1 << 30})
        found = engine.resident()
        engine.daemons[0].kill()
        return found

    # One may be held up by other programs meanwhile; if touching held them up, it would be all of them.
    assert any(touched(f"b{n}") < 1 << 30 for n in range(3))
