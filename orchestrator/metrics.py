"""/metrics: Prometheus text of what the orchestrator knows, read from the store at each scrape. No user names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ebb.http_server import Page
from ebb.model import BufferState
from orchestrator.engine import Engine
from orchestrator.moving import Moving
from orchestrator.placement import Placement
from orchestrator.reconcile import Reconciler
from orchestrator.records import JobStep, Step

_LIVE = tuple(step for step in Step if step is not Step.GONE)


class _State(Collector):
    def __init__(self, engine: Engine, placement: Placement, reconciler: Reconciler, moving: Moving) -> None:
        self._engine, self._placement, self._reconciler, self._moving = engine, placement, reconciler, moving

    def collect(self) -> Iterator[Metric]:
        with self._engine.look() as tx:
            states = Counter(buffer.state for buffer in tx.buffers_in(*_LIVE))
            jobs = Counter(job.step for job in tx.jobs_in(JobStep.SET_UP, JobStep.RUNNING, JobStep.ENDED))
            total, used = self._placement.totals()
        yield _family("ebb_buffers", "Buffers by state", "state", {s.value: states[s] for s in BufferState})
        yield _family(
            "ebb_jobs",
            "Jobs that have buffers, by what Slurm last told of them",
            "step",
            {s.value: jobs[s] for s in (JobStep.SET_UP, JobStep.RUNNING, JobStep.ENDED)},
        )
        yield _family(
            "ebb_storage_bytes", "Storage over all datanodes", "kind", {"total": total.storage, "used": used.storage}
        )
        yield _family(
            "ebb_memory_bytes", "Memory over all datanodes", "kind", {"total": total.memory, "used": used.memory}
        )
        yield _family(
            "ebb_datanode_up",
            "Whether the datanode answered last",
            "datanode",
            {name: int(up) for name, up in sorted(self._reconciler.datanodes_up.items())},
        )
        unknown = GaugeMetricFamily("ebb_unknown_services", "Services on datanodes that the orchestrator does not know")
        unknown.add_metric([], self._reconciler.unknown_services)
        yield unknown
        yield from self._staging()

    def _staging(self) -> Iterator[Metric]:
        """How far data is that moves now. A sid is the number of a job, no name."""
        labels = ["sid", "datanode", "direction"]
        done = GaugeMetricFamily("ebb_staging_done_bytes", "Bytes that have moved of a stage-in or -out", labels=labels)
        total = GaugeMetricFamily("ebb_staging_total_bytes", "Bytes that are going to move in it", labels=labels)
        rate = GaugeMetricFamily("ebb_staging_bytes_per_second", "Bytes it moves a second of late", labels=labels)
        for move, progress in self._moving.now():
            values = [move.sid, move.datanode, move.direction]
            done.add_metric(values, progress.done)
            total.add_metric(values, progress.total)
            rate.add_metric(values, progress.rate)
        yield from (done, total, rate)


def _family(name: str, text: str, label: str, values: dict[str, int]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for key, value in values.items():
        family.add_metric([key], value)
    return family


class Metrics:
    """Made once by the server; `page` answers GET /metrics."""

    def __init__(self, engine: Engine, placement: Placement, reconciler: Reconciler, moving: Moving) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_State(engine, placement, reconciler, moving))

    def page(self) -> Page:
        """What Prometheus reads."""
        return Page("text/plain; version=0.0.4; charset=utf-8", generate_latest(self._registry))
