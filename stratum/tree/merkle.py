"""The Merkle tree of a dump (``tree.digest``), kept in a form from which that of a changed dump is made.

Kept are all leaf hashes, and of the nodes above them one level: each is the root of a *block* of ``BLOCK`` leaves (the
last block may have fewer). The levels between are made anew where a block changes, the few above every time. Where
lines come or go, all that is behind them stands at another place: its leaf hashes stay, its blocks do not, unless as
many lines came as went. What stays then are the *groups* of ``GROUP`` leaves that begin so many leaves behind a
multiple of that: once they were made, they are kept, for the next tree that is moved as far or by ``GROUP`` more. Where
the blocks begin in the dump is kept too: so it is known which lines a stretch of it has without a look at what is
before.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import accumulate

from blake3 import blake3

from stratum.tree.blocks import Span, count_lines, small_blocks
from stratum.tree.digest import HASH_SIZE, MerkleSummary, leaf_hashes, level_above, summary_above
from stratum.tree.script import Step
from stratum.tree.splice import SplicedDump

BLOCK_LEVEL = 6
BLOCK = 1 << BLOCK_LEVEL
"""Leaves."""
GROUP_LEVEL = 3
GROUP = 1 << GROUP_LEVEL
_MOVED_PART = 4
"""Groups are made where a stretch of leaves that moved is this part of the tree."""
_AT_ONCE = 256 * BLOCK * HASH_SIZE


Hashes = bytes | memoryview


class MerkleNodes:
    """``leaves`` and ``blocks``: the hashes of the two levels that are kept, one after the other. ``starts`` are the
    places in the dump at which the blocks begin, where these are known: only then can another tree be made of this.
    ``groups``: the hashes of the whole groups that begin at leaf N, N + ``GROUP`` and so on, by N, as far as they were
    of use."""

    __slots__ = ("blocks", "groups", "leaves", "starts")

    def __init__(
        self, leaves: Hashes, blocks: Hashes, starts: array[int] | None = None, groups: dict[int, Hashes] | None = None
    ) -> None:
        self.leaves = leaves
        self.blocks = blocks
        self.starts = array("Q") if starts is None else starts
        self.groups: dict[int, Hashes] = {} if groups is None else groups

    @property
    def count(self) -> int:
        """The number of leaves."""
        return len(self.leaves) // HASH_SIZE

    @classmethod
    def of(cls, dump: Iterable[bytes]) -> MerkleNodes:
        """The tree of a dump of at least one line, given in blocks of whole lines."""
        parts, starts, position, number = list[bytes](), array("Q"), 0, 0
        for block in small_blocks(dump):
            lines = block.removesuffix(b"\n").split(b"\n")
            parts.append(b"".join([blake3(b"\x00" + line).digest() for line in lines]))
            ends = list(accumulate(map(len, lines), initial=0))
            first = -number % BLOCK
            starts.extend(position + ends[at] + at for at in range(first, len(lines), BLOCK))
            number += len(lines)
            position += len(block)
        leaves = b"".join(parts)
        return cls(leaves, _nodes_above(leaves, BLOCK_LEVEL), starts)

    def spliced(self, steps: Sequence[Step], text: Callable[[int, int], bytes]) -> MerkleNodes:
        """The tree of the dump that a script with these steps makes of this one's. ``text`` gives bytes of it, of which
        is asked in ascending order."""
        parts: list[bytes | memoryview] = []
        runs: list[tuple[int, int, int]] = []  # first leaf here, first leaf in this tree, number of leaves
        here = at = 0  # the line and the byte where the step begins
        view, starts = memoryview(self.leaves), self.starts
        for step in steps:
            size = step if isinstance(step, int) else step.end - step.start
            first = last = 0
            if isinstance(step, Span):
                first, last = bisect_left(starts, step.start), bisect_right(starts, step.end) - 1
            if first >= last:  # new lines, or fewer than tell which they are
                parts.append(leaf_hashes(text(at, at + size)))
                here, at = here + len(parts[-1]) // HASH_SIZE, at + size
                continue
            assert isinstance(step, Span), "a number has no blocks"
            moved = at - step.start
            before = count_lines(text(at, starts[first] + moved))
            behind = count_lines(text(starts[last] + moved, at + size))
            line, count = first * BLOCK - before, before + (last - first) * BLOCK + behind
            parts.append(view[line * HASH_SIZE : (line + count) * HASH_SIZE])
            runs.append((here, line, count))
            here, at = here + count, at + size
        leaves = b"".join(parts)
        return MerkleNodes(leaves, b"".join(self._blocks(leaves, runs)))

    def _blocks(self, leaves: bytes, runs: list[tuple[int, int, int]]) -> Iterator[Hashes]:
        """The block nodes over ``leaves``: those of this tree where a run has the whole block in the same place, those
        over the groups of this tree where it has much elsewhere."""
        done = 0
        for here, line, count in runs:
            first, last = -(-here // BLOCK), (here + count) // BLOCK
            if last <= first:
                continue
            found = self._moved(first * BLOCK - here + line, last - first)
            if found is None:
                continue
            yield _nodes_above(leaves[done * BLOCK * HASH_SIZE : first * BLOCK * HASH_SIZE], BLOCK_LEVEL)
            yield found
            done = last
        yield _nodes_above(leaves[done * BLOCK * HASH_SIZE :], BLOCK_LEVEL)

    def _moved(self, line: int, count: int) -> Hashes | None:
        """The nodes of so many blocks, the first of which begins at leaf ``line``; None where groups would have to be
        made for few."""
        if line % BLOCK == 0:
            start = line // BLOCK
            return self.blocks[start * HASH_SIZE : (start + count) * HASH_SIZE]
        at, levels = line % GROUP, BLOCK_LEVEL - GROUP_LEVEL
        if at not in self.groups:
            if count * BLOCK * _MOVED_PART < self.count:
                return None
            size = (self.count - at) // GROUP * GROUP
            self.groups[at] = _nodes_above(self.leaves[at * HASH_SIZE : (at + size) * HASH_SIZE], GROUP_LEVEL)
        start, end = line // GROUP, line // GROUP + (count << levels)
        return _nodes_above(self.groups[at][start * HASH_SIZE : end * HASH_SIZE], levels)

    def summary(self) -> MerkleSummary:
        """What ``merkle_summary`` says of the dump."""
        return summary_above(bytes(self.blocks), self.count)


def _nodes_above(nodes: Hashes, levels: int) -> bytes:
    """The nodes so many levels above ``nodes``, of which the first is the first below one of them."""
    found = []
    for start in range(0, len(nodes), _AT_ONCE):  # each level is a list of hashes, for a moment
        level = bytes(nodes[start : start + _AT_ONCE])
        for _ in range(levels):
            level = level_above(level)
        found.append(level)
    return b"".join(found)


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
