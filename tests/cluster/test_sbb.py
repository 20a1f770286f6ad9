"""SBB buffers as users have them: one view in their jobs, the directory as it is for others, all of it at the end."""

import hashlib
from collections.abc import Iterator

import pytest

from cluster.harness import Cluster
from cluster.jobs import create_sbb, destroy, script, use

FLAVORS = ["small", "medium"]
MIB = 1 << 20


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """After each test: no job, totals of zero, no server, no client, no mount."""
    yield
    for user in ("alice", "bob"):
        cluster.exec("controller", ["scancel", f"--user={user}"])
    cluster.wait_until(lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 60, "an empty queue")
    cluster.wait_until(cluster.all_destroyed, 90, "totals of zero", cluster.bbstat_text)
    assert servers(cluster) == []
    cluster.wait_until(lambda: not pids(cluster, "sbb-client"), 60, "clients to end with their jobs")


def pids(cluster: Cluster, pattern: str) -> list[int]:
    """Processes whose command line matches."""
    return [int(pid) for pid in cluster.exec("controller", ["pgrep", "--full", pattern], check=False).stdout.split()]


def servers(cluster: Cluster, datanode: str = "dn.") -> list[int]:
    """SBB servers of a datanode."""
    return pids(cluster, f"/run/ebb/{datanode}/sbb/.*sbbd.conf")


def output(cluster: Cluster, job: int, user: str = "alice") -> str:
    """What a batch job printed."""
    return (cluster.home(user) / f"slurm-{job}.out").read_text()


def create(cluster: Cluster, name: str, *targets: str, flavor: str = "small", datanodes: int = 2) -> None:
    """Create a buffer in a job of its own, and wait for it."""
    line = create_sbb(name, *targets, flavor=flavor, datanodes=datanodes)
    cluster.wait_job(cluster.sbatch("alice", script(line)))
    assert cluster.bbstat().state(name) == "staged-in"


def end(cluster: Cluster, name: str) -> None:
    """Destroy it in a job of its own; when that has run, all is in the targets."""
    cluster.wait_job(cluster.sbatch("alice", script(destroy(name))), deadline=120)


@pytest.mark.parametrize("flavor", FLAVORS)
def test_write_on_one_node_read_on_another_then_find_all_in_the_directory(cluster: Cluster, flavor: str) -> None:
    top = f"/home/alice/of-{flavor}"
    create(cluster, "fast", f"{top}/fast", f"{top}/deep/er/out", flavor=flavor)
    cluster.wait_reason("fast", "SBB running on 2 servers")
    text = cluster.bbstat_text()
    assert f" Memory={400 if flavor == 'small' else 600}000000 " in text
    assert f" StorageSize={'0' if flavor == 'small' else '1000000000'} " in text
    write = f"""set -e
    cd {top}
    head -c 9M /dev/urandom > fast/big
    for i in $(seq 50); do echo "line $i" > deep/er/out/$i; done
    dd if=/dev/urandom of=fast/shared bs=1000 count=300 status=none
    dd="dd of=fast/shared bs=1000 count=100 conv=notrunc status=none"
    srun -N1 -n3 --overlap bash -c "$dd if=/dev/urandom seek=\\$((SLURM_PROCID * 100))"
    ln fast/big fast/hard; mv deep/er/out/50 fast/moved; truncate -s 3M fast/big
    sha256sum fast/big fast/shared fast/moved"""
    read = f"cd {top}; sha256sum fast/big fast/shared fast/moved; ls deep/er/out | wc -l; stat -c %s fast/hard"
    job = cluster.sbatch("alice", script(use("fast"), body=write), "--nodelist=cn1", "-n3")
    cluster.wait_job(job)
    sums = output(cluster, job)
    outside = hashlib.sha256((cluster.home("alice") / f"of-{flavor}/fast/big").read_bytes()).hexdigest()
    assert outside not in sums  # nobody has drained it yet
    job = cluster.sbatch("alice", script(use("fast"), body=read), "--nodelist=cn2")
    cluster.wait_job(job)
    assert output(cluster, job) == f"{sums}49\n{3 * MIB}\n"
    end(cluster, "fast")
    assert 'Reason="Stage out completed"' in cluster.bbstat_text()
    done = cluster.run("alice", ["sh", "-c", read])
    assert done.stdout == f"{sums}49\n{3 * MIB}\n"


