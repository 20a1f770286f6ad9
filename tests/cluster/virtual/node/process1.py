"""Process 1 of a virtual node: starts services by their units when asked, runs commands, reaps, and never ends.

One thread, one loop. Clients (`cluster.virtual.channel`) connect by TCP and say in one JSON line what they want:

    {"secret":S,"verb":"run","argv":[...],"user":"alice","env":{...},"tty":[rows,columns] or null}
    {"secret":S,"verb":"start"|"kill"|"stop","service":"slurmctld"}       {"secret":S,"verb":"services"}

`run` goes on in frames, each a byte that says what it is, four bytes of length (big-endian), then that many bytes.
From the client: i input, z its end, s a signal's number, w `rows columns`. To the client: o and e outputs, x the exit
code (last).
The other verbs answer one JSON line. A client that goes away takes its command with it (SIGTERM, then SIGKILL).

Output of services goes to the console, which is a file of the host, each line behind the service's name.
Runs with Debian's Python and nothing else.
"""

import contextlib
import fcntl
import functools
import json
import os
import pty
import pwd
import selectors
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from typing import Any

import units  # type: ignore[import-not-found]  # beside this file on the node

FOLDER = "/ebb-node"
LIMIT = 1 << 20
GRACE = 3.0
Handler = Callable[[int], None]


def say(text: str) -> None:
    """One line on the console."""
    os.write(1, f"{text}\n".encode())


def child(argv: list[str], env: dict[str, str], user: str, files: tuple[int, int, int], folder: str, *,
          tty: bool = False, umask: int = 0o022, group: str = "") -> int:  # fmt: skip
    """Start a program as `user` in a session of its own; its pid. A program that cannot be started ends with 127."""
    pid = os.fork()
    if pid:
        return pid
    try:
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        os.setsid()
        if tty:
            fcntl.ioctl(files[0], termios.TIOCSCTTY, 0)
        for target, source in enumerate(files):
            os.dup2(source, target)
        os.closerange(3, 4096)
        os.umask(umask)
        if user != "root":
            who = pwd.getpwnam(user)
            os.initgroups(user, who.pw_gid)
            os.setgid(who.pw_gid)
            os.setuid(who.pw_uid)
        try:
            os.chdir(folder)
        except OSError:
            os.chdir("/")
        os.execvpe(argv[0], argv, env)  # noqa: S606 (no shell is wanted)
    except BaseException as error:
        os.write(2, f"{argv[0]}: {error}\n".encode())
    os._exit(127)


class Loop:
    """Files and what to do when they can be read or written; processes and what to do when they end."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.ends: dict[int, Callable[[int], None]] = {}
        self.timers: list[tuple[float, Callable[[], None]]] = []
        read, write = socket.socketpair()
        read.setblocking(False)
        write.setblocking(False)
        signal.set_wakeup_fd(write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.wake = (read, write)
        self.watch(read.fileno(), selectors.EVENT_READ, lambda _: read.recv(4096))

    def watch(self, fd: int, events: int, handler: Callable[[int], Any]) -> None:
        """Call `handler` when `fd` is ready; no events: forget it."""
        known = fd in self.selector.get_map()
        if not events:
            if known:
                self.selector.unregister(fd)
        elif known:
            self.selector.modify(fd, events, handler)
        else:
            self.selector.register(fd, events, handler)

    def after(self, seconds: float, what: Callable[[], None]) -> None:
        """Do something later."""
        self.timers.append((time.monotonic() + seconds, what))

    def run(self) -> None:
        """For ever."""
        while True:
            pause = min((when for when, _ in self.timers), default=None)
            for key, events in self.selector.select(None if pause is None else max(0.0, pause - time.monotonic())):
                try:
                    key.data(events)
                except Exception as error:
                    say(f"node: {type(error).__name__}: {error}")
            self.reap()
            due = [timer for timer in self.timers if timer[0] <= time.monotonic()]
            self.timers = [timer for timer in self.timers if timer not in due]
            for _, what in due:
                what()

    def reap(self) -> None:
        """Collect every process that ended."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if what := self.ends.pop(pid, None):
                what(os.waitstatus_to_exitcode(status))


