"""What only SBB buffers have: their part of a service spec, the keys that prove who may talk to their servers.

The wires are described in docs/interfaces.md, the engine's own in docs/sbb.md.
"""

from __future__ import annotations

import hashlib
import hmac
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ebb.fields import Fields
from ebb.ticket import SiteKey


class Sync(StrEnum):
    """What fsync waits for: the servers' memory or NVMe, or the target file system."""

    SERVERS = "servers"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class SbbSpec:
    """One server of a buffer: number `index` of `count`. Sizes in bytes; targets are absolute paths of the user."""

    index: int
    count: int
    targets: tuple[str, ...]
    memory: int
    cores: int
    sync: Sync
    stripe: int

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, "Service spec"."""
        return {
            "index": self.index, "count": self.count, "targets": list(self.targets), "memory": self.memory,
            "cores": self.cores, "sync": self.sync.value, "stripe": self.stripe,
        }  # fmt: skip

    @classmethod
    def from_wire(cls, data: object) -> SbbSpec:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("service spec: sbb", data)
        spec = cls(
            fields.integer("index"), fields.integer("count", 1), fields.list_of("targets", _target),
            fields.integer("memory", 1), fields.integer("cores", 1), fields.enum("sync", Sync),
            fields.integer("stripe", 1),
        )  # fmt: skip
        fields.done()
        if spec.index >= spec.count:
            raise fields.refuse("index", f"less than count ({spec.count})")
        if not spec.targets:
            raise fields.refuse("targets", "one path or more")
        return spec


@dataclass(frozen=True, slots=True)
class Peer:
    """Where one server of a buffer listens."""

    address: str
    port: int

    def to_wire(self) -> dict[str, Any]:
        """The JSON object of docs/interfaces.md, verb `peers`."""
        return {"address": self.address, "port": self.port}

    @classmethod
    def from_wire(cls, data: object) -> Peer:
        """Raises UserError naming field, value and what is expected."""
        fields = Fields("peers", data)
        peer = cls(fields.text("address"), fields.integer("port", 1))
        fields.done()
        return peer

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


def buffer_key(key: SiteKey, sid: str) -> bytes:
    """The secret of one buffer's servers, 32 bytes. dnd hands it to `sbbd`; it never leaves the datanode."""
    return key.derive(f"ebb sbb {sid} v1".encode())


def job_token(key: SiteKey, sid: str, job: int, exp: int) -> bytes:
    """What one job's clients prove themselves with, 32 bytes, until `exp` (seconds since the epoch).

    The SPANK plugin computes it as root on the job's node; it travels nowhere.
    """
    return hmac.new(buffer_key(key, sid), f"sbb-job {job} {exp}".encode(), hashlib.sha256).digest()


def _target(data: object) -> str:
    return Fields("service spec: sbb: targets", {"target": data}).path("target")
