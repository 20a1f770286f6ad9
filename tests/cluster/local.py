"""The local kind: all nodes on this machine, in namespaces of their own (mount, pid, net, uts, ipc).

The namespaces live as long as their process 1 (`supervisor`); when that is killed the kernel ends everything in them.
Only loop devices can remain, for they belong to the machine; `down` sees to those.
"""

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Mapping
from pathlib import Path

from cluster import attach, leftovers, tree, wait
from cluster.control import Control
from cluster.errors import ClusterError
from cluster.init import Init, marks, tail
from cluster.kinds import Report
from cluster.layout import USERS, State
from cluster.processes import ENVIRONMENT, Daemon, daemons, listens


class Local:
    """See `kinds.Kind`."""

    pause = 0.05

    def __init__(self, state: State, *, tied: bool = False) -> None:
        self.state = state
        self.init = Init(state, tied=tied)
        self.control = Control(state.path)
        self.daemons = {daemon.name: daemon for daemon in daemons(state.layout)}

    # -- up and down

    def up(self, report: Report) -> None:
        """Make and start everything. The state directory must be new or empty."""
        self.state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.path.chmod(0o700)
        self.state.save()
        tree.prepare(self.state)
        self.init.start()
        for daemon in self.daemons.values():
            self._start(daemon)
            if daemon.name in ("munged", "orchestrator", "slurmctld"):
                self._await(daemon)  # whoever is started next asks it
        for daemon in self.daemons.values():
            self._await(daemon)
        report("started " + ", ".join(self.daemons))
        self._await_idle()
        report(f"nodes {', '.join(n.name for n in self.state.layout.compute_nodes())} are idle; logs: {self.state.log}")

    def down(self, report: Report) -> None:
        """Daemons first, then process 1, then what the kernel does not take away by itself."""
        if self.init.alive():
            self._stop_daemons(report)
        self.init.stop()
        for loop in leftovers.loops_below(self.state.path):
            leftovers.detach(loop)

        def nothing_left() -> bool:
            return not leftovers.remaining(self.state.path, self.state.pid_namespace)

        with contextlib.suppress(ClusterError):
            wait.until(nothing_left, 15, "the kernel to let go of everything")
        left = leftovers.remaining(self.state.path, self.state.pid_namespace)
        if left:
            raise ClusterError(f"{self.state.path} is not removed, for this is left: " + "; ".join(left))
        shutil.rmtree(self.state.path)
        report("the cluster is down, nothing is left of it")

    def _stop_daemons(self, report: Report) -> None:
        for name, running in reversed(self.control.list().items()):
            if running.status is not None:
                continue
            self.control.signal(name, signal.SIGTERM)
            try:
                wait.until(lambda n=name: self.control.list()[n].status is not None, 5, name)  # type: ignore[misc]
            except ClusterError:
                report(f"{name} did not end when asked to; killed")
                self.control.signal(name, signal.SIGKILL)

    # -- daemons

    def _start(self, daemon: Daemon) -> None:
        root = Path(f"/proc/{self.state.init_pid}/root")
        for folder, owner in daemon.folders:
            path = root / folder.lstrip("/")
            path.mkdir(parents=True, exist_ok=True)
            who = pwd.getpwnam(owner)
            os.chown(path, who.pw_uid, who.pw_gid)
        self.control.start(daemon.name, daemon.argv, {**marks(), **ENVIRONMENT}, daemon.user)

    def _await(self, daemon: Daemon) -> None:
        pid = self.init.require()

        def ready() -> bool:
            running = self.control.list()[daemon.name]
            if running.status is not None:
                raise ClusterError(f"{daemon.name} ended with {running.status}\n{tail(self.state, daemon.name)}")
            return listens(daemon, pid)

        try:
            wait.until(ready, 60, f"{daemon.name} to answer")
        except ClusterError as error:
            if "\n" in str(error):
                raise
            raise ClusterError(f"{error}\n{tail(self.state, daemon.name)}") from error

    def _await_idle(self) -> None:
        expected = {node.name for node in self.state.layout.compute_nodes()}

        def idle() -> bool:
            listing = subprocess.run(
                [*self.enter("controller", "root"), "sinfo", "--noheader", "--Node", "--format=%N %T"],
                check=False, capture_output=True, text=True, timeout=60,
            )  # fmt: skip
            rows = [line.split() for line in listing.stdout.splitlines()]
            return {row[0] for row in rows if row[1] == "idle"} == expected

        try:
            wait.until(idle, 60, "all nodes to be idle", pause=0.1)
        except ClusterError as error:
            raise ClusterError(f"{error}\n{tail(self.state, 'slurmctld')}") from error

    def _daemon(self, name: str) -> Daemon:
        self.init.require()
        if name not in self.daemons:
            raise ClusterError(f"{name}: no such process; there are: {', '.join(self.daemons)}")
        return self.daemons[name]

    def kill(self, name: str) -> None:
        """kill -9 of one daemon; what it started lives on. Returns when it is gone."""
        self._daemon(name)
        self.control.signal(name, signal.SIGKILL)
        wait.until(lambda: self.control.list()[name].status is not None, 60, f"{name} to end")  # it may be in fsync

    def start(self, name: str) -> None:
        """Start a daemon that ended; returns when it answers."""
        daemon = self._daemon(name)
        self._start(daemon)
        self._await(daemon)

    # -- looking

    def nodes(self) -> list[str]:
        """controller, then datanodes, then compute nodes."""
        layout = self.state.layout
        return ["controller", *(node.name for node in (*layout.data_nodes(), *layout.compute_nodes()))]

    def enter(self, node: str, user: str) -> list[str]:
        """For commands whose output is captured: nsenter is quicker than `attach`."""
        inside = self._inside(node, user)
        return [
            "nsenter",
            f"--target={self.init.require()}",
            "--mount",
            "--pid",
            "--net",
            "--uts",
            "--ipc",
            "--",
            *inside,
        ]

    def attach(self, node: str, user: str, command: list[str]) -> int:
        """For people: see `attach.attach`."""
        inside = self._inside(node, user)
        return attach.attach(self.init.require(), [*inside, *command])

    def _inside(self, node: str, user: str) -> list[str]:
        """All nodes share the host; `node` must still be one."""
        if node not in self.nodes():
            raise ClusterError(f"{node}: no such node; there are: {', '.join(self.nodes())}")
        if user != "root" and user not in {u.name for u in USERS}:
            raise ClusterError(f"{user}: no such user; there are: root, {', '.join(u.name for u in USERS)}")
        home = "/root" if user == "root" else f"/home/{user}"
        sbin = "/usr/local/sbin:/usr/sbin:/sbin:" if user == "root" else ""
        variables = {
            "HOME": home, "USER": user, "LOGNAME": user, "SHELL": "/bin/bash",
            "PATH": f"{sbin}/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8",
            "TERM": os.environ.get("TERM", "dumb"), **marks(),
        }  # fmt: skip
        return [
            "env", "--ignore-environment", f"--chdir={home}", *(f"{k}={v}" for k, v in variables.items()),
            # A signal that ends the entering process ends the command too.
            "setpriv", f"--reuid={user}", f"--regid={user}", "--init-groups", "--pdeathsig=TERM", "--",
        ]  # fmt: skip

    def status(self) -> list[tuple[str, str]]:
        """Each daemon: up (runs and listens), silent (only runs), ended, or never started."""
        pid = self.init.require()
        running = self.control.list()
        rows = []
        for name, daemon in self.daemons.items():
            if name not in running:
                rows.append((name, "never started"))
            elif (status := running[name].status) is not None:
                rows.append((name, f"ended ({status})"))
            elif listens(daemon, pid):
                rows.append((name, "up"))
            else:
                rows.append((name, "silent"))
        return rows

    def logs(self, node: str | None) -> Mapping[str, str]:
        """controller has the logs of munged, slurmctld and the orchestrator."""
        if node is not None and node not in self.nodes():
            raise ClusterError(f"{node}: no such node; there are: {', '.join(self.nodes())}")
        others = set(self.nodes()) - {"controller"}
        names = [n for n in ("init", *self.daemons) if node in (None, n) or (node == "controller" and n not in others)]
        paths = {name: self.state.log / f"{name}.log" for name in names}
        return {name: str(path) for name, path in paths.items() if path.exists()}