class Service:
    """One service, started by its unit."""

    def __init__(self, loop: Loop, name: str) -> None:
        self.loop = loop
        self.name = name
        self.pid: int | None = None
        self.status: int | None = None
        self.ready = False
        self.unit = units.load(name)
        self.notify: socket.socket | None = None

    def start(self) -> None:
        """Start it. Raises UnitError."""
        if self.pid is not None:
            return
        self.unit = units.load(self.name)
        self.unit.make_folders()
        for argv in self.unit.commands("ExecStartPre"):
            subprocess.run(argv, check=True, env=self.unit.environment(), timeout=60)
        read, write = os.pipe()
        null = os.open("/dev/null", os.O_RDWR)
        env = self.unit.environment()
        kind = self.unit.last("Type", "simple")
        if kind.startswith("notify"):
            env["NOTIFY_SOCKET"] = self._listen()
        (argv,) = self.unit.commands("ExecStart")
        self.ready, self.status = kind in ("simple", "exec"), None
        pid = child(argv, env, self.unit.user, (null, write, write), self.unit.last("WorkingDirectory", "/"),
                    umask=int(self.unit.last("UMask", "0022"), 8))  # fmt: skip
        os.close(write)
        os.close(null)
        self.pid = pid
        self.loop.ends[pid] = self._ended if kind != "forking" else self._forked
        tail = bytearray()
        self.loop.watch(read, selectors.EVENT_READ, lambda _: self._output(read, tail))

    def _listen(self) -> str:
        path = f"/run/notify-{self.name}"
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        if self.notify:
            self.loop.watch(self.notify.fileno(), 0, print)
            self.notify.close()
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.notify.bind(path)
        os.chmod(path, 0o777)  # noqa: S103 (the service may run as anybody)
        self.loop.watch(self.notify.fileno(), selectors.EVENT_READ, self._notified)
        return path

    def _notified(self, _: int) -> None:
        assert self.notify
        for line in self.notify.recv(65536).decode(errors="replace").splitlines():
            if line == "READY=1":
                self.ready = True
            elif line.startswith("MAINPID="):
                pid = int(line[8:])
                if pid != self.pid:  # which may have ended already: slurmd's new process says so late
                    if self.pid is not None:
                        self.loop.ends.pop(self.pid, None)
                    self.pid, self.status = pid, None
                    self.loop.ends[pid] = self._ended

    def _output(self, fd: int, tail: bytearray) -> None:
        data = os.read(fd, 65536)
        tail += data
        *lines, rest = bytes(tail).split(b"\n")
        if not data:
            self.loop.watch(fd, 0, print)
            os.close(fd)
            lines, rest = ([rest] if rest else []), b""
        tail[:] = rest
        for line in lines:
            say(f"{self.name}: {line.decode(errors='replace')}")

    def _forked(self, status: int) -> None:
        """The first process of a Type=forking service ended; its PIDFile, if it has one, names the one that stays."""
        if status != 0:
            self._ended(status)
            return
        self.ready = True
        path = self.unit.last("PIDFile")
        try:
            with open(path, encoding="ascii") as file:
                self.pid = int(file.read())
            self.loop.ends[self.pid] = self._ended  # an orphan becomes our child
        except (OSError, ValueError) as error:
            say(f"node: {self.name}: PIDFile={path}: {error}")

    def _ended(self, status: int) -> None:
        self.pid, self.status, self.ready = None, status, False
        say(f"node: {self.name} ended with {status}")

    def signal(self, number: int) -> None:
        """Signal its main process, if it runs."""
        if self.pid is not None:
            os.kill(self.pid, number)


