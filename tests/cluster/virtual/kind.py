"""The virtual kind: every node a user-mode-linux kernel on a bridge, all in namespaces of the cluster's own."""

import contextlib
import functools
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from typing import Any

from cluster import leftovers, wait
from cluster.control import Control
from cluster.errors import ClusterError
from cluster.init import Init, marks, tail
from cluster.kinds import Report
from cluster.layout import DND_PORT, ORCHESTRATOR_PORT, USERS, State
from cluster.virtual import channel, debs, host, roots, texts, tree
from cluster.virtual.machines import Machine, machines

SHORT = {
    "munged": "controller/munge",
    "slurmctld": "controller/slurmctld",
    "orchestrator": "controller/ebb-orchestrator",
}
"""Names that the local kind has for processes."""

PORTS = {"ebb-dnd": DND_PORT, "ebb-orchestrator": ORCHESTRATOR_PORT, "slurmctld": 6817, "slurmd": 6818}
"""Where services answer."""


class Virtual:
    """See `kinds.Kind`. `kill` and `start` take a node's name, or NODE/SERVICE for one service of a node."""

    pause = 0.5

    def __init__(self, state: State, *, tied: bool = False) -> None:
        self.state = state
        self.init = Init(state, tied=tied)
        self.control = Control(state.path)
        self.machines = {machine.name: machine for machine in machines(state.layout)}

    # -- up and down

    def up(self, report: Report) -> None:
        """Make the root file systems if need be, then start everything. The state directory must be new or empty."""
        self.state.path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.state.path.chmod(0o700)
        self.state.save()
        packages = None if self.state.layout.plain else debs.build(self.state.release, report)
        layers = roots.build(self.state.release, packages, report)
        self.state.roots = {role: [str(path) for path in paths] for role, paths in layers.items()}
        self.state.save()
        began = time.monotonic()
        tree.prepare(self.state)
        self.init.start()
        for machine in self.machines.values():
            self._power_on(machine)
        for machine in self.machines.values():
            self._come_up(machine)
        report("started " + ", ".join(self.machines))
        self._await_idle()
        computes = [m.name for m in self.machines.values() if m.role == "compute"]
        report(f"nodes {', '.join(computes)} are idle after {time.monotonic() - began:.0f} s; logs: {self.state.log}")

    def down(self, report: Report) -> None:
        """Process 1, and with it all nodes, mounts, taps and the bridge."""
        self.init.stop()

        def nothing_left() -> bool:
            return not leftovers.remaining(self.state.path, self.state.pid_namespace)

        with contextlib.suppress(ClusterError):
            wait.until(nothing_left, 15, "the kernel to let go of everything")
        left = leftovers.remaining(self.state.path, self.state.pid_namespace)
        if left:
            raise ClusterError(f"{self.state.path} is not removed, for this is left: " + "; ".join(left))
        shutil.rmtree(self.state.path)
        report("the cluster is down, nothing is left of it")

    # -- nodes

    def _power_on(self, machine: Machine) -> None:
        environment = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/root", "TMPDIR": "/dev/shm", **marks()}  # noqa: S108
        self.control.start(machine.name, host.kernel_argv(machine), environment, None)

    def _come_up(self, machine: Machine) -> None:
        """Wait until the node's process 1 answers; then mount the homes and start its services."""

        def answers() -> bool:
            running = self.control.list()[machine.name]
            if running.status is not None:
                raise ClusterError(f"{machine.name} ended with {running.status}\n{tail(self.state, machine.name, 25)}")
            with contextlib.suppress(ClusterError):
                self._ask(machine, verb="services")
                return True
            return False

        self._wait(answers, 60, machine, "to boot")
        if machine.role != "controller":
            source = f"{self.machines['controller'].address}:{texts.HOMES_EXPORT}"
            self._check(machine, ["mount", "-t", "nfs4", "-o", "vers=4.2,hard", source, texts.HOMES])
        for service in machine.services:
            self._start_service(machine, service)

    def _start_service(self, machine: Machine, service: str) -> None:
        self._ask(machine, verb="start", service=service)

        def ready() -> bool:
            found = self._ask(machine, verb="services")["services"][service]
            if found["status"] is not None:
                raise ClusterError(
                    f"{service} on {machine.name} ended with {found['status']}\n{tail(self.state, machine.name, 25)}"
                )
            return bool(found["ready"]) and self._listens(machine, PORTS.get(service))

        self._wait(ready, 60, machine, f"to start {service}")

    def _listens(self, machine: Machine, port: int | None) -> bool:
        """Whether the node takes connections there; many units are ready for systemd as soon as they are started."""
        if port is None:
            return True
        with contextlib.suppress(OSError), channel.connect(self.init.require(), machine.address, 5, port):
            return True
        return False

    def _wait(self, condition: Any, deadline: float, machine: Machine, what: str) -> None:
        try:
            wait.until(condition, deadline, f"{machine.name} {what}", pause=0.1)
        except ClusterError as error:
            if "\n" in str(error):
                raise
            raise ClusterError(f"{error}\n{tail(self.state, machine.name, 25)}") from error

    def _await_idle(self) -> None:
        expected = {m.name for m in self.machines.values() if m.role == "compute"}

        def idle() -> bool:
            done = self._run("controller", ["sinfo", "--noheader", "--Node", "--format=%N %T"])
            rows = [line.split() for line in done.stdout.splitlines()]
            return {row[0] for row in rows if len(row) == 2 and row[1] == "idle"} == expected

        self._wait(idle, 60, self.machines["controller"], "to see all nodes idle")

    @functools.cached_property
    def _secret(self) -> str:
        return (self.state.path / "secret").read_text().strip()

    def _ask(self, machine: Machine, **request: Any) -> dict[str, Any]:
        try:
            connection = channel.connect(self.init.require(), machine.address)
            answer = channel.ask(connection, 60, secret=self._secret, **request)
        except (OSError, ValueError) as error:
            raise ClusterError(f"{machine.name} does not answer: {error}") from error
        if not answer["ok"]:
            raise ClusterError(f"{machine.name}: {answer['message']}")
        return answer

    def _run(self, node: str, argv: list[str]) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [*self.enter(node, "root"), *argv], check=False, capture_output=True, text=True, timeout=60,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip

    def _check(self, machine: Machine, argv: list[str]) -> None:
        done = self._run(machine.name, argv)
        if done.returncode != 0:
            raise ClusterError(f"{machine.name}: {' '.join(argv)}: code {done.returncode}\n{done.stdout}{done.stderr}")

    # -- faults

    def kill(self, name: str) -> None:
        """Cut a node's power, or kill -9 one service of a node."""
        machine, service = self._named(name)
        self.init.require()
        if service:
            self._ask(machine, verb="kill", service=service)
            wait.until(lambda: self._ask(machine, verb="services")["services"][service]["pid"] is None, 60, name)
            return
        self.control.signal(machine.name, signal.SIGKILL, tree=True)
        wait.until(lambda: self.control.list()[machine.name].status is not None, 60, f"{name} to end")

    def start(self, name: str) -> None:
        """Power on again, or start the service again; returns when all services of it are ready."""
        machine, service = self._named(name)
        self.init.require()
        if service:
            self._start_service(machine, service)
            return
        self._power_on(machine)
        self._come_up(machine)

    def _named(self, name: str) -> tuple[Machine, str | None]:
        node, _, service = SHORT.get(name, name).partition("/")
        if node not in self.machines:
            raise ClusterError(f"{name}: no such node; there are: {', '.join(self.machines)}")
        machine = self.machines[node]
        if service and service not in machine.services:
            raise ClusterError(f"{name}: no such service; on {node} there are: {', '.join(machine.services)}")
        return machine, service or None

    # -- looking

    def nodes(self) -> list[str]:
        """controller, then datanodes, then compute nodes."""
        return list(self.machines)

    def enter(self, node: str, user: str) -> list[str]:
        """The channel as a program of its own."""
        machine = self._checked(node, user)
        return [sys.executable, "-I", "-S", channel.__file__, str(self.init.require()), machine.address,
                str(self.state.path / "secret"), user, "--"]  # fmt: skip

    def attach(self, node: str, user: str, command: list[str]) -> int:
        """The channel in this process."""
        machine = self._checked(node, user)
        try:
            return channel.execute(self.init.require(), machine.address, self._secret, user, command)
        except OSError as error:
            raise ClusterError(f"{node} does not answer: {error}") from error

    def _checked(self, node: str, user: str) -> Machine:
        machine, _ = self._named(node)
        if user != "root" and user not in {u.name for u in USERS}:
            raise ClusterError(f"{user}: no such user; there are: root, {', '.join(u.name for u in USERS)}")
        return machine

    def status(self) -> list[tuple[str, str]]:
        """Each node, and each service as NODE/SERVICE."""
        self.init.require()
        running = self.control.list()
        rows = []
        for machine in self.machines.values():
            found = running.get(machine.name)
            if found is None or found.status is not None:
                rows.append((machine.name, "never started" if found is None else "off"))
                continue
            try:
                services = self._ask(machine, verb="services")["services"]
            except ClusterError:
                rows.append((machine.name, "silent"))
                continue
            rows.append((machine.name, "up"))
            rows += [(f"{machine.name}/{name}", _health(services.get(name))) for name in machine.services]
        return rows

    def logs(self, node: str | None) -> Mapping[str, str]:
        """A file for each node, its console: what its services print has their name in front."""
        if node is not None:
            self._named(node)
        names = ["init", *self.machines] if node is None else [node]
        paths = {name: self.state.log / f"{name}.log" for name in names}
        return {name: str(path) for name, path in paths.items() if path.exists()}


def _health(service: dict[str, Any] | None) -> str:
    if service is None:
        return "never started"
    if service["status"] is not None:
        return f"ended ({service['status']})"
    return "up" if service["ready"] else "silent"
