"""Cutting a dump into pieces that stay the same where the tree does. Pure.

A dump is cut after lines whose content says so, so an entry that changes, comes or goes changes one piece. The pieces
are the frames of a store and the tree layers of an artifact: equal cuts make equal ones, in every store and version.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate

from stratum.tree.blocks import Blocks, Span, small_blocks
from stratum.tree.script import Step

CUT_MASK = 0x7FF
"""A piece ends after a line whose CRC-32 has these bits clear, once it has ``PIECE_MIN`` bytes."""

PIECE_MIN = 64 << 10
PIECE_MAX = 4 << 20
"""A piece ends after the line that makes it at least this long, whatever that line says."""

NOTHING_CUT: Mapping[int, tuple[int, int]] = {}


def split_dump(dump: Blocks) -> Iterator[bytes]:
    """Cut ``dump`` (lines that end in newlines) into its pieces."""
    return (piece for piece in cut(dump, NOTHING_CUT) if isinstance(piece, bytes))


def cut(dump: Blocks, known: Mapping[int, tuple[int, int]]) -> Iterator[bytes | int]:
    """The same, of a dump that has pieces of another one (``kept_pieces``): where a piece begins at which one is
    ``known``, its number there comes for it, and none of its lines is looked at."""
    piece: list[bytes] = []
    size = done = skip = 0  # bytes of the piece so far, and of the dump before the block; where the known pieces end
    for block in small_blocks(dump):
        start = position = 0  # of the block: where the piece begins, and the next line
        while position < len(block):
            while not size and position < len(block) and done + position in known:
                skip, number = known[done + position]
                yield number
                position = start = min(skip - done, len(block))
            if skip > done + position or position >= len(block):
                position = start = min(skip - done, len(block))
                continue
            # No line that ends before the shortest piece does is looked at.
            end = block.find(b"\n", max(position, position + PIECE_MIN - size - 1)) + 1
            if not end:
                size += len(block) - position
                break
            line = block.rfind(b"\n", position, end - 1) + 1 or position
            size += end - position
            position = end
            if size >= PIECE_MAX or not zlib.crc32(block[line:end]) & CUT_MASK:
                piece.append(block[start:end])
                yield b"".join(piece)
                piece, size, start = [], 0, end
        if start < len(block):
            piece.append(block[start:])
        done += len(block)
    if piece:
        yield b"".join(piece)


def kept_pieces(steps: Iterable[Step], sizes: Sequence[int]) -> dict[int, tuple[int, int]]:
    """The pieces of a ground, which have ``sizes``, that what the ``steps`` make of it has too: where one begins there
    -> (where it ends, its number).

    The ground's last piece ends where the dump does, and is one here only where that is so too.
    """
    steps = tuple(steps)
    starts = [0, *accumulate(sizes)]
    total = sum(step if isinstance(step, int) else step.end - step.start for step in steps)
    found: dict[int, tuple[int, int]] = {}
    at = number = 0
    for step in steps:
        if isinstance(step, Span):
            while number < len(sizes) and starts[number] < step.start:
                number += 1
            while number < len(sizes) and starts[number + 1] <= step.end:
                begin = at + starts[number] - step.start
                end = begin + sizes[number]
                if number + 1 < len(sizes) or end == total:
                    found[begin] = (end, number)
                number += 1
        at += step if isinstance(step, int) else step.end - step.start
    return found
