"""What a virtual cluster needs of the machine, made by its process 1 in its own namespaces, with which it all goes."""

import os
import subprocess
from pathlib import Path

from cluster import kernel
from cluster.layout import State
from cluster.virtual import roots
from cluster.virtual.machines import HOST_ADDRESS, Machine, machines

UML = "/usr/bin/linux.uml"
ROOTS = Path("/run/ebb-nodes")
BRIDGE = "ebb0"
_ENVIRONMENT = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL": "C"}


def set_up(state: State) -> list[int]:
    """Mounts, bridge and taps. The descriptors that it gives keep the layers in the cache; hold them.

    Raises OSError, subprocess.CalledProcessError.
    """
    kernel.mount("proc", "/proc", "proc", kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOEXEC)
    log = os.open(state.log, os.O_PATH | os.O_CLOEXEC)
    path = os.open(state.path, os.O_PATH | os.O_CLOEXEC)
    for folder, mode in (("/run", 0o755), ("/dev/shm", 0o1777), ("/tmp", 0o1777)):  # noqa: S108 (targets of mounts)
        if not _below(state.path, folder):
            kernel.mount("tmpfs", folder, "tmpfs", kernel.MS_NOSUID, f"mode={mode:o}")
    kernel.mount(f"/proc/self/fd/{log}", "/var/log", flags=kernel.MS_BIND)
    os.makedirs("/run/ebb-state")
    kernel.mount(f"/proc/self/fd/{path}", "/run/ebb-state", flags=kernel.MS_BIND)
    os.close(log)
    os.close(path)
    used = roots.use([Path(layer) for role in state.roots.values() for layer in role])
    for machine in machines(state.layout):
        _root(state, machine)
    _network(state)
    return used


def _below(path: Path, folder: str) -> bool:
    return path.is_relative_to(folder)


def _root(state: State, machine: Machine) -> None:
    target = ROOTS / machine.name
    target.mkdir(parents=True)
    lowers = [f"/run/ebb-state/nodes/{machine.name}/config", *state.roots[machine.role]]
    kernel.mount("overlay", str(target), "overlay", kernel.MS_RDONLY, f"lowerdir={':'.join(lowers)}")


def _network(state: State) -> None:
    _ip("link", "set", "lo", "up")
    _ip("link", "add", BRIDGE, "type", "bridge")
    _ip("address", "add", f"{HOST_ADDRESS}/24", "dev", BRIDGE)
    _ip("link", "set", BRIDGE, "up")
    for machine in machines(state.layout):
        _ip("tuntap", "add", "dev", machine.tap, "mode", "tap")
        _ip("link", "set", machine.tap, "master", BRIDGE, "up")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, timeout=10, env=_ENVIRONMENT)


def kernel_argv(machine: Machine) -> list[str]:
    """The command that is the machine: its kernel with root, disks, network and console."""
    letters = "abcdefghijklmnop"
    disks = [
        f"ubd{letters[n]}=/run/ebb-state/nodes/{machine.name}/disk-{disk.name}" for n, disk in enumerate(machine.disks)
    ]
    return [
        UML, f"mem={machine.memory >> 20}M", "rootfstype=hostfs", f"rootflags={ROOTS / machine.name}", "ro",
        "init=/ebb-node/init", *disks, f"eth0=tuntap,{machine.tap},{machine.mac}",
        "con=null", "con0=null,fd:1", "ssl=null", f"umid={machine.name}", "uml_dir=/run/uml", "quiet", "loglevel=4",
        "panic=1",
    ]  # fmt: skip
