"""The two hashes of a commit, both over the canonical dump.

``metadata_hash`` (the commit ID) is BLAKE3-256 of the whole dump. ``merkle_root`` is the RFC 9162 (section 2.1) tree
hash over the dump's lines, each without its newline, with BLAKE3-256: leaf = H(0x00 || line),
node = H(0x01 || left || right), split at the largest power of two below the number of leaves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Literal

from blake3 import blake3

from stratum.frozen import frozen
from stratum.tree.blocks import Blocks, lines_of, small_blocks

HASH_SIZE = 32


def metadata_hash(dump: bytes | Iterable[bytes | memoryview]) -> str:
    """The commit ID of a canonical dump, given whole or in pieces: 64 lower-case hex digits."""
    hasher = blake3()
    for piece in (dump,) if isinstance(dump, bytes) else dump:
        hasher.update(piece)
    return hasher.hexdigest()


@frozen
class MerkleSummary:
    """``root`` (64 hex digits), number of leaves, and depth (edges from the root to the deepest leaf)."""

    root: str
    leaf_count: int
    tree_depth: int


def leaf_hashes(dump: Blocks) -> bytes:
    """The leaf hashes of a dump's lines, one after the other."""
    return b"".join(
        b"".join([blake3(b"\x00" + line).digest() for line in block.removesuffix(b"\n").split(b"\n")])
        for block in small_blocks(dump)
    )


def level_above(level: bytes) -> bytes:
    """The nodes over each two of ``level``; an odd last one moves up unchanged, which is RFC 9162's split."""
    pair = 2 * HASH_SIZE
    even = len(level) - len(level) % pair
    above = b"".join([blake3(b"\x01" + level[at : at + pair]).digest() for at in range(0, even, pair)])
    return above + level[even:]


def summary_above(level: bytes, leaf_count: int) -> MerkleSummary:
    """What the tree of ``leaf_count`` leaves is, of which ``level`` is any level."""
    while len(level) > HASH_SIZE:
        level = level_above(level)
    return MerkleSummary(level.hex(), leaf_count, (leaf_count - 1).bit_length())


def merkle_summary(dump: Blocks) -> MerkleSummary:
    """Root, size and depth of the Merkle tree over ``dump``'s lines (at least one line)."""
    leaves = leaf_hashes(dump)
    return summary_above(leaves, len(leaves) // HASH_SIZE)


@frozen
class InclusionProof:
    """Proof that ``line`` is leaf ``index`` of the tree with ``root``.

    ``path`` lists the sibling hashes from the leaf up, each with the side it stands on.
    """

    line: bytes
    index: int
    leaf_count: int
    path: tuple[tuple[Literal["left", "right"], bytes], ...]
    root: str


def inclusion_proof(dump: Blocks, index: int) -> InclusionProof:
    """The audit path (RFC 9162 section 2.1.3) for line ``index`` of a dump."""
    line = next(itertools.islice(lines_of(dump), index, None))
    level = leaf_hashes(dump)
    count, position = len(level) // HASH_SIZE, index
    path: list[tuple[Literal["left", "right"], bytes]] = []
    while len(level) > HASH_SIZE:
        start = (position ^ 1) * HASH_SIZE
        if sibling := level[start : start + HASH_SIZE]:
            path.append(("right" if not position % 2 else "left", sibling))
        level, position = level_above(level), position // 2
    return InclusionProof(line, index, count, tuple(path), level.hex())
