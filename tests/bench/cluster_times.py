"""Times inside a running cluster: from create to staged-in, and srun with and without the SPANK plugin."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bench.measure import Pair, Row, compare, percentile, seconds
from cluster import kinds
from cluster.harness import Cluster
from cluster.layout import Layout, State
from ebb.errors import EnvironmentFault

CREATES = 50
PAIRS = 60
PLUGSTACK = "/etc/slurm/plugstack.conf"


@contextmanager
def running_cluster() -> Iterator[Cluster]:
    """A whole cluster of two compute nodes and two datanodes; gone afterwards, however that comes."""
    with tempfile.TemporaryDirectory(prefix="ebb-bench-") as folder:
        state = State(Path(folder) / "state", "local", Layout(computes=2, datanodes=2))
        kind = kinds.of(state, tied=True)
        try:
            kind.up(print)
            yield Cluster(kind, state)
        finally:
            if state.record.exists():
                kind.down(print)


def creates(cluster: Cluster) -> list[Row]:
    """From the call of the hooks to staged-in, for a 1 GiB GBF, one after the other.

    The hooks' own verbs are called on the orchestrator's socket, as Slurm's hooks do, so that Slurm's scheduling
    cycles do not blur the figure.
    """
    cluster.run("alice", ["mkdir", "-p", "mnt"])
    script = Path(__file__).with_name("create_times.py").read_text()
    uid = int(cluster.run("alice", ["id", "-u"]).stdout)
    done = cluster.exec(
        "controller", ["/usr/bin/python3", "-", str(uid), str(CREATES)], stdin=script, timeout=CREATES * 20
    )
    times = json.loads(done.stdout)
    against = f"{CREATES} creates, mkfs and Ganesha native"
    return [
        Row("create_persistent of 1 GiB to staged-in, p50", percentile(times["create"], 50), "s", 1.0, against),
        Row("create_persistent of 1 GiB to staged-in, p99", percentile(times["create"], 99), "s", None, against),
        Row("destroy_persistent of it to gone, p50", percentile(times["destroy"], 50), "s", None, "nothing to save"),
    ]


def spank(cluster: Cluster) -> list[Row]:
    """`srun true` of a job without buffers, with the plugin in plugstack.conf and without, in turns."""
    with_plugin = cluster.exec("controller", ["cat", PLUGSTACK]).stdout
    plugin = with_plugin.split()[1]
    if cluster.exec("controller", ["test", "-e", plugin], check=False).returncode:
        raise EnvironmentFault(f"{plugin} is not built, so there is nothing to compare; run make setup")

    def srun(plugstack: str) -> Callable[[], float]:
        def run() -> float:
            cluster.exec("controller", ["tee", PLUGSTACK], stdin=plugstack)
            return seconds(lambda: cluster.run("alice", ["srun", "-N1", "-n1", "true"]))

        return run

    try:
        pair = compare(srun(""), srun(with_plugin), PAIRS)
        noise = compare(srun(""), srun(""), PAIRS)
    finally:
        cluster.exec("controller", ["tee", PLUGSTACK], stdin=with_plugin)
    budget = round(1.02 + 2 * max(pair.error, noise.error), 3)
    return [
        Row("srun without buffer, with the plugin", pair.ratio, "x without", budget, _told(pair)),
        Row("srun without the plugin, twice", noise.ratio, "x itself", None, "noise: " + _told(noise)),
    ]


def _told(pair: Pair) -> str:
    times = f"{pair.median_a * 1000:.0f} ms and {pair.median_b * 1000:.0f} ms"
    return f"{times}; quartiles {pair.low:.3f} .. {pair.high:.3f} of {pair.rounds} pairs"


BENCHES: dict[str, Callable[[Cluster], list[Row]]] = {"create-times": creates, "spank": spank}
