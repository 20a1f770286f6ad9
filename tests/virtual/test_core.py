"""What every Slurm release must do: the main job over NFS, users kept apart, every way to ask, `ebb migrate`."""

from cluster.harness import Cluster
from cluster.jobs import create, create_sbb, destroy, script, use
from virtual.looks import output, wait_file

EVERY_RELEASE = True
SIZE = "320MiB"


def _wait_text(cluster: Cluster, argv: list[str], text: str, deadline: float = 60) -> None:
    """Wait until a command on the controller says `text`."""
    cluster.wait_until(
        lambda: text in cluster.exec("controller", argv).stdout, deadline, f"`{text}`",
        lambda: cluster.exec("controller", argv).stdout,
    )  # fmt: skip


def test_the_main_job_on_two_nodes(cluster: Cluster) -> None:
    """Create; two nodes, and steps, at once write and read each other's files; save; use what was saved again."""
    cluster.run("alice", ["mkdir", "-p", "toto", "sets"])
    saved = {"data_dst": "/home/alice/sets/one"}
    cluster.wait_job(cluster.sbatch("alice", script(create("toto", SIZE, **saved))))
    buffer = cluster.bbstat().buffer("toto")
    assert buffer and buffer.state == "staged-in" and buffer.storage == 320 << 20
    cluster.wait_reason("toto", "Global Bunch of Flash ready")
    body = """set -e
    df --output=source,target ~/toto | tail -n 1
    srun -N2 -n2 bash -c '
        other=$((1 - SLURM_PROCID))
        head -c 8M /dev/urandom > ~/toto/of-$SLURM_PROCID.part
        sha256sum < ~/toto/of-$SLURM_PROCID.part > ~/toto/sum-$SLURM_PROCID
        mv ~/toto/of-$SLURM_PROCID.part ~/toto/of-$SLURM_PROCID
        until [ -e ~/toto/of-$other ]; do sleep 0.2; done
        [ "$(sha256sum < ~/toto/of-$other)" = "$(cat ~/toto/sum-$other)" ] && echo "$SLURMD_NODENAME has read"
    ' | sort
    for step in 1 2 3; do srun -Q -N1 -n1 --exact sh -c "echo step $step > ~/toto/step-$step" & done; wait
    cat ~/toto/step-*; rm ~/toto/step-*"""
    job = cluster.sbatch("alice", script(use("toto"), body=body), "-N2", "-n6")
    cluster.wait_job(job, deadline=120)
    first, *rest = output(cluster, job).splitlines()
    source, target = first.split()
    assert source.startswith("10.2.19.21") and ":/ganesha_" in source and target == "/home/alice/toto"
    assert rest == ["cn1 has read", "cn2 has read", "step 1", "step 2", "step 3"]
    assert cluster.run("alice", ["ls", "-A", "toto"]).stdout == "", "the buffer is seen outside of its jobs"
    cluster.wait_job(cluster.sbatch("alice", script(destroy("toto"))), deadline=120)
    assert cluster.bbstat().state("toto") == "staged-out"
    size = cluster.run("alice", ["stat", "-c", "%s %U %a", "sets/one"]).stdout.split()
    assert size[:2] == [str((320 << 20) + (1 << 20)), "alice"]
    # Again, from the dataset, in one script.
    lines = [create("toto", SIZE, data_src="/home/alice/sets/one"), use("toto"), destroy("toto")]
    again = cluster.sbatch("alice", script(*lines, body="cd ~/toto && sha256sum < of-1 | cmp - sum-1 && ls"))
    cluster.wait_job(again, deadline=120)
    assert output(cluster, again).split() == ["of-0", "of-1", "sum-0", "sum-1"]


def test_two_users_with_the_same_path(cluster: Cluster) -> None:
    for user in ("alice", "bob"):
        cluster.run(user, ["mkdir", "-p", "same"])
    jobs = {}
    body = (
        "echo $USER > ~/same/who; touch ~/ready; until [ -e ~/go ]; do sleep 0.2; done; rm ~/go ~/ready; cat ~/same/*"
    )
    for user in ("alice", "bob"):
        lines = [create(f"of-{user}", SIZE, path=f"/home/{user}/same"), use(f"of-{user}")]
        jobs[user] = cluster.sbatch(user, script(*lines, body=body), "-w", "cn1")
    for user in jobs:
        wait_file(cluster, "ready", user=user)
    for user in jobs:
        cluster.run(user, ["touch", "go"])
    for user, job in jobs.items():
        cluster.wait_job(job)
        assert output(cluster, job, user) == f"{user}\n"


