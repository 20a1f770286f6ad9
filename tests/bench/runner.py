"""Runs the benches, prints one table, writes build/bench.json."""

from __future__ import annotations

import json
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from bench import allocator, bbstat, cluster_times, hooks, sbb, staging, stripes
from bench.measure import Row
from cluster.errors import ClusterError
from ebb.errors import EnvironmentFault

RESULT = Path(__file__).resolve().parents[2] / "build" / "bench.json"

BENCHES: dict[str, Callable[[], list[Row]]] = {
    "allocator": allocator.rows,
    "bbstat": bbstat.rows,
    "hooks": hooks.rows,
    "sbb": sbb.rows,
    "staging": staging.rows,
    "stripes": stripes.rows,
}

CLUSTER_BENCHES = cluster_times.BENCHES
"""They share one cluster, which is up only as long as they run; root is needed."""


def main(argv: Sequence[str]) -> int:
    """Exit status: 0 if every budget was kept, 1 if one was not or something failed, 2 for a wrong call."""
    words = [word for word in argv if not word.startswith("-")]
    options = set(argv) - set(words)
    if options - {"--no-cluster"}:
        sys.stderr.write("usage: python -m tests.bench [--no-cluster] [WORD...]\n")
        return 2
    rows: list[Row] = []
    failed: list[str] = []
    for name in _chosen(BENCHES, words):
        _say(name)
        rows += BENCHES[name]()
    in_cluster = [] if "--no-cluster" in options else _chosen(CLUSTER_BENCHES, words)
    if in_cluster:
        with cluster_times.running_cluster() as cluster:
            for name in in_cluster:
                _say(name)
                try:
                    rows += CLUSTER_BENCHES[name](cluster)
                except (ClusterError, EnvironmentFault) as error:
                    failed.append(f"bench: {name} could not be measured: {error}\n")
    if not rows and not failed:
        known = ", ".join([*BENCHES, *CLUSTER_BENCHES])
        sys.stderr.write(f"no bench is called {' or '.join(words)}; there are: {known}\n")
        return 2
    print(table(rows))
    _write(rows)
    sys.stderr.write("".join(failed))
    return 0 if all(row.kept for row in rows) and not failed else 1


def _chosen(benches: dict[str, Callable[..., list[Row]]], words: Sequence[str]) -> list[str]:
    return [name for name in benches if not words or any(word in name for word in words)]


def _say(name: str) -> None:
    sys.stderr.write(f"bench: {name}\n")


def table(rows: Sequence[Row]) -> str:
    """One aligned line a row."""
    cells = [("WHAT", "MEASURED", "UNIT", "BUDGET", "", "AGAINST")]
    for row in rows:
        sign = "<=" if row.better == "less" else ">="
        budget = "" if row.budget is None else f"{sign} {row.budget:g}"
        verdict = "" if row.budget is None else "kept" if row.kept else "MISSED"
        cells.append((row.name, _number(row.measured), row.unit, budget, verdict, row.against))
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if index in (1, 3) else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in cells
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"


def _write(rows: Sequence[Row]) -> None:
    RESULT.parent.mkdir(exist_ok=True)
    result = {
        "machine": {"system": platform.platform(), "python": platform.python_version(), "cores": os.cpu_count()},
        "rows": [{**asdict(row), "kept": row.kept} for row in rows],
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
