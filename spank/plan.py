"""Decides what a job mounts on a node, and writes it down for the C that mounts (format: spank/plan.c)."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from ebb import config
from ebb.errors import EbbError, EnvironmentFault, UserError
from ebb.sbb import job_token
from ebb.ticket import SbbMount, SbbServer, SiteKey, Ticket, TicketMount, load_site_key, verify

ASK_SECONDS = 5.0
# hard: an answer that is late must not become an I/O error in the middle of a computation.
_NFS_OPTIONS = "vers=4.1,proto=tcp,port={port},addr={address},hard,timeo=600,retrans=2,sec=sys"
MAGIC = "ebb-plan-1"


@dataclass(frozen=True, slots=True)
class Address:
    """A datanode's address, as numbers. local: it is one of this node's own."""

    numeric: str
    local: bool


LookUp = Callable[[str], Address | None]


@dataclass(frozen=True, slots=True)
class Step:
    """A step as Slurm tells root of it; only `ticket` comes from the user's environment."""

    job: int
    uid: int
    gid: int
    groups: tuple[int, ...]
    ticket: str = field(repr=False)


@dataclass(frozen=True, slots=True)
class Decision:
    """plan: what to mount, None for nothing. fetched: the ticket, if the orchestrator had to be asked for it."""

    plan: bytes | None
    fetched: str | None = field(default=None, repr=False)


def decide(step: Step, config_path: Path, look_up: LookUp) -> Decision:
    """What the step's job mounts on this node. Called by the first step of a job on a node.

    look_up: what an address or host name stands for; None if nobody knows.

    A ticket that does not fit is a hint that the orchestrator must be asked: srun's own allocation does not replace a
    ticket that it inherited from another job.
    Raises EbbError, and then the job's programs must not run: their buffers are not there.
    """
    settings = config.load(config_path)
    key = load_site_key(settings.site_key_path)
    try:
        ticket, fetched = verify(step.ticket, key, job=step.job, uid=step.uid), None
    except UserError as refused:
        fetched = _ask(step, settings, refused)
        if fetched is None:
            return Decision(None)
        ticket = _verify_fetched(fetched, step, key)
    if not ticket.mounts:
        return Decision(None, fetched)
    return Decision(encode(step, ticket, key, settings.mount_prefixes, look_up), fetched)


def _ask(step: Step, settings: config.Config, refused: UserError) -> str | None:
    # Imported here: it costs more than all else, and most jobs have a good ticket.
    from ebb.transport import Client

    client = Client(settings.orchestrator_address, settings.orchestrator_port, munge_socket=settings.munge_socket)
    try:
        answer = client.call(
            "ticket", {"job_id": step.job}, request_id=f"j{step.job}-ticket-spank", timeout=ASK_SECONDS
        )
    except EbbError as error:
        raise EnvironmentFault(
            f"job {step.job} has a ticket in its environment that does not fit ({refused.text}), "
            f"and the orchestrator could not be asked for one: {error.text}; unset "
            "SLURM_EBB_TICKET if this job uses no buffer, else try again"
        ) from error
    ticket = answer.get("ticket")
    if ticket is not None and not isinstance(ticket, str):
        raise EnvironmentFault("the orchestrator's answer to `ticket` holds no ticket; is it of another release?")
    return ticket


def _verify_fetched(text: str, step: Step, key: SiteKey) -> Ticket:
    try:
        return verify(text, key, job=step.job, uid=step.uid)
    except UserError as error:
        raise EnvironmentFault(
            f"the orchestrator gave a ticket that this node refuses: {error.text}; compare the "
            "site keys and clocks of both"
        ) from error


def encode(step: Step, ticket: Ticket, key: SiteKey, prefixes: Sequence[str], look_up: LookUp) -> bytes:
    """The plan's bytes. It holds the job's tokens for SBB servers, so nobody but root may read it.

    Raises UserError for mountpoints that cannot be used together or at all.
    """
    mounts = sorted(ticket.mounts, key=lambda mount: mount.path.rstrip("/").count("/"))  # outer before inner
    seen: dict[str, str] = {}
    fields = [
        MAGIC,
        str(step.uid),
        str(step.gid),
        str(len(step.groups)),
        *map(str, step.groups),
        str(len(prefixes)),
        *prefixes,
        str(len(mounts)),
    ]
    for mount in mounts:
        path = _checked(mount)
        if path in seen:
            raise UserError(
                f"buffers {seen[path]} and {mount.name} both want the mountpoint {path}; give one of them "
                "another Path=, or use them in different jobs"
            )
        seen[path] = mount.name
        if isinstance(mount, SbbMount):
            token = job_token(key, mount.sid, ticket.job, ticket.exp)
            fields += [mount.name, "sbb", client_config(mount, ticket, path, look_up), token.hex(), path]
        else:
            fields += [mount.name, *source(mount, look_up), path]
    return b"".join(text.encode("utf-8", "surrogateescape") + b"\0" for text in fields)


def client_config(mount: SbbMount, ticket: Ticket, path: str, look_up: LookUp) -> str:
    """The configuration of the client that serves one target (docs/sbb.md): `key=value` lines."""
    found = [_server(mount, server, look_up) for server in mount.servers]
    lines = [
        f"sid={mount.sid}",
        f"job={ticket.job}",
        f"exp={ticket.exp}",
        f"servers={','.join(where for where, _ in found)}",
        *(f"unix.{index}={unix}" for index, (_, unix) in enumerate(found) if unix),
        f"stripe={mount.stripe}",
        f"target_index={mount.target}",
        f"target={path}",
        f"sync={mount.sync}",
    ]
    return "".join(line + "\n" for line in lines)


def _server(mount: SbbMount, server: SbbServer, look_up: LookUp) -> tuple[str, str]:
    """Address and port as numbers, and the socket of a server on this node."""
    address = look_up(server.address)
    if address is None:
        raise _unknown_host(mount.name, server.address)
    host = f"[{address.numeric}]" if ":" in address.numeric else address.numeric
    # Its folder is its owner's, who may have put a link there, which is not followed, or a file system that not even
    # root may look at: then the server is reached by its address. The client connects as that owner.
    local = address.local and os.path.lexists(server.unix)
    return f"{host}:{server.port}", server.unix if local else ""


def _unknown_host(name: str, host: str) -> EnvironmentFault:
    return EnvironmentFault(
        f"buffer {name} is on {host}, and this node does not know that host; tell the administrator"
    )


def _checked(mount: TicketMount | SbbMount) -> str:
    path = mount.path.rstrip("/")
    parts = path.split("/")
    if not path.startswith("/") or ".." in parts or any(ord(c) < 32 or ord(c) == 127 for c in path):
        raise UserError(
            f"buffer {mount.name} has the mountpoint {path!r}: must be absolute, without `..` and control characters"
        )
    return path


def source(mount: TicketMount, look_up: LookUp) -> tuple[str, str, str]:
    """Kind, source and options of a mount: the data itself if the datanode is this node, else NFS from it."""
    address = look_up(mount.address)
    if address is None:
        raise _unknown_host(mount.name, mount.address)
    if address.local and Path(mount.data).is_dir():
        return "bind", mount.data, ""
    host = f"[{address.numeric}]" if ":" in address.numeric else address.numeric
    return "nfs4", f"{host}:{mount.export}", _NFS_OPTIONS.format(port=mount.port, address=address.numeric)
