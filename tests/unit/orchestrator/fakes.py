"""Datanodes and a Slurm that fail on demand: the faults that a real one cannot be made to have at a chosen moment."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from dataclasses import replace

from ebb.errors import EbbError, EnvironmentFault, NotFound
from ebb.model import Mount, Phase, Progress, ServiceSpec, ServiceType, Status
from ebb.sbb import Peer
from orchestrator.datanodes import Datanodes, Listing
from orchestrator.slurm import Slurm, SlurmJobs


class FakeDatanodes(Datanodes):
    """Answers as dnd does. `hold` keeps work unfinished, `refuse` makes it fail, `down` makes a node not answer.

    `sick`: what a health check finds when a job is to be let in, by sid.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self.names = tuple(names)
        self.services: dict[tuple[str, str], Status] = {}
        self.specs: dict[str, ServiceSpec] = {}
        self.given: dict[tuple[str, str], ServiceSpec] = {}
        self.introduced: dict[tuple[str, str], tuple[str, ...]] = {}
        self.down: set[str] = set()
        self.hold: set[Phase] = set()
        self.hold_on: dict[str, Phase] = {}
        self.refuse: dict[Phase, str] = {}
        self.sick: dict[str, str] = {}
        self.saved: list[str] = []
        self.gone: set[tuple[str, str]] = set()  # dnd remembers what it ended
        self.discarded: list[str] = []
        self._change = threading.Condition()

    def replace(self, datanodes: object, healthchecker: object = None) -> None:
        pass

    def _reach(self, datanode: str) -> None:
        if datanode in self.down:
            raise EnvironmentFault(f"{datanode} did not answer")

    def create_persistent(self, datanode: str, spec: ServiceSpec) -> Status:
        self._reach(datanode)
        with self._change:
            key = (datanode, spec.sid)
            if key not in self.services:
                self.gone.discard(key)
                self.specs[spec.sid] = self.given[key] = spec
                self.services[key] = Status(spec.sid, spec.type, spec.name, spec.uid, Phase.CREATING, 1)
            return self._progress(key)

    def destroy_persistent(self, datanode: str, sid: str, discard: bool) -> Status:
        self._reach(datanode)
        with self._change:
            key = (datanode, sid)
            status = self.services.get(key)
            if status is None:
                if not discard and key not in self.gone:
                    raise NotFound(f"no service {sid} on this datanode")
                return _ended(sid)
            spec = self.specs[sid]
            saves = spec.data_dst is not None or spec.type is ServiceType.SBB
            save = status.phase in (Phase.READY, Phase.SAVE_FAILED) and saves and not discard
            if status.phase not in (Phase.SAVING, Phase.SAVED, Phase.RELEASING) or discard:
                phase = Phase.SAVING if save else Phase.RELEASING
                if not save:
                    self.discarded.append(sid)
                self.services[key] = replace(status, phase=phase, error=None, mounts=(), revision=status.revision + 1)
            return self._progress(key)

    def status(self, datanode: str, sid: str, revision: int, wait: int) -> Status:
        assert revision >= 0, "dnd refuses it"
        self._reach(datanode)
        with self._change:
            key = (datanode, sid)
            if key in self.gone:
                return _ended(sid)
            if key not in self.services:
                raise NotFound(f"no service {sid} on this datanode")
            status = self._progress(key)
            if status.revision == revision:
                self._change.wait(0.05)
                status = _ended(sid) if key in self.gone else self._progress(key)
            return status

    def pre_run(self, datanode: str, sid: str, job_id: int, clients: Iterable[str]) -> Status:
        return self._jobs(datanode, sid, {str(job_id): tuple(clients)}, None)

    def post_run(self, datanode: str, sid: str, job_id: int) -> Status:
        return self._jobs(datanode, sid, {}, str(job_id))

    def _jobs(self, datanode: str, sid: str, add: dict[str, tuple[str, ...]], drop: str | None) -> Status:
        self._reach(datanode)
        with self._change:
            status = self.services.get((datanode, sid))
            if status is None:
                raise NotFound(f"no service {sid} on this datanode")
            if add:
                status = replace(status, health=self.sick.get(sid))
                add = {} if status.health else add
            jobs = {job: nodes for job, nodes in {**status.jobs, **add}.items() if job != drop}
            self.services[(datanode, sid)] = replace(status, jobs=jobs)
            return self.services[(datanode, sid)]

    def report(self, datanode: str, sid: str, phase: Phase, error: str | None) -> None:
        """From now on the datanode says this of a service."""
        with self._change:
            status = self.services[(datanode, sid)]
            self.services[(datanode, sid)] = replace(status, phase=phase, error=error, revision=status.revision + 1)

    def move(self, datanode: str, sid: str, progress: Progress) -> None:
        """From now on the datanode says that so much was moved."""
        with self._change:
            status = self.services[(datanode, sid)]
            self.services[(datanode, sid)] = replace(status, progress=progress, revision=status.revision + 1)
            self._change.notify_all()

    def peers(self, datanode: str, sid: str, servers: Iterable[Peer]) -> Status:
        self._reach(datanode)
        self.introduced[(datanode, sid)] = tuple(map(str, servers))
        return self.services[(datanode, sid)]

    def list_all(self) -> dict[str, Listing | EbbError]:
        answer: dict[str, Listing | EbbError] = {}
        for name in self.names:
            if name in self.down:
                answer[name] = EnvironmentFault(f"{name} did not answer")
            else:
                answer[name] = Listing(tuple(s for (node, _), s in list(self.services.items()) if node == name), ())
        return answer

    def _progress(self, key: tuple[str, str]) -> Status:
        """One step on, unless held."""
        status = self.services[key]
        if status.phase.settled or status.phase in self.hold or self.hold_on.get(key[0]) is status.phase:
            return status
        if status.phase in self.refuse:
            failed = {
                Phase.CREATING: Phase.FAILED,
                Phase.SAVING: Phase.SAVE_FAILED,
                Phase.RELEASING: Phase.RELEASE_FAILED,
            }[status.phase]
            after = replace(status, phase=failed, error=self.refuse[status.phase], revision=status.revision + 1)
        elif status.phase is Phase.CREATING:
            mount = Mount("127.0.0.11", 20490, "/ganesha_1", "/run/ebb/dn1/ganesha/1/data", self.specs[status.sid].path)
            after = replace(status, phase=Phase.READY, mounts=(mount,), revision=status.revision + 1)
        elif status.phase is Phase.SAVING:
            self.saved.append(status.sid)
            saved = Phase.SAVED if status.type is ServiceType.SBB else Phase.RELEASING
            after = replace(status, phase=saved, revision=status.revision + 1)
        else:
            after = replace(status, phase=Phase.GONE, revision=status.revision + 1)
        if after.phase is Phase.GONE:
            del self.services[key]
            self.gone.add(key)
        else:
            self.services[key] = after
        self._change.notify_all()
        return after


def _ended(sid: str) -> Status:
    return Status(sid, ServiceType.GBF, "gone", 0, Phase.GONE, 1)


class FakeSlurm(Slurm):
    """Knows the jobs it is told; every node is 127.0.0.101."""

    def __init__(self) -> None:
        self.states: dict[int, str] = {}
        self.reasons: dict[int, str] = {}
        self.comments: dict[int, str] = {}

    def jobs(self) -> SlurmJobs:
        return SlurmJobs(dict(self.states), dict(self.reasons))

    def comment(self, job_id: int, text: str) -> None:
        self.comments[job_id] = text

    def nodes_of(self, job_id: int) -> str:
        return "cn1"

    def addresses(self, nodes: str) -> tuple[str, ...]:
        return ("127.0.0.101",)
