"""`ctl`: a private cluster from the command line."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import click

from cluster import kinds
from cluster.errors import ClusterError
from cluster.layout import Layout, State, default_state, load
from cluster.virtual import debs, roots


class _Reporting(click.Group):
    """The one place that turns a ClusterError into a message and an exit code."""

    def invoke(self, ctx: click.Context) -> object:
        try:
            return super().invoke(ctx)
        except ClusterError as error:
            click.echo(f"ctl: {error}", err=True)
            sys.exit(1)


def _state_option(command: Callable[..., None]) -> Callable[..., None]:
    return click.option(
        "--state", "path", type=click.Path(path_type=Path), default=default_state,
        help="Directory of the cluster, one for each (default: $EBB_CLUSTER or one for this user).",
    )(command)  # fmt: skip


def _existing(path: Path) -> kinds.Kind:
    state = load(path.resolve())
    if state is None:
        raise ClusterError(f"no cluster is up in {path}; make one with: ctl up")
    return kinds.of(state)


def _report(line: str) -> None:
    click.echo(f"ctl: {line}", err=True)


@click.group(cls=_Reporting)
def main() -> None:
    """Have a private Slurm and Ebb cluster on this machine."""
    if os.geteuid() != 0:
        raise ClusterError("a cluster needs root (namespaces, loop devices, users); try sudo")


@main.command()
@click.option(
    "--kind",
    default="local",
    show_default=True,
    type=click.Choice(["local", "virtual"]),
    help="local: all nodes share this machine; virtual: each is a kernel of its own.",
)
@click.option("--computes", type=click.IntRange(1, 100), default=2, show_default=True)
@click.option("--datanodes", type=click.IntRange(1, 80), default=2, show_default=True)
@click.option(
    "--slurm",
    "release",
    type=click.Choice(sorted(roots.SUITES)),
    default="22.05",
    show_default=True,
    help="Slurm's release, of a virtual cluster.",
)
@click.option("--keep", is_flag=True, help="If it does not come up, leave what there is to look at; `down` ends it.")
@click.option("--plain", is_flag=True, help="Slurm alone, nothing of Ebb.")
@_state_option
def up(kind: str, computes: int, datanodes: int, release: str, keep: bool, plain: bool, path: Path) -> None:
    """Start a cluster; returns when its nodes are idle."""
    path = path.resolve()
    clear_away(path, _report)
    cluster = kinds.of(State(path, kind, Layout(computes, datanodes, plain), release))
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        cluster.up(_report)
    except BaseException:
        if keep:
            raise
        # Whatever ended it (an error, Ctrl-C): nothing may stay half up.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        _report("could not come up; taking everything down")
        cluster.down(lambda _: None)
        raise


@main.command()
@click.argument("releases", nargs=-1, type=click.Choice(sorted(roots.SUITES)), metavar="[RELEASE]...")
def build(releases: tuple[str, ...]) -> None:
    """Make the packages and root file systems of virtual clusters, for some or all of Slurm's releases.

    `up` does it too; what is there already takes a moment.
    """
    for release in releases or roots.SUITES:
        roots.build(release, debs.build(release, _report), _report)


def clear_away(path: Path, report: kinds.Report) -> None:
    """Take down what a crash left in `path`. Raises ClusterError if a living cluster is there."""
    state = load(path)
    if state is None:
        return
    old = kinds.of(state)
    try:
        rows = old.status()
    except ClusterError:
        report(f"clearing away what is left of a cluster in {path}")
        old.down(lambda _: None)
        return
    raise ClusterError(f"a cluster is up in {path} already ({len(rows)} processes); end it with: ctl down")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)


@main.command()
@_state_option
def down(path: Path) -> None:
    """Stop the cluster and remove every trace of it."""
    state = load(path.resolve())
    if state is None:
        _report(f"no cluster in {path}")
        return
    kinds.of(state).down(_report)


@main.command()
@click.option("--user", required=True, help="alice or bob (or root).")
@_state_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(user: str, path: Path, command: tuple[str, ...]) -> None:
    """Run a command on the login node as a user, in the user's home."""
    sys.exit(_existing(path).attach("controller", user, list(command)))


@main.command(name="exec")
@click.argument("node")
@_state_option
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def execute(node: str, path: Path, command: tuple[str, ...]) -> None:
    """Run a command as root on a node."""
    sys.exit(_existing(path).attach(node, "root", list(command)))


@main.command()
@_state_option
@click.argument("process")
def kill(process: str, path: Path) -> None:
    """kill -9 a process: slurmctld, orchestrator, munged, dn1 (its dnd), cn1 (its slurmd)."""
    _existing(path).kill(process)


@main.command()
@_state_option
@click.argument("process")
def start(process: str, path: Path) -> None:
    """Start a killed process again; returns when it answers."""
    _existing(path).start(process)


@main.command()
@_state_option
def status(path: Path) -> None:
    """Show every process; non-zero if one does not answer."""
    rows = _existing(path).status()
    for name, health in rows:
        click.echo(f"{name:14} {health}")
    sys.exit(0 if all(health == "up" for _, health in rows) else 1)


@main.command()
@_state_option
@click.argument("node", required=False)
def logs(node: str | None, path: Path) -> None:
    """Print the logs of a node, or of all."""
    for name, log in _existing(path).logs(node).items():
        for line in Path(log).read_text(errors="replace").splitlines():
            click.echo(f"{name}: {line}")
