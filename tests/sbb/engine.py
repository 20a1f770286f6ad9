"""Starts servers and clients of a smart burst buffer here, as an unprivileged user; needs root."""

from __future__ import annotations

import contextlib
import ctypes
import hmac
import json
import os
import resource
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any

BUILD = Path(__file__).resolve().parents[2] / "build"
UID = 54321
"""Nobody's: the owner of the buffers here."""

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS = 0x20000
_MS_PRIVATE_REC = 0x44000
_MS_NOSUID_NODEV = 6


def wait_until(what: str, condition: Callable[[], bool], seconds: float = 20) -> None:
    """Returns as soon as the condition holds; AssertionError if it does not in time."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not in {seconds} s: {what}"
        time.sleep(0.01)


def _check(result: int, what: str) -> None:
    if result:
        error = ctypes.get_errno()
        raise OSError(error, f"{what}: {os.strerror(error)}")


def _pipe_with(data: bytes) -> int:
    reading, writing = os.pipe()
    os.write(writing, data)
    os.close(writing)
    return reading


@dataclass
class Client:
    """One sbb-client, in a mount namespace of its own."""

    target: Path
    process: subprocess.Popen[bytes]

    def command(self, argv: Sequence[str], *, uid: int = UID) -> list[str]:
        """The command line that runs `argv` where this client is mounted, as the owner."""
        enter = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--setuid", str(uid), "--setgid", str(uid)]
        return [*enter, "--", *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs to the end; AssertionError with its output if it fails."""
        done = subprocess.run(self.command(argv), capture_output=True, text=True, timeout=timeout, cwd="/")
        if check:
            assert done.returncode == 0, f"{argv}: {done.returncode}: {done.stdout}{done.stderr}"
        return done

    def start(self, *argv: str, **more: Any) -> subprocess.Popen[bytes]:
        """Runs beside the test."""
        return subprocess.Popen(self.command(argv), cwd="/", **more)

    def transports(self) -> set[str]:
        """What its connections are: "tcp", "unix"."""
        links = []
        for path in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with contextlib.suppress(FileNotFoundError):  # one that the client closed meanwhile
                links.append(os.readlink(path))
        open_sockets = {link[len("socket:[") : -1] for link in links if link.startswith("socket:[")}
        columns = {"tcp": 9, "unix": 6}
        tables = {name: Path(f"/proc/{self.process.pid}/net/{name}").read_text().splitlines()[1:] for name in columns}
        return {
            name for name, lines in tables.items() if any(line.split()[columns[name]] in open_sockets for line in lines)
        }

    def unmount(self) -> None:
        """Ends it as a job's end does."""
        enter = ["nsenter", f"--mount=/proc/{self.process.pid}/ns/mnt", "--"]
        subprocess.run([*enter, "umount", str(self.target)], check=True, cwd="/")
        self.process.wait(timeout=60)


