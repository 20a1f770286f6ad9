"""`ebb migrate` on a real Slurm: in with everything that a directory can hold, out again, refusals, and Ctrl-C."""

import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from cluster.harness import Cluster, CommandFailed

MAKE = r"""
import os
os.makedirs("src/deep/er"); os.mkdir("src/empty", 0o700)
names = [b"a b", b"new\nline", b"$(touch pwned)", b"-rf", b"quote'\"", b"#hash", b";", b"\xff\xfe", b"back\\", b"%j",
         b"host:path", b"`id`", b"x" * 255]
for where in (b"src/", b"src/deep/er/"):
    for name in names:
        with open(where + name, "wb") as file: file.write(name * 100)
for n in range(100):
    with open(f"src/deep/{n}.dat", "wb") as file: file.write(os.urandom(n * 1000))
with open("src/sparse", "wb") as file: file.truncate(2 << 30); file.seek(1 << 30); file.write(b"middle")
os.link("src/deep/99.dat", "src/deep/hard"); os.link("src/deep/99.dat", "src/second")
os.symlink("nowhere", "src/dangling"); os.symlink("/etc/passwd", "src/absolute"); os.symlink("deep", "src/to-dir")
os.setxattr("src/deep/1.dat", "user.color", b"blue")
os.chmod("src/deep/2.dat", 0o400); os.chmod("src/deep/er", 0o550)
os.utime("src/deep", (10**9, 10**9)); os.utime("src/sparse", ns=(10**18, 10**18 + 123456789))
"""
INTERRUPT = r"""
import signal, subprocess, sys
quiet = {"stdin": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
with subprocess.Popen(["ebb", "migrate", *sys.argv[1:]], **quiet) as ebb:
    for line in ebb.stderr:
        print(line, end="")
        if "copying" in line:
            ebb.send_signal(signal.SIGINT)
sys.exit(ebb.returncode)
"""
CHANGE = r"""
import subprocess, sys
with subprocess.Popen(["ebb", "migrate", *sys.argv[1:]], stderr=subprocess.PIPE, text=True) as ebb:
    for line in ebb.stderr:
        print(line, end="")
        if "copying" in line:
            with open("src/deep/1.dat", "ab") as file: file.truncate(1004)
sys.exit(ebb.returncode)
"""


@pytest.fixture(autouse=True)
def clean(cluster: Cluster) -> Iterator[None]:
    """Alice begins with nothing; when she ends, no job and no buffer is left."""
    cluster.run("alice", ["bash", "-c", "chmod -Rf u+w src out ds* .ebb; rm -rf src out ds* .ebb"])
    yield
    cluster.wait_until(lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 60, "an empty queue")
    cluster.wait_until(lambda: cluster.bbstat().totals["used storage"] == 0, 60, "totals of zero", cluster.bbstat_text)


def migrate(cluster: Cluster, *words: str) -> "subprocess.CompletedProcess[str]":
    return cluster.run("alice", ["ebb", "migrate", *words], timeout=240)


def refused(cluster: Cluster, *words: str) -> str:
    """What is said by a migration that ends with 1."""
    with pytest.raises(CommandFailed) as failed:
        migrate(cluster, *words)
    assert failed.value.done.returncode == 1
    return failed.value.done.stderr


def files(cluster: Cluster) -> set[str]:
    return set(cluster.run("alice", ["ls", "-A"]).stdout.split())


@pytest.fixture
def source(cluster: Cluster) -> None:
    cluster.run("alice", ["python3", "-c", MAKE])


@pytest.mark.usefixtures("source")
def test_in_on_two_nodes_and_out_again(cluster: Cluster) -> None:
    done = migrate(cluster, "-S", "1GiB", "-N", "2", "src", "ds with 'quotes'")
    assert "done: everything is in /home/alice/ds with 'quotes', verified and saved" in done.stdout
    assert re.search(r"verifying: 100%, .* of \d+ files", done.stderr), done.stderr  # at its end, if not before
    assert " 2 nodes" in done.stderr.splitlines()[0]
    assert cluster.bbstat().totals["used storage"] == 0
    cluster.run("alice", ["mkdir", "out"])
    migrate(cluster, "ds with 'quotes':", "out")
    compare = ["rsync", "-aHXSni", "--checksum", "--delete", "src", "out/"]
    assert cluster.run("alice", compare).stdout == ""
    home = cluster.home("alice")
    assert (home / "out/src/sparse").stat().st_blocks < 100
    assert not list(home.rglob("pwned"))
    assert not list((home / ".ebb/migrate").iterdir())

    cluster.run("alice", ["mkdir", "out2"])
    migrate(cluster, "ds with 'quotes':src/**/2?.dat", "out2")
    found = cluster.run("alice", ["find", "out2", "-type", "f"]).stdout.split()
    assert sorted(found) == [f"out2/src/deep/2{n}.dat" for n in range(10)]
    assert "nothing in the dataset matches `x/*`" in refused(cluster, "ds with 'quotes':x/*", "out2")
    cluster.run("alice", ["bash", "-c", "echo mine > out2/src/deep/20.dat; rm -r out2/src/deep/21.dat"])
    assert "`src/deep/20.dat`: give --replace" in refused(cluster, "ds with 'quotes':**/2?.dat", "out2")
    assert (home / "out2/src/deep/20.dat").read_text() == "mine\n"
    cluster.run("alice", ["rm", "-r", "out2"])


