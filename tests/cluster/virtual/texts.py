"""The text of a virtual node's configuration files, as its administrator would write them. Pure."""

import json

from cluster import config
from cluster.layout import ORCHESTRATOR_PORT, Layout
from cluster.virtual import channel
from cluster.virtual.machines import NETWORK, VOLUME_GROUPS, Machine, machines

HEALTH = "/usr/sbin/pshcservcheck"
HOMES = "/home"
HOMES_EXPORT = "/"
"""What clients mount: an export with fsid=0 is the root of all that an NFSv4 server shows."""
_LVM = ["--config", "activation{udev_sync=0 udev_rules=0}"]


def slurm_conf(layout: Layout) -> str:
    """slurm.conf: that of the local kind, but every node is a machine of its own."""
    controller, *others = machines(layout)
    lines: list[str] = []
    ours = {
        "SlurmctldHost": f"{controller.name}({controller.address})",
        "StateSaveLocation": "/var/lib/slurm/slurmctld",  # as Debian's packages make them
        "SlurmdSpoolDir": "/var/lib/slurm/slurmd",
        "SlurmctldPidFile": "/run/slurmctld.pid",
        "SlurmdPidFile": "/run/slurmd.pid",
    }
    for line in config.slurm_conf(layout).splitlines():
        key = line.split("=")[0]
        if key in ours:
            lines.append(f"{key}={ours[key]}")
        elif key != "NodeName":
            lines.append(line)
    lines.append("BatchStartTimeout=120")  # else a slow machine has jobs requeued at their start
    lines += [
        f"NodeName={m.name} NodeAddr={m.address} CPUs=8 RealMemory=256 State=UNKNOWN"
        for m in others
        if m.role == "compute"
    ]
    return "\n".join(sorted(lines, key=lambda line: line.startswith("PartitionName="))) + "\n"


def cgroup_conf(release: str) -> str:
    """cgroup.conf. Jobs are followed without cgroups here; the oldest release wants to see some all the same."""
    return "CgroupPlugin=cgroup/v1\n" if release == "22.05" else "CgroupPlugin=disabled\n"


def ebb_conf(layout: Layout) -> str:
    """ebb.conf: the orchestrator's address, and what makes tests quick."""
    return f"Orchestrator={machines(layout)[0].address}:{ORCHESTRATOR_PORT}\nSlurmUser=slurm\nReconcileSeconds=5\n"


def datanodes_conf(layout: Layout) -> str:
    """datanodes.conf: by turns linear and striped volumes, and thin ones."""
    offers = (
        "VolumeGroup=ebb,wide StorageSize=5GiB,5GiB Stripes=1,2",
        "VolumeGroup=thin StorageSize=5GiB ThinPool=pool",
    )
    nodes = [m for m in machines(layout) if m.role == "datanode"]
    lines = [
        f"NodeName={m.name} NodeAddr={m.address} MemorySize=100GB Cores=16 Backend=lvm {offers[index % len(offers)]}"
        for index, m in enumerate(nodes)
    ]
    flavors = ["Flavor=small MemorySize=135MB Cores=2", "Flavor=medium MemorySize=135MB Cores=4 StorageSize=500MB"]
    return "\n".join([*lines, *flavors, f"HealthChecker={HEALTH}", ""])


def dnd_options(machine: Machine) -> str:
    """/etc/default/ebb-dnd."""
    return f'EBB_DND_OPTIONS="--name {machine.name} --address {machine.address}"\n'


def hosts(layout: Layout) -> str:
    """/etc/hosts."""
    return "127.0.0.1\tlocalhost\n" + "".join(f"{m.address}\t{m.name}\n" for m in machines(layout))


def exports() -> str:
    """/etc/exports of the controller: all homes, as sites have them: root of a client is nobody there."""
    return f"{HOMES} {NETWORK}.0/24(rw,sync,root_squash,no_subtree_check,fsid=0)\n"


def settings(machine: Machine) -> str:
    """settings.json for `node/process1.py`: address, and the commands that make the node what it is."""
    setup: list[list[str]] = [
        ["ip", "link", "set", "lo", "up"],
        ["ip", "address", "add", f"{machine.address}/24", "broadcast", f"{NETWORK}.255", "dev", "eth0"],
        ["ip", "link", "set", "eth0", "up"],
        ["hostname", machine.name],
    ]
    if machine.role == "controller":
        setup += _homes()
    if machine.role == "compute":
        setup += [*_cgroups(), ["modprobe", "fuse"], ["chmod", "666", "/dev/fuse"]]  # as systemd and udev leave it
    if machine.role == "datanode":
        setup += [["mount", "-t", "cgroup2", "cgroup2", "/sys/fs/cgroup"], *_volume_groups()]
    return json.dumps({"address": machine.address, "port": channel.PORT, "setup": setup}, indent=1) + "\n"


def _homes() -> list[list[str]]:
    """The controller serves /home, a file system of its own, by the kernel's NFS server."""
    return [
        ["mount", "/dev/ubdb", HOMES],
        ["modprobe", "nfsd"],
        ["mount", "-t", "nfsd", "nfsd", "/proc/fs/nfsd"],
        ["sh", "-c", "mkdir -p /run/rpc_pipefs /var/lib/nfs/v4recovery; mount -t rpc_pipefs sunrpc /run/rpc_pipefs"],
        ["sh", "-c", "echo 10 > /proc/fs/nfsd/nfsv4leasetime; echo 10 > /proc/fs/nfsd/nfsv4gracetime"],
        ["exportfs", "-ra"],
        ["rpc.mountd", "--no-nfs-version", "3", "--no-udp"],
        ["rpc.nfsd", "--no-nfs-version", "3", "--no-udp", "4"],
        ["sh", "-c", "echo Y > /proc/fs/nfsd/v4_end_grace"],
    ]


def _cgroups() -> list[list[str]]:
    """What slurmd 22.05 looks for, and does not use."""
    return [
        ["mount", "-t", "tmpfs", "tmpfs", "/sys/fs/cgroup"],
        ["mkdir", "/sys/fs/cgroup/freezer"],
        ["mount", "-t", "cgroup", "-o", "freezer", "cgroup", "/sys/fs/cgroup/freezer"],
    ]


def _volume_groups() -> list[list[str]]:
    """Made at the first start of a node, activated at each. Nothing if no package has brought LVM."""
    config = " ".join(f"'{word}'" for word in _LVM)
    lines = ["command -v vgs >/dev/null || exit 0"]
    for group, disks in VOLUME_GROUPS.items():
        devices = " ".join(f"/dev/{disk}" for disk in disks)
        lines.append(f"vgs {group} >/dev/null 2>&1 || vgcreate --quiet {config} {group} {devices}")
    lines.append(f"vgchange --quiet {config} --activate y")
    pool = f"lvcreate --quiet {config} --yes --type thin-pool --extents 95%FREE --name pool thin"
    lines.append(f"lvs thin/pool >/dev/null 2>&1 || {pool}")
    modules = [["modprobe", "dm-mod"], ["modprobe", "dm-thin-pool"], ["mkdir", "-p", "/dev/mapper"]]
    return [*modules, ["sh", "-c", "; ".join(lines)]]
