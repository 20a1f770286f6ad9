"""One rank: writes a file together with the others, and reads all of it. Run by mpirun with the system's Python.

mpi_rank.py FILE PIECE ROUNDS
"""

import os
import sys
from collections.abc import Callable

from mpi4py import MPI

WORLD = MPI.COMM_WORLD


def expected(piece: int, rounds: int) -> bytes:
    """What all ranks together write."""
    return b"".join(
        bytes([(7 * rank + turn) % 251 + 1]) * piece for turn in range(rounds) for rank in range(WORLD.size)
    )


def mine(turn: int, piece: int) -> bytes:
    return bytes([(7 * WORLD.rank + turn) % 251 + 1]) * piece


def at(turn: int, piece: int) -> int:
    return int(turn * WORLD.size + WORLD.rank) * piece


def write_collectively(file: MPI.File, piece: int, rounds: int) -> None:
    for turn in range(rounds):
        file.Write_at_all(at(turn, piece), mine(turn, piece))


def write_independently(file: MPI.File, piece: int, rounds: int) -> None:
    for turn in range(rounds):
        file.Write_at(at(turn, piece), mine(turn, piece))


def write_through_a_view(file: MPI.File, piece: int, rounds: int) -> None:
    through_a_view(file, piece, rounds, file.Write_all)


def write_independently_through_a_view(file: MPI.File, piece: int, rounds: int) -> None:
    through_a_view(file, piece, rounds, file.Write)


def through_a_view(file: MPI.File, piece: int, rounds: int, write: Callable[[bytes], None]) -> None:
    every = MPI.BYTE.Create_vector(1, piece, WORLD.size * piece).Create_resized(0, WORLD.size * piece)
    every.Commit()
    file.Set_view(WORLD.rank * piece, MPI.BYTE, every)
    write(b"".join(mine(turn, piece) for turn in range(rounds)))
    file.Set_view(0, MPI.BYTE, MPI.BYTE)


WRITES = (write_collectively, write_independently, write_through_a_view, write_independently_through_a_view)


def check(file: MPI.File, wanted: bytes, what: str) -> None:
    """Every rank reads all of it, once what all wrote is synced."""
    file.Sync()
    WORLD.Barrier()
    file.Sync()
    found = bytearray(len(wanted))
    file.Read_at_all(0, found)
    wrong = next((n for n, (a, b) in enumerate(zip(found, wanted, strict=True)) if a != b), None)
    if wrong is not None or file.Get_size() != len(wanted):
        print(f"{what}: rank {WORLD.rank}: size {file.Get_size()} of {len(wanted)}, wrong from {wrong}", flush=True)
        WORLD.Abort(1)


def main(name: str, piece: int, rounds: int) -> None:
    wanted = expected(piece, rounds)
    # ROMIO would read, change and write back the gaps between pieces, under locks that hold within one node only.
    info = MPI.Info.Create()
    info.Set("romio_ds_write", "disable")
    for write in WRITES:
        what = write.__name__
        file = MPI.File.Open(WORLD, f"{name}.{what}", MPI.MODE_RDWR | MPI.MODE_CREATE, info)
        write(file, piece, rounds)
        check(file, wanted, what)
        file.Close()
    nodes = set(WORLD.allgather(os.readlink("/proc/self/ns/mnt")))
    if WORLD.rank == 0:
        print(f"all is well on {WORLD.size} ranks, {len(nodes)} nodes", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
