"""The Merkle tree of a changed dump, made from that of the other: the same as computing all of it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.tree.blocks import Span
from stratum.tree.digest import merkle_summary
from stratum.tree.dump import Piece
from stratum.tree.merkle import BLOCK, GROUP, MerkleNodes
from stratum.tree.splice import DumpText, SplicedDump


def lines(count: int, rng: random.Random, mark: bytes = b"old") -> list[bytes]:
    return [b"/%b %d %b\n" % (mark, number, b"x" * rng.randrange(40)) for number in range(count)]


def changed(rng: random.Random, old: list[bytes]) -> SplicedDump:
    """``old`` with some stretches replaced, by as many lines or not, as pieces."""
    source, pieces, at = b"".join(old), [], 0
    ends = [0]
    for line in old:
        ends.append(ends[-1] + len(line))
    while at < len(old):
        kept = min(rng.choice((0, 1, BLOCK - 1, BLOCK, 3 * BLOCK + 5, len(old))), len(old) - at)
        if kept:
            pieces.append(Span(ends[at], ends[at + kept]))
        dropped = rng.choice((0, 0, 1, 2, BLOCK))
        added = rng.choice((dropped, dropped, 0, 1, BLOCK + 3))
        if added:
            pieces.append(b"".join(lines(added, rng, b"new")))
        at += kept + dropped
    return SplicedDump(pieces or [b"/new\n"], source)


def spliced(known: MerkleNodes, dump: SplicedDump) -> MerkleNodes:
    steps = tuple(piece if isinstance(piece, Span) else len(piece) for piece in dump.pieces)
    return known.spliced(steps, DumpText(dump).between)


@settings(deadline=None)
@given(st.integers(1, 40 * BLOCK), st.integers(0, 1 << 32))
def test_the_tree_of_a_changed_dump_is_that_of_its_lines(count: int, seed: int) -> None:
    rng = random.Random(seed)
    old = lines(count, rng)
    before = MerkleNodes.of([b"".join(old)])
    dump = changed(rng, old)
    whole = MerkleNodes.of([dump.join()])
    for _ in range(2):  # the second time with what groups the first one made
        after = spliced(before, dump)
        assert (after.leaves, after.blocks) == (whole.leaves, whole.blocks)
    assert after.summary() == merkle_summary(dump.join())


@pytest.mark.parametrize("count", [1, 2, 3, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK, 5 * BLOCK + 7, 20_000])
def test_the_summary_is_that_of_the_dump(count: int) -> None:
    dump = b"".join(lines(count, random.Random(count)))
    assert MerkleNodes.of([dump]).summary() == merkle_summary(dump)


def test_pieces_do_not_matter() -> None:
    parts: list[Piece] = [b"/a\n/b\n", b"/c\n", b"/d\n/e\n/f\n"]
    dump = SplicedDump([parts[0], Span(3, 6), parts[2]], b"/x\n/c\n/y\n")
    assert dump.join() == b"/a\n/b\n/c\n/d\n/e\n/f\n"
    assert MerkleNodes.of(dump.blocks()).summary() == merkle_summary(dump.join())


def test_blocks_in_their_place_are_not_hashed_again() -> None:
    """What the tree of the other says of them is taken: here it is wrong, and so is the root."""
    old = lines(4 * BLOCK, random.Random(0))
    source = b"".join(old)
    before = MerkleNodes.of([source])
    wrong = MerkleNodes(before.leaves, bytes(32) + before.blocks[32:], before.starts)
    end = len(source) - len(old[-1])
    same_place = SplicedDump([Span(0, end), b"/new\n"], source)
    moved = SplicedDump([b"/new\n", Span(0, len(source))], source)
    assert spliced(wrong, same_place).summary() != merkle_summary(same_place.join())
    assert spliced(wrong, moved).summary() == merkle_summary(moved.join())
    assert set(wrong.groups) == {GROUP - 1}  # so many leaves behind a multiple a block begins now
    wrong.groups = {kind: bytes(len(hashes)) for kind, hashes in wrong.groups.items()}
    assert spliced(wrong, moved).summary() != merkle_summary(moved.join())
