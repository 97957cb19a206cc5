"""Cutting dumps: the pieces join to the dump, a change changes one of them, and going on from the pieces of another
dump gives those that cutting from scratch gives."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.tree import cutting
from stratum.tree.cutting import PIECE_MAX, cut, kept_pieces, split_dump
from stratum.tree.script import between


def dump_of(count: int, changed: int | None = None) -> bytes:
    return b"".join(
        b"/%06d/%d 6 100644 1 0 0 0 %d.0 - inline -\n" % (n, n, 1 if n == changed else 0) for n in range(count)
    )


def test_a_change_changes_one_piece() -> None:
    before, after = (set(split_dump(dump_of(100_000, changed))) for changed in (None, 50_000))
    assert len(before) > 5
    assert len(after - before) <= 2
    assert all(len(piece) <= PIECE_MAX + 100 for piece in before)


@pytest.fixture(scope="module")
def small_pieces() -> object:
    """Pieces of a few lines, with all of what bounds them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cutting, "CUT_MASK", 3)
        patch.setattr(cutting, "PIECE_MIN", 40)
        patch.setattr(cutting, "PIECE_MAX", 100)
        yield


lines = st.lists(st.integers(0, 199), unique=True, max_size=80).map(sorted)


@pytest.mark.usefixtures("small_pieces")
@given(lines, lines, st.integers(1, 9))
def test_what_is_known_is_not_cut_again_and_comes_out_the_same(old: list[int], new: list[int], block: int) -> None:
    """Also of a part of the other dump, and where blocks end anywhere."""
    new += old[len(old) // 3 :]
    ground, dump = (b"".join(b"/%03d %d\n" % (n, n * n) for n in sorted(set(numbers))) for numbers in (old, new))
    pieces = list(split_dump(ground))
    assert b"".join(pieces) == ground
    script = between([dump], [ground], 10_000)
    assert script is not None
    known = kept_pieces(script.steps, [len(piece) for piece in pieces])
    blocks = dump.splitlines(keepends=True)
    parts = [b"".join(blocks[at : at + block]) for at in range(0, len(blocks), block)]
    found = [pieces[piece] if isinstance(piece, int) else piece for piece in cut(parts, known)]
    assert found == list(split_dump(dump)) == list(split_dump(parts))
    assert all(isinstance(piece, int) for piece in cut([dump], known)) or dump != ground
