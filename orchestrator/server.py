"""`ebb-orchestrator`: puts the parts together, serves until SIGTERM, reads datanodes.conf again on SIGHUP."""

from __future__ import annotations

import logging
import os
import pwd
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import click

from ebb import config, datanodes, log, ticket
from ebb.config import Config
from ebb.errors import EbbError, UserError
from ebb.http_server import Page, Request, Server
from orchestrator.buffers import Buffers
from orchestrator.datanodes import Datanodes
from orchestrator.engine import Engine
from orchestrator.hooks import Hook, HookServer
from orchestrator.jobfiles import JobFiles
from orchestrator.metrics import Metrics
from orchestrator.owner import OwnerVerbs
from orchestrator.placement import Placement
from orchestrator.publish import Publisher
from orchestrator.reconcile import Reconciler
from orchestrator.records import Job, JobStep, Step
from orchestrator.slurm import Slurm
from orchestrator.store import Store
from orchestrator.verbs import JobVerbs
from orchestrator.workers import Workers

logger = logging.getLogger(__name__)


class Orchestrator:
    """All parts of one orchestrator. Made by `main`; tests make one with a Config of their own.

    Raises UserError for a bad configuration, EnvironmentFault for a database or socket that cannot be had.
    """

    def __init__(self, settings: Config, slurm: Slurm | None = None) -> None:
        site = datanodes.load(settings.datanodes_conf)
        slurm_uid = _uid_of(settings.slurm_user)
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        # The database tells every user's paths; volumes of a datanode on the same host may lie here too.
        settings.state_dir.chmod(0o700)
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        self._settings = settings
        self._store = Store(settings.database_url)
        self._engine = Engine(self._store)
        self._datanodes = Datanodes(site.datanodes, settings.munge_socket, site.healthchecker)
        with self._engine.look() as tx:
            self._placement = Placement(site, tx)
        self._engine.follow(self._placement)
        buffers = Buffers(self._placement)
        self._workers = Workers(self._engine, self._datanodes, buffers, self._placement)
        self._files = JobFiles(
            settings.run_dir / "jobs", ticket.load_site_key(settings.site_key_path), settings.ticket_seconds, slurm_uid
        )
        slurm = slurm or Slurm()
        verbs = JobVerbs(self._engine, buffers, self._placement, self._datanodes, slurm, self._files)
        self._reconciler = Reconciler(
            self._engine, buffers, self._placement, self._datanodes, slurm, verbs, settings.reconcile_seconds
        )
        self._publisher = Publisher(self._engine, self._placement, settings)
        owner = OwnerVerbs(self._engine, buffers, self._datanodes, frozenset(settings.operators))
        self._buffers, self._verbs = buffers, verbs
        self._hooks = HookServer(
            settings.socket_path, _hooks(verbs, owner, self._reconciler), frozenset({0, slurm_uid})
        )
        metrics = Metrics(self._engine, self._placement, self._reconciler, self._workers.moving)
        self._http = Server(
            settings.orchestrator_address,
            settings.orchestrator_port,
            {"ticket": self._ticket},
            pages={"/metrics": metrics.page, "/v1/buffers": self._buffers_page},
            munge_socket=settings.munge_socket,
        )

    def start(self) -> None:
        """Go on where the last run ended, then serve in threads."""
        self._publisher.start()
        with self._engine.change() as tx:
            for buffer in tx.buffers_in(*(step for step in Step if step.working)):
                logger.info("buffer %s %s: %s goes on", buffer.sid, buffer.name, buffer.step)
                self._workers.start(buffer.id)
            self._buffers.drain_all(tx)
            self._buffers.place(tx)
        self._reconciler.start()
        for name, serve in (("hooks", self._hooks.serve_forever), ("http", self._http.serve_forever)):
            threading.Thread(target=serve, name=name, daemon=True).start()
        logger.info(
            "orchestrator serves %s and %s:%d",
            self._settings.socket_path,
            self._settings.orchestrator_address,
            self._settings.orchestrator_port,
        )

    def stop(self) -> None:
        """Stop serving. What is under way goes on with the next start."""
        self._hooks.shutdown()
        self._hooks.server_close()
        self._http.close()
        self._reconciler.stop()
        self._workers.stop()
        self._publisher.stop()
        self._store.close()

    def reload(self) -> None:
        """Read datanodes.conf again; a bad file changes nothing and is logged with file, line and reason."""
        try:
            site = datanodes.load(self._settings.datanodes_conf)
            with self._engine.change() as tx:
                self._placement.replace(site, tx)
                self._datanodes.replace(site.datanodes, site.healthchecker)
                self._buffers.place(tx)
        except EbbError as error:
            logger.error("datanodes.conf is not taken, the old one stays in force: %s", error.text)
            return
        self._reconciler.kick()
        logger.info("datanodes.conf read again: %d datanodes", len(site.datanodes))

    def _ticket(self, request: Request) -> dict[str, Any]:
        """A job's ticket, for a node whose SPANK plugin found none in the job's environment."""
        job_id = request.body.get("job_id")
        if not isinstance(job_id, int):
            raise UserError("`ticket` needs job_id, a whole number")
        with self._engine.look() as tx:
            job: Job | None = tx.job(job_id)
            if job is None or job.step is JobStep.TORN_DOWN:
                return {"ticket": None}
            used = [
                (tx.buffer(link.buffer_id), tx.allocations_of(link.buffer_id))
                for link in tx.links_of_job(job_id)
                if link.uses
            ]
        return {"ticket": self._files.ticket(job, used) if used else None}

    def _buffers_page(self) -> Page:
        return Page("application/json", self._publisher.as_json())


def _hooks(verbs: JobVerbs, owner: OwnerVerbs, reconciler: Reconciler) -> dict[str, Hook]:
    def job_teardown(call: Any) -> Any:
        reply = verbs.job_teardown(call)
        # Slurm is asked soon whether what the job had begun is to be withdrawn.
        reconciler.kick()
        return reply

    return {
        "setup": Hook(verbs.setup),
        "data_in": Hook(verbs.data_in),
        "pre_run": Hook(verbs.pre_run),
        "post_run": Hook(verbs.post_run),
        "data_out": Hook(verbs.data_out),
        "job_teardown": Hook(job_teardown),
        "list_buffers": Hook(owner.list_buffers, open=True),
        "destroy_persistent": Hook(owner.destroy_persistent, open=True),
        "release": Hook(owner.release, open=True),
    }


def _uid_of(user: str) -> int:
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise UserError(f"SlurmUser={user}: no such user here; set SlurmUser in ebb.conf to slurm.conf's") from None


@click.command()
@click.option("--config", "path", type=click.Path(path_type=Path), default=config.DEFAULT_PATH, show_default=True)
def main(path: Path) -> None:
    """Serve Slurm's burst-buffer hooks and drive the datanodes. SIGHUP: read datanodes.conf again."""
    log.setup("ebb-orchestrator")
    try:
        orchestrator = Orchestrator(config.load(path))
    except (EbbError, OSError) as error:
        logger.critical("not started: %s", error)
        sys.exit(1)
    ended = threading.Event()
    signal.signal(signal.SIGHUP, lambda *_: threading.Thread(target=orchestrator.reload, daemon=True).start())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    orchestrator.start()
    ended.wait()
    orchestrator.stop()
    logger.info("orchestrator ended")
    # Workers may be inside a call to a datanode; what they do goes on at the next start.
    os._exit(0)


if __name__ == "__main__":
    main()
