"""What happens to jobs on their way through Slurm, and many buffers at once."""

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use
from virtual.looks import output, wait_file

SIZE = "320MiB"


def test_heterogeneous_requeued_timed_out_and_dependent_jobs(cluster: Cluster) -> None:
    """One buffer; what takes Slurm minutes runs at the same time. Also a job that waits for another one's buffer."""
    cluster.run("alice", ["mkdir", "-p", "life", "sets", "alone"])
    cluster.wait_job(cluster.sbatch("alice", script(create("life", SIZE, data_dst="/home/alice/sets/life"))))
    late = cluster.sbatch("alice", script(use("life"), body="echo begun > ~/life/late; sleep 600"), "--time=1")
    lines = [create("alone", SIZE, data_dst="/home/alice/sets/alone"), use("alone"), destroy("alone")]
    alone = cluster.sbatch("alice", script(*lines, body="echo x > ~/alone/x"))
    burst = cluster.sbatch("alice", script(body="ls ~/sets/alone"), f"--dependency=afterburstbuffer:{alone}")
    again = """echo "run ${SLURM_RESTART_COUNT:-0}" >> ~/life/runs; cat ~/life/runs
    [ "$SLURM_RESTART_COUNT" ] || { touch ~/on; sleep 600; }"""
    requeued = cluster.sbatch("alice", script(use("life"), body=again), "--requeue")
    wait_file(cluster, "on")
    cluster.exec("controller", ["scontrol", "requeue", str(requeued)])
    line = f"#BB_LUA {use('life')}"
    het = cluster.sbatch(
        "alice",
        f"#!/bin/bash\n{line}\n#SBATCH -n1 -w cn1\n#SBATCH hetjob\n{line}\n#SBATCH -n1 -w cn2\n"
        "srun --het-group=0,1 sh -c 'echo $SLURMD_NODENAME $(stat -f -c %T ~/life)' | sort\n",
    )
    cluster.wait_job(het, deadline=180)
    assert output(cluster, het) == "cn1 nfs\ncn2 nfs\n"
    ending = cluster.sbatch("alice", script(destroy("life")), "--dependency=afterany:" + f"{late}:{requeued}")
    after = cluster.sbatch("alice", script(body="stat -c %s ~/sets/life"), f"--dependency=afterok:{ending}")
    cluster.wait_job(late, "TIMEOUT", 300)
    cluster.wait_job(requeued, deadline=300)
    assert output(cluster, requeued) == "run 0\nrun 1\n"
    cluster.wait_job(ending, deadline=120)
    cluster.wait_job(after)
    assert output(cluster, after) == f"{(320 << 20) + (1 << 20)}\n"
    cluster.wait_job(alone)
    cluster.wait_job(burst)
    assert output(cluster, burst) == "/home/alice/sets/alone\n"


def _says(cluster: Cluster, text: str, deadline: float = 90) -> None:
    """Wait until bbstat says `text`."""
    cluster.wait_until(lambda: text in cluster.bbstat_text(), deadline, f"bbstat to say `{text}`", cluster.bbstat_text)


def _queue_empties(cluster: Cluster, deadline: float = 120) -> None:
    def queue() -> str:
        return cluster.exec("controller", ["squeue", "-h"]).stdout

    cluster.wait_until(lambda: not queue().strip(), deadline, "an empty queue", queue)


def _cancel(cluster: Cluster, *jobs: int) -> None:
    cluster.exec("controller", ["scancel", *map(str, jobs)])


