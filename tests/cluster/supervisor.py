"""The cluster's process 1: holds its namespaces, starts its daemons when asked, reaps what ends, restarts nothing.

Started by `local` through unshare(1); asked through `control.sock` in the state directory, one JSON line a request:

    {"verb":"start","name":"munged","argv":[...],"env":{...},"user":"munge"}
    {"verb":"signal","name":"munged","signal":9,"tree":false}
    {"verb":"list"}

Answers are {"ok":true,...} or {"ok":false,"message":"..."}. When it dies, the kernel kills every process of the cluster
and drops its mounts.
"""

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster import kernel, layout, mounts
from cluster.layout import CHECKOUT
from cluster.virtual import host

READY = "ready"


@dataclass
class Child:
    """A daemon that was started here; `status` is its exit code (negative: the signal) once it has ended."""

    pid: int
    status: int | None = None


class Supervisor:
    """The table of daemons and the loop around it."""

    def __init__(self, state: Path, listener: socket.socket) -> None:
        self.state = state
        self.listener = listener
        self.children: dict[str, Child] = {}

    def serve(self) -> None:
        """Answer requests and reap processes, for ever."""
        wake_read, wake_write = socket.socketpair()
        wake_read.setblocking(False)
        wake_write.setblocking(False)
        signal.set_wakeup_fd(wake_write.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        with selectors.DefaultSelector() as selector:
            selector.register(self.listener, selectors.EVENT_READ)
            selector.register(wake_read, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self.listener:
                        self.answer_one()
                    else:
                        wake_read.recv(4096)
                self.reap()

    def reap(self) -> None:
        """Collect every process that ended: our daemons, and orphans that the kernel gave to process 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            for child in self.children.values():
                if child.pid == pid and child.status is None:
                    child.status = os.waitstatus_to_exitcode(status)

    def answer_one(self) -> None:
        """Take one connection, answer its request line; a client that breaks off costs nothing."""
        connection, _ = self.listener.accept()
        with connection:
            connection.settimeout(5)
            try:
                with connection.makefile("rw") as stream:
                    reply = self.handle(json.loads(stream.readline()))
                    stream.write(json.dumps(reply) + "\n")
            except (OSError, ValueError) as error:
                print(f"request dropped: {error}", file=sys.stderr, flush=True)

    def handle(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what one request asks; errors become its answer."""
        self.reap()
        try:
            match request["verb"]:
                case "start":
                    return {"ok": True, "pid": self.start(request)}
                case "signal":
                    self.signal(request["name"], request["signal"], request["tree"])
                    return {"ok": True}
                case "list":
                    return {"ok": True, "processes": {n: vars(c) for n, c in self.children.items()}}
                case verb:
                    return {"ok": False, "message": f"no such verb: {verb}"}
        except (OSError, KeyError, LookupError) as error:
            return {"ok": False, "message": str(error)}

    def start(self, request: dict[str, Any]) -> int:
        """Start a daemon, its output appended to log/<name>.log. Raises LookupError if it runs already."""
        name = request["name"]
        child = self.children.get(name)
        if child and child.status is None:
            raise LookupError(f"{name} runs already (pid {child.pid})")
        log = os.open(f"/var/log/{name}.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        try:
            process = subprocess.Popen(
                request["argv"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env=request["env"],
                user=request.get("user"),
                group=request.get("user"),
                extra_groups=[] if request.get("user") else None,
                start_new_session=True,
            )
        finally:
            os.close(log)
        process.returncode = 0  # reap() collects it; subprocess must not wait for that pid later
        self.children[name] = Child(process.pid)
        return process.pid

    def signal(self, name: str, number: int, tree: bool) -> None:
        """Send a signal to one daemon; tree: and to all of its session. Raises LookupError if it does not run."""
        child = self.children.get(name)
        if child is None or child.status is not None:
            raise LookupError(f"{name} does not run")
        os.kill(child.pid, number)
        if tree:
            for pid in kernel.session(child.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)


def network() -> None:
    """Bring the loopback up, with one more address than 127.0.0.1.

    All of 127/8 works without; but to getaddrinfo(AI_ADDRCONFIG), which Slurm uses, a machine that has only 127.0.0.1
    has no IPv4, and every look-up of a name takes 20 s to fail.
    """
    for words in (["link", "set", "lo", "up"], ["address", "add", "127.0.0.2/8", "dev", "lo"]):
        subprocess.run(["/sbin/ip", *words], check=True, timeout=10)


def main(state: Path) -> None:
    """Take the namespaces that unshare(1) made into use, then serve."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.chdir(state)  # a socket's path may be 107 bytes long, a state directory's longer
    listener.bind("control.sock")
    os.chmod("control.sock", 0o600)
    # The old /proc shows this process by its pid outside, by which everybody else knows it.
    (state / "init.pid").write_text(os.readlink("/proc/self"))
    record = layout.load(state)
    if record and record.kind == "virtual":
        held = host.set_up(record)  # noqa: F841 (as long as this process runs)
    else:
        mounts.cover(state, CHECKOUT)
        kernel.sethostname("controller")
        network()
    os.chdir("/")
    os.umask(0o022)
    listener.listen(16)
    Supervisor(state, listener).serve()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
