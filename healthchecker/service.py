"""A service as the health database has it, and what a check says of it. Pure: no I/O here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

STAGED_IN = "staged-in"
IN_USE = "in use"
STAGING_OUT = "staging-out"


class Level(IntEnum):
    """How bad it is; the exit code of ParaStation's health checks and of ours."""

    OK = 0
    WARNING = 1
    FAILED = 2


@dataclass(frozen=True, slots=True)
class Result:
    """What one check found and what to do about it. full: the volume is full, which stops writers only."""

    level: Level
    text: str
    full: bool = False


@dataclass(frozen=True, slots=True)
class Flash:
    """A volume of a service. vg: a volume group, or the folder of volumes that are files. size: MiB."""

    lv: str
    vg: str
    mountpoint: str
    size: int


@dataclass(frozen=True, slots=True)
class Service:
    """One object of the database. sid: the bbid as text. mode: the type word in lower case. daemons: process ids."""

    sid: str
    uid: int
    gid: int
    mode: str
    name: str
    flash: tuple[Flash, ...]
    daemons: tuple[int, ...]
    state: str = STAGED_IN
    check_date: str | None = None
    check_results: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """As it stands in the file: the shape is fixed, other programs read it."""
        return {
            "id": {"uid": self.uid, "gid": self.gid, "mode": self.mode, "name": self.name},
            "flash": [
                {"lv": each.lv, "vg": each.vg, "mountpoint": each.mountpoint, "size": each.size} for each in self.flash
            ],
            "daemons": [{"pid": pid} for pid in self.daemons],
            "sid": self.sid,
            "state": self.state,
            "check_date": self.check_date,
            "check_results": list(self.check_results),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Service:
        """Raises KeyError, TypeError or ValueError for what is no service."""
        owner = data["id"]
        service = cls(
            sid=data["sid"],
            uid=int(owner["uid"]),
            gid=int(owner["gid"]),
            mode=owner["mode"],
            name=owner["name"],
            flash=tuple(Flash(each["lv"], each["vg"], each["mountpoint"], int(each["size"])) for each in data["flash"]),
            daemons=tuple(int(each["pid"]) for each in data["daemons"]),
            state=data["state"],
            check_date=data["check_date"],
            check_results=tuple(data["check_results"]),
        )
        texts = (service.sid, service.mode, service.name, service.state, *service.check_results)
        if not all(isinstance(text, str) for text in texts):
            raise TypeError("a text is needed for sid, mode, name, state and check_results")
        return service
