"""`ebb-dnd`: the daemon of one datanode. Several, with names and addresses of their own, can run on one host."""

from __future__ import annotations

import logging
import os
import pwd
import signal
import threading
from importlib import metadata
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import click

from dnd.dasi.service import Dasi
from dnd.ganesha.server import port_is_free
from dnd.gbf import Gbf, Node
from dnd.health import Health
from dnd.hestia.ledger import Ledger
from dnd.hestia.stores import open_store
from dnd.journal import Journal, Record
from dnd.kind import Kind
from dnd.lifecycle import Lifecycle
from dnd.ports import NoteNumbers, Numbers
from dnd.privileges import respect_quotas
from dnd.sbb.server import Settings as SbbSettings
from dnd.sbb.service import Sbb
from dnd.service import Service
from dnd.strays import Strays
from dnd.tools.lvm import LvmVolumes
from dnd.tools.volumes import FileVolumes, VolumeBackend
from dnd.verbs import DndVerbs
from ebb import config, log
from ebb.dataset import dataset_key
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.http_server import Server
from ebb.model import Backend, ServiceType
from ebb.run import run
from ebb.sbb import buffer_key
from ebb.ticket import load_site_key

logger = logging.getLogger(__name__)

_STRAYS_SECONDS = 60.0
# Each `status` that waits for a change holds one thread, and the orchestrator waits for many buffers at a time.
_REQUESTS = 256


if TYPE_CHECKING:
    _PortsType = click.ParamType[tuple[int, int]]
else:
    _PortsType = click.ParamType  # the click of Debian 12 and 13 takes no parameter


class PortRange(_PortsType):
    """`first-last`."""

    name = "ports"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """Read it; click calls this."""
        if isinstance(value, tuple):
            return value
        first, _, last = str(value).partition("-")
        if not (first.isdigit() and last.isdigit() and 1024 <= int(first) <= int(last) <= 65535):
            self.fail(f"`{value}` is no range of ports: give first-last between 1024 and 65535", param, ctx)
        return int(first), int(last)


