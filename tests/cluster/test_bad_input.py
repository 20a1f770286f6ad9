"""What users see who ask for what cannot be: one clear line at sbatch where it can be known, else the job's Reason."""

import subprocess
from collections.abc import Iterator

import pytest

from cluster.harness import Cluster
from cluster.jobs import create, destroy, script, use

GIB = 1024**3


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """Bad input leaves no buffer, no held resources and nothing on a datanode."""
    yield
    for user in ("alice", "bob"):
        cluster.exec("controller", ["scancel", f"--user={user}"])
    cluster.wait_until(lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 60, "an empty queue")
    cluster.wait_until(cluster.all_destroyed, 90, "totals of zero", cluster.bbstat_text)


def refused(cluster: Cluster, text: str, user: str = "alice") -> str:
    """The message with which sbatch refuses a script."""
    done = cluster.run(user, ["sbatch"], stdin=text, check=False)
    assert done.returncode != 0, f"accepted: {text[:200]}"
    assert "Burst Buffer request invalid" in done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("SBB create_persistent Name=x Flavor=huge Targets=/home/alice/t", ["huge", "small", "medium", "high"]),
        (create("x", size="12XB"), ["StorageSize", "12XB", "KiB"]),
        (create("x", size="0"), ["StorageSize"]),
        (create("x", size="1MiB"), ["StorageSize", "300MiB"]),
        (create("a/b"), ["Name", "a/b"]),
        (create("x" * 300), ["Name", "64"]),
        ("GBF create_persistent Name=a b StorageSize=1GiB Path=/home/alice/m FSType=ganesha", ["b"]),
        (create("x") + " Name=y", ["Name"]),
        (create("x%j"), ["%"]),
        (create("x", path="/home/alice/$(id)"), ["$"]),
        (create("x", path="/home/alice/`id`"), ["`"]),
        (create("x", path="/etc"), ["/etc"]),
        (create("x", path="relative"), ["Path"]),
        ('GBF use_persistent Name="x', ["quote"]),
        ("GBF make_persistent Name=x", ["make_persistent", "create_persistent"]),
        ("NFS create_persistent Name=x", ["NFS", "GBF"]),
        ("GBF create_persistent Name=x", ["StorageSize"]),
        (create("x", size="30GB"), ["StorageSize"]),
        (create("x", size="900PB"), ["StorageSize"]),
    ],
)
def test_known_at_submission(cluster: Cluster, line: str, said: list[str]) -> None:
    message = refused(cluster, script(line))
    assert all(word in message for word in said), message


def test_two_creates_of_one_name_in_a_script(cluster: Cluster) -> None:
    assert "x" in refused(cluster, script(create("x"), create("x", path="/home/alice/other")))


def test_all_errors_of_a_script_at_once(cluster: Cluster) -> None:
    message = refused(cluster, script(create("x", size="12XB"), use("a/b")))
    assert "12XB" in message and "a/b" in message


def test_a_script_of_10_mb(cluster: Cluster) -> None:
    """Larger than Slurm takes: Slurm says so, and goes on."""
    text = script(create("big"), body="# " + "x" * 100 + "\n") + ("# " + "y" * 98 + "\n") * 100_000
    done = cluster.run("alice", ["sbatch"], stdin=text, check=False)
    assert done.returncode != 0 and "error" in done.stderr
    cluster.run("alice", ["srun", "true"])


def test_thousands_of_directives_hold_nobody_up(cluster: Cluster) -> None:
    """slurmctld judges a script with its locks held; two thousand buffers on one path once took it half a minute."""
    text = script(*(create(f"x{number}", path="/home/alice/x", data_dst="/home/alice/ds") for number in range(1800)))
    began = computed(cluster)
    assert "more than 100 directives in one script" in refused(cluster, text)
    text = script(*(create(f"x{number}", path="/home/alice/x", data_dst="/home/alice/ds") for number in range(100)))
    assert "and 178 more" in refused(cluster, text)
    # Not by the clock: others may have the machine's cores meanwhile.
    assert computed(cluster) - began < 5


def computed(cluster: Cluster) -> float:
    """Seconds that slurmctld, which runs this hook itself, has computed since its start. Format: proc(5), stat."""
    look = "cat /proc/$(pgrep --oldest --exact slurmctld)/stat; getconf CLK_TCK"
    line, ticks = cluster.exec("controller", ["sh", "-c", look]).stdout.splitlines()
    user, system = line.rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / int(ticks)