def test_destroy_waits_for_inactivity_and_says_so(cluster: Cluster) -> None:
    create(cluster, "busy")
    body = "echo data > ~/busy/x; touch ~/written; until [ -e ~/go ]; do sleep 0.1; done; echo more >> ~/busy/x"
    job = cluster.sbatch("alice", script(use("busy"), body=body))
    cluster.wait_until((cluster.home("alice") / "written").exists, 60, "the job to have written")
    ending = cluster.sbatch("alice", script(destroy("busy")))
    cluster.wait_until(lambda: "Waiting for SBB inactivity" in cluster.bbstat_text(), 90, "the Reason")
    assert cluster.job_state(ending) == "PENDING"
    cluster.run("alice", ["touch", "go"])
    cluster.wait_job(job)
    cluster.wait_job(ending)
    assert (cluster.home("alice") / "busy/x").read_text() == "data\nmore\n"
    cluster.run("alice", ["rm", "go", "written"])


def test_every_step_and_node_of_a_job_has_it_and_srun_bb_too(cluster: Cluster) -> None:
    create(cluster, "wide")
    body = """set -e
    cd ~/wide
    srun -N2 -n2 bash -c 'echo "$SLURMD_NODENAME" > $SLURM_PROCID'
    srun -N1 -n1 cat 0 1
    srun -N2 -n2 --export=NONE /bin/ls"""
    job = cluster.sbatch("alice", script(use("wide"), body=body), "-N2")
    cluster.wait_job(job)
    assert output(cluster, job).split() == ["cn1", "cn2", "0", "1", "0", "1"]
    done = cluster.run("alice", ["srun", "-n1", "--bb", f"#BB_LUA {use('wide')}", "cat", "/home/alice/wide/0"])
    assert done.stdout == "cn1\n"


def test_nobody_else_may_use_or_destroy_it(cluster: Cluster) -> None:
    create(cluster, "mine")
    for line in (use("mine"), destroy("mine")):
        job = cluster.sbatch("bob", script(line, body="cat /home/alice/mine/x"))
        cluster.wait_until(lambda job=job: "belongs" in str(cluster.job(job)), 90, "bob's job to be held")  # type: ignore[misc]
    assert cluster.bbstat().state("mine") == "staged-in"


def test_flush_puts_a_file_into_the_directory_at_once(cluster: Cluster) -> None:
    create(cluster, "check")
    body = """set -e
    head -c 5M /dev/urandom > ~/check/point
    sha256sum < ~/check/point
    ebb flush ~/check/point
    touch ~/flushed; until [ -e ~/go ]; do sleep 0.1; done
    ebb flush ~/slurm-$SLURM_JOB_ID.out 2>&1 | cat"""
    job = cluster.sbatch("alice", script(use("check"), body=body))
    cluster.wait_until((cluster.home("alice") / "flushed").exists, 60, "the job to have flushed")
    data = (cluster.home("alice") / "check/point").read_bytes()
    cluster.run("alice", ["touch", "go"])
    cluster.wait_job(job)
    said = output(cluster, job)
    assert said.startswith(hashlib.sha256(data).hexdigest())
    assert "lies in no target of an SBB" in said
    cluster.run("alice", ["rm", "go", "flushed"])


@pytest.mark.parametrize("victims", ["dn1 dn2", "orchestrator"])
def test_kill_9_of_daemons_while_a_job_writes_loses_nothing(cluster: Cluster, victims: str) -> None:
    create(cluster, "alive")
    body = """set -e
    echo begun > ~/alive/a; touch ~/written; until [ -e ~/go ]; do sleep 0.1; done
    echo after >> ~/alive/a; cat ~/alive/a"""
    job = cluster.sbatch("alice", script(use("alive"), body=body))
    cluster.wait_until((cluster.home("alice") / "written").exists, 60, "the job to have written")
    for victim in victims.split():
        cluster.kill(victim)
    cluster.run("alice", ["touch", "go"])
    cluster.wait_until(lambda: "after" in output(cluster, job), 60, "the job to go on meanwhile")
    for victim in victims.split():
        cluster.start(victim)
    cluster.wait_job(job)
    end(cluster, "alive")
    assert (cluster.home("alice") / "alive/a").read_text() == "begun\nafter\n"
    cluster.run("alice", ["rm", "go", "written"])


