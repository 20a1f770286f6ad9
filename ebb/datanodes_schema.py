"""The words of datanodes.conf, as data: which lines and keys there are, what each accepts and means.

Parser, messages, docs/datanodes-conf.md and datanodes.conf.example all come from `SCHEMA`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from ebb import sizes
from ebb.hostlist import expand
from ebb.model import Backend
from ebb.objectstore import StoreKind


def _name(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,62}", text):
        raise ValueError
    return text


def _names(text: str) -> list[str]:
    return [_name(part) for part in expand(text)]


def _addresses(text: str) -> list[str]:
    addresses = expand(text)
    if not all(re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?", a) for a in addresses):
        raise ValueError
    return addresses


def _ports(text: str) -> list[int]:
    ports = expand(text)
    if not all(port.isdigit() and 0 < int(port) < 65536 for port in ports):
        raise ValueError
    return [int(port) for port in ports]


def _cores(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise ValueError
    return int(text)


def _sizes(text: str) -> list[int]:
    return [sizes.parse(part) for part in text.split(",")]


def _backend(text: str) -> Backend:
    return Backend(text.lower())


def _groups(text: str) -> list[str]:
    # LVM's own rule for names; they become arguments of commands and folders.
    groups = text.split(",")
    good = all(re.fullmatch(r"[A-Za-z0-9_+][A-Za-z0-9_+.-]{0,126}", group) for group in groups)
    if not good or len(set(groups)) < len(groups):
        raise ValueError
    return groups


def _stripes(text: str) -> list[int]:
    stripes = [_cores(part) for part in text.split(",")]
    if max(stripes) > 128:  # lvcreate(8)
        raise ValueError
    return stripes


def _stripe_size(text: str) -> int:
    size = sizes.parse(text)
    if size < 4096 or size & (size - 1):
        raise ValueError
    return size


def _pools(text: str) -> list[str]:
    """Names of pools, the empty text for each `-`."""
    parts = text.split(",")
    return ["" if part == "-" else _groups(part)[0] for part in parts]


def _store(text: str) -> StoreKind:
    return StoreKind(text.lower())


def _location(text: str) -> str:
    if not re.fullmatch(r"https?://[^/\s@]+(/\S*)?|/\S*[^/\s]", text):
        raise ValueError
    return text


def _path(text: str) -> str:
    if not text.startswith("/") or text.endswith("/"):
        raise ValueError
    return text


# --- schema -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Key:
    """One key: how it is spelt, what reads its value, what is accepted, what it means.

    default: None makes it mandatory, the empty text leaves it out.
    """

    name: str
    read: Callable[[str], Any]
    accepted: str
    about: str
    default: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One kind of line, known by its first key."""

    about: str
    keys: tuple[Key, ...]
    example: tuple[str, ...]

    def key(self, name: str) -> Key | None:
        """The key called `name` in any case."""
        return next((key for key in self.keys if key.name.lower() == name.lower()), None)

    @property
    def accepted(self) -> str:
        """All keys, for messages."""
        return " ".join(f"{key.name}=" if key.default is None else f"[{key.name}=]" for key in self.keys)


SIZE: Final = "more than zero and " + sizes.ACCEPTED
"""What keys that hold a size accept."""

