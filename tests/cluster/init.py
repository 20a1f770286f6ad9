"""Starts and ends a cluster's process 1 (`supervisor`) in namespaces of its own; all kinds have one."""

import contextlib
import os
import signal
import subprocess
import sys

from cluster import kernel, wait
from cluster.control import Control
from cluster.errors import ClusterError
from cluster.layout import CHECKOUT, State

UNSHARE = ["unshare", "--mount", "--propagation", "private", "--pid", "--net", "--uts", "--ipc",
           "--fork", "--kill-child"]  # fmt: skip
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def marks() -> dict[str, str]:
    """Variables that every process of a test run carries, so that what it leaves can be told from other things."""
    return {name: value for name, value in os.environ.items() if name == "EBB_TEST_RUN"}


class Init:
    """Process 1 of the cluster in `state`. tied: it ends with the calling process, even with its kill -9."""

    def __init__(self, state: State, *, tied: bool = False) -> None:
        self.state = state
        self.tied = tied
        self.control = Control(state.path)

    def start(self) -> None:
        """Start it; returns when it answers, with its pid in the state's record. Raises ClusterError."""
        argv = [*UNSHARE, sys.executable, "-P", "-m", "cluster.supervisor", str(self.state.path)]
        if self.tied:
            argv = ["setpriv", "--pdeathsig", "KILL", *argv]
        with (self.state.log / "init.log").open("w") as log:
            outer = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True, cwd="/",
                env={**marks(), "PATH": PATH, "PYTHONPATH": str(CHECKOUT / "tests"), "PYTHONDONTWRITEBYTECODE": "1"},
            )  # fmt: skip

        def listening() -> bool:
            if outer.poll() is not None:
                raise ClusterError(f"the cluster's namespaces could not be made\n{tail(self.state, 'init')}")
            with contextlib.suppress(ClusterError):
                self.control.list()
                return True
            return False

        wait.until(listening, 15, "the cluster's process 1", pause=0.02)
        self.state.init_pid = int((self.state.path / "init.pid").read_text())
        self.state.init_start = kernel.start_time(self.state.init_pid)
        self.state.pid_namespace = os.readlink(f"/proc/{self.state.init_pid}/ns/pid")
        self.state.save()

    def stop(self) -> None:
        """Kill it, however far `start` came; returns when it is gone, and with it every process of the cluster."""
        pid = self.state.init_pid
        if pid is None:  # `up` was ended before it knew
            with contextlib.suppress(OSError, ValueError):
                pid = int((self.state.path / "init.pid").read_text())
                self.state.pid_namespace = os.readlink(f"/proc/{pid}/ns/pid")
                if self.state.pid_namespace == os.readlink("/proc/self/ns/pid"):
                    return
                self.state.init_start = kernel.start_time(pid)
        if pid is None or self.state.init_start is None or kernel.start_time(pid) != self.state.init_start:
            return
        os.kill(pid, signal.SIGKILL)
        wait.until(lambda: kernel.start_time(pid) is None, 15, f"process {pid}, the cluster's first, to end")

    def alive(self) -> bool:
        """Whether it runs: it and no other process of that number."""
        pid = self.state.init_pid
        return pid is not None and kernel.start_time(pid) == self.state.init_start is not None

    def require(self) -> int:
        """Its pid. Raises ClusterError if it does not run."""
        if not self.alive() or self.state.init_pid is None:
            raise ClusterError(f"no cluster is up in {self.state.path}; make one with: ctl up")
        return self.state.init_pid


def tail(state: State, name: str, lines: int = 15) -> str:
    """The end of a log, for messages."""
    try:
        text = (state.log / f"{name}.log").read_text(errors="replace")
    except OSError as error:
        return f"(no log of {name}: {error})"
    told = [line for line in text.splitlines() if " [<" not in line]  # not a kernel's call traces
    return "\n".join([f"the end of {name}'s log:", *("  " + line for line in told[-lines:])])