def test_kill_9_of_a_server_with_storage_loses_nothing(cluster: Cluster) -> None:
    create(cluster, "safe", flavor="medium")
    body = """set -e
    head -c 8M /dev/urandom > ~/safe/a; sync ~/safe/a; sha256sum < ~/safe/a
    touch ~/written; until [ -e ~/go ]; do sleep 0.1; done
    head -c 8M /dev/urandom > ~/safe/b; sync ~/safe/b; sha256sum < ~/safe/b"""
    job = cluster.sbatch("alice", script(use("safe"), body=body))
    cluster.wait_until((cluster.home("alice") / "written").exists, 60, "the job to have written")
    for pid in servers(cluster):
        cluster.exec("controller", ["kill", "-9", str(pid)])
    cluster.run("alice", ["touch", "go"])
    cluster.wait_job(job)
    end(cluster, "safe")
    sums = output(cluster, job)
    for name in ("a", "b"):
        assert hashlib.sha256((cluster.home("alice") / "safe" / name).read_bytes()).hexdigest() in sums
    cluster.run("alice", ["rm", "go", "written"])


def test_kill_9_of_a_server_without_storage_names_what_was_lost(cluster: Cluster) -> None:
    create(cluster, "risky", datanodes=1)
    cluster.wait_job(cluster.sbatch("alice", script(use("risky"), body="echo data > ~/risky/precious; sync ~/risky/*")))
    (pid,) = servers(cluster)
    cluster.exec("controller", ["kill", "-9", str(pid)])
    cluster.wait_buffer("risky", "teardown", deadline=90)
    assert "Data lost - dn" in cluster.bbstat_text() and "/home/alice/risky/precious" in cluster.bbstat_text()
    job = cluster.sbatch("alice", script(destroy("risky")))
    cluster.wait_until(lambda: "Stage out failed - dn" in cluster.bbstat_text(), 60, "destroy to say so")
    assert "/home/alice/risky/precious" in cluster.bbstat_text()
    cluster.exec("controller", ["scancel", str(job)])
    cluster.wait_job(cluster.sbatch("alice", script(destroy("risky", Discard="yes"))))


def test_what_cannot_be_written_stays_is_named_and_is_tried_again(cluster: Cluster) -> None:
    target = "/home/alice/full"
    cluster.run("alice", ["mkdir", target])
    cluster.exec("controller", ["mount", "-t", "tmpfs", "-o", "size=1m,uid=2001,mode=700", "tmpfs", target])
    create(cluster, "full")
    body = "head -c 5M /dev/urandom > ~/full/x; sha256sum < ~/full/x; ebb flush ~/full/x"
    job = cluster.sbatch("alice", script(use("full"), body=body))
    cluster.wait_job(job, "FAILED")
    why = f"cannot drain {target}/x: cannot be written: No space left on device"
    cluster.wait_until(
        lambda: "SBB running on 2 servers - dn" in (text := cluster.bbstat_text()) and why in text,
        90,  # a server that did not answer within half a second is asked again after 30 s
        "bbstat to say so",
        cluster.bbstat_text,
    )
    ending = cluster.sbatch("alice", script(destroy("full")))
    cluster.wait_buffer("full", "teardown", deadline=90)
    assert "Stage out failed - dn" in cluster.bbstat_text() and why in cluster.bbstat_text()
    cluster.exec("controller", ["scancel", str(ending)])
    cluster.exec("controller", ["mount", "-o", "remount,size=20m", target])
    end(cluster, "full")
    data = cluster.exec("controller", ["sha256sum", f"{target}/x"]).stdout.split()[0]
    assert data in output(cluster, job)
    cluster.exec("controller", ["umount", target])


def test_scancel_while_it_writes_keeps_what_was_written(cluster: Cluster) -> None:
    create(cluster, "cut")
    body = "echo data > ~/cut/a; touch ~/written; while :; do head -c 1M /dev/zero >> ~/cut/b; done"
    job = cluster.sbatch("alice", script(use("cut"), body=body))
    cluster.wait_until((cluster.home("alice") / "written").exists, 60, "the job to have written")
    cluster.exec("controller", ["scancel", str(job)])
    end(cluster, "cut")
    assert (cluster.home("alice") / "cut/a").read_text() == "data\n"
    cluster.run("alice", ["rm", "written"])
