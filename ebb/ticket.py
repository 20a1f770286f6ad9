"""The ticket that tells a compute node what to mount for a job, signed with the site's key (docs/interfaces.md).

The orchestrator signs; the SPANK plugin on the node, as root, verifies. It travels in the job's environment, which is
the user's: only what the signature covers is believed.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import stat
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ebb.errors import EnvironmentFault, NotAllowed, UserError
from ebb.fields import Fields

VERSION = "v1"
_PURPOSE = b"ebb ticket v1"
_LEAST_KEY_BYTES = 32


@dataclass(frozen=True, slots=True)
class SiteKey:
    """The secret that all nodes of a site share; every use derives a key of its own from it."""

    secret: bytes = field(repr=False)

    def derive(self, purpose: bytes) -> bytes:
        """A key for one purpose, such as `ebb ticket v1`."""
        return hmac.new(self.secret, purpose, hashlib.sha256).digest()


@dataclass(frozen=True, slots=True)
class TicketMount:
    """One buffer of the job: where it is served, and the mountpoint the user asked for."""

    sid: str
    name: str
    type: str
    path: str
    address: str
    port: int
    export: str
    data: str


@dataclass(frozen=True, slots=True)
class SbbServer:
    """One server of an SBB. unix: its socket, for clients on its own node."""

    address: str
    port: int
    unix: str


@dataclass(frozen=True, slots=True)
class SbbMount:
    """One target of an SBB. path: the target and the mountpoint. target: its number in the buffer; stripe in bytes.

    servers: all of the buffer, in their order.
    """

    sid: str
    name: str
    type: str
    path: str
    target: int
    sync: str
    stripe: int
    servers: tuple[SbbServer, ...]


@dataclass(frozen=True, slots=True)
class Ticket:
    """What one job may mount; each mount has the fields of its type. exp: seconds since the epoch."""

    job: int
    uid: int
    gid: int
    exp: int
    mounts: tuple[TicketMount | SbbMount, ...]


def load_site_key(path: Path) -> SiteKey:
    """Read the site key. Called once at start by the orchestrator, at a job's first step by the plugin.

    Raises EnvironmentFault for a key that is missing, too short, or readable by others than its owner.
    """
    try:
        with path.open("rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            secret = file.read(4096)
    except OSError as error:
        raise EnvironmentFault(
            f"site key {path} cannot be read: {error.strerror}; make one with `ebb key` and copy it to every node"
        ) from error
    if stat.S_IMODE(mode) & 0o077:
        raise EnvironmentFault(
            f"site key {path} has mode {stat.S_IMODE(mode):04o}: others may read it; chmod it to 0600"
        )
    if len(secret) < _LEAST_KEY_BYTES:
        raise EnvironmentFault(f"site key {path} has {len(secret)} bytes; at least {_LEAST_KEY_BYTES} are needed")
    return SiteKey(secret)


def sign(ticket: Ticket, key: SiteKey) -> str:
    """The text of a ticket, for the job's environment."""
    mounts = [asdict(mount) for mount in ticket.mounts]
    payload = json.dumps(
        {"job": ticket.job, "uid": ticket.uid, "gid": ticket.gid, "exp": ticket.exp, "mounts": mounts},
        separators=(",", ":"),
    ).encode()
    signed = f"{VERSION}.{_text(payload)}"
    return f"{signed}.{_text(_mac(signed, key))}"


def verify(text: str, key: SiteKey, *, job: int, uid: int, now: float | None = None) -> Ticket:
    """The ticket, if it was signed with the site's key for this job and user and is still good.

    job, uid: what Slurm says of the step, never what the environment says.
    Raises NotAllowed for a ticket that is forged, expired or another job's; UserError for one that is no ticket.
    """
    version, payload, mac = [*text.split("."), "", ""][:3]
    if version != VERSION or text.count(".") != 2:
        raise UserError(f"this is no {VERSION} ticket: plugin and orchestrator must be of one release")
    if not hmac.compare_digest(_mac(f"{version}.{payload}", key), _bytes(mac)):
        raise NotAllowed("the ticket was not signed with this site's key")
    ticket = _read(json.loads(_bytes(payload)))
    if (ticket.job, ticket.uid) != (job, uid):
        raise NotAllowed(f"the ticket is for job {ticket.job} of uid {ticket.uid}, not for job {job} of uid {uid}")
    if ticket.exp < (time.time() if now is None else now):
        raise NotAllowed(f"the ticket of job {ticket.job} has expired")
    return ticket


def _mac(signed: str, key: SiteKey) -> bytes:
    return hmac.new(key.derive(_PURPOSE), signed.encode("utf-8", "replace"), hashlib.sha256).digest()


def _text(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _bytes(text: str) -> bytes:
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, ValueError) as error:
        raise UserError("this is no ticket: it is not base64url") from error


def _read(data: Any) -> Ticket:
    fields = Fields("ticket", data)
    ticket = Ticket(
        fields.integer("job", 1),
        fields.integer("uid"),
        fields.integer("gid"),
        fields.integer("exp"),
        fields.list_of("mounts", _mount),
    )
    fields.done()
    return ticket


def _mount(data: object) -> TicketMount | SbbMount:
    fields = Fields("ticket: mount", data)
    if fields.text("type") == "SBB":
        return _sbb_mount(fields)
    mount = TicketMount(
        sid=fields.text("sid"),
        name=fields.text("name"),
        type=fields.text("type"),
        path=fields.path("path"),
        address=fields.text("address"),
        port=fields.integer("port", 1),
        export=fields.path("export"),
        data=fields.path("data"),
    )
    fields.done()
    return mount


def _sbb_mount(fields: Fields) -> SbbMount:
    mount = SbbMount(
        sid=fields.text("sid"),
        name=fields.text("name"),
        type=fields.text("type"),
        path=fields.path("path"),
        target=fields.integer("target"),
        sync=fields.text("sync"),
        stripe=fields.integer("stripe", 1),
        servers=fields.list_of("servers", _sbb_server),
    )
    fields.done()
    return mount


def _sbb_server(data: object) -> SbbServer:
    fields = Fields("ticket: mount: servers", data)
    server = SbbServer(fields.text("address"), fields.integer("port", 1), fields.path("unix"))
    fields.done()
    return server