def test_scancel_while_it_waits_for_room_is_staged_in_runs_or_waits_for_others(cluster: Cluster) -> None:
    """Buffers of others stay as they are; the end of a buffer is withdrawn with the job that waits for it."""
    cluster.run("alice", ["mkdir", "-p", "one", "two", "three", "four"])
    fills = script(*(create(name, "3GiB") for name in ("one", "two", "three")))
    cluster.wait_job(cluster.sbatch("alice", fills), deadline=180)
    waiting = cluster.sbatch("alice", script(create("four", "3GiB"), use("four")))
    _says(cluster, "Waiting for GBF Resources")
    _cancel(cluster, waiting)
    cluster.wait_buffer("four", None)
    # One runs; one is staged in, but has no node; one waits for the first to end.
    running = cluster.sbatch("alice", script(use("one"), body="sleep 600"), "-N2", "--exclusive", "--time=10")
    cluster.wait_job(running, "RUNNING", 120)
    staged = cluster.sbatch("alice", script(use("two")))
    ending = cluster.sbatch("alice", script(destroy("one")))
    _says(cluster, f"used by job {running}")
    cluster.wait_until(
        lambda: cluster.job(staged)["BurstBufferState"] == "staged-in", 120, "the second job to be staged in",
        lambda: str(cluster.job(staged)),
    )  # fmt: skip
    _cancel(cluster, staged, ending)
    cluster.wait_until(
        lambda: all(cluster.bbstat().state(name) == "staged-in" for name in ("one", "two")), 90, "both to live on",
        cluster.bbstat_text,
    )  # fmt: skip
    assert cluster.job_state(running) == "RUNNING"
    _cancel(cluster, running)
    cluster.wait_job(running, "CANCELLED", 60)
    cluster.wait_job(cluster.sbatch("alice", script(*map(destroy, ("one", "two", "three")))), deadline=150)


def test_scancel_while_datanodes_are_down_in_the_midst_of_staging(cluster: Cluster) -> None:
    """No job is stuck for it. When they are back: what was begun is withdrawn, and what was to be saved is saved."""
    cluster.run("alice", ["mkdir", "-p", "begun", "ended", "scoped", "sets"])
    cluster.wait_job(cluster.sbatch("alice", script(create("ended", SIZE, data_dst="/home/alice/sets/ended"))))
    lines = [create("scoped", SIZE, data_dst="/home/alice/sets/scoped"), use("scoped"), destroy("scoped")]
    body = "echo x > ~/scoped/x; touch ~/on; until [ -e ~/off ]; do sleep 0.2; done; rm ~/on ~/off"
    scoped = cluster.sbatch("alice", script(*lines, body=body))
    wait_file(cluster, "on")
    for node in ("dn1", "dn2"):
        cluster.kill(f"{node}/ebb-dnd")
    cluster.run("alice", ["touch", "off"])
    begun = cluster.sbatch("alice", script(create("begun", SIZE)))
    ending = cluster.sbatch("alice", script(destroy("ended")))
    cluster.wait_until(
        lambda: cluster.bbstat().state("begun") == "staging-in"
        and {cluster.bbstat().state(name) for name in ("ended", "scoped")} == {"staging-out"},
        150, "all three to be moving", cluster.bbstat_text,
    )  # fmt: skip
    _cancel(cluster, begun, ending)
    cluster.exec("controller", ["scancel", "--hurry", str(scoped)])
    _queue_empties(cluster)
    for node in ("dn1", "dn2"):
        cluster.start(f"{node}/ebb-dnd")
    for name in ("begun", "ended", "scoped"):
        cluster.wait_buffer(name, None, 180)
    sizes = cluster.run("alice", ["stat", "-c", "%s", "sets/ended", "sets/scoped"]).stdout.split()
    assert sizes == [str((320 << 20) + (1 << 20))] * 2


def test_sixty_buffers_twenty_at_once(cluster: Cluster) -> None:
    """After each twenty the totals are right and no node has anything left."""
    size, names = 300 << 20, [f"b{i}" for i in range(20)]
    cluster.run("alice", ["mkdir", "-p", *names])
    submit = "for name in $(seq 0 19); do sed s/NAME/b$name/g template | sbatch --quiet -o /dev/null; done"
    volumes = ["sh", "-c", "lvs --noheadings -o lv_name --select 'lv_name=~_stg$'; ps -C ganesha.nfsd -o args=; true"]
    for _ in range(3):
        for line, used in ((create("NAME", str(size)), 20 * size), (destroy("NAME"), 0)):
            cluster.run("alice", ["tee", "template"], stdin=script(line, body="true"))
            cluster.run("alice", ["sh", "-c", submit], timeout=120)
            cluster.wait_until(
                lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 300, "all twenty jobs",
                lambda: cluster.exec("controller", ["squeue"]).stdout + cluster.bbstat_text(),
            )  # fmt: skip
            stat = cluster.bbstat()
            assert stat.totals["used storage"] == used
            assert {stat.state(name) for name in names} == {"staged-in" if used else "staged-out"}
        assert [cluster.exec(node, volumes).stdout for node in ("dn1", "dn2")] == ["", ""]