class Connection:
    """One client."""

    def __init__(self, node: "Node", connection: socket.socket) -> None:
        self.node, self.loop, self.socket = node, node.loop, connection
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.received, self.outgoing, self.input = bytearray(), bytearray(), bytearray()
        self.started = self.closed = self.input_ends = self.finishing = False
        self.pid: int | None = None
        self.code: int | None = None
        self.stdin = -1
        self.outputs: dict[int, bytes] = {}
        self._watch()

    def _watch(self) -> None:
        if self.closed:
            return
        wants = 0 if len(self.input) > LIMIT else selectors.EVENT_READ
        self.loop.watch(self.socket.fileno(), wants | (selectors.EVENT_WRITE if self.outgoing else 0), self.act)
        for fd in self.outputs:
            wants = 0 if len(self.outgoing) > LIMIT else selectors.EVENT_READ
            self.loop.watch(fd, wants, functools.partial(self.read, fd))

    def act(self, events: int) -> None:
        """The socket is ready."""
        try:
            if events & selectors.EVENT_WRITE:
                del self.outgoing[: self.socket.send(self.outgoing)]
            if events & selectors.EVENT_READ:
                data = self.socket.recv(65536)
                if not data:
                    self.close()
                    return
                self.received += data
                self.understand()
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self.finishing and not self.outgoing:
            self.close()
        self._watch()

    def understand(self) -> None:
        """Take whole lines and frames out of what came."""
        if not self.started:
            line, newline, rest = bytes(self.received).partition(b"\n")
            if not newline:
                return
            self.started = True
            self.received = bytearray(rest)
            try:
                answer = self.node.answer(json.loads(line), self)
            except (OSError, ValueError, LookupError, units.UnitError, subprocess.SubprocessError) as error:
                answer = {"ok": False, "message": f"{type(error).__name__}: {error}"}
            if answer is not None:
                self.outgoing += json.dumps(answer).encode() + b"\n"
                self.finishing = True
        while len(self.received) >= 5:
            kind, length = bytes(self.received[:1]), int.from_bytes(self.received[1:5], "big")
            if len(self.received) < 5 + length:
                return
            payload = bytes(self.received[5 : 5 + length])
            del self.received[: 5 + length]
            self.frame(kind, payload)

    def frame(self, kind: bytes, payload: bytes) -> None:
        """One frame of the client's."""
        if kind == b"i":
            self.input += payload
            self.feed(0)
        elif kind == b"z":
            self.input_ends = True
            self.feed(0)
        elif kind == b"s":
            self.kill(int(payload))
        elif kind == b"w" and self.stdin >= 0:
            rows, columns = map(int, payload.split())
            fcntl.ioctl(self.stdin, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def run(self, argv: list[str], user: str, env: dict[str, str], tty: list[int] | None) -> None:
        """Start the command."""
        folder = pwd.getpwnam(user).pw_dir
        if tty:
            master, slave = pty.openpty()
            fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", tty[0], tty[1], 0, 0))
            if user != "root":
                os.chown(os.ttyname(slave), pwd.getpwnam(user).pw_uid, -1)
            self.pid = child(argv, env, user, (slave, slave, slave), folder, tty=True)
            os.close(slave)
            self.stdin, self.outputs = master, {master: b"o"}
        else:
            (r0, w0), (r1, w1), (r2, w2) = os.pipe(), os.pipe(), os.pipe()
            self.pid = child(argv, env, user, (r0, w1, w2), folder)
            for fd in (r0, w1, w2):
                os.close(fd)
            self.stdin, self.outputs = w0, {r1: b"o", r2: b"e"}
        os.set_blocking(self.stdin, False)
        self.loop.ends[self.pid] = self.ended

    def feed(self, _: int) -> None:
        """Write input to the command as far as it takes it."""
        if self.stdin < 0:
            self.input.clear()
            return
        master = self.stdin in self.outputs
        try:
            if self.input:
                del self.input[: os.write(self.stdin, self.input)]
        except BlockingIOError:
            pass
        except OSError:
            self.input.clear()
            self.input_ends = True
        if not master:
            self.loop.watch(self.stdin, selectors.EVENT_WRITE if self.input else 0, self.feed)
        elif self.input:
            self.loop.after(0.02, lambda: self.feed(0))
        if self.input_ends and not self.input and not master:
            self.loop.watch(self.stdin, 0, print)
            os.close(self.stdin)
            self.stdin = -1
        self._watch()

    def read(self, fd: int, _: int) -> None:
        """The command has written something, or closed its output."""
        try:
            data = os.read(fd, 65536)
        except OSError:  # EIO: nobody has the terminal any more
            data = b""
        if data:
            self.outgoing += self.outputs[fd] + len(data).to_bytes(4, "big") + data
            self._watch()
            return
        self._drop(fd)
        self.finish()

    def _drop(self, fd: int) -> None:
        self.outputs.pop(fd, None)
        self.loop.watch(fd, 0, print)
        if fd == self.stdin:
            self.stdin = -1
        os.close(fd)

    def ended(self, code: int) -> None:
        """The command has ended; what it wrote may still have to be read."""
        self.code, self.pid = code, None
        self.finish()

    def finish(self) -> None:
        """Tell the exit code, once everything before it is told."""
        if self.code is None or self.outputs or self.closed or self.finishing:
            return
        text = str(self.code).encode()
        self.outgoing += b"x" + len(text).to_bytes(4, "big") + text
        self.finishing = True
        self._watch()

    def kill(self, number: int) -> None:
        """Signal the command and what it started in its process group."""
        if self.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def close(self) -> None:
        """The client is gone, or has all: what still runs of its command ends."""
        if self.closed:
            return
        self.closed = True
        self.loop.watch(self.socket.fileno(), 0, print)
        self.socket.close()
        for fd in {*self.outputs, *([self.stdin] if self.stdin >= 0 else [])}:
            self._drop(fd)
        if self.pid is not None:
            self.kill(signal.SIGTERM)
            self.kill(signal.SIGCONT)
            self.loop.after(GRACE, lambda: self.kill(signal.SIGKILL))


class Node:
    """The listener, and what can be asked."""

    def __init__(self, settings: dict[str, Any], secret: str) -> None:
        self.loop = Loop()
        self.settings, self.secret = settings, secret
        self.services: dict[str, Service] = {}
        listener = socket.create_server((settings["address"], settings["port"]), backlog=64)
        self.listener = listener
        self.loop.watch(listener.fileno(), selectors.EVENT_READ, self.accept)

    def accept(self, _: int) -> None:
        """A client has come."""
        Connection(self, self.listener.accept()[0])

    def answer(self, request: dict[str, Any], connection: Connection) -> dict[str, Any] | None:
        """Do what a request asks; None for `run`, which answers in frames."""
        if request["secret"] != self.secret:
            return {"ok": False, "message": "wrong secret"}
        match request["verb"]:
            case "run":
                connection.run(request["argv"], request["user"], request["env"], request["tty"])
                return None
            case "start":
                name = request["service"]
                self.services.setdefault(name, Service(self.loop, name)).start()
            case "kill" | "stop" as verb:
                self.services[request["service"]].signal(signal.SIGKILL if verb == "kill" else signal.SIGTERM)
            case "services":
                return {"ok": True, "services": {n: {"pid": s.pid, "ready": s.ready, "status": s.status}
                                                 for n, s in self.services.items()}}  # fmt: skip
            case verb:
                return {"ok": False, "message": f"no such verb: {verb}"}
        return {"ok": True}


def prepare(settings: dict[str, Any]) -> None:
    """The commands that make the node what the cluster says; the console shows each that fails."""
    for argv in settings["setup"]:
        done = subprocess.run(argv, check=False, timeout=60, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            say(f"node: {' '.join(argv)}: code {done.returncode}")


def main() -> None:
    """Become the node."""
    os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    with open(f"{FOLDER}/settings.json", encoding="utf-8") as file:
        settings = json.load(file)
    with open(f"{FOLDER}/secret", encoding="ascii") as file:
        secret = file.read().strip()
    prepare(settings)
    node = Node(settings, secret)
    say("node: ready")
    node.loop.run()


if __name__ == "__main__":
    sys.path.insert(0, FOLDER)
    main()
