"""fs-verity digests: known values, and pieces of any size against a plain construction of the hash tree."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.composefs.verity import (
    BLOCK_SIZE,
    CHUNK_SIZE,
    ChunkHasher,
    VerityHasher,
    chunk_count,
    chunk_hash,
    root_of_level1,
    verity_digest,
)
from tests.support.chunks import level1_hashes
from tests.support.effort import examples


def plain_digest(data: bytes) -> str:
    """The definition, level by level."""
    level = data
    root = bytes(32)
    while level:
        blocks = [level[i : i + BLOCK_SIZE].ljust(BLOCK_SIZE, b"\0") for i in range(0, len(level), BLOCK_SIZE)]
        digests = [hashlib.sha256(block).digest() for block in blocks]
        if len(digests) == 1:
            root = digests[0]
            break
        level = b"".join(digests)
    descriptor = struct.pack("<BBBBIQ", 1, 1, 12, 0, 0, len(data)) + root
    return hashlib.sha256(descriptor.ljust(256, b"\0")).hexdigest()


@pytest.mark.parametrize(
    ("data", "digest"),
    [
        (b"hello\n", "9c76eecc7b76fcb46199cb27b90cf59a660e10575bb0412128905129d5b1c2aa"),
        (b"x" * 4097, "f54d7eca1ac49ae471f4abedb0d9309f0b84a51ec5c1733e3abb2aaf9f66c4ad"),
        (b"", "3d248ca542a24fc62d1c43b916eae5016878e2533c88238480b26128a1f1af95"),  # as `fsverity digest` prints it
    ],
)
def test_known_digests(data: bytes, digest: str) -> None:
    assert verity_digest(data).hex() == digest
    assert plain_digest(data) == digest


LEAVES = BLOCK_SIZE // 32


@pytest.mark.parametrize(
    "size",
    [
        1,
        BLOCK_SIZE - 1,
        BLOCK_SIZE,
        BLOCK_SIZE + 1,
        LEAVES * BLOCK_SIZE - 1,
        LEAVES * BLOCK_SIZE,
        LEAVES * BLOCK_SIZE + 1,
        (LEAVES + 1) * BLOCK_SIZE,
        LEAVES * LEAVES * BLOCK_SIZE,
        LEAVES * LEAVES * BLOCK_SIZE + 1,
    ],
)
def test_sizes_around_the_levels_of_the_tree(size: int) -> None:
    data = bytes(range(251)) * (size // 251 + 1)
    data = data[:size]
    assert verity_digest(data).hex() == plain_digest(data)
    hasher = VerityHasher()
    hasher.update(data[: size // 3])
    hasher.update(memoryview(data)[size // 3 :])
    assert hasher.hexdigest() == plain_digest(data)


@given(st.lists(st.integers(0, 3 * BLOCK_SIZE), max_size=12))
def test_pieces_do_not_matter_and_digests_can_be_taken_on_the_way(sizes: list[int]) -> None:
    data = b""
    hasher = VerityHasher()
    for number, size in enumerate(sizes):
        piece = bytes((number,)) * size
        data += piece
        hasher.update(bytearray(piece))
        assert hasher.hexdigest() == plain_digest(data)


def test_a_hasher_does_not_hold_on_to_what_it_was_fed() -> None:
    hasher = VerityHasher()
    buffer = bytearray(b"a" * (BLOCK_SIZE + 100))
    hasher.update(buffer)
    buffer.extend(b"resizing a bytearray that is exported raises BufferError")
    assert hasher.hexdigest() == plain_digest(b"a" * (BLOCK_SIZE + 100))


def test_memory_does_not_grow_with_the_file() -> None:
    hasher = VerityHasher()
    piece = bytes(1 << 20)
    for _ in range(64):
        hasher.update(piece)
    assert sum(len(level) for level in hasher._levels) < 3 * BLOCK_SIZE


@given(st.lists(st.tuples(st.booleans(), st.integers(0, 3 * BLOCK_SIZE)), max_size=8))
def test_holes_are_zeros(pieces: list[tuple[bool, int]]) -> None:
    data = b""
    hasher = VerityHasher()
    for hole, size in pieces:
        if hole:
            hasher.update_zeros(size)
        else:
            hasher.update(b"x" * size)
        data += (b"\0" if hole else b"x") * size
        assert hasher.hexdigest() == plain_digest(data)


def test_a_large_hole() -> None:
    hasher = VerityHasher()
    hasher.update(b"head")
    hasher.update_zeros((LEAVES * LEAVES + 3) * BLOCK_SIZE + 5)
    assert hasher.hexdigest() == plain_digest(b"head" + bytes((LEAVES * LEAVES + 3) * BLOCK_SIZE + 5))


@settings(max_examples=examples(30))
@given(st.lists(st.tuples(st.booleans(), st.integers(0, 70), st.integers(0, 5000)), max_size=6))
def test_runs_of_zeros_are_as_if_they_were_fed(runs: list[tuple[bool, int, int]]) -> None:
    plain, quick = VerityHasher(), VerityHasher()
    for zeros, blocks, rest in runs:
        size = blocks * 33 * BLOCK_SIZE + rest
        piece = (b"\0" if zeros else b"\1") * size
        plain.update(piece)
        if zeros:
            quick.update_zeros(size)
        else:
            quick.update(piece)
        assert quick.digest() == plain.digest()


# Parts of files


SIZES = st.one_of(
    st.integers(1, CHUNK_SIZE),
    st.builds(lambda chunks, more: chunks * CHUNK_SIZE + more, st.integers(1, 3), st.integers(-BLOCK_SIZE, BLOCK_SIZE)),
)


def content(size: int, seed: int) -> bytes:
    return (hashlib.sha256(bytes((seed,))).digest() * (size // 32 + 1))[:size]


@settings(max_examples=examples(20), deadline=None)
@given(SIZES, st.integers(0, 9), st.integers(1000, 2 * CHUNK_SIZE))
def test_the_hashes_of_chunks_lead_to_the_digest_and_check_each_chunk(size: int, seed: int, step: int) -> None:
    data = content(size, seed)
    hashes = level1_hashes(data[start : start + step] for start in range(0, size, step))
    assert len(hashes) == 32 * chunk_count(size)
    for number in range(chunk_count(size)):
        chunk = data[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE]
        assert chunk_hash(chunk) == hashes[32 * number : 32 * number + 32]
    if size > BLOCK_SIZE:
        assert root_of_level1(hashes, size) == verity_digest(data)


@settings(max_examples=examples(20), deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(0, CHUNK_SIZE + 7)), min_size=1, max_size=5))
def test_holes_have_the_hashes_of_zeros(runs: list[tuple[bool, int]]) -> None:
    hasher, data = ChunkHasher(), b""
    for hole, size in runs:
        piece = bytes(size) if hole else content(size, 3)
        data += piece
        hasher.update_zeros(size) if hole else hasher.update(piece)
        assert hasher.chunk_hashes() == level1_hashes([data])
        assert hasher.digest() == verity_digest(data)


def test_a_hole_over_many_levels_has_the_hashes_of_zeros() -> None:
    hasher, size = ChunkHasher(), (LEAVES + 2) * CHUNK_SIZE + 5
    hasher.update(b"head")
    hasher.update_zeros(size - 4)
    zeros = chunk_hash(bytes(CHUNK_SIZE))
    hashes = hasher.chunk_hashes()
    assert hashes == (chunk_hash(b"head" + bytes(CHUNK_SIZE - 4)) + zeros * (LEAVES + 1) + chunk_hash(bytes(5)))
    assert root_of_level1(hashes, size) == hasher.digest()


@given(st.integers(CHUNK_SIZE + 1, 3 * CHUNK_SIZE), st.integers(0, 1 << 30), st.integers(0, 7))
@settings(max_examples=examples(20), deadline=None)
def test_one_bit_is_noticed(size: int, where: int, bit: int) -> None:
    data = content(size, 1)
    hashes = level1_hashes([data])
    changed = bytearray(hashes)
    changed[where % len(hashes)] ^= 1 << bit
    assert root_of_level1(bytes(changed), size) != verity_digest(data)
    number = where % chunk_count(size)
    chunk = bytearray(data[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE])
    chunk[where % len(chunk)] ^= 1 << bit
    assert chunk_hash(chunk) != hashes[32 * number : 32 * number + 32]


@pytest.mark.parametrize(("count", "size"), [(0, 0), (1, BLOCK_SIZE), (0, 5000), (2, CHUNK_SIZE), (1, CHUNK_SIZE + 1)])
def test_so_many_hashes_cannot_be_of_that_file(count: int, size: int) -> None:
    with pytest.raises(ValueError, match="not the hashes"):
        root_of_level1(bytes(32 * count), size)
