"""The smart burst buffer over unix sockets and over TCP, against a plain tmpfs, loopback TCP (iperf3) and
`rclone mount`, in turns; and in front of a slow target.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from bench.measure import Row
from sbb.engine import UID, Client, Engine, wait_until

ROUNDS = 5
WORK = Path(__file__).with_name("sbb_work.py")
NOTHING = Path(__file__).with_name("nothing.c")
LARGE = 384 << 20
CASES = [
    ("write", 1, "sequential writes, 1 MiB, 1 process"), ("read", 1, "sequential reads, 1 MiB, 1 process"),
    ("write", 4, "sequential writes, 1 MiB, 4 processes"), ("read", 4, "sequential reads, 1 MiB, 4 processes"),
    ("small", 1, "sequential writes, 4 KiB, each a system call"),
    ("buffered", 1, "sequential writes, 4 KiB, through Python's buffer"),
    ("random", 1, "random writes, 4 KiB"), ("create", 1, "creates"), ("stat", 1, "stats"),
]  # fmt: skip
AMOUNT = {
    "write": (LARGE / 1e6, "MB/s"), "read": (LARGE / 1e6, "MB/s"), "small": (12288, "op/s"),
    "buffered": (12288, "op/s"), "random": (12288, "op/s"), "create": (600, "op/s"), "stat": (600, "op/s"),
}  # fmt: skip
NOTHINGS = {
    "nothing": "a FUSE file system that does nothing",
    "nothing, cached": "one that does nothing, with the kernel's write-back cache",
}
SETTINGS = {"memory": 2 << 30, "drain_delay": 10000}


def run_timed(command: list[str]) -> float:
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd="/").stdout)


@contextmanager
def _rclone(folder: Path) -> Iterator[Path]:
    """What a user could mount instead, over a directory of the same file system."""
    source, mount = folder / "rclone-target", folder / "rclone"
    source.mkdir()
    mount.mkdir()
    words = ["rclone", "mount", "--vfs-cache-mode", "writes", "--cache-dir", f"{folder}/cache", "--config", "/dev/null"]
    process = subprocess.Popen([*words, str(source), str(mount)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        wait_until("rclone has mounted", lambda: os.path.ismount(mount))
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)
        process.terminate()
        process.wait(timeout=60)


@contextmanager
def _nothing(folder: Path, *words: str) -> Iterator[Path]:
    """A FUSE file system that only answers: the ceiling for small writes. words: what it is started with."""
    program, mount = folder / "nothing-program", folder / "-".join(["nothing", *words])
    if not program.exists():
        words_of_fuse = ["pkg-config", "--cflags", "--libs", "fuse3"]
        flags = subprocess.run(words_of_fuse, check=True, capture_output=True, text=True)
        build = ["gcc", "-O2", "-Wall", "-Wextra", str(NOTHING), "-o", str(program), *flags.stdout.split()]
        subprocess.run(build, check=True)
    mount.mkdir()
    process = subprocess.Popen([program, mount, *words])
    try:
        wait_until("it has mounted", lambda: os.path.ismount(mount))
        yield mount
    finally:
        subprocess.run(["umount", "-l", str(mount)], check=False)
        process.terminate()  # clients' namespaces have the mount too
        process.wait(timeout=60)


@contextmanager
def _iperf() -> Iterator[Callable[[], float]]:
    """Seconds that iperf3 takes for as many bytes as the sequential writes have."""
    server = subprocess.Popen(["iperf3", "-s", "-p", "15201"], stdout=subprocess.DEVNULL)

    def measure() -> float:
        words = ["iperf3", "-c", "127.0.0.1", "-p", "15201", "-J", "-l", "1M", "-n", str(LARGE)]
        report = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)
        return float(report["end"]["sum_sent"]["seconds"])

    try:
        time.sleep(0.5)
        yield measure
    finally:
        server.terminate()
        server.wait()


def in_turns(places: Mapping[str, Callable[[], float]]) -> dict[str, list[float]]:
    """A first round warms up and does not count; each later one begins with another place."""
    times: dict[str, list[float]] = {name: [] for name in places}
    names = list(places)
    for number in range(ROUNDS + 1):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds = places[name]()
            if number:
                times[name].append(seconds)
    return times


def _ratio(times: dict[str, list[float]], other: str) -> float:
    return statistics.median(o / s for o, s in zip(times[other], times["sbb"], strict=True))


def _rows_of(what: str, title: str, times: dict[str, list[float]]) -> Iterator[Row]:
    amount, unit = AMOUNT[what]
    told = ", ".join(
        f"{name} {amount / statistics.median(taken):.0f}" for name, taken in times.items() if name != "sbb"
    )
    yield Row(title, amount / statistics.median(times["sbb"]), unit, None, told, "more")
    if "rclone" in times:
        yield Row(title, _ratio(times, "rclone"), "ratio", 1, "rclone mount", "more")
    if "iperf3" in times:
        goal = 0.7 if what == "write" else None
        yield Row(title, _ratio(times, "iperf3"), "ratio", goal, "loopback TCP (iperf3)", "more")
    if what in ("small", "buffered"):
        yield Row(title, _ratio(times, "tmpfs"), "ratio", 0.5 if what == "small" else None, "plain tmpfs", "more")
    for name, told in NOTHINGS.items():
        if name in times:
            yield Row(title, _ratio(times, name), "ratio", None, told, "more")


def rows() -> list[Row]:
    """All rows; about three minutes. Memory for them: 4 GiB."""
    with tempfile.TemporaryDirectory(prefix="sbb-", dir="/dev/shm", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        work = str(shutil.copy(WORK, folder))
        with _iperf() as iperf:
            found = [*_over_unix_sockets(folder, work, iperf), *_over_tcp(folder, work, iperf)]
    return [*found, *_checkpoint()]


def ready(engine: Engine) -> Client:
    """A client, once the servers have touched their memory: a buffer's first second, more or less, is not measured."""
    memory = int(engine.settings["memory"])
    wait_until("all memory is touched", lambda: all(engine.resident(n) >= memory for n in engine.daemons), 120)
    return engine.client()


