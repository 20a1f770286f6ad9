"""Take what did not change from the dataset that a volume was filled from: where their file system can share blocks
between files, that costs a note of where the blocks are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from dnd.staging.copy import Chunk, chunks
from dnd.staging.ends import ALIGNED
from dnd.tools import kernel
from ebb.dataset import HEADER_SIZE, HOLE, DatasetHeader

_RUN = 1 << 30
"""Bytes shared in one call: few calls, and none so long that a copy could not be stopped."""


class Sharing:
    """A new dataset file that begins as a twin of the old one's verified chunks; what changed is then written anew.

    source: the old file, open. old: its header; None if there is nothing to share. target: the new file, open, as long
    as it will be. done: chunks that it has for good, from an earlier try of the same save. clean: all else is zeros.
    """

    def __init__(
        self, source: int, old: DatasetHeader | None, target: int, done: Collection[int], *, clean: bool
    ) -> None:
        self._source, self._old, self._target, self._done, self._clean = source, old, target, done, clean
        self._there: set[int] = set()

    def begin(self) -> bool:
        """Share all that can be. False if nothing can. Raises OSError."""
        for run in self._runs():
            at, length = HEADER_SIZE + run[0].start, run[-1].end - run[0].start
            if not kernel.clone(self._source, at, self._target, at, length):
                break
            self._there.update(chunk.index for chunk in run)
        return bool(self._there)

    def reuse(self, chunk: Chunk, digest: bytes) -> bool:
        """Whether the target has the chunk; if not, it is zeros there. Raises OSError. See `copy_chunks`."""
        shared = chunk.index in self._there
        if shared and self._old is not None and self._old.digests[chunk.index] == digest:
            return True
        if shared or not self._clean:
            kernel.make_zeros(self._target, HEADER_SIZE + chunk.start, HEADER_SIZE + chunk.end)
        return digest == HOLE

    def _runs(self) -> Iterator[list[Chunk]]:
        """Neighbouring chunks that the old file holds, in whole blocks, and that are not there for good."""
        if self._old is None:
            return
        run: list[Chunk] = []
        for chunk in chunks(self._old.image_size, self._old.chunk_size):
            wanted = self._old.digests[chunk.index] != HOLE and chunk.length % ALIGNED == 0
            wanted = wanted and chunk.index not in self._done
            if run and (not wanted or chunk.end - run[0].start > _RUN):
                yield run
                run = []
            if wanted:
                run.append(chunk)
        if run:
            yield run
