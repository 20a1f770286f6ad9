"""/etc/ebb/ebb.conf: the few settings that every process of Ebb reads, the same file on every node."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from ebb import sizes
from ebb.errors import UserError

DEFAULT_PATH = Path("/etc/ebb/ebb.conf")


@dataclass(frozen=True, slots=True)
class Config:
    """The settings, with the defaults of an installed system. Field comments give the key in the file."""

    orchestrator_address: str = "127.0.0.1"  # Orchestrator=host:port
    orchestrator_port: int = 8765
    run_dir: Path = Path("/run/ebb")  # RunDir
    state_dir: Path = Path("/var/lib/ebb")  # StateDir
    site_key_path: Path = Path("/etc/ebb/site.key")  # SiteKey
    datanodes_conf: Path = Path("/etc/ebb/datanodes.conf")  # DatanodesConf
    database: str = ""  # Database: an SQLAlchemy URL; empty: SQLite below state_dir
    munge_socket: str = ""  # MungeSocket; empty: libmunge's default
    slurm_user: str = "slurm"  # SlurmUser: may call the hooks' verbs
    operators: tuple[str, ...] = ("root",)  # Operators: users who may act on everybody's buffers
    mount_prefixes: tuple[str, ...] = (
        "/home",
        "/scratch",
        "/work",
        "/p",
        "/afsm",
        "/mnt",
        "/data",
        "/gpfs",
        "/lustre",
        "/project",
        "/tmp",  # noqa: S108
    )  # MountPrefixes: mountpoints must lie below one of these
    staged_out_seconds: int = 300  # StagedOutSeconds: how long bbstat shows what has ended
    reconcile_seconds: int = 30  # ReconcileSeconds: pause between two comparisons with datanodes and Slurm
    ticket_seconds: int = 30 * 86400  # TicketSeconds: validity of a job's ticket
    sbb_drain_rate: int = 0  # SbbDrainRate: bytes a second that each SBB server writes to its targets; 0: no limit
    sbb_drain_delay: int = 5  # SbbDrainDelay: seconds that new data may rest in an SBB server before it is drained
    foreign_images: bool = False  # ForeignImages: whether datasets without this site's seal are taken

    @property
    def socket_path(self) -> Path:
        """Where the hooks find the orchestrator."""
        return self.run_dir / "orchestrator.sock"

    @property
    def database_url(self) -> str:
        """The SQLAlchemy URL in force."""
        return self.database or f"sqlite:///{self.state_dir}/ebb.db"


def _host_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise ValueError("a host and a port as host:port")
    return host, int(port)


def _absolute(text: str) -> Path:
    if not text.startswith("/"):
        raise ValueError("an absolute path")
    return Path(text)


def _seconds(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) == 0:
        raise ValueError("a whole number of seconds from 1")
    return int(text)


def _rate(text: str) -> int:
    return sizes.parse(text, zero=True)


def _yes_or_no(text: str) -> bool:
    if text.lower() not in ("yes", "no"):
        raise ValueError("yes or no")
    return text.lower() == "yes"


def _list(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _prefixes(text: str) -> tuple[str, ...]:
    prefixes = _list(text)
    if not prefixes or any(not p.startswith("/") or p == "/" for p in prefixes):
        raise ValueError("absolute directories below /, separated by commas")
    return prefixes


_KEYS: dict[str, tuple[str, Callable[[str], Any]]] = {
    "orchestrator": ("orchestrator", _host_port),
    "rundir": ("run_dir", _absolute),
    "statedir": ("state_dir", _absolute),
    "sitekey": ("site_key_path", _absolute),
    "datanodesconf": ("datanodes_conf", _absolute),
    "database": ("database", str),
    "mungesocket": ("munge_socket", str),
    "slurmuser": ("slurm_user", str),
    "operators": ("operators", _list),
    "mountprefixes": ("mount_prefixes", _prefixes),
    "stagedoutseconds": ("staged_out_seconds", _seconds),
    "reconcileseconds": ("reconcile_seconds", _seconds),
    "ticketseconds": ("ticket_seconds", _seconds),
    "sbbdrainrate": ("sbb_drain_rate", _rate),
    "sbbdraindelay": ("sbb_drain_delay", _seconds),
    "foreignimages": ("foreign_images", _yes_or_no),
}


def parse(text: str, source: str = "ebb.conf") -> Config:
    """Read the text of an ebb.conf. Raises UserError naming every bad line with what is accepted."""
    values: dict[str, Any] = {}
    wrong: list[str] = []
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        key, sign, value = (part.strip() for part in line.partition("="))
        known = _KEYS.get(key.lower())
        if not sign or known is None:
            wrong.append(f"{source}:{number}: `{line}` is no setting; known: {', '.join(sorted(_KEYS))}")
            continue
        name, convert = known
        try:
            parsed = convert(value)
        except ValueError as error:
            wrong.append(f"{source}:{number}: {key}={value}: must be {error}")
            continue
        if name == "orchestrator":
            values["orchestrator_address"], values["orchestrator_port"] = parsed
        else:
            values[name] = parsed
    if wrong:
        raise UserError("; ".join(wrong))
    return Config(**values)


def load(path: Path = DEFAULT_PATH) -> Config:
    """Read ebb.conf; called once at start by every process. A missing file means all defaults.

    Raises UserError for a bad line or an unreadable file.
    """
    try:
        text = path.read_text()
    except FileNotFoundError:
        return Config()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}") from error
    return parse(text, str(path))


def field_names() -> list[str]:
    """Names of all settings, for checks that documentation and example are complete."""
    return [field.name for field in fields(Config)]
