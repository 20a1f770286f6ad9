"""What every kind of cluster can do; `ctl` and the tests know no more than this."""

from collections.abc import Callable, Mapping
from typing import Protocol

from cluster.errors import ClusterError
from cluster.layout import State

Report = Callable[[str], None]


class Kind(Protocol):
    """A cluster of one kind, in one state directory.

    Every method raises ClusterError if what was asked could not be done.
    """

    pause: float
    """Seconds between two looks of somebody who waits: each costs the cluster a command."""

    def up(self, report: Report) -> None:
        """Make and start everything; returns when every node is idle and every daemon answers."""

    def down(self, report: Report) -> None:
        """Stop and remove everything, however far `up` came. Raises ClusterError naming what is left."""

    def enter(self, node: str, user: str) -> list[str]:
        """The words in front of a command that run it on `node` as `user`, in the user's home and environment."""

    def attach(self, node: str, user: str, command: list[str]) -> int:
        """Run `command` so with this process's terminal, signals and input; its exit code. Called last in a process."""

    def nodes(self) -> list[str]:
        """Names of the nodes."""

    def kill(self, name: str) -> None:
        """End a process (local kind) or a node (virtual kind) as a power cut would: at once, without a word to it."""

    def start(self, name: str) -> None:
        """Start again what was killed; returns when it answers."""

    def status(self) -> list[tuple[str, str]]:
        """Name and health of each process or node, in the order of starting; `up` means that it answers."""

    def logs(self, node: str | None) -> Mapping[str, str]:
        """Paths of log files here, by process; of one node or of all."""


def of(state: State, *, tied: bool = False) -> Kind:
    """The cluster in `state`. tied: it must not outlive the calling process, not even its kill -9.

    Raises ClusterError for a kind that there is not.
    """
    from cluster.local import Local  # the kinds know this module
    from cluster.virtual.kind import Virtual

    if state.kind == "local":
        return Local(state, tied=tied)
    if state.kind == "virtual":
        return Virtual(state, tied=tied)
    raise ClusterError(f"--kind {state.kind}: no such kind; there are: local, virtual")
