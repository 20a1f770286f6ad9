"""What others can take of a server: connections of those who have no key, beside which the owner's come in; its log."""

from __future__ import annotations

import contextlib
import hmac
import os
import re
import resource
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sbb.engine import UID, Engine, wait_until

Make = Callable[..., Engine]
MOST = 64
"""Connections at one door that have not proven themselves."""
META = 2
EXPIRES = int(time.time()) + 3600


def connect(engine: Engine) -> socket.socket:
    return socket.create_connection(("127.0.0.1", engine.ports[0]), timeout=20)


def hello(engine: Engine, number: int) -> bytes:
    return struct.pack("<4sIQQQ64s32s", b"SBB1", META, number, 7, EXPIRES, engine.sid.encode(), os.urandom(32))


def receive(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data


def greet(engine: Engine, number: int, key: bytes | None = None) -> socket.socket:
    """A connection of client `number`, let in; OSError if the server closes it or says no."""
    peer = connect(engine)
    try:
        first = hello(engine, number)
        peer.sendall(first)
        challenge = receive(peer, 64)
        token = hmac.digest(key or engine.key, f"sbb-job 7 {EXPIRES}".encode(), "sha256")
        assert key or challenge[32:] == hmac.digest(token, b"server\0\0" + first + challenge[:32], "sha256")
        peer.sendall(hmac.digest(token, b"client\0\0" + first + challenge[:32], "sha256"))
        error = struct.unpack_from("<i", receive(peer, 32))[0]
        if error:
            raise PermissionError(error, os.strerror(error))
    except BaseException:
        peer.close()
        raise
    return peer


def is_open(peer: socket.socket) -> bool:
    peer.setblocking(False)
    try:
        return bool(peer.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def threads(engine: Engine) -> int:
    return len(os.listdir(f"/proc/{engine.daemons[0].pid}/task"))


def threads_at_rest(engine: Engine) -> int:
    """How many it has when nobody is connected, and the one that touches its memory has ended."""
    wait_until("its memory is there", lambda: engine.resident() > int(engine.settings["memory"]))
    seen = [threads(engine)]
    while len(seen) < 50 or len(set(seen[-50:])) > 1:
        time.sleep(0.01)
        seen.append(threads(engine))
    return seen[-1]


@contextlib.contextmanager
def idle(engine: Engine, count: int) -> Iterator[list[socket.socket]]:
    """Strangers that say nothing, in the order in which they came."""
    with ExitStack() as stack:
        yield [stack.enter_context(connect(engine)) for _ in range(count)]


def test_a_greeting_has_ten_seconds_however_slowly_it_comes(buffer: Make) -> None:
    engine = buffer()
    began = time.monotonic()
    with connect(engine) as peer:
        for byte in hello(engine, 1):
            peer.send(bytes([byte]))
            time.sleep(0.5)
            if not is_open(peer) or time.monotonic() - began > 20:
                break
    assert 9 < time.monotonic() - began < 15
    wait_until("it is told", lambda: "Connection timed out" in engine.log(0))


def test_strangers_have_few_places_and_the_oldest_one_leaves(buffer: Make) -> None:
    engine = buffer(settings={"memory": 16 << 20})
    before = threads_at_rest(engine)
    with idle(engine, 300) as peers:
        wait_until("the newest are there alone", lambda: [is_open(p) for p in peers] == [False] * 236 + [True] * MOST)
        wait_until("there is no place too many", lambda: threads(engine) == before + MOST, 5)
        began = time.monotonic()
        with greet(engine, 1):
            assert time.monotonic() - began < 2, "the owner comes in at once"
        client = engine.client()
        client.run("sh", "-c", f"echo bytes > {engine.target}/file; cat {engine.target}/file")
    wait_until("their threads have ended", lambda: threads(engine) <= before + 5)


def test_strangers_over_tcp_do_not_push_out_who_comes_over_the_unix_socket(buffer: Make) -> None:
    engine = buffer()
    with socket.socket(socket.AF_UNIX) as local:
        local.connect(str(engine.run_folder(0) / "clients"))
        with idle(engine, 2 * MOST) as peers:
            wait_until("the oldest have left", lambda: sum(is_open(peer) for peer in peers) == MOST)
            assert is_open(local)


def end_somehow(engine: Engine, number: int) -> None:
    """One connection, which ends in one of the ways in which they do."""
    with contextlib.suppress(OSError):
        if number % 5 == 0:
            connect(engine).close()
        elif number % 5 == 1:
            with connect(engine) as peer:
                peer.sendall(hello(engine, number)[:100])
        elif number % 5 == 2:
            greet(engine, number, key=bytes(32)).close()
        elif number % 5 == 3:
            greet(engine, number).close()
        else:
            with connect(engine) as peer:
                peer.sendall(os.urandom(5000))
                receive(peer, 100)


def end_in_all_ways(engine: Engine) -> None:
    """Many at once, while others hold places, are pushed out, and close by themselves."""

    def several(begin: int) -> None:
        for number in range(begin, begin + 60):
            end_somehow(engine, number)

    workers = [threading.Thread(target=several, args=(n * 100,)) for n in range(8)]
    with idle(engine, 100):
        for worker in workers:
            worker.start()
        with idle(engine, 100):
            pass
        for worker in workers:
            worker.join()


def test_places_are_given_back_whatever_way_a_connection_ends(buffer: Make) -> None:
    engine = buffer(settings={"memory": 16 << 20})
    before = threads_at_rest(engine)
    for _ in range(2):
        end_in_all_ways(engine)
        wait_until("all threads have ended", lambda: threads(engine) == before)
        with idle(engine, MOST) as peers:
            time.sleep(0.5)
            assert [is_open(peer) for peer in peers] == [True] * MOST, "no place is missing"
            wait_until("there is no place too many", lambda: threads(engine) == before + MOST, 5)
            with idle(engine, MOST):
                wait_until("all have left for others", lambda: not any(is_open(peer) for peer in peers), 5)
                wait_until("there is no place too many", lambda: threads(engine) == before + MOST, 5)


def insist(engine: Engine, number: int) -> socket.socket:
    """As a client does after a break: again and again, with pauses that become longer."""
    pause = 0.02
    while True:
        try:
            return greet(engine, number)
        except OSError:
            time.sleep(pause)
            pause = min(2 * pause, 1.28)


@contextlib.contextmanager
def coming_again(engine: Engine) -> Iterator[None]:
    """Strangers that hold all places, and come again as soon as they are closed."""
    ended = threading.Event()
    places: list[socket.socket] = []

    def hold() -> None:
        while not ended.is_set():
            places[:] = [peer for peer in places if is_open(peer) or peer.close()]  # type: ignore[func-returns-value]
            with contextlib.suppress(OSError):
                places.extend(connect(engine) for _ in range(MOST - len(places)))
            ended.wait(0.01)

    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        ended.set()
        holder.join()
        for peer in places:
            peer.close()


def all_come_in(engine: Engine, count: int, seconds: float) -> int:
    """So many clients at once, a connection each, beside those that are mounted; what memory the server then has."""
    there: list[socket.socket] = []

    def come(number: int) -> None:
        there.append(insist(engine, number))

    workers = [threading.Thread(target=come, args=(number,), daemon=True) for number in range(count)]
    for worker in workers:
        worker.start()
    wait_until("all are there", lambda: engine.status()["clients"] == count + len(engine.clients), seconds)
    for worker in workers:
        worker.join()
    for peer in there:
        assert is_open(peer)
    resident = engine.resident()
    for peer in there:
        peer.close()
    wait_until("all have left", lambda: engine.status()["clients"] <= len(engine.clients))
    return resident


def test_clients_that_come_again_cost_no_more_memory(buffer: Make) -> None:
    engine = buffer(settings={"memory": 16 << 20})
    assert max(all_come_in(engine, 200, 30) for _ in range(3)) < 80 << 20


def test_hundreds_of_clients_come_in_at_once_while_strangers_hold_all_places(buffer: Make) -> None:
    engine = buffer(store=True, unix=False)
    clients = [engine.client() for _ in range(5)]
    for number, client in enumerate(clients):
        client.run("sh", "-c", f"echo {number} > {engine.target}/{number}")
    with coming_again(engine):
        all_come_in(engine, 200, 30)
        engine.daemons[0].kill()
        engine.daemons[0].wait()
        engine.start_server(0)
        all_come_in(engine, 200, 30)
        for number, client in enumerate(clients):
            assert client.run("cat", f"{engine.target}/{number}", timeout=30).stdout == f"{number}\n"
        engine.client().run("sh", "-c", f"echo new > {engine.target}/new")


def refusals(text: str) -> tuple[int, int]:
    """Lines about refused connections, and how many they tell of."""
    lines = [line for line in text.splitlines() if "was refused" in line]
    left_out = [int(count) for line in lines for count in re.findall(r"\((\d+) more were not told\)", line)]
    return len(lines), len(lines) + sum(left_out)


def test_refused_connections_make_a_line_a_second(buffer: Make) -> None:
    engine = buffer()
    began = time.monotonic()
    for _ in range(500):
        with pytest.raises(OSError, match="denied"):
            greet(engine, 1, key=bytes(32))
    time.sleep(1.1)
    with pytest.raises(OSError, match="denied"):
        greet(engine, 1, key=bytes(32))
    wait_until("all are counted", lambda: refusals(engine.log(0))[1] == 501)
    assert 2 <= refusals(engine.log(0))[0] <= 2 + time.monotonic() - began


def test_files_that_cannot_be_drained_make_a_line_a_second_whatever_their_names(buffer: Make) -> None:
    engine = buffer(settings={"drain_delay": 1000})
    client, target = engine.client(), engine.target
    assert target is not None
    client.run("/usr/bin/python3", "-c", f"for n in range(50): open(f'{target}/a\\nb{{n}}', 'w').write('x')")
    target.chmod(0)
    began = time.monotonic()
    engine.control(0, "drain")
    wait_until("all have failed twice", lambda: time.monotonic() - began > 4 and len(engine.status()["errors"]) == 50)
    lines = engine.log(0).splitlines()
    told = [line for line in lines if f"{target}/a?b" in line and "its bytes stay here" in line]
    assert 1 <= len(told) <= time.monotonic() - began + 1
    assert len(lines) == len(told) + 1, "a name makes no line of its own"
    target.chmod(0o755)
    wait_until("they are drained", lambda: engine.status()["state"] == "drained", 120)


def limit(engine: Engine, words: str) -> None:
    """Bounds the server; by its owner, as whom nobody needs a capability for it."""
    argv = ["prlimit", f"--pid={engine.daemons[0].pid}", f"--{words}:"]
    subprocess.run(argv, check=True, user=UID, group=UID, extra_groups=[], cwd="/")


@pytest.mark.parametrize("which", ["nofile", "nproc", "as"])
def test_a_server_that_can_take_no_connection_waits_until_it_can(buffer: Make, which: str) -> None:
    engine = buffer()
    process = engine.daemons[0]
    with greet(engine, 1):
        pages = int(Path(f"/proc/{process.pid}/statm").read_text().split()[0])
        most = {
            "nofile": max(map(int, os.listdir(f"/proc/{process.pid}/fd"))) + 1,
            "nproc": 1,
            "as": pages * resource.getpagesize(),
        }
        limit(engine, f"{which}={most[which]}")
        worked = cpu_seconds(process.pid)
        with idle(engine, 20):
            time.sleep(2)
        assert cpu_seconds(process.pid) - worked < 0.5, "it does not spin"
        assert process.poll() is None
        limit(engine, f"{which}={'unlimited' if which == 'as' else 10000}")
        insist(engine, 2).close()
    lines = [line for line in engine.log(0).splitlines() if "no connection can be taken" in line]
    assert 1 <= len(lines) <= 5, engine.log(0)


def cpu_seconds(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("variant", ["-asan", "-tsan"])
def test_sanitizers_find_nothing_however_connections_end(buffer: Make, programs: Path, variant: str) -> None:
    engine = buffer(store=True, variant=variant, build=programs)
    end_in_all_ways(engine)
    with coming_again(engine):
        all_come_in(engine, 100, 60)
    client = engine.client()
    client.run("sh", "-c", f"echo bytes > {engine.target}/file; cat {engine.target}/file")
    assert engine.daemons[0].poll() is None
    reports = engine.log(0) + engine.client_log()
    assert "Sanitizer" not in reports, reports
    assert "runtime error" not in reports, reports
