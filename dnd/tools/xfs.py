"""XFS: make, grow. Reference: mkfs.xfs(8), xfs_growfs(8), xfs_admin(8) of xfsprogs 6.1."""

from __future__ import annotations

import os
import re
import struct
import uuid
from dataclasses import dataclass
from pathlib import Path

from blake3 import blake3

from ebb.errors import EnvironmentFault, UserError
from ebb.extents import Extents
from ebb.run import Runner

SMALLEST = 300 << 20
"""mkfs.xfs of xfsprogs 6 refuses less."""
FEATURES = (
    "-m", "crc=1,finobt=1,rmapbt=0,reflink=1,bigtime=1,inobtcount=1",
    "-i", "sparse=1,nrext64=0",
    "-n", "ftype=1",
)  # fmt: skip
"""What mkfs.xfs turns on is another thing with each release, and a kernel mounts only what it knows. A site's datanodes
differ, and datasets travel between them: so all get what Linux 5.15 and later mount, whatever made them."""
LATER_FEATURES = (((6, 10), ("-i", "exchange=0", "-n", "parent=0")), ((6, 13), ("-m", "metadir=0")))
"""Features that are turned off too, from the release of xfsprogs on that knows their names; older ones refuse them."""
SUPERBLOCK = 512
"""Bytes at the beginning of a file system that tell all that is read here."""
_BLOCK = 4096
_CHECK_SECONDS = 3600.0
# In a superblock (xfs_format.h: struct xfs_dsb).
_INCOMPATIBLE, _CHECKSUM, _LAST_LSN, _META_UUID = (216, 220), (224, 228), (240, 248), (248, 264)
_HAS_META_UUID = 0x4


def make(run: Runner, device: Path, size: int, label: str) -> None:
    """Make an empty XFS of `size` bytes at the front of a volume, over whatever is there.

    The volume may be longer (LVM rounds up to its extents); the file system is not, because it has to fit the dataset.
    Discarding is left out (-K): a new volume is empty already. Raises UserError when `size` is below XFS's smallest.
    """
    if size < SMALLEST:
        raise UserError(f"StorageSize {size} is too small: the smallest XFS has {SMALLEST} bytes (300 MiB)")
    length = size // _BLOCK * _BLOCK
    shape = ["-b", f"size={_BLOCK}", "-L", label[:12], "-d", f"size={length}", *FEATURES]
    said = run(["mkfs.xfs", "-V"]).stdout
    for since, options in LATER_FEATURES:
        if _release(said) >= since:
            shape += options
    run(["mkfs.xfs", "-q", "-f", "-K", *shape, str(device)], timeout=300)


def _release(said: str) -> tuple[int, int]:
    """The release in what `mkfs.xfs -V` says; none that is readable counts as an old one."""
    found = re.search(r"version (\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def grow(run: Runner, mountpoint: Path, size: int) -> None:
    """Grow the file system mounted there to `size` bytes; nothing happens if it has them."""
    run(["xfs_growfs", "-D", str(size // _BLOCK), str(mountpoint)], timeout=300)


def renew_identity(run: Runner, device: Path) -> None:
    """Give an unmounted file system a new UUID (`dnd.tools.identities` says when). Writes its whole journal."""
    kind = ["-f"] if device.is_file() else []
    run(["xfs_admin", *kind, "-U", "generate", str(device)], timeout=60)


def check(run: Runner, device: Path) -> None:
    """Look through an unmounted file system, change nothing (xfs_repair -n). Raises UserError if it is not sound."""
    kind = ["-f"] if device.is_file() else []
    done = run(["xfs_repair", "-n", *kind, str(device)], timeout=_CHECK_SECONDS, check=False)
    if done.returncode != 0:
        last = (done.stderr.strip() or "it found damage").splitlines()[-1]
        raise UserError(f"the image is no sound XFS: xfs_repair -n: {last}")


def identity(header: bytes) -> uuid.UUID:
    """The UUID in an XFS superblock (its first 512 bytes): offset 32, behind magic, block size and three counters."""
    if header[:4] != b"XFSB":
        raise UserError("the image holds no XFS")
    return uuid.UUID(bytes=bytes(header[32:48]))


@dataclass(frozen=True, slots=True)
class Superblock:
    """What is needed of an XFS superblock. size: bytes of the file system; log_begin, log_size: its journal's bytes;
    group_size: bytes of an allocation group, each of which begins with a superblock.
    """

    identity: uuid.UUID
    size: int
    log_begin: int
    log_size: int
    group_size: int


def superblock(header: bytes) -> Superblock:
    """Read the first 512 bytes of a file system (xfs_fs.h: struct xfs_dsb, big-endian). Raises UserError for no XFS."""
    identifier = identity(header)
    block, blocks = struct.unpack_from(">IQ", header, 4)
    (log_start,) = struct.unpack_from(">Q", header, 48)
    group_blocks, _, _, log_blocks = struct.unpack_from(">IIII", header, 84)
    group_bits = header[124]  # a block's address: number of the allocation group, then these bits within it
    log_begin = ((log_start >> group_bits) * group_blocks + (log_start & ((1 << group_bits) - 1))) * block
    return Superblock(identifier, block * blocks, log_begin, log_blocks * block, group_blocks * block)


def volatile(header: bytes) -> Extents:
    """Where a file system at rest changes by being mounted: its journal, and the superblocks (`same_content`)."""
    found = superblock(header)
    begins = range(0, found.size, found.group_size)
    stretches = [(begin, begin + SUPERBLOCK) for begin in begins]
    return Extents.of(sorted([*stretches, (found.log_begin, found.log_begin + found.log_size)]))


def same_content(one: bytes, other: bytes) -> bool:
    """Whether two superblocks may be of file systems of the same content: they differ at most in UUID, in where the
    journal ends, and in the checksum. Superblocks but the first are copies that nobody reads. False if one is none.
    """
    return one[:4] == other[:4] == b"XFSB" and _lasting(one) == _lasting(other)


def _lasting(header: bytes) -> tuple[bytes, bytes]:
    """A superblock without what each mount and a new UUID change, and the UUID that it was made with."""
    (incompatible,) = struct.unpack_from(">I", header, _INCOMPATIBLE[0])
    made_with = header[_META_UUID[0] : _META_UUID[1]] if incompatible & _HAS_META_UUID else header[32:48]
    lasting = bytearray(header)
    struct.pack_into(">I", lasting, _INCOMPATIBLE[0], incompatible & ~_HAS_META_UUID)
    for begin, stop in ((32, 48), _CHECKSUM, _LAST_LSN, _META_UUID):
        lasting[begin:stop] = bytes(stop - begin)
    return bytes(lasting), bytes(made_with)


def fingerprint(device: Path) -> str:
    """Of an unmounted file system: changes whenever it was mounted for writing, for that leaves traces in its journal.

    A digest of superblock and journal. Raises EnvironmentFault, UserError if there is no XFS.
    """
    hasher = blake3()
    try:
        with device.open("rb", buffering=0) as file:
            header = os.pread(file.fileno(), 512, 0)
            found = superblock(header)
            hasher.update(header)
            for at in range(found.log_begin, found.log_begin + found.log_size, 1 << 22):
                hasher.update(os.pread(file.fileno(), min(1 << 22, found.log_begin + found.log_size - at), at))
    except OSError as error:
        raise EnvironmentFault(f"volume {device} cannot be read: {error.strerror}") from error
    return hasher.hexdigest()
