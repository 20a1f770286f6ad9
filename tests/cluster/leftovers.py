"""What a cluster can leave on the machine, and taking it away."""

import json
import os
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster import kernel

ENVIRONMENT = {"LC_ALL": "C", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}


@dataclass(frozen=True)
class Loop:
    """An attached loop device and the file behind it (path as the kernel knows it, device and inode)."""

    name: str
    path: str
    inode: tuple[int, int]


def loops() -> list[Loop]:
    """All attached loop devices of the machine. Format: losetup(8) --json."""
    listing = subprocess.run(
        ["losetup", "--list", "--json", "--output", "NAME,BACK-FILE,BACK-INO,BACK-MAJ:MIN"],
        check=True, capture_output=True, text=True, timeout=20, env=ENVIRONMENT,
    ).stdout  # fmt: skip
    if not listing.strip():
        return []
    found = []
    for device in json.loads(listing)["loopdevices"]:
        major, _, minor = str(device["back-maj:min"]).partition(":")
        identity = (os.makedev(int(major), int(minor)), int(device["back-ino"]))
        found.append(Loop(device["name"], device["back-file"] or "", identity))
    return found


def loops_below(folder: Path) -> list[Loop]:
    """Loop devices whose file lies in `folder`, told by inode: paths differ between mount namespaces.

    A file that was removed while attached still shows by its path, which then has `folder` in front.
    """
    attached = loops()
    if not attached:
        return []
    inodes = set(_inodes(folder))
    return [loop for loop in attached if loop.inode in inodes or loop.path.startswith(f"{folder}/")]


def _inodes(folder: Path) -> Iterable[tuple[int, int]]:
    for parent, _, names in os.walk(folder):
        for name in names:
            status = os.lstat(os.path.join(parent, name))
            yield status.st_dev, status.st_ino


def detach(loop: Loop) -> None:
    """Detach a loop device; one that is detached already is fine, one in use stays and shows in `loops_below`."""
    subprocess.run(["losetup", "--detach", loop.name], check=False, capture_output=True, timeout=20, env=ENVIRONMENT)


def mounts_below(folder: Path) -> list[str]:
    """Mountpoints below `folder` in this mount namespace. Format: proc(5), mountinfo."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        target = line.split()[4].replace("\\040", " ")
        if target == str(folder) or target.startswith(f"{folder}/"):
            found.append(target)
    return found


def remaining(folder: Path, pid_namespace: str | None) -> list[str]:
    """One line for each thing of the cluster in `folder` that is still on the machine."""
    lines = [f"process {pid}" for pid in (kernel.processes_in(pid_namespace) if pid_namespace else [])]
    lines += [f"loop device {loop.name} ({loop.path})" for loop in loops_below(folder)]
    return lines + [f"mount {target}" for target in mounts_below(folder)]
