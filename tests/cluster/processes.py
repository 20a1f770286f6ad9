"""The daemons of a cluster: how each is started, and how one sees that it answers."""

from dataclasses import dataclass, field

from cluster import kernel
from cluster.layout import ORCHESTRATOR_PORT, Layout, Node

PYTHON = "/opt/ebb/.venv/bin/python"
CONF = "/etc/ebb/ebb.conf"
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "PYTHONPATH": "/opt/ebb",
    "PYTHONUNBUFFERED": "1",
}


@dataclass(frozen=True)
class Daemon:
    """One process of the cluster.

    unix: a socket below /run that answers when it is up; tcp: an address that does.
    folders: made before it starts, with their owner.
    """

    name: str
    argv: list[str]
    user: str | None = None
    unix: str | None = None
    tcp: tuple[str, int] | None = None
    folders: list[tuple[str, str]] = field(default_factory=list)


def daemons(layout: Layout) -> list[Daemon]:
    """All daemons in the order of starting; they are stopped in the reverse order.

    The orchestrator is there before slurmctld, whose hooks ask it; the datanode daemons before the orchestrator.
    """
    ebb = [] if layout.plain else [*(_dnd(node) for node in layout.data_nodes()), _orchestrator()]
    return [_munged(), *ebb, _slurmctld(layout.preload), *(_slurmd(node) for node in layout.compute_nodes())]


def _munged() -> Daemon:
    argv = ["/usr/sbin/munged", "--foreground", "--log-file=/var/log/munge/munged.log"]
    folders = [("/run/munge", "munge"), ("/var/log/munge", "munge")]
    return Daemon("munged", argv, user="munge", unix="/run/munge/munge.socket.2", folders=folders)


def _dnd(node: Node) -> Daemon:
    argv = [PYTHON, "-P", "-m", "dnd.daemon", "--config", CONF,
            "--name", node.name, "--address", node.address, "--port", str(node.port),
            "--state-dir", f"/var/lib/ebb/{node.name}", "--run-dir", f"/run/ebb/{node.name}"]  # fmt: skip
    folders = [("/run/ebb", "root"), ("/var/lib/ebb/store", "root")]
    return Daemon(node.name, argv, tcp=(node.address, node.port), folders=folders)


def _orchestrator() -> Daemon:
    argv = [PYTHON, "-P", "-m", "orchestrator.server", "--config", CONF]
    return Daemon("orchestrator", argv, unix="/run/ebb/orchestrator.sock", tcp=("127.0.0.1", ORCHESTRATOR_PORT),
                  folders=[("/run/ebb", "root")])  # fmt: skip


def _slurmctld(preload: str) -> Daemon:
    folders = [("/var/spool/slurmctld", "slurm"), ("/run/slurm", "slurm")]
    argv = [*(["/usr/bin/env", f"LD_PRELOAD={preload}"] if preload else []), "/usr/sbin/slurmctld", "-D"]
    return Daemon("slurmctld", argv, tcp=("127.0.0.1", 6817), folders=folders)


def _slurmd(node: Node) -> Daemon:
    folders = [(f"/var/spool/slurmd/{node.name}", "root"), ("/run/slurm", "slurm")]
    return Daemon(node.name, ["/usr/sbin/slurmd", "-D", "-N", node.name], tcp=(node.address, node.port),
                  folders=folders)  # fmt: skip


def listens(daemon: Daemon, pid: int) -> bool:
    """Whether `daemon` listens where its clients look, in the network of process `pid`."""
    return (daemon.unix is None or kernel.answers_unix(f"/proc/{pid}/root{daemon.unix}")) and (
        daemon.tcp is None or kernel.listens_tcp(pid, *daemon.tcp)
    )
