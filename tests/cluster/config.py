"""The text of the cluster's configuration files. Pure: nothing here touches the machine."""

from collections.abc import Iterable

from cluster.layout import ORCHESTRATOR_PORT, USERS, Layout, User

LOOPBACK = "127.0.0.1"


def slurm_conf(layout: Layout) -> str:
    """slurm.conf: many small jobs at once on a small machine, and a scheduler that looks every two seconds."""
    nodes = [
        f"NodeName={node.name} NodeAddr={node.address} NodeHostname=controller Port={node.port}"
        " CPUs=8 RealMemory=4000 State=UNKNOWN"
        for node in layout.compute_nodes()
    ]
    return "\n".join(
        [
            "ClusterName=ebb",
            f"SlurmctldHost=controller({LOOPBACK})",
            "SlurmUser=slurm",
            "AuthType=auth/munge",
            "StateSaveLocation=/var/spool/slurmctld",
            "SlurmdSpoolDir=/var/spool/slurmd/%n",
            "SlurmctldPidFile=/run/slurm/slurmctld.pid",
            "SlurmdPidFile=/run/slurm/slurmd-%n.pid",
            "ProctrackType=proctrack/linuxproc",
            "TaskPlugin=task/none",
            "JobAcctGatherType=jobacct_gather/none",
            "AccountingStorageType=accounting_storage/none",
            "MpiDefault=none",
            "SelectType=select/cons_tres",
            "SelectTypeParameters=CR_CPU",
            "SlurmdParameters=config_overrides",  # 8 CPUs, whatever the machine has
            "SchedulerType=sched/backfill",
            # Slurm's own pace with burst buffers is a scheduling cycle a step, a minute each by default.
            "SchedulerParameters=sched_interval=2,bf_interval=2,sched_min_interval=0,batch_sched_delay=1",
            "ReturnToService=2",
            "SlurmdTimeout=20",
            "SlurmctldTimeout=20",
            "KillWait=5",
            "JobRequeue=1",
            "SlurmctldDebug=verbose",
            "SlurmdDebug=verbose",
            "PlugStackConfig=/etc/slurm/plugstack.conf",
            *([] if layout.plain else ["BurstBufferType=burst_buffer/lua"]),
            *nodes,
            "PartitionName=main Nodes=ALL Default=YES MaxTime=INFINITE State=UP",
            "",
        ]
    )


def plugstack_conf(plugin: str, client: str) -> str:
    """plugstack.conf. Optional: a required plugin that fails drains nodes. client: the program behind SBB mounts."""
    return f"optional {plugin} client={client}\n"


def ebb_conf() -> str:
    """ebb.conf: everything is at its default place but what a loopback cluster cannot have there.

    SBB servers drain late, so that a test sees what is not drained yet.
    """
    return f"Orchestrator={LOOPBACK}:{ORCHESTRATOR_PORT}\nSlurmUser=slurm\nReconcileSeconds=5\nSbbDrainDelay=60\n"


def datanodes_conf(layout: Layout) -> str:
    """datanodes.conf with volumes in files: a loopback cluster's kernel may have no device-mapper."""
    lines = [
        f"NodeName={node.name} NodeAddr={node.address} Port={node.port} MemorySize=100GB Cores=16"
        " Backend=file VolumeGroup=vg0 StorageSize=20GB"
        for node in layout.data_nodes()
    ]
    # Servers take their memory at once, and all of it is this machine's.
    flavors = [
        "Flavor=small MemorySize=200MB Cores=2",
        "Flavor=medium MemorySize=300MB Cores=4 StorageSize=500MB",
        "Flavor=high MemorySize=400MB Cores=8 StorageSize=1GB",
    ]
    # All datanodes of a loopback cluster see one file system.
    store = "ObjectStore=embedded Location=/var/lib/ebb/store Tiers=2 Patience=10"
    return "\n".join([*lines, *flavors, store, "HealthChecker=/usr/local/bin/pshcservcheck", ""])


def hosts(layout: Layout) -> str:
    """/etc/hosts."""
    named = [(LOOPBACK, "controller localhost")]
    named += [(node.address, node.name) for node in (*layout.data_nodes(), *layout.compute_nodes())]
    return "".join(f"{address}\t{name}\n" for address, name in named)


def with_users(passwd: str, users: Iterable[User] = USERS) -> str:
    """passwd(5) text with `users` in it; entries of the machine that have such a name or uid make room."""
    users = list(users)
    added = [f"{u.name}:x:{u.uid}:{u.uid}:{u.name}:/home/{u.name}:/bin/bash" for u in users]
    return _replaced(passwd, users, added)


def with_groups(group: str, users: Iterable[User] = USERS) -> str:
    """group(5) text with a group of its own for each user."""
    users = list(users)
    return _replaced(group, users, [f"{u.name}:x:{u.uid}:" for u in users])


def _replaced(table: str, users: list[User], added: list[str]) -> str:
    names, ids = {u.name for u in users}, {str(u.uid) for u in users}

    def clashes(line: str) -> bool:
        fields = line.split(":")
        return fields[0] in names or (len(fields) > 2 and fields[2] in ids)

    kept = [line for line in table.splitlines() if not clashes(line)]
    return "\n".join([*kept, *added, ""])