SCHEMA: Final = (
    Record(
        "Datanodes: what each offers to buffers. Several lines may name different datanodes.",
        (
            Key("NodeName", _names, "a name or hostlist such as dn[1-4]", "The datanodes' names. They show in "
                "messages, logs and folder names. A node that also computes needs its Slurm NodeName here."),
            Key("NodeAddr", _addresses, "an address, a host name or a hostlist of them, one for each name in NodeName",
                "Where dnd listens and services export, one for each name, in the same order. It becomes part of the "
                "volumes' names. One address may stand for all names if each has a port of its own. "
                "Left out: the name itself.", ""),
            Key("Port", _ports, "a port (1..65535), or a hostlist of ports such as [8766-8769], one for each name",
                "The port of dnd.", "8766"),
            Key("MemorySize", sizes.parse, SIZE, "Memory that buffers may take, on each of these datanodes."),
            Key("Cores", _cores, "a whole number, 1 or more", "Cores that buffers may take, on each of them."),
            Key("Backend", _backend, "lvm or file", "Who makes volumes: `lvm`: logical volumes; `file`: sparse files "
                "with loop devices, for kernels without device-mapper.", "lvm"),
            Key("VolumeGroup", _groups, "one or more different names of LVM volume groups, separated by commas",
                "The volume groups on each of them; with `file` the folders that stand for such. "
                "A buffer's share of a datanode lies in one volume group."),
            Key("StorageSize", _sizes, "as many sizes as VolumeGroup has names, separated by commas; each "
                + SIZE, "What buffers may take of each volume group, in the same order."),
            Key("Stripes", _stripes, "as many whole numbers (1..128) as VolumeGroup has names, separated by commas",
                "Over how many physical volumes each buffer's volume is striped, for each volume group in the same "
                "order. Left out: 1, which is linear.", ""),
            Key("StripeSize", _stripe_size, "a size that is a power of two, 4096 or more", "Bytes on one physical "
                "volume before the next one's turn, where Stripes is more than 1. Left out: LVM's own, 64 KiB.", ""),
            Key("ThinPool", _pools, "as many names of thin pools as VolumeGroup has names, separated by commas, `-` "
                "where there is none", "Volumes are thin ones in that pool of the volume group. The administrator "
                "makes the pool, and StorageSize is at most the pool's size: buffers are never promised more than "
                "there is. Left out: none.", ""),
        ),
        (
            "NodeName=dn[1-4] NodeAddr=10.2.19.[211-214] Port=8766 MemorySize=100GB Cores=32 \\",
            "    Backend=lvm VolumeGroup=ebb StorageSize=2500GB",
            "#NodeName=dn5 NodeAddr=10.2.19.215 MemorySize=100GB Cores=32 VolumeGroup=fast,slow StorageSize=1TB,2TB",
            "#NodeName=dn6 MemorySize=99GB Cores=32 VolumeGroup=fast,vg0 StorageSize=4TB,1TB Stripes=4,1 ThinPool=-,p",
        ),
    ),
    Record(
        "Flavors: what an SBB buffer takes of each of its datanodes.",
        (
            Key("Flavor", _name, "a name of letters, digits, _ . -", "What users write behind `Flavor=`; case counts."),
            Key("MemorySize", sizes.parse, SIZE, "Memory on each datanode."),
            Key("Cores", _cores, "a whole number, 1 or more", "Cores on each datanode."),
            Key("StorageSize", sizes.parse, SIZE, "Storage on each datanode. Left out: none.", ""),
        ),
        (
            "Flavor=small MemorySize=5GB Cores=2",
            "Flavor=medium MemorySize=10GB Cores=4 StorageSize=500GB",
            "Flavor=high MemorySize=50GB Cores=8 StorageSize=1TB",
        ),
    ),
    Record(
        "Health checks: the program that keeps and checks each datanode's list of services. Left out: none are made.",
        (Key("HealthChecker", _path, "an absolute path", "The path of pshcservcheck, the same on every datanode; "
            "root's alone to change. See health.md."),),
        ("HealthChecker=/usr/sbin/pshcservcheck",),
    ),
    Record(
        "Object store: where datasets with HESTIA@ in front keep their data (docs/hestia.md). Left out: there is none.",
        (
            Key("ObjectStore", _store, "hestia or embedded", "`hestia`: a Hestia server; `embedded`: files in a "
                "folder, for sites without one."),
            Key("Location", _location, "the URL of Hestia's API, or the absolute path of the folder", "Such as "
                "`http://hestia:8080/api/v1`. The folder is on a file system that all datanodes see as root."),
            Key("Tiers", _cores, "a whole number, 1 or more", "How many tiers it has. New objects are put on "
                "tier 0.", "1"),
            Key("Patience", _cores, "a whole number of seconds, 1 or more", "How long the store may give no answer "
                "before what waits for it fails.", "120"),
        ),
        ("#ObjectStore=hestia Location=http://hestia:8080/api/v1 Tiers=3",),
    ),
)  # fmt: skip
NODE, FLAVOR, HEALTH, STORE = SCHEMA
