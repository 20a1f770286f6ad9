"""Volumes on real drives: linear, striped over two, and thin. Each takes data, gives it back, and leaves nothing."""

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use

SIZE = "320MiB"
KINDS = {
    "linear": ("dn1", "ebb", "linear", "1"),
    "striped": ("dn1", "wide", "striped", "2"),
    "thin": ("dn2", "thin", "thin", "0"),
}
"""By buffer, in the order in which the allocator fills empty datanodes: datanode, volume group, segment, stripes."""


def volumes(cluster: Cluster, node: str) -> dict[str, list[str]]:
    """Buffers' volumes as LVM has them: group, kind of segment, stripes, pool."""
    argv = ["lvs", "--noheadings", "--separator", ";", "-o", "lv_name,vg_name,segtype,stripes,pool_lv"]
    rows = [line.strip().split(";") for line in cluster.exec(node, argv).stdout.splitlines()]
    return {name: rest for name, *rest in rows if name.endswith("_stg")}


def checked(cluster: Cluster, node: str) -> str:
    """What the health checker finds wrong with any service of a node."""
    done = cluster.exec(node, ["pshcservcheck", "check", "all"], check=False)
    return done.stdout + done.stderr


def make(cluster: Cluster, again: str = "") -> dict[str, int]:
    """A buffer of each kind, filled from what `again` says; each lies where it should, and is well."""
    bbids = {}
    for name, (node, group, segment, stripes) in KINDS.items():
        more = {"data_dst": f"/home/alice/kept/{name}"} | ({again: f"/home/alice/kept/{name}"} if again else {})
        bbids[name] = cluster.sbatch("alice", script(create(name, SIZE, **more)))
        cluster.wait_job(bbids[name], deadline=120)
        address = "10.2.19.211" if node == "dn1" else "10.2.19.212"
        found = volumes(cluster, node)[f"gbf_{bbids[name]}_{address}_stg"]
        assert found == [group, segment, stripes, "pool" if segment == "thin" else ""]
    assert checked(cluster, "dn1") + checked(cluster, "dn2") == ""
    return bbids


def end(cluster: Cluster) -> None:
    """Destroy them: the datasets are there, the volumes are not, and the pool has all its room again."""
    cluster.wait_job(cluster.sbatch("alice", script(*map(destroy, KINDS))), deadline=180)
    for name in KINDS:
        assert cluster.bbstat().state(name) == "staged-out"
    assert volumes(cluster, "dn1") == volumes(cluster, "dn2") == {}
    assert pool(cluster, "data_percent") == "0.00"


def pool(cluster: Cluster, column: str) -> str:
    """One column of the thin pool on dn2."""
    return cluster.exec("dn2", ["lvs", "--noheadings", "-o", column, "thin/pool"]).stdout.strip()


def test_each_layout_keeps_what_is_written(cluster: Cluster) -> None:
    """Over a power cut too: volumes and pool are there again, and are saved as ever."""
    cluster.run("alice", ["mkdir", "-p", "kept", *KINDS])
    make(cluster)
    fill = (
        "for b in linear striped thin; do "
        "head -c 24M /dev/urandom > ~/$b/data && sha256sum < ~/$b/data > ~/kept/$b.sum; sync ~/$b/data ~/$b; done"
    )
    cluster.wait_job(cluster.sbatch("alice", script(*map(use, KINDS), body="set -e; " + fill)), deadline=180)
    assert 0 < float(pool(cluster, "data_percent")) < 5, "a thin volume has taken more of its pool than was written"
    for node in ("dn1", "dn2"):
        cluster.kill(node)
        cluster.start(node)
    end(cluster)
    make(cluster, "data_src")
    same = "for b in linear striped thin; do sha256sum < ~/$b/data | cmp - ~/kept/$b.sum; done; echo all the same"
    job = cluster.sbatch("alice", script(*map(use, KINDS), body="set -e; " + same))
    cluster.wait_job(job, deadline=180)
    assert cluster.run("alice", ["cat", f"slurm-{job}.out"]).stdout == "all the same\n"
    end(cluster)


def test_a_pool_that_would_show_former_data_is_refused(cluster: Cluster) -> None:
    """Blocks of such a pool are another user's until they are written over."""
    names = [*list(KINDS)[:2], "refused"]
    cluster.run("alice", ["mkdir", "-p", *names])
    change = ["lvchange", "--config", "activation{udev_sync=0 udev_rules=0}", "thin/pool", "--zero"]
    cluster.exec("dn2", [*change, "n"])
    try:
        for name in names[:2]:
            cluster.wait_job(cluster.sbatch("alice", script(create(name, SIZE))))
        cluster.sbatch("alice", script(create("refused", SIZE)))
        cluster.wait_until(
            lambda: cluster.bbstat().state("refused") in ("staged-in", "teardown", "staged-out"), 90,
            "an end of the third", cluster.bbstat_text,
        )  # fmt: skip
        buffer = cluster.bbstat().buffer("refused")
        assert buffer and "lvchange --zero y thin/pool" in buffer.reason
    finally:
        cluster.exec("dn2", [*change, "y"])
