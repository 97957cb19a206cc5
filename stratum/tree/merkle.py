"""The Merkle tree of a dump (``tree.digest``), kept in a form from which that of a changed dump is made.

Kept are all leaf hashes, and of the nodes above them one level: each is the root of a *block* of ``BLOCK`` leaves (the
last block may have fewer). The levels between are made anew where a block changes, the few above every time. Where
lines come or go, all that is behind them stands at another place: its leaf hashes stay, its blocks do not, unless as
many lines came as went.
"""

from __future__ import annotations

from collections.abc import Iterator

from stratum.tree.blocks import Span, count_lines
from stratum.tree.digest import HASH_SIZE, MerkleSummary, leaf_hashes, level_above, summary_above
from stratum.tree.splice import SplicedDump

BLOCK_LEVEL = 6
BLOCK = 1 << BLOCK_LEVEL
"""Leaves."""


class MerkleNodes:
    """``leaves`` and ``blocks``: the hashes of the two levels that are kept, one after the other."""

    __slots__ = ("blocks", "leaves")

    def __init__(self, leaves: bytes, blocks: bytes) -> None:
        self.leaves = leaves
        self.blocks = blocks

    @property
    def count(self) -> int:
        """The number of leaves."""
        return len(self.leaves) // HASH_SIZE

    @classmethod
    def of(cls, dump: SplicedDump) -> MerkleNodes:
        """The tree of a dump of at least one line, whatever its pieces are."""
        leaves = b"".join(map(_leaf_hashes, dump.buffers()))
        return cls(leaves, _block_nodes(leaves))

    def spliced(self, dump: SplicedDump) -> MerkleNodes:
        """The tree of ``dump``, where this is the tree of its ``source``."""
        parts: list[bytes | memoryview] = []
        runs: list[tuple[int, int, int]] = []  # first leaf here, first leaf in this tree, number of leaves
        here = line = position = 0  # ``position`` in the source is where its line ``line`` begins
        view = memoryview(self.leaves)
        for piece in dump.pieces:
            if not isinstance(piece, Span):
                parts.append(_leaf_hashes(piece))
                here += len(parts[-1]) // HASH_SIZE
                continue
            line += count_lines(dump.source, position, piece.start)
            count = count_lines(dump.source, *piece)
            parts.append(view[line * HASH_SIZE : (line + count) * HASH_SIZE])
            runs.append((here, line, count))
            here, line, position = here + count, line + count, piece.end
        leaves = b"".join(parts)
        return MerkleNodes(leaves, b"".join(self._blocks(leaves, runs)))

    def _blocks(self, leaves: bytes, runs: list[tuple[int, int, int]]) -> Iterator[bytes]:
        """The block nodes over ``leaves``: those of this tree where a run has the whole block in the same place."""
        done = 0
        for here, line, count in runs:
            first, last = -(-here // BLOCK), (here + count) // BLOCK
            if (here - line) % BLOCK or last <= first:
                continue
            yield _block_nodes(leaves[done * BLOCK * HASH_SIZE : first * BLOCK * HASH_SIZE])
            moved = (line - here) // BLOCK
            yield self.blocks[(first + moved) * HASH_SIZE : (last + moved) * HASH_SIZE]
            done = last
        yield _block_nodes(leaves[done * BLOCK * HASH_SIZE :])

    def summary(self) -> MerkleSummary:
        """What ``merkle_summary`` says of the dump."""
        return summary_above(self.blocks, self.count)


def _leaf_hashes(lines: bytes | memoryview) -> bytes:
    """The leaf hashes of some lines, each with its newline."""
    return leaf_hashes(lines if isinstance(lines, bytes) else bytes(lines))


def _block_nodes(leaves: bytes) -> bytes:
    """The nodes of the blocks of ``leaves``, of which the first is the first of a block."""
    level = leaves
    for _ in range(BLOCK_LEVEL):
        level = level_above(level)
    return level


class Dumped:
    """A dump with its Merkle tree, on the way to the commit that it becomes."""

    def __init__(self, dump: SplicedDump, nodes: MerkleNodes) -> None:
        self.nodes = nodes
        self._dump: SplicedDump | None = dump

    def take(self) -> SplicedDump:
        """The dump, once: whoever takes it can let go of it while other large things are made."""
        dump, self._dump = self._dump, None
        assert dump is not None
        return dump