@dataclass
class Engine:
    """A buffer: `servers` of sbbd over one target directory. As a context it ends all that it started."""

    folder: Path
    servers: int = 1
    settings: Mapping[str, str | int] = field(default_factory=dict)
    target: Path | None = None
    store: bool = False
    variant: str = ""
    """Suffix of the programs: "", "-asan", "-tsan"."""
    unix: bool = True
    """False: clients know no unix sockets of the servers, as those on other nodes, and use TCP."""
    build: Path = BUILD
    environment: Mapping[str, str] = field(default_factory=dict)
    """More for the servers' environment."""

    def __post_init__(self) -> None:
        self.key = os.urandom(32)
        self.sid = "42"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        if self.target is None:
            self.target = self.folder / "target"
            self.target.mkdir(exist_ok=True)
        os.chown(self.target, UID, UID)
        self.daemons: dict[int, subprocess.Popen[bytes]] = {}
        self.clients: list[Client] = []
        self.ports: dict[int, int] = {}

    def __enter__(self) -> Engine:
        for index in range(self.servers):
            self.start_server(index)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for client in self.clients:
            if client.process.poll() is None:
                client.process.kill()
        for client in self.clients:
            client.process.wait()
        for daemon in self.daemons.values():
            daemon.kill()
            daemon.wait()

    def run_folder(self, index: int) -> Path:
        """Where a server has its sockets and its record."""
        return self.folder / f"server{index}"

    def start_server(self, index: int, **settings: str | int) -> None:
        """Starts one, or starts it again after it ended: then with the same port."""
        run = self.run_folder(index)
        run.mkdir(exist_ok=True)
        os.chown(run, UID, UID)
        words: dict[str, str | int] = {
            "sid": self.sid, "index": index, "count": self.servers, "listen": f"127.0.0.1:{self.ports.get(index, 0)}",
            "unix": f"{run}/clients", "memory": 256 << 20, "stripe": 1 << 20, "target": str(self.target),
            "control": f"{run}/control",
        }  # fmt: skip
        if self.store:
            (run / "store").mkdir(exist_ok=True)
            os.chown(run / "store", UID, UID)
            words |= {"store": f"{run}/store", "store_size": 2 << 30}
        words |= {**self.settings, **settings}
        config = run / "config"
        config.write_text("".join(f"{key}={value}\n" for key, value in words.items()))
        key = _pipe_with(self.key)
        log = (run / "log").open("ab")
        self.daemons[index] = subprocess.Popen(
            [str(self.build / f"sbbd{self.variant}"), "--config", str(config), "--key-fd", str(key)],
            pass_fds=[key], user=UID, group=UID, extra_groups=[], stderr=log, stdout=log, cwd="/",
            env={**_sanitizer_env(), **self.environment},
        )  # fmt: skip
        os.close(key)
        log.close()
        wait_until(f"server {index} answers: {self.log(index)}", lambda: self._answers(index))
        self.ports[index] = int(self.status(index)["port"])

    def _answers(self, index: int) -> bool:
        assert self.daemons[index].poll() is None, self.log(index)
        try:
            return bool(self.status(index)["port"])
        except OSError:
            return False

    def log(self, index: int) -> str:
        """What a server wrote."""
        return (self.run_folder(index) / "log").read_text(errors="replace")

    def control(self, index: int, line: str, timeout: float = 60) -> dict[str, Any]:
        """One request over a server's control socket."""
        with socket.socket(socket.AF_UNIX) as peer:
            peer.settimeout(timeout)
            peer.connect(str(self.run_folder(index) / "control"))
            peer.sendall(line.encode() + b"\n")
            answer: dict[str, Any] = json.loads(peer.makefile().readline())
        return answer

    def status(self, index: int = 0) -> dict[str, Any]:
        """A server's status."""
        return self.control(index, "status")

    def resident(self, index: int = 0) -> int:
        """Bytes of memory that a server has: it touches all of its own in the beginning."""
        lines = Path(f"/proc/{self.daemons[index].pid}/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))

    def shared(self) -> set[int]:
        """Memory files of clients that the servers have mapped, by inode."""
        maps = [
            line for each in self.daemons.values() for line in Path(f"/proc/{each.pid}/maps").read_text().split("\n")
        ]
        return {int(line.split()[4]) for line in maps if "/memfd:sbb-client" in line}

    def dirty(self) -> int:
        """Files that no target has, over all servers."""
        return sum(self.status(index)["dirty_files"] for index in range(self.servers))

    def drain(self, seconds: float = 60) -> None:
        """The final drain of all servers."""
        for index in range(self.servers):
            self.control(index, "drain")
        for index in range(self.servers):
            wait_until(
                f"server {index} drained: {self.status(index)}",
                partial(self._is_drained, index),
                seconds,
            )

    def _is_drained(self, index: int) -> bool:
        return bool(self.status(index)["state"] == "drained")

    def client(
        self,
        *,
        expires: int | None = None,
        key: bytes | None = None,
        limits: Mapping[int, int] = MappingProxyType({}),
        **settings: str | int,
    ) -> Client:
        """Mounts the buffer once more, as on another node. limits: by resource.RLIMIT_*."""
        target = self.target
        assert target is not None
        expires = int(time.time()) + 3600 if expires is None else expires
        token = hmac.digest(key or self.key, f"sbb-job 7 {expires}".encode(), "sha256")
        words: dict[str, str | int] = {
            "sid": self.sid, "job": 7, "exp": expires, "stripe": 1 << 20, "target_index": 0, "target": str(target),
            "servers": ",".join(f"127.0.0.1:{self.ports[i]}" for i in range(self.servers)),
        }  # fmt: skip
        if self.unix:
            words |= {f"unix.{i}": f"{self.run_folder(i)}/clients" for i in range(self.servers)}
        words |= {
            name: value
            for name, value in {**self.settings, **settings}.items()
            if name in ("stripe", "sync", "patience")
        }
        config = _pipe_with("".join(f"{name}={value}\n" for name, value in words.items()).encode())
        token_fd = _pipe_with(token)
        device, below = os.open("/dev/fuse", os.O_RDWR), os.open("/", os.O_PATH)
        log = (self.folder / "client.log").open("ab")

        def enter() -> None:
            _check(_LIBC.unshare(_CLONE_NEWNS), "unshare")
            _check(_LIBC.mount(b"none", b"/", None, _MS_PRIVATE_REC, None), "private mounts")
            os.dup2(os.open(target, os.O_PATH | os.O_DIRECTORY), below, inheritable=True)
            options = f"fd={device},rootmode=40000,user_id={UID},group_id={UID},default_permissions,allow_other"
            _check(
                _LIBC.mount(b"sbb", bytes(target), b"fuse.sbb", _MS_NOSUID_NODEV, options.encode()),
                f"mount over {target}",
            )
            _read_ahead(target, 1024)
            for which, most in limits.items():
                resource.setrlimit(which, (most, most))
            os.setgroups([])
            os.setresgid(UID, UID, UID)
            os.setresuid(UID, UID, UID)

        words_of_client = ["--config-fd", str(config), "--key-fd", str(token_fd), "--fuse-fd", str(device)]
        process = subprocess.Popen(
            [str(self.build / f"sbb-client{self.variant}"), *words_of_client, "--target-fd", str(below)],
            pass_fds=[config, token_fd, device, below], preexec_fn=enter, stderr=log, stdout=log, cwd="/",  # noqa: PLW1509 (no threads here)
            env=_sanitizer_env(),
        )  # fmt: skip
        for descriptor in (config, token_fd, device, below):
            os.close(descriptor)
        log.close()
        client = Client(target, process)
        self.clients.append(client)
        return client

    def client_log(self) -> str:
        """What all clients wrote."""
        return (self.folder / "client.log").read_text(errors="replace")


def _read_ahead(target: Path, kib: int) -> None:
    """Larger read-ahead for the mount just made, before its client answers; the kernel's own for FUSE is 128 KiB."""
    mounts = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    device = next(words[2] for words in reversed(mounts) if words[4] == str(target))
    Path(f"/sys/class/bdi/{device}/read_ahead_kb").write_text(str(kib))


def _sanitizer_env() -> dict[str, str]:
    suppressions = Path(__file__).with_name("tsan.supp")
    return {
        "PATH": os.environ["PATH"],
        "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1", "UBSAN_OPTIONS": "halt_on_error=1",
        "TSAN_OPTIONS": f"suppressions={suppressions}:halt_on_error=0",
    }  # fmt: skip


def temporary_folder() -> tempfile.TemporaryDirectory[str]:
    """Short: a unix socket's path has room for 100 bytes."""
    return tempfile.TemporaryDirectory(prefix="sbb-", dir="/var/tmp", ignore_cleanup_errors=True)
