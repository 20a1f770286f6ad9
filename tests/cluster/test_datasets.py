"""Datasets that are objects, and DASI buffers with a real client (pyfdb), from one job's hands into another's."""

import sys
import textwrap
from collections.abc import Iterator

import pytest

from cluster.harness import Cluster, CommandFailed
from cluster.jobs import create, destroy, script, use

CLIENT = """
import pathlib
import sys

import pyfdb

fdb = pyfdb.FDB(pathlib.Path(sys.argv[2]))
names = [(expver, param) for expver in ("0001", "0002") for param in ("130", "131")]
content = {(expver, param): (expver + param).encode() * 10000 for expver, param in names}
if sys.argv[1] == "archive":
    for (expver, param), data in content.items():
        fdb.archive(data, {"class": "od", "expver": expver, "date": "20240101", "type": "fc", "param": param})
    fdb.flush()
for (expver, param), data in content.items():
    found = fdb.retrieve({"class": "od", "expver": expver, "date": "20240101", "type": "fc", "param": param})
    assert found.readall() == data, (expver, param)
print(sys.argv[1], "well")
"""
CONFIG = """
type: local
engine: toc
schema: /home/alice/schema
catalogue: toc
store: file
spaces:
- handler: Default
  regex: "od:0001:.*"
  roots:
  - {path: /home/alice/root1, writable: true, visit: true}
- handler: Default
  regex: ".*"
  roots:
  - {path: /home/alice/root2}
"""


@pytest.fixture(autouse=True)
def nothing_left(cluster: Cluster) -> Iterator[None]:
    """After each test: no job, totals of zero."""
    yield
    cluster.exec("controller", ["scancel", "--user=alice"])
    cluster.wait_until(lambda: not cluster.exec("controller", ["squeue", "-h"]).stdout.strip(), 60, "an empty queue")
    cluster.wait_until(cluster.all_destroyed, 90, "totals of zero", cluster.bbstat_text)


def output(cluster: Cluster, job: int) -> str:
    """What a batch job printed."""
    return (cluster.home("alice") / f"slurm-{job}.out").read_text()


def run(cluster: Cluster, *lines: str, body: str = "true") -> str:
    """Run a job of alice's to its good end; what it printed."""
    job = cluster.sbatch("alice", script(*lines, body=body))
    cluster.wait_job(job)
    return output(cluster, job)


def write(cluster: Cluster, name: str, text: str) -> None:
    """A file in alice's home."""
    cluster.run("alice", ["tee", name], stdin=textwrap.dedent(text))


def objects(cluster: Cluster) -> list[str]:
    """Ids of the objects in the store."""
    found = cluster.exec("controller", ["find", "/var/lib/ebb/store/objects", "-type", "f"]).stdout.split()
    return sorted(path.rsplit("/", 1)[-1].removesuffix(".json") for path in found)


def test_a_dataset_of_objects_from_job_to_job(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "objects", "datasets"])
    target = "HESTIA@/home/alice/datasets/my-dataset"
    run(cluster, create("objects", data_dst=target))
    run(cluster, use("objects"), body="echo precious > ~/objects/kept")
    run(cluster, destroy("objects"))
    first = (cluster.home("alice") / "datasets" / "my-dataset").read_text().split()
    assert sorted(first) == objects(cluster)
    # The directory stands for its newest file.
    run(cluster, create("objects", data_src="HESTIA@/home/alice/datasets", data_dst=target))
    said = run(cluster, use("objects"), destroy("objects"), body="cat ~/objects/kept; echo changed > ~/objects/kept")
    assert said == "precious\n"
    cluster.wait_buffer("objects", None)
    second = (cluster.home("alice") / "datasets" / "my-dataset").read_text().split()
    assert sorted(second) == objects(cluster) and not set(first) & set(second)


def test_a_bad_dataset_file_is_told_in_bbstat(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "bad"])
    write(cluster, "three-lines", "a\nb\nc\n")
    job = cluster.sbatch("alice", script(create("bad", data_src="HESTIA@/home/alice/three-lines")))
    cluster.wait_until(lambda: "is malformed: 3 lines" in cluster.bbstat_text(), 60, "bbstat to say why",
                       cluster.bbstat_text)  # fmt: skip
    cluster.exec("controller", ["scancel", str(job)])


def test_dasi_archives_in_one_job_and_retrieves_in_another(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "root1", "root2", "namespace"])
    write(cluster, "schema", "[ class, expver, date [ type [ param ]]]\n")
    write(cluster, "dasi.yaml", CONFIG)
    write(cluster, "client.py", CLIENT)
    client = f"{sys.executable} ~/client.py"
    line = (
        "DASI create_persistent Name=weather StorageSize=700MiB DasiConfig=/home/alice/dasi.yaml "
        "data_dst=HESTIA@/home/alice/namespace/"
    )
    look = "findmnt -no TARGET /home/alice/root1; findmnt -no TARGET /home/alice/root2; echo $EBB_WEATHER"
    run(cluster, line)
    said = run(cluster, "DASI use_persistent Name=weather", body=f"{client} archive $EBB_WEATHER && {look}")
    assert said == "archive well\n/home/alice/root1\n/home/alice/root2\n/home/alice/dasi.yaml\n"
    assert cluster.run("alice", ["ls", "-A", "root1", "root2"]).stdout.split() == ["root1:", "root2:"]
    [shown] = [each for each in cluster.bbstat_text().splitlines() if " Name=weather " in each]
    assert "Type=DASI" in shown and "State=staged-in" in shown and f"StorageSize={700 << 20}" in shown
    run(cluster, "DASI destroy_persistent Name=weather")
    names = cluster.run("alice", ["ls", "namespace"]).stdout.split()
    assert [name.split("-")[0] for name in names] == ["root1", "root2"]
    with pytest.raises(CommandFailed):
        cluster.run("alice", [sys.executable, "client.py", "retrieve", "dasi.yaml"])
    run(cluster, line + " data_src=HESTIA@/home/alice/namespace/")
    said = run(cluster, "DASI use_persistent Name=weather", body=f"{client} retrieve $EBB_WEATHER")
    assert said == "retrieve well\n"
    run(cluster, "DASI destroy_persistent Name=weather")
    assert cluster.run("alice", ["ls", "namespace"]).stdout.split() == names


def test_a_root_that_is_refused_ends_the_creation_with_its_reason(cluster: Cluster) -> None:
    cluster.run("alice", ["mkdir", "-p", "namespace"])
    write(cluster, "relative.yaml", "spaces: [{roots: [{path: ./root}]}]\n")
    line = (
        "DASI create_persistent Name=relative StorageSize=400MiB DasiConfig=/home/alice/relative.yaml "
        "data_dst=/home/alice/namespace/"
    )
    job = cluster.sbatch("alice", script(line))
    cluster.wait_until(lambda: "has the root `./root`" in cluster.bbstat_text(), 60, "bbstat to say why",
                       cluster.bbstat_text)  # fmt: skip
    cluster.exec("controller", ["scancel", str(job)])
