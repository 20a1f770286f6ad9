"""An orchestrator's inside with faulty datanodes: everything real but what is beyond the wires."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ebb.datanodes import Site
from ebb.model import Backend, Datanode, Flavor, VolumeGroup
from ebb.ticket import SiteKey
from orchestrator.buffers import Buffers
from orchestrator.engine import Engine
from orchestrator.hooks import Call
from orchestrator.jobfiles import JobFiles
from orchestrator.owner import OwnerVerbs
from orchestrator.placement import Placement
from orchestrator.reconcile import Reconciler
from orchestrator.records import Buffer, Step
from orchestrator.store import Store
from orchestrator.verbs import JobVerbs
from orchestrator.workers import Workers
from unit.orchestrator.fakes import FakeDatanodes, FakeSlurm

GIB = 1024**3
KEY = SiteKey(b"k" * 32)
UID = os.getuid()


def site(nodes: int = 2, storage: int = 20 * GIB) -> Site:
    return Site(
        tuple(
            Datanode(f"dn{i}", f"127.0.0.1{i}", 8766, 100 * GIB, 16, (VolumeGroup("vg0", storage, Backend.FILE),))
            for i in range(1, nodes + 1)
        ),
        (Flavor("small", 5 * GIB, 2), Flavor("medium", 10 * GIB, 4, GIB)),
    )


class Inside:
    """The parts of one orchestrator over `folder`; `restart` is what a kill -9 and a new start leave."""

    def __init__(self, folder: Path, nodes: int = 2) -> None:
        self.folder, self.site = folder, site(nodes)
        self.datanodes = FakeDatanodes(node.name for node in self.site.datanodes)
        self.slurm = FakeSlurm()
        self._build()

    def _build(self) -> None:
        self.store = Store(f"sqlite:///{self.folder}/ebb.db")
        self.engine = Engine(self.store)
        with self.engine.look() as tx:
            self.placement = Placement(self.site, tx)
        self.engine.follow(self.placement)
        self.buffers = Buffers(self.placement)
        self.workers = Workers(self.engine, self.datanodes, self.buffers, self.placement)
        self.files = JobFiles(self.folder / "jobs", KEY, 3600, UID)
        self.verbs = JobVerbs(self.engine, self.buffers, self.placement, self.datanodes, self.slurm, self.files)
        self.owner = OwnerVerbs(self.engine, self.buffers, self.datanodes, frozenset({"root"}))
        self.reconciler = Reconciler(
            self.engine, self.buffers, self.placement, self.datanodes, self.slurm, self.verbs, 9
        )

    def restart(self) -> None:
        self.workers.stop()
        self.workers._pool.shutdown(wait=True)  # of one that was killed no thread is left
        self._build()
        with self.engine.change() as tx:
            for buffer in tx.buffers_in(*(step for step in Step if step.working)):
                self.workers.start(buffer.id)
            self.buffers.drain_all(tx)
            self.buffers.place(tx)

    def reconcile(self) -> None:
        self.reconciler._with_slurm()
        self.reconciler._shut_out()
        self.reconciler._with_datanodes()

    # What the hooks send

    def call(self, verb: str, job_id: int, **fields: Any) -> Any:
        return getattr(self.verbs, verb)(Call(verb, 0, {"job_id": job_id, **fields}))

    def setup(self, job_id: int, *directives: dict[str, Any], uid: int = UID) -> Any:
        self.slurm.states.setdefault(job_id, "PENDING")
        return self.call("setup", job_id, uid=uid, gid=uid, directives=list(directives))

    def data_in(self, job_id: int, wait: float = 10) -> Any:
        return self.call("data_in", job_id, wait=wait)

    def run(self, job_id: int) -> None:
        self.slurm.states[job_id] = "RUNNING"
        self.call("pre_run", job_id, nodes="cn1")

    def end(self, job_id: int, wait: float = 10) -> Any:
        self.slurm.states[job_id] = "COMPLETED"
        self.call("post_run", job_id)
        reply = self.call("data_out", job_id, wait=wait)
        self.call("job_teardown", job_id, hurry=False)
        return reply

    def whole_job(self, job_id: int, *directives: dict[str, Any]) -> None:
        self.setup(job_id, *directives)
        assert self.data_in(job_id) == {"state": "ready"}
        self.run(job_id)
        assert self.end(job_id) == {"state": "ready"}

    # What people see

    def shown(self, name: str) -> Buffer | None:
        """The youngest buffer of that name, as bbstat would show it."""
        with self.engine.look() as tx:
            return next((b for b in reversed(tx.shown_buffers(time.time() - 300)) if b.name == name), None)

    def wait(self, condition: Callable[[], Any], seconds: float = 10) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            if time.monotonic() > deadline:
                with self.engine.look() as tx:
                    raise AssertionError(f"not within {seconds} s: {tx.shown_buffers(0)}")
            time.sleep(0.01)

    def wait_reason(self, name: str, text: str) -> None:
        self.wait(lambda: (shown := self.shown(name)) is not None and text in shown.reason)

    def used(self) -> int:
        """Bytes of storage taken, as bbstat's totals say."""
        return self.placement.totals()[1].storage


def create(name: str, size: int = GIB, **more: str) -> dict[str, Any]:
    args = {"Name": name, "StorageSize": str(size), "Path": f"/home/alice/{name}", "FSType": "ganesha", **more}
    return {"line": 2, "type": "GBF", "verb": "create_persistent", "args": args}


def create_sbb(name: str, flavor: str = "small", **more: str) -> dict[str, Any]:
    args = {"Name": name, "Flavor": flavor, "Targets": "/scratch/a:/scratch/b", "Datanodes": "2", **more}
    return {"line": 2, "type": "SBB", "verb": "create_persistent", "args": args}


def use(name: str) -> dict[str, Any]:
    return {"line": 3, "type": "GBF", "verb": "use_persistent", "args": {"Name": name}}


def destroy(name: str, **more: str) -> dict[str, Any]:
    return {"line": 4, "type": "GBF", "verb": "destroy_persistent", "args": {"Name": name, **more}}


@pytest.fixture()
def inside(tmp_path: Path) -> Iterator[Inside]:
    made = Inside(tmp_path)
    yield made
    made.workers.stop()
    made.store.close()