def reason(cluster: Cluster, job: int, words: list[str]) -> None:
    """Wait until the job is held with a Reason that says all `words`."""

    def said() -> bool:
        text = cluster.exec("controller", ["squeue", "-h", "-j", str(job), "-O", "Reason:600"]).stdout
        return all(word in text for word in words)

    cluster.wait_until(said, 60, f"job {job} to be held for {words}", lambda: str(cluster.job(job)))


@pytest.mark.parametrize("line", [use("never-was"), destroy("never-was")])
def test_a_name_that_never_was(cluster: Cluster, line: str) -> None:
    reason(cluster, cluster.sbatch("alice", script(line)), ["never-was", "no such buffer"])


def test_a_directory_that_is_not_the_users(cluster: Cluster) -> None:
    job = cluster.sbatch("alice", script(create("x", path="/home/bob")))
    reason(cluster, job, ["Path", "/home/bob"])
    shown = cluster.bbstat().buffer("x")
    assert shown and shown.state == "teardown" and "/home/bob" in shown.reason


def test_a_dataset_directory_that_the_user_may_not_write(cluster: Cluster) -> None:
    job = cluster.sbatch("alice", script(create("x", data_dst="/home/bob/ds")))
    reason(cluster, job, ["data_dst", "/home/bob"])
    assert not (cluster.home("bob") / "ds").exists()


def test_anothers_buffer_is_neither_used_nor_destroyed(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "hers"])
    cluster.wait_job(cluster.sbatch("alice", script(create("hers"))))
    reason(cluster, cluster.sbatch("bob", script(use("hers"))), ["belongs to alice"])
    reason(cluster, cluster.sbatch("bob", script(destroy("hers", Discard="yes"))), ["belongs to alice"])
    done = cluster.run("bob", ["ebb", "destroy", "hers", "--discard"], check=False)
    assert done.returncode == 1 and "belongs to alice" in done.stderr
    assert cluster.bbstat().state("hers") == "staged-in"


def test_a_name_that_is_taken(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "taken"])
    cluster.wait_job(cluster.sbatch("alice", script(create("taken"))))
    reason(cluster, cluster.sbatch("alice", script(create("taken"))), ["taken", "exists"])


def test_more_than_is_free_waits_and_says_so(cluster: Cluster) -> None:
    for name in ("first", "second", "third"):
        cluster.run("alice", ["mkdir", "-p", name])
    for name in ("first", "second"):
        cluster.wait_job(cluster.sbatch("alice", script(create(name, size="15GB"))))
    third = cluster.sbatch("alice", script(create("third", size="10GB")))

    def waits() -> bool:
        found = cluster.bbstat().buffer("third")
        return bool(found and found.state == "staging-in" and "Waiting for GBF Resources" in found.reason)

    cluster.wait_until(waits, 90, "the third buffer to wait", cluster.bbstat_text)
    cluster.wait_job(cluster.sbatch("alice", script(destroy("first"))))
    cluster.wait_job(third)


def test_destroy_waits_while_a_job_uses_it(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "busy"])
    cluster.wait_job(cluster.sbatch("alice", script(create("busy"))))
    user = cluster.sbatch("alice", script(use("busy"), body="while [ ! -e stop ]; do sleep 0.2; done; rm stop"))
    cluster.wait_until(
        lambda: cluster.job_state(user) == "RUNNING", 60, "the job to run", lambda: str(cluster.job(user))
    )
    destroyer = cluster.sbatch("alice", script(destroy("busy")))

    def said() -> bool:
        found = cluster.bbstat().buffer("busy")
        return bool(found and found.state == "staging-out" and f"used by job {user}" in found.reason)

    cluster.wait_until(said, 90, "bbstat to name the job", cluster.bbstat_text)
    assert cluster.job_state(destroyer) == "PENDING"
    cluster.run("alice", ["touch", "stop"])
    cluster.wait_job(user)
    cluster.wait_job(destroyer)


def test_nothing_of_the_directives_runs_as_root(cluster: Cluster) -> None:
    """Shell words in every value: none is run, by anybody."""
    for value in ("$(touch\u00a0/tmp/pwned)", "x;touch /tmp/pwned", "'x'|touch", "x\\", "-o"):
        cluster.run("alice", ["sbatch"], stdin=script(create(value)), check=False)
        cluster.run("alice", ["sbatch"], stdin=script(create("x", data_dst=f"/home/alice/{value}")), check=False)
    done: subprocess.CompletedProcess[str] = cluster.exec("controller", ["ls", "/tmp"])  # noqa: S108 (the cluster's own)
    assert "pwned" not in done.stdout