@pytest.mark.usefixtures("source")
def test_adding_and_replacing(cluster: Cluster) -> None:
    migrate(cluster, "-S", "400MiB", "src/deep/", "ds")
    assert "exists: give --add to keep what is in it, or --replace" in refused(cluster, "-S", "400MiB", "src", "ds")
    assert "a dataset does not shrink" in refused(cluster, "-S", "300MiB", "--add", "src/empty", "ds")
    migrate(cluster, "-S", "500MiB", "--add", "src/empty", "src/a b", "ds")
    cluster.run("alice", ["mkdir", "out"])
    migrate(cluster, "ds:", "out")
    assert {"empty", "a b", "99.dat", "er"} <= set(os.listdir(cluster.home("alice") / "out"))
    cluster.run("alice", ["bash", "-c", "echo other > 'src/a b'"])
    inode = (cluster.home("alice") / "ds").stat().st_ino
    said = refused(cluster, "-S", "500MiB", "--add", "src/a b", "ds")
    assert "give --replace" in said and "ds is as it was before" in said
    assert (cluster.home("alice") / "ds").stat().st_ino == inode
    migrate(cluster, "-S", "300MiB", "--replace", "src/a b", "ds")
    migrate(cluster, "--replace", "ds:", "out")
    assert (cluster.home("alice") / "out/a b").read_text() == "other\n"
    assert files(cluster) & {"ds"} and not [name for name in files(cluster) if name.startswith("ds.")]


@pytest.mark.usefixtures("source")
def test_refusals(cluster: Cluster) -> None:
    cluster.run("alice", ["bash", "-c", "head -c 320M /dev/urandom > src/large; echo no > ds2; truncate -s 2M ds2"])
    assert "but a buffer of 310MiB has about" in refused(cluster, "-S", "310MiB", "src/large", "ds")
    assert "invalid partition" in refused(cluster, "-S", "1G", "--sbatch=--partition=no", "src/deep", "ds").lower()
    assert "the largest volume group" in refused(cluster, "-S", "1P", "src/deep", "ds")
    said = refused(cluster, "-S", "400M", "--add", "src/deep", "ds2")
    assert "is no dataset" in said and "ds2 is as it was before" in said
    cluster.run("alice", ["bash", "-c", "mkdir -p out; chmod a-w out"])
    assert "no permission to write in `out`" in refused(cluster, "ds2:", "out")
    assert {name for name in files(cluster) if name.startswith("ds")} == {"ds2"}


@pytest.mark.usefixtures("source")
def test_a_dataset_in_the_object_store(cluster: Cluster) -> None:
    done = migrate(cluster, "-S", "300MiB", "src/deep", "HESTIA@ds")
    assert "done: everything is in HESTIA@/home/alice/ds, verified and saved" in done.stdout
    assert len((cluster.home("alice") / "ds").read_text().splitlines()) == 2
    assert "exists: give --add" in refused(cluster, "-S", "300MiB", "src/empty", "HESTIA@ds")
    migrate(cluster, "-S", "300MiB", "--add", "src/empty", "HESTIA@ds")
    cluster.run("alice", ["mkdir", "out"])
    assert "-S is missing" in refused(cluster, "HESTIA@ds:deep/er", "out")
    migrate(cluster, "-S", "300MiB", "HESTIA@ds:", "out")
    assert cluster.run("alice", ["rsync", "-aHXni", "--checksum", "src/deep", "src/empty", "out/"]).stdout == ""


@pytest.mark.usefixtures("source")
def test_ctrl_c_cancels_and_says_what_is_left(cluster: Cluster) -> None:
    migrate(cluster, "-S", "300MiB", "src/deep/", "ds")
    before = (cluster.home("alice") / "ds").stat().st_ino
    cluster.run("alice", ["bash", "-c", "head -c 1500M /dev/zero > src/large"])
    argv = ["python3", "-c", INTERRUPT, "-S", "2GiB", "--replace", "src", "ds"]
    done = cluster.run("alice", argv, check=False, timeout=120)
    assert done.returncode == 1
    assert "cancelling job" in done.stdout and "/home/alice/ds is as it was before" in done.stdout, done.stdout
    assert (cluster.home("alice") / "ds").stat().st_ino == before
    left = [name for name in files(cluster) if name.startswith("ds.")]
    assert len(left) == 1 and left[0].startswith("ds.incomplete-") and left[0] in done.stdout


@pytest.mark.usefixtures("source")
def test_a_source_that_changes_is_reported(cluster: Cluster) -> None:
    cluster.run("alice", ["bash", "-c", "head -c 1G /dev/zero > src/large"])
    argv = ["python3", "-c", CHANGE, "-S", "1500MiB", "src", "ds"]
    done = cluster.run("alice", argv, check=False, timeout=240)
    assert done.returncode == 1
    assert "changed: src/deep/1.dat: 1000 bytes when it was looked at first, 1004 now" in done.stdout, done.stdout
    left = [name for name in files(cluster) if name.startswith("ds")]
    assert len(left) == 1 and left[0].startswith("ds.incomplete-")
    done = migrate(cluster, "-S", "1500MiB", "--add", "--replace", "src", left[0])
    assert "verified and saved" in done.stdout


@pytest.mark.usefixtures("source")
def test_submitted_and_watched_later(cluster: Cluster) -> None:
    job = int(migrate(cluster, "-S", "300MiB", "--no-wait", "src/deep", "ds").stdout)
    cluster.wait_job(job)
    assert "verified and saved" in migrate(cluster, "--attach", str(job)).stdout
    assert "is no migration of yours" in refused(cluster, "--attach", str(job))
