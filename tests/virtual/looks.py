"""What several of these tests look at."""

from cluster.harness import Cluster


def datanode_of(cluster: Cluster, bbid: int) -> str:
    """Where a buffer's volume is."""
    for node in ("dn1", "dn2"):
        if f"gbf_{bbid}_" in cluster.exec(node, ["lvs", "--noheadings", "-o", "lv_name"]).stdout:
            return node
    raise AssertionError(f"no volume of buffer {bbid} on any datanode")


def output(cluster: Cluster, job: int, user: str = "alice") -> str:
    """What a batch job printed."""
    return cluster.run(user, ["cat", f"slurm-{job}.out"]).stdout


def wait_file(cluster: Cluster, name: str, deadline: float = 120, user: str = "alice") -> None:
    """Wait until a job has made a file in its user's home."""
    there = ["test", "-e", name]
    cluster.wait_until(lambda: cluster.run(user, there, check=False).returncode == 0, deadline, f"~{user}/{name}")


def restart_slurmctld(cluster: Cluster) -> None:
    """As its unit does, with a reconfiguration behind it.

    kill -9 is not for these tests: slurmctld saves every 30 s only which jobs have buffers, long after it saved that
    they are staging in, and leaves those that it did not save so for ever.
    """
    cluster.exec("controller", ["sh", "-c", "kill $(pgrep -o -x slurmctld)"])
    cluster.wait_until(
        lambda: dict(cluster.kind.status())["controller/slurmctld"].startswith("ended"), 60, "slurmctld to end",
        lambda: str(cluster.kind.status()),
    )  # fmt: skip
    cluster.start("slurmctld")
    # From 23.11 on a reconfiguration is a start as well, and a job that it finds in teardown stays so for ever.
    taking_down = ["sh", "-c", "scontrol show jobs --oneliner | grep BurstBufferState=teardown; true"]
    cluster.wait_until(
        lambda: not cluster.exec("controller", taking_down).stdout, 90, "no job to be in teardown",
        lambda: cluster.exec("controller", taking_down).stdout,
    )  # fmt: skip
    cluster.exec("controller", ["scontrol", "reconfigure"])
    # From 23.11 on slurmctld and slurmd have new processes now.
    cluster.wait_until(
        lambda: all(health == "up" for name, health in cluster.kind.status() if "slurm" in name), 60, "Slurm to be up",
        lambda: str(cluster.kind.status()),
    )  # fmt: skip
