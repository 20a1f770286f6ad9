"""MPI-IO: ranks of Open MPI on two nodes write one file; all ranks, and the target, then have the same bytes."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sbb.engine import UID, Client, Engine

Make = Callable[..., Engine]
PYTHON = "/usr/bin/python3"
RANKS, PIECE, ROUNDS = 4, 7331, 30
WRITES = ("write_collectively", "write_independently", "write_through_a_view", "write_independently_through_a_view")


def mpirun(clients: list[Client], home: Path, io: str, *words: str) -> str:
    """Runs RANKS ranks as the owner, in turns on the clients' nodes: those are mount namespaces of this machine, so a
    rank begins with the right to enter one, and gives it up. What they printed.
    """
    rights = "+sys_admin,+sys_chroot"
    node = "\n".join(
        f"{n}) exec nsenter --mount=/proc/{client.process.pid}/ns/mnt -- "
        f'setpriv --ambient-caps -all --inh-caps -all -- "$@";;'
        for n, client in enumerate(clients)
    )
    enter = f"case $((OMPI_COMM_WORLD_RANK % {len(clients)})) in {node} esac"
    owner = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
    rank = ["sh", "-c", enter, "rank", PYTHON, *words]
    launch = ["mpirun", "--oversubscribe", "-np", str(RANKS), "--mca", "io", io, "--mca", "btl", "self,vader"]
    launch += ["--mca", "oob_tcp_if_include", "lo", "--mca", "plm_rsh_agent", "false"]
    done = subprocess.run(
        [*owner, f"--inh-caps={rights}", f"--ambient-caps={rights}", "--", *launch, *rank],
        capture_output=True, text=True, timeout=120, cwd="/",
        env={"PATH": os.environ["PATH"], "HOME": str(home), "TMPDIR": str(home)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("io", ["ompio", "romio321"])
@pytest.mark.parametrize(
    ("nodes", "settings"),
    [(2, {"unix": False}), (2, {"unix": False, "store": True}), (1, {})],
    ids=["two-nodes-tcp", "two-nodes-tcp-store", "one-node-unix"],
)
def test_ranks_write_one_file(
    buffer: Make, plain: Path, script: Callable[[str], str], io: str, nodes: int, settings: dict[str, bool]
) -> None:
    engine = buffer(servers=2, settings={"drain_delay": "0.05", "stripe": 65536, "memory": 32 << 20}, **settings)
    clients = [engine.client() for _ in range(nodes)]
    target = engine.target
    assert target is not None
    output = mpirun(clients, plain, io, script("mpi_rank.py"), f"{target}/shared", str(PIECE), str(ROUNDS))
    assert f"all is well on {RANKS} ranks, {nodes} nodes" in output
    for client in clients:
        client.unmount()
    engine.drain()
    wanted = b"".join(bytes([(7 * rank + turn) % 251 + 1]) * PIECE for turn in range(ROUNDS) for rank in range(RANKS))
    for name in WRITES:
        assert (target / f"shared.{name}").read_bytes() == wanted, name


@pytest.mark.parametrize("io", ["ompio", "romio321"])
@pytest.mark.parametrize(
    ("nodes", "settings"), [(2, {"unix": False}), (1, {"store": True})], ids=["two-nodes-tcp", "one-node-store"]
)
def test_ranks_write_one_hdf5_file(
    buffer: Make, plain: Path, script: Callable[[str], str], io: str, nodes: int, settings: dict[str, bool]
) -> None:
    engine = buffer(servers=2, settings={"drain_delay": "0.05", "stripe": 65536, "memory": 32 << 20}, **settings)
    clients = [engine.client() for _ in range(nodes)]
    file, rows, columns = f"{engine.target}/shared.h5", 101, 1237
    output = mpirun(clients, plain, io, script("hdf5_rank.py"), file, str(rows), str(columns))
    assert f"all is well on {RANKS} ranks, {nodes} nodes" in output
    for client in clients:
        client.unmount()
    engine.drain()
    look = f"""
import h5py, numpy
wanted = numpy.arange({rows * columns}, dtype="i8").reshape({rows}, {columns}) * 3 + 1
with h5py.File({file!r}, "r") as file:
    assert all((file[name][:] == wanted).all() for name in ("whole", "chunked"))
"""
    subprocess.run([PYTHON, "-c", look], check=True)


def test_two_jobs_write_parts_of_one_file_at_once(buffer: Make, plain: Path) -> None:
    """Two nodes, each with an Open MPI job of its own: pieces of both lie one beside the other, and share pages."""
    engine = buffer(servers=2, unix=False, settings={"drain_delay": "0.05", "stripe": 65536, "memory": 32 << 20})
    file = f"{engine.target}/shared"
    code = f"""
import sys
from mpi4py import MPI
job, world = int(sys.argv[1]), MPI.COMM_WORLD
file = MPI.File.Open(world, {file!r}, MPI.MODE_RDWR | MPI.MODE_CREATE)
mine = job * world.size + world.rank
for turn in range({ROUNDS}):
    file.Write_at_all((turn * 2 * world.size + mine) * {PIECE}, bytes([mine + 1]) * {PIECE})
file.Close()
"""
    running = []
    for number in range(2):
        home = plain / f"job{number}"
        home.mkdir()
        os.chown(home, UID, UID)
        launch = ["env", f"HOME={home}", f"TMPDIR={home}", "mpirun", "--oversubscribe", "-np", "2"]
        launch += ["--mca", "btl", "self,vader", "--mca", "oob_tcp_if_include", "lo", PYTHON, "-c", code, str(number)]
        running.append(engine.client().start(*launch))
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    wanted = b"".join(bytes([rank + 1]) * PIECE for rank in range(4)) * ROUNDS
    for client in engine.clients:
        assert client.run("sha256sum", file).stdout.split()[0] == hashlib.sha256(wanted).hexdigest()
        client.unmount()
    engine.drain()
    assert Path(file).read_bytes() == wanted
