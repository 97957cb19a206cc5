"""Directory entries: a block has a fixed-size record for each name, then the names, in the same order."""

from __future__ import annotations

from collections.abc import Sequence

from stratum.composefs.erofs import layout


def split_names(names: Sequence[bytes]) -> list[int]:
    """Where the blocks of a directory with ``names`` begin and end: ``[0, i, j, ..., len(names)]``."""
    record = layout.DIRENT.size
    if record * len(names) + sum(map(len, names)) <= layout.BLOCK_SIZE:
        return [0, len(names)]
    bounds = [0]
    used = 0
    for index, name in enumerate(names):
        size = record + len(name)
        if used + size > layout.BLOCK_SIZE:
            bounds.append(index)
            used = 0
        used += size
    bounds.append(len(names))
    return bounds


def entries_size(names: Sequence[bytes]) -> int:
    """Bytes that the entries of ``names`` take."""
    return layout.DIRENT.size * len(names) + sum(map(len, names))
