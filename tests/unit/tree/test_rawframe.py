"""Frames of raw blocks: any part of one is made of that part of its content, and zstd reads them."""

from __future__ import annotations

import random

import pytest

from stratum.tree.rawframe import frame_parts, raw_frame, stored_size
from stratum.zstd import decompress

BLOCK = 128 << 10


@pytest.mark.parametrize("size", [1, 255, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 7])
def test_any_part_of_a_frame_is_made_of_that_part_of_the_content(size: int) -> None:
    chance = random.Random(size)
    data = chance.randbytes(size)
    frame = raw_frame(data)
    assert len(frame) == stored_size(size)
    assert decompress(frame) == data
    edges = [at for block in range(size // BLOCK + 1) for at in range(block * (BLOCK + 3), block * (BLOCK + 3) + 14)]
    places = sorted({min(at, len(frame)) for at in (*edges, *(chance.randrange(len(frame)) for _ in range(20)))})
    for start in places:
        for end in (at for at in places if at > start):
            parts = frame_parts(size, start, end)
            found = b"".join(part if isinstance(part, bytes) else data[slice(*part)] for part in parts)
            assert found == frame[start:end], (start, end)
