"""One rank: writes a parallel HDF5 file together with the others, and reads all of it. Run by mpirun with the system's
Python.

hdf5_rank.py FILE ROWS COLUMNS
"""

import os
import sys

import h5py
import numpy
from mpi4py import MPI

WORLD = MPI.COMM_WORLD


def expected(rows: int, columns: int) -> "numpy.ndarray":
    """What all ranks together write: row r belongs to rank r % size."""
    return numpy.arange(rows * columns, dtype="i8").reshape(rows, columns) * 3 + 1


def write(name: str, wanted: "numpy.ndarray") -> None:
    """One dataset by all at once, a chunked one row by row, each rank its own."""
    # As in mpi_rank.py: ROMIO's locks hold within one node only.
    info = MPI.Info.Create()
    info.Set("romio_ds_write", "disable")
    with h5py.File(name, "w", driver="mpio", comm=WORLD, info=info) as file:
        whole = file.create_dataset("whole", wanted.shape, "i8")
        chunked = file.create_dataset("chunked", wanted.shape, "i8", chunks=(1, wanted.shape[1]))
        file.attrs["ranks"] = WORLD.size
        mine = slice(WORLD.rank, None, WORLD.size)
        with whole.collective:
            whole[mine] = wanted[mine]
        for row in range(WORLD.rank, len(wanted), WORLD.size):
            chunked[row] = wanted[row]


def main(name: str, rows: int, columns: int) -> None:
    assert h5py.get_config().mpi, "this HDF5 is not parallel"
    wanted = expected(rows, columns)
    write(name, wanted)
    with h5py.File(name, "r", driver="mpio", comm=WORLD) as file:
        for each in ("whole", "chunked"):
            assert (file[each][:] == wanted).all(), f"rank {WORLD.rank}: {each}"
        assert file.attrs["ranks"] == WORLD.size
    nodes = WORLD.gather(os.readlink("/proc/self/ns/mnt"))
    if WORLD.rank == 0:
        print(f"all is well on {WORLD.size} ranks, {len(set(nodes))} nodes")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
