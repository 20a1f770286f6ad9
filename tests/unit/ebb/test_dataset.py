"""The dataset header: what is packed comes back, and no changed bit does."""

import hmac
import json
import uuid

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ebb import dataset
from ebb.dataset import HEADER_SIZE, DatasetHeader, chunk_count, chunk_size_for
from ebb.errors import UserError

KEY = dataset.dataset_key(b"k" * 32)
TIB = 1 << 40


@st.composite
def headers(draw: st.DrawFn) -> DatasetHeader:
    image_size = draw(st.integers(1, 64 << 20))
    chunk_size = chunk_size_for(image_size)
    digest = st.one_of(st.just(dataset.HOLE), st.binary(min_size=32, max_size=32))
    count = chunk_count(image_size, chunk_size)
    digests = tuple(draw(st.lists(digest, min_size=count, max_size=count)))
    notes = draw(st.dictionaries(st.text(max_size=20), st.text(max_size=50), max_size=5))
    numbers = st.integers(0, 2**32 - 1)
    return DatasetHeader(
        image_size,
        chunk_size,
        digests,
        uuid.UUID(bytes=draw(st.binary(min_size=16, max_size=16))),
        draw(numbers),
        draw(numbers),
        draw(numbers),
        notes,
    )


@given(headers())
@settings(max_examples=60)
def test_what_is_packed_comes_back(header: DatasetHeader) -> None:
    packed = header.pack(KEY)
    assert len(packed) == HEADER_SIZE
    assert DatasetHeader.unpack(packed, KEY) == header


@given(headers(), st.integers(0, HEADER_SIZE * 8 - 1))
@settings(max_examples=60)
def test_a_flipped_bit_anywhere_is_refused(header: DatasetHeader, bit: int) -> None:
    packed = bytearray(header.pack(KEY))
    packed[bit // 8] ^= 1 << bit % 8
    with pytest.raises(UserError):
        DatasetHeader.unpack(bytes(packed), KEY)


@given(headers(), st.integers(0, HEADER_SIZE - 1))
@settings(max_examples=20)
def test_a_short_header_is_refused(header: DatasetHeader, length: int) -> None:
    with pytest.raises(UserError, match="is no dataset"):
        DatasetHeader.unpack(header.pack(KEY)[:length], KEY)


def test_another_sites_header_is_refused() -> None:
    header = DatasetHeader(1, 1 << 20, (dataset.HOLE,), uuid.uuid4(), 0, 1, 1, {})
    with pytest.raises(UserError, match="another site"):
        DatasetHeader.unpack(header.pack(dataset.dataset_key(b"x" * 32)), KEY)


@pytest.mark.parametrize(("size", "chunk"), [(1, 1 << 20), (6 << 30, 1 << 20), (TIB, 64 << 20), (100 * TIB, 4 << 30)])
def test_chunks_grow_so_that_their_digests_fit(size: int, chunk: int) -> None:
    assert chunk_size_for(size) == chunk
    assert chunk_count(size, chunk) <= dataset.MAX_CHUNKS


@given(headers())
@settings(max_examples=20)
def test_a_header_is_what_the_page_of_the_format_says(header: DatasetHeader) -> None:
    """docs/dataset-format.md, read by somebody who has nothing else."""
    raw = header.pack(KEY)
    assert len(raw) == 1048576
    assert raw[:16].hex(" ") == "45 42 42 2d 44 41 54 41 53 45 54 0d 0a 1a 0a 00"

    def number(at: int, size: int) -> int:
        return int.from_bytes(raw[at : at + size], "little")

    assert (number(16, 4), number(20, 4)) == (1, 1048576)
    image, chunk, count = number(24, 8), number(32, 8), number(40, 8)
    assert image == header.image_size and count == -(-image // chunk) <= 30719
    assert chunk >= 1 << 20 and chunk & (chunk - 1) == 0
    assert uuid.UUID(bytes=raw[48:64]) == header.filesystem
    assert (number(64, 8), number(72, 4), number(76, 4)) == (header.created, header.uid, header.gid)
    notes = number(4096, 4)
    assert json.loads(raw[4100 : 4100 + notes]) == header.notes
    assert [raw[65536 + 32 * each : 65568 + 32 * each] for each in range(count)] == list(header.digests)
    for begin, stop in ((80, 4096), (4100 + notes, 65536), (65536 + 32 * count, 1048544)):
        assert not raw[begin:stop].strip(b"\0")
    site = hmac.digest(b"k" * 32, b"ebb dataset v1", "sha256")
    assert raw[1048544:] == hmac.digest(site, raw[:1048544], "sha256")
