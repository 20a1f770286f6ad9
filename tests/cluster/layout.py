"""What a cluster consists of (nodes, users, addresses) and where its files lie."""

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path

from cluster.errors import ClusterError

CHECKOUT = Path(__file__).resolve().parents[2]
ORCHESTRATOR_PORT = 8765
DND_PORT = 8766
SLURMD_PORT = 17000
DISK = Path("/var/tmp")  # noqa: S108 (not /tmp, which can be memory; state directories there have mode 0700)


@dataclass(frozen=True)
class User:
    """A user who exists inside the cluster only."""

    name: str
    uid: int


USERS = (User("alice", 2001), User("bob", 2002))


@dataclass(frozen=True)
class Node:
    """One node: its name in Slurm and in Ebb, its address, and the port of its daemon (dnd or slurmd)."""

    name: str
    address: str
    port: int


@dataclass(frozen=True)
class Layout:
    """How many nodes a cluster has; from that follow names and addresses.

    plain: Slurm alone, nothing of Ebb. preload: a library that slurmctld is started with, to make a fault.
    """

    computes: int = 2
    datanodes: int = 2
    plain: bool = False
    preload: str = ""

    def compute_nodes(self) -> list[Node]:
        """cn1, cn2, ... at 127.0.0.101 on; a port each, for a slurmd listens on every address."""
        return [Node(f"cn{n}", f"127.0.0.{100 + n}", SLURMD_PORT + n) for n in range(1, self.computes + 1)]

    def data_nodes(self) -> list[Node]:
        """dn1, dn2, ... at 127.0.0.11 on."""
        return [Node(f"dn{n}", f"127.0.0.{10 + n}", DND_PORT) for n in range(1, self.datanodes + 1)]


@dataclass
class State:
    """A cluster's state directory and the record in it.

    release: Slurm's, of a virtual cluster; roots: the layers of its nodes' root file systems, by role.
    The record is written before anything is made, so that whatever is found in the directory can be taken down.
    """

    path: Path
    kind: str = "local"
    layout: Layout = field(default_factory=Layout)
    release: str = "22.05"
    roots: dict[str, list[str]] = field(default_factory=dict)
    init_pid: int | None = None
    init_start: int | None = None
    pid_namespace: str | None = None

    @property
    def record(self) -> Path:
        """The file that makes a directory a cluster's state directory."""
        return self.path / "cluster.json"

    @property
    def log(self) -> Path:
        """A folder with one file for each process, `<process>.log`."""
        return self.path / "log"

    def save(self) -> None:
        """Write the record aside and move it into place."""
        aside = self.record.with_suffix(".new")
        fields = asdict(self)
        fields["path"] = str(self.path)
        aside.write_text(json.dumps(fields, indent=1) + "\n")
        aside.rename(self.record)


def default_state() -> Path:
    """$EBB_CLUSTER, or a directory for this user: where `ctl` without --state has its cluster."""
    return Path(os.environ.get("EBB_CLUSTER") or f"{DISK}/ebb-cluster-{os.getuid()}")


def load(path: Path) -> State | None:
    """The state in directory `path`; None if there is no such directory, or nothing in it.

    Raises ClusterError if something else lies there: it must never be taken for a cluster and removed.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    record = path / "cluster.json"
    try:
        fields = json.loads(record.read_text())
        layout = Layout(**fields.pop("layout"))
        fields["path"] = path
        return State(layout=layout, **fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ClusterError(
            f"{path} exists but is no cluster's state directory ({error}); name another with --state"
        ) from error