def test_a_buffer_is_its_owners(cluster: Cluster) -> None:
    """bob can neither use nor destroy it, nor mount its export, on whatever node he is root."""
    cluster.run("alice", ["mkdir", "-p", "mine"])
    cluster.wait_job(cluster.sbatch("alice", script(create("mine", SIZE))))
    hold = "echo secret > ~/mine/file; touch ~/holds; until [ -e ~/free ]; do sleep 0.2; done; rm ~/holds ~/free"
    job = cluster.sbatch("alice", script(use("mine"), body=hold), "-w", "cn1")
    wait_file(cluster, "holds")
    for line in (use("mine"), destroy("mine"), destroy("mine", Discard="yes")):
        other = cluster.sbatch("bob", script(line, body="ls /home/alice/mine"))
        _wait_text(cluster, ["scontrol", "show", "job", str(other)], "belongs to alice")
        assert cluster.job_state(other) == "PENDING"
        cluster.exec("controller", ["scancel", str(other)])
    assert cluster.bbstat().state("mine") == "staged-in"
    look = "nsenter -t $(pgrep -f -n '[s]lurm_script') -m findmnt -n -o SOURCE,OPTIONS /home/alice/mine"
    mounts = cluster.exec("cn1", ["sh", "-c", look]).stdout.split()
    source, port = mounts[0], mounts[1].split("port=")[1].split(",")[0]
    for node in ("cn2", "controller", "dn1" if "211" not in source else "dn2"):
        cluster.exec(node, ["mkdir", "-p", "/mnt/try"])
        options = f"vers=4.1,port={port},soft,timeo=50,retrans=1"
        argv = ["timeout", "20", "mount", "-t", "nfs4", "-o", options, source, "/mnt/try"]
        done = cluster.exec(node, argv, check=False)
        assert done.returncode != 0, f"{node} has mounted {source}"
    cluster.run("alice", ["touch", "free"])
    cluster.wait_job(job)


def test_every_way_to_ask(cluster: Cluster) -> None:
    """srun --bb, salloc --bb, sbatch --bbf with --export=NONE, an array; an NFS and a smart burst buffer at once."""
    cluster.run("alice", ["mkdir", "-p", "asked", "other"])
    cluster.wait_job(cluster.sbatch("alice", script(create("asked", SIZE), create_sbb("other"))), deadline=150)
    line = f"#BB_LUA {use('asked')}"
    show = ["df", "--output=fstype,target", "/home/alice/asked"]
    assert "nfs4" in cluster.run("alice", ["srun", "-n1", "--bb", line, *show], timeout=90).stdout
    assert "nfs4" in cluster.run("alice", ["salloc", "-n1", "--bb", line, "srun", *show], timeout=90).stdout
    cluster.run("alice", ["tee", "bbf"], stdin=f"#!/bin/bash\n{line}\n")
    bbf = cluster.sbatch("alice", script(body=" ".join(show)), "--bbf=bbf", "--export=NONE")
    both = cluster.sbatch("alice", script(use("asked"), use("other"), body=" ".join(show) + " ~/other | tail -n 2"))
    array = cluster.sbatch(
        "alice", script(use("asked"), body="cp /etc/hostname ~/asked/t$SLURM_ARRAY_TASK_ID"), "--array=1-3"
    )
    cluster.wait_until(
        lambda: not cluster.exec("controller", ["squeue", "-h", "-j", str(array)], check=False).stdout.strip(),
        120,
        "the array",
    )
    cluster.wait_job(bbf, deadline=90)
    assert "nfs4" in output(cluster, bbf)
    cluster.wait_job(both, deadline=90)
    assert [line.split()[0] for line in output(cluster, both).splitlines()] == ["nfs4", "fuse.sbb"]
    look = cluster.sbatch("alice", script(use("asked"), body="ls ~/asked"), f"--dependency=afterok:{array}")
    cluster.wait_job(look, deadline=90)
    assert output(cluster, look).split() == ["t1", "t2", "t3"]


TREE = r"""mkdir -p src/deep/er 'src/a b' && cd src
head -c 3M /dev/urandom > deep/data; ln deep/data deep/er/linked; ln -s ../deep 'a b/link'; echo x > "a b/quote'\"\$(x)"
truncate -s 200M sparse; echo middle | dd of=sparse bs=1M seek=100 conv=notrunc status=none; chmod 500 deep/er"""


def test_data_migrates_into_a_dataset_on_two_nodes_and_out_again(cluster: Cluster) -> None:
    """`ebb migrate` as its user: over NFS into the buffer, from a home on NFS, and back."""
    cluster.run("alice", ["bash", "-c", TREE])
    into = cluster.run("alice", ["ebb", "migrate", "-S", SIZE, "-N", "2", "src", "migrated"], timeout=300)
    assert "done: everything is in /home/alice/migrated, verified and saved" in into.stdout
    cluster.run("alice", ["mkdir", "out"])
    cluster.run("alice", ["ebb", "migrate", "migrated:", "out"], timeout=300)
    # J: NFS-Ganesha takes the time of a symbolic link, says that it is set, and does not set it.
    compare = ["rsync", "-aHSniJ", "--checksum", "--delete", "src", "out/"]
    assert cluster.run("alice", compare).stdout == ""
    assert int(cluster.run("alice", ["stat", "-c", "%b", "out/src/sparse"]).stdout) < 1000


def test_a_job_that_is_cancelled_lets_go(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "held"])
    cluster.wait_job(cluster.sbatch("alice", script(create("held", SIZE))))
    running = cluster.sbatch("alice", script(use("held"), body="touch ~/running; sleep 600"))
    cluster.wait_job(running, "RUNNING", 60)
    cluster.exec("controller", ["scancel", str(running)])
    cluster.wait_job(running, "CANCELLED", 60)
    cluster.wait_job(cluster.sbatch("alice", script(destroy("held"))), deadline=90)
    assert cluster.bbstat().state("held") == "staged-out"
