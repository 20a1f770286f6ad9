"""Copy an image between two ends, chunk by chunk on several threads, digesting what passes.

What is zeros is neither read nor written, as far as the source knows where it holds data.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from blake3 import blake3

from dnd.staging.ends import Source, Target
from dnd.staging.progress import Cancelled, Tracker
from dnd.tools.kernel import Zeros
from ebb.dataset import HOLE

BLOCK = 4 << 20
_GRAIN = 64 << 10
"""Zeros are skipped in pieces of this size: an XFS or an NFS server allocates no finer without cost."""
_ZERO_BLOCK = bytes(BLOCK)
THREADS = 4
_TICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of the image: its place in the order, where it begins, how long it is (bytes)."""

    index: int
    start: int
    length: int

    @property
    def end(self) -> int:
        """Where the next one begins."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class _Nowhere:
    """A `Target` for a copy of which only the digests are wanted."""

    def write(self, view: memoryview, offset: int) -> None:
        """Nothing."""

    def passed(self, chunk: int) -> None:
        """Nothing."""

    def sync(self) -> None:
        """Nothing."""


Check = Callable[[Chunk, bytes], None]
Reuse = Callable[[Chunk, bytes], bool]


def chunks(image_size: int, chunk_size: int) -> list[Chunk]:
    """The image in pieces; the last may be short."""
    starts = range(0, image_size, chunk_size)
    return [Chunk(index, start, min(chunk_size, image_size - start)) for index, start in enumerate(starts)]


def copy_chunks(
    source: Source, target: Target, wanted: Sequence[Chunk], tracker: Tracker, check: Check, reuse: Reuse | None = None
) -> None:
    """Copy `wanted` and call `check` with each chunk's digest once it is written (from several threads).

    Chunks are begun in the order of `wanted`, each by one thread, and ended in any.

    reuse: called with the digest (HOLE too) before anything of the chunk is written; True says that the target has the
    chunk now, so it is not written. A chunk of more than BLOCK bytes that it does not have is read twice.
    Raises what the ends, `check` and `reuse` raise, or Cancelled by the tracker; the other threads stop soon after.
    """
    _run([_Copier(Look(source, wanted, check), target, tracker, reuse)], tracker)


@dataclass(frozen=True, slots=True)
class Look:
    """Which chunks of a source are read. check: called with each one's digest, from several threads."""

    source: Source
    wanted: Sequence[Chunk]
    check: Check


def read_chunks(looks: Sequence[Look], tracker: Tracker) -> None:
    """Read several sources side by side for the digests of their chunks, each as `copy_chunks` would.

    Raises as that does; what one look raises ends the others.
    """
    _run([_Copier(look, _Nowhere(), tracker, None) for look in looks], tracker)


def _run(copiers: Sequence[_Copier], tracker: Tracker) -> None:
    copiers = [copier for copier in copiers if copier.wanted]
    if not copiers:
        return
    tracker.begin(sum(copier.size for copier in copiers))
    with ThreadPoolExecutor(sum(copier.threads for copier in copiers), thread_name_prefix="copy") as pool:
        working: set[Future[None]] = set()
        for copier in copiers:
            left = iter(copier.wanted)
            working.update(pool.submit(copier.run, left) for _ in range(copier.threads))
        try:
            while working:
                done, working = wait(working, timeout=_TICK_SECONDS, return_when=FIRST_COMPLETED)
                tracker.tick()
                for each in done:
                    each.result()
        finally:
            for copier in copiers:
                copier.stopped = True


class _Block:
    """Memory for one read, aligned to a page, and a view of its zeros."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, BLOCK)
        self.view = memoryview(self.memory)
        self.zeros = Zeros(self.memory)


class _Copier:
    """One copy under way. size: bytes that it reads; stopped: set when a thread failed, so that others do not go on."""

    def __init__(self, look: Look, target: Target, tracker: Tracker, reuse: Reuse | None) -> None:
        self._source, self.wanted, self._check = look.source, look.wanted, look.check
        self._target, self._tracker, self._reuse = target, tracker, reuse
        wanted = look.wanted
        self._extents = look.source.extents(wanted[-1].end if wanted else 0)
        self.size = sum(
            stop - begin for chunk in wanted for begin, stop in self._extents.within(chunk.start, chunk.end)
        )
        self.threads = 1 if look.source.in_order else THREADS
        self.stopped = False

    def run(self, left: Iterator[Chunk]) -> None:
        """What each thread does: take chunks while there are any. An iterator over a list may be shared."""
        block = _Block()
        for chunk in left:
            if self.stopped:
                return
            try:
                digest = self._copy(chunk, block)
            finally:
                self._target.passed(chunk.index)
            self._check(chunk, digest)

    def _copy(self, chunk: Chunk, block: _Block) -> bytes:
        if self._reuse is None:
            return self._pass(chunk, block, write=True, count=True)
        digest = self._pass(chunk, block, write=False, count=True)
        if not self._reuse(chunk, digest) and digest != HOLE:
            if chunk.length > BLOCK:
                return self._pass(chunk, block, write=True, count=False)
            self._write_again(chunk, block)
        return digest

    def _pass(self, chunk: Chunk, block: _Block, *, write: bool, count: bool) -> bytes:
        """Go through the data blocks of one chunk; what lies between them is zeros and only enters the digest.

        Nor is a chunk that is all zeros digested: `position` stays behind until something else comes.
        """
        hasher, position = blake3(), chunk.start
        for start, length in _blocks(self._extents.within(chunk.start, chunk.end)):
            at = _place(chunk, start)
            with block.view[at : at + length] as view:
                self._source.read(view, start)
                if self.stopped or self._tracker.cancelled:
                    raise Cancelled
                if not block.zeros.at(at, length):
                    _digest_zeros(hasher, start - position)
                    hasher.update(view)
                    position = start + length
                    if write:
                        self._write_grains(block, start, at, length)
            self._tracker.advance(length if count else 0)
        if position == chunk.start:
            return HOLE
        _digest_zeros(hasher, chunk.end - position)
        return hasher.digest()

    def _write_again(self, chunk: Chunk, block: _Block) -> None:
        """Write a chunk that was read as a whole, and is still in the block."""
        for start, length in _blocks(self._extents.within(chunk.start, chunk.end)):
            self._write_grains(block, start, _place(chunk, start), length)

    def _write_grains(self, block: _Block, start: int, at: int, length: int) -> None:
        """Write what is not zero of `length` bytes at `at` in the block; neighbouring grains go out in one call."""
        begin: int | None = None
        for grain in range(at, at + length, _GRAIN):
            zero = block.zeros.at(grain, min(_GRAIN, at + length - grain))
            if not zero and begin is None:
                begin = grain
            elif zero and begin is not None:
                self._write(block, start - at, begin, grain)
                begin = None
        if begin is not None:
            self._write(block, start - at, begin, at + length)

    def _write(self, block: _Block, base: int, begin: int, end: int) -> None:
        with block.view[begin:end] as view:
            self._target.write(view, base + begin)


def _place(chunk: Chunk, start: int) -> int:
    """Where in the block bytes from `start` are read to: a chunk that fits into it keeps its shape there."""
    return start - chunk.start if chunk.length <= BLOCK else 0


def _blocks(extents: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """(start, length) of pieces of at most BLOCK bytes."""
    for begin, stop in extents:
        for start in range(begin, stop, BLOCK):
            yield start, min(BLOCK, stop - start)


def _digest_zeros(hasher: blake3, count: int) -> None:
    while count > 0:
        hasher.update(_ZERO_BLOCK[: min(count, BLOCK)])
        count -= BLOCK
