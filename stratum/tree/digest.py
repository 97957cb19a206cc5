"""The two hashes of a commit, both over the canonical dump.

``metadata_hash`` (the commit ID) is BLAKE3-256 of the whole dump. ``merkle_root`` is the RFC 9162 (section 2.1) tree
hash over the dump's lines, each without its newline, with BLAKE3-256: leaf = H(0x00 || line),
node = H(0x01 || left || right), split at the largest power of two below the number of leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from blake3 import blake3


def metadata_hash(*dump: bytes | memoryview) -> str:
    """The commit ID of a canonical dump, given whole or in pieces: 64 lower-case hex digits."""
    hasher = blake3()
    for piece in dump:
        hasher.update(piece)
    return hasher.hexdigest()


@dataclass(frozen=True, slots=True)
class MerkleSummary:
    """``root`` (64 hex digits), number of leaves, and depth (edges from the root to the deepest leaf)."""

    root: str
    leaf_count: int
    tree_depth: int


def dump_lines(dump: bytes) -> list[bytes]:
    """The lines of a dump without their newlines: the leaves of its Merkle tree."""
    lines = dump.split(b"\n")
    if lines and not lines[-1]:
        lines.pop()
    return lines


def leaf_hash(line: bytes) -> bytes:
    """RFC 9162 leaf hash of one dump line."""
    return blake3(b"\x00" + line).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 9162 interior node hash."""
    return blake3(b"\x01" + left + right).digest()


def _levels(leaves: Iterable[bytes]) -> Iterable[list[bytes]]:
    """All levels of the tree, leaves first. An odd last node moves up unchanged, which is RFC 9162's split."""
    level = list(leaves)
    yield level
    while len(level) > 1:
        above = [blake3(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]
        if len(level) % 2:
            above.append(level[-1])
        level = above
        yield level


def merkle_summary(dump: bytes) -> MerkleSummary:
    """Root, size and depth of the Merkle tree over ``dump``'s lines (at least one line)."""
    lines = dump_lines(dump)
    root, depth = b"", -1
    for level in _levels([blake3(b"\x00" + line).digest() for line in lines]):
        root, depth = level[0], depth + 1
    return MerkleSummary(root.hex(), len(lines), depth)


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """Proof that ``line`` is leaf ``index`` of the tree with ``root``.

    ``path`` lists the sibling hashes from the leaf up, each with the side it stands on.
    """

    line: bytes
    index: int
    leaf_count: int
    path: tuple[tuple[Literal["left", "right"], bytes], ...]
    root: str

    def verify(self) -> bool:
        """Recompute the root from the line and the siblings and compare."""
        value = leaf_hash(self.line)
        for side, sibling in self.path:
            value = node_hash(sibling, value) if side == "left" else node_hash(value, sibling)
        return value.hex() == self.root


def inclusion_proof(lines: Sequence[bytes], index: int) -> InclusionProof:
    """The audit path (RFC 9162 section 2.1.3) for leaf ``index`` of ``lines``."""
    path: list[tuple[Literal["left", "right"], bytes]] = []
    position, root = index, b""
    for level in _levels(leaf_hash(line) for line in lines):
        root = level[0]
        if len(level) == 1:
            break
        sibling = position ^ 1
        if sibling < len(level):
            path.append(("right" if sibling > position else "left", level[sibling]))
        position //= 2
    return InclusionProof(lines[index], index, len(lines), tuple(path), root.hex())
