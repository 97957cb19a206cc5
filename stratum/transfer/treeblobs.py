"""The tree layers that came from outside, joined to a dump: decompressed one after the other they are it, so that
``cat tree-*.zst | zstd -d | b3sum`` prints the commit ID."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from blake3 import blake3

from stratum.errors import DamagedError
from stratum.store.treewriter import Stored
from stratum.tree.blocks import Dump, whole_lines
from stratum.tree.cutting import PIECE_MIN
from stratum.tree.zstdframe import decompress

READ_MAX = 16 << 20
"""Largest piece that is read, in bytes of the dump."""

KEPT_MAX = 64 << 20
"""A dump of more bytes is not in memory as a whole: its layers, which are, take a fraction of that."""


class Joined(NamedTuple):
    """A dump, the commit that it is, and its layers as frames; none where a store should cut it itself."""

    dump: Dump
    commit: str
    frames: Sequence[Stored]


def join_tree(blobs: Iterable[bytes], what: str) -> Joined:
    """The dump whose layers are ``blobs``, which came from outside (``what`` names them in errors).

    Where it is not short it is decompressed again each time that it is read. The layers can be frames of a store where
    each is of whole lines, and not so small that there could be any number of them. ``DamagedError``.
    """
    kept, hasher = list(blobs), blake3()
    sizes = [0] * len(kept)
    fit = [False] * len(kept)

    def pieces() -> Iterator[bytes]:
        for number, blob in enumerate(kept):
            piece = decompress(blob, READ_MAX, f"tree layer {number} of {what}")
            sizes[number] = len(piece)
            fit[number] = piece.endswith(b"\n") and (len(piece) >= PIECE_MIN or number == len(kept) - 1)
            yield piece

    try:
        dump = Dump(lambda: whole_lines(pieces()), hasher.update, KEPT_MAX)
    except DamagedError as exc:
        raise DamagedError(f"the tree of {what}: {exc.message}", hint=exc.hint) from None
    frames = [Stored(data, size) for data, size in zip(kept, sizes, strict=True)] if all(fit) else []
    return Joined(dump, hasher.hexdigest(), frames)