class Daemon:
    """The parts of dnd, put together."""

    def __init__(
        self,
        name: str,
        address: str,
        port: int,
        settings: config.Config,
        state_dir: Path,
        run_dir: Path,
        ports: tuple[int, int],
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        # Every buffer's file system is mounted in here, and users may have programs on this node: only jobs get in.
        (run_dir / "ganesha").mkdir(exist_ok=True)
        (run_dir / "ganesha").chmod(0o700)
        files = FileVolumes(state_dir / "volumes")
        backends: dict[Backend, VolumeBackend] = {Backend.LVM: LvmVolumes(run), Backend.FILE: files}

        def free(number: int, port: int) -> bool:
            folders = [run_dir / kind.folder / str(number) for kind in kinds.values()]
            return port_is_free(address, port) and not any(folder.exists() for folder in folders)

        def key_of(sid: str) -> bytes:
            return buffer_key(load_site_key(settings.site_key_path), sid)

        self.ledger = Ledger(state_dir / "objects", open_store)
        key_path = settings.site_key_path
        staging = state_dir / "staging"
        self.node = Node(
            name,
            address,
            run_dir,
            staging,
            backends,
            run,
            lambda: _read_key(key_path),
            self.ledger,
            settings.foreign_images,
        )
        gbf = Gbf(self.node)
        kinds: dict[ServiceType, Kind] = {
            ServiceType.GBF: gbf,
            ServiceType.DASI: Dasi(self.node, gbf, settings.mount_prefixes, self._claim),
            ServiceType.SBB: Sbb(
                self.node, SbbSettings(settings.sbb_drain_rate, settings.sbb_drain_delay), key_of, self._records
            ),
        }
        journal, health = Journal(state_dir / "services"), Health(state_dir, run)
        self.lifecycle = Lifecycle(journal, kinds, Numbers(*ports, free), health)
        self.strays = Strays(self.node, self._records)
        verbs = DndVerbs(name, _version(), self.lifecycle, backends, self.strays, health)
        self._server = Server(
            address,
            port,
            verbs.table(),
            allowed_uids=_callers(settings),
            munge_socket=settings.munge_socket,
            threads=_REQUESTS,
        )
        self._stop = threading.Event()

    def serve(self) -> None:
        """Take up what was left, then serve until SIGTERM or SIGINT."""
        self.lifecycle.start()
        threading.Thread(target=self._look_for_strays, name="strays", daemon=True).start()
        try:
            self._server.serve_forever()
        finally:
            self._stop.set()
            self.lifecycle.close()

    def _records(self) -> list[Record]:
        return [service.record for service in self.lifecycle.alive()]

    def _claim(self, service: Service, count: int, note: NoteNumbers) -> None:
        self.lifecycle.claim(service, count, note)

    def _look_for_strays(self) -> None:
        while True:
            for what, look in (("strays", self.strays.look), ("objects that no dataset names", self.ledger.settle_all)):
                try:
                    look()
                except Exception:
                    logger.exception("looking for %s failed", what)
            if self._stop.wait(_STRAYS_SECONDS):
                return


@click.command()
@click.option("--name", required=True, help="This datanode's name, as in datanodes.conf.")
@click.option("--address", required=True, help="Address to listen on and to export from.")
@click.option("--port", default=8766, show_default=True, help="Port for the orchestrator's calls.")
@click.option(
    "--config",
    "config_path",
    type=click.Path(path_type=Path),
    default=config.DEFAULT_PATH,
    show_default=True,
    help="ebb.conf of this node.",
)
@click.option("--state-dir", type=click.Path(path_type=Path), help="Journal and file volumes. [StateDir/<name>]")
@click.option("--run-dir", type=click.Path(path_type=Path), help="Mounts and services' files. [RunDir/<name>]")
@click.option(
    "--ganesha-ports",
    type=PortRange(),
    default="20490-20989",
    show_default=True,
    help="One port a buffer is taken from here.",
)
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
def main(
    name: str,
    address: str,
    port: int,
    config_path: Path,
    state_dir: Path | None,
    run_dir: Path | None,
    ganesha_ports: tuple[int, int],
    log_level: str,
) -> None:
    """Make and keep the data services that the orchestrator asks of this datanode."""
    log.setup(f"dnd[{name}]", log_level.upper())
    # Folders and files of root's are nobody else's business; what users see gets its mode explicitly.
    os.umask(0o022)
    try:
        settings = config.load(config_path)
        respect_quotas()
        daemon = Daemon(
            name,
            address,
            port,
            settings,
            state_dir or settings.state_dir / name,
            run_dir or settings.run_dir / name,
            ganesha_ports,
        )
    except (EbbError, OSError) as error:
        raise click.ClickException(str(error)) from error
    signal.signal(signal.SIGTERM, _leave)
    signal.signal(signal.SIGINT, _leave)
    logger.info("%s serves on %s port %d", name, address, port)
    daemon.serve()


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(0)


def _callers(settings: config.Config) -> set[int]:
    try:
        return {0, pwd.getpwnam(settings.slurm_user).pw_uid}
    except KeyError:
        logger.warning("no user %s on this node: only root may call", settings.slurm_user)
        return {0}


def _read_key(path: Path) -> bytes:
    try:
        key = path.read_bytes()
    except OSError as error:
        raise EnvironmentFault(f"site key {path} cannot be read: {error.strerror}; `ebb key` makes one") from error
    if len(key) < 32:
        raise UserError(f"site key {path} has {len(key)} bytes, 32 or more are needed")
    return dataset_key(key)


def _version() -> str:
    try:
        return metadata.version("ebb")
    except metadata.PackageNotFoundError:
        return "unknown"


if __name__ == "__main__":
    main()
