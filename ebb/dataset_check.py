"""Compare a dataset's bytes with the digests in its header."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from blake3 import blake3

from ebb.dataset import HEADER_SIZE, HOLE, DatasetHeader
from ebb.extents import Extents, data_extents

_BLOCK = 4 << 20
_ZEROS = bytes(_BLOCK)


def damaged_chunks(descriptor: int, header: DatasetHeader, threads: int = 4) -> list[int]:
    """The numbers of the chunks that are not what was saved, ascending. Holes of the file are not read.

    Raises OSError if reading fails.
    """
    extents = data_extents(descriptor, HEADER_SIZE, header.image_size)

    def wrong(number: int) -> bool:
        start = number * header.chunk_size
        end = min(start + header.chunk_size, header.image_size)
        return _digest(descriptor, extents, start, end) != header.digests[number]

    with ThreadPoolExecutor(threads, thread_name_prefix="verify") as pool:
        answers = pool.map(wrong, range(len(header.digests)))
        return [number for number, bad in enumerate(answers) if bad]


def _digest(descriptor: int, extents: Extents, start: int, end: int) -> bytes:
    hasher, position, zeros_only = blake3(), start, True
    for at, length in _pieces(extents, start, end):
        _digest_zeros(hasher, at - position)
        data = os.pread(descriptor, length, HEADER_SIZE + at)
        hasher.update(data)
        # The first byte tells it for nearly all that is not zeros.
        if zeros_only and data != _ZEROS[: len(data)]:
            zeros_only = False
        position = at + len(data)
    _digest_zeros(hasher, end - position)
    return HOLE if zeros_only else hasher.digest()


def _pieces(extents: Extents, start: int, end: int) -> Iterator[tuple[int, int]]:
    for begin, stop in extents.within(start, end):
        for at in range(begin, stop, _BLOCK):
            yield at, min(_BLOCK, stop - at)


def _digest_zeros(hasher: blake3, count: int) -> None:
    while count > 0:
        hasher.update(_ZEROS[: min(count, _BLOCK)])
        count -= _BLOCK