def command_line(work: str, what: str, path: Path | None, processes: int) -> list[str]:
    return ["python3", work, what, str(path), str(processes)]


def _over_unix_sockets(folder: Path, work: str, iperf: Callable[[], float]) -> Iterator[Row]:
    """A program on the datanode itself, or a buffer of one node: the client reaches its server without the network."""
    plain = folder / "plain"
    plain.mkdir()
    os.chown(plain, UID, UID)
    with (
        Engine(folder / "b", settings=SETTINGS) as engine,
        _rclone(folder) as mount,
        _nothing(folder) as nothing,
        _nothing(folder, "cached") as cached,
    ):
        client = ready(engine)
        for what, processes, title in CASES:
            command = partial(command_line, work, what, processes=processes)
            places: dict[str, Callable[[], float]] = {
                "sbb": partial(run_timed, client.command(command(engine.target))),
                "tmpfs": partial(run_timed, command(plain)),
                "rclone": partial(run_timed, command(mount)),
            }
            if what == "write" and processes == 1:
                places["iperf3"] = iperf
            if processes == 1 and what in ("small", "write"):
                places["nothing"] = partial(run_timed, command(nothing))
                places["nothing, cached"] = partial(run_timed, command(cached))
            yield from _rows_of(what, f"SBB over unix sockets: {title}", in_turns(places))
        assert client.transports() == {"unix"}
    shutil.rmtree(plain)
    shutil.rmtree(folder / "b")


def _over_tcp(folder: Path, work: str, iperf: Callable[[], float]) -> Iterator[Row]:
    """As from another node: loopback TCP."""
    with Engine(folder / "t", unix=False, settings=SETTINGS) as engine:
        client = ready(engine)
        for what, processes, title in CASES[:2]:
            command = client.command(command_line(work, what, engine.target, processes))
            times = in_turns({"sbb": partial(run_timed, command), "iperf3": iperf})
            yield from _rows_of(what, f"SBB over TCP: {title}", times)
        assert client.transports() == {"tcp"}


@contextmanager
def _slow_target(folder: Path, rate: int) -> Iterator[Path]:
    """An XFS whose device takes `rate` bytes a second."""
    image, path = folder / "image", folder / "slow"
    with image.open("wb") as file:
        file.truncate(3 << 29)
    path.mkdir()
    subprocess.run(["mkfs.xfs", "-q", str(image)], check=True)
    words = ["losetup", "--find", "--show", str(image)]
    device = subprocess.run(words, check=True, capture_output=True, text=True).stdout.strip()
    number = os.stat(device).st_rdev
    throttle = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
    try:
        subprocess.run(["mount", device, str(path)], check=True)
        throttle.write_text(f"{os.major(number)}:{os.minor(number)} {rate}\n")
        yield path
    finally:
        throttle.write_text(f"{os.major(number)}:{os.minor(number)} 0\n")
        subprocess.run(["umount", str(path)], check=False)
        subprocess.run(["losetup", "--detach", device], check=False)


def _checkpoint() -> list[Row]:
    """1 GiB, written and synced by an application onto a target that takes 100 MB/s, without the buffer and with it."""
    with tempfile.TemporaryDirectory(prefix="sbb-", dir="/dev/shm", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        with (
            _slow_target(folder, 100_000_000) as target,
            Engine(folder / "b", target=target, settings={"memory": 5 << 29, "drain_delay": 5}) as engine,
        ):
            client = ready(engine)
            words = ["dd", "if=/dev/zero", "bs=1M", "count=1024", "conv=fsync", "status=none"]
            start = time.perf_counter()
            subprocess.run([*words, f"of={target}/without"], check=True)
            without = time.perf_counter() - start
            (target / "without").unlink()
            subprocess.run(["sync", "-f", str(target)], check=True)
            taken = []
            for number in range(3):
                start = time.perf_counter()
                client.run(*words, f"of={target}/with")
                taken.append(time.perf_counter() - start)
                if number < 2:
                    client.run("rm", f"{target}/with")
            start = time.perf_counter()
            engine.drain(120)
            drained = time.perf_counter() - start
            client.process.kill()
    title = "over unix sockets: a 1 GiB checkpoint onto a target of 100 MB/s"
    told = f"{without:.1f} s without, {min(taken):.2f} s with, drained in {drained:.1f} s more"
    return [Row(f"SBB {title}", without / statistics.median(taken), "times faster", 20, told, "more")]
