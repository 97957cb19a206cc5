"""fs-verity digests: known values, and pieces of any size against a plain construction of the hash tree."""

from __future__ import annotations

import hashlib
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.composefs.verity import BLOCK_SIZE, VerityHasher, verity_digest
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
