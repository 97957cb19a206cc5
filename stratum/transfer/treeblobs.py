"""The tree layers: a canonical dump cut into pieces that stay the same where the tree does.

A dump is cut after lines whose content says so, so an entry that changes, comes or goes changes one piece, and a push
sends that piece only. Decompressed and joined in order the pieces are the dump: ``cat tree-*.zst | zstd -d | b3sum``
prints the commit ID.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from blake3 import blake3

from stratum.errors import DamagedError
from stratum.tree.blocks import Blocks, Dump, whole_lines
from stratum.tree.cutting import split_dump
from stratum.tree.zstdframe import compress, decompress

READ_MAX = 16 << 20
"""Largest piece that is read, in bytes of the dump."""


def tree_blobs(dump: Blocks) -> Iterator[bytes]:
    """The blobs of the tree layers, in order."""
    return (compress(piece) for piece in split_dump(dump))


def join_tree(blobs: Iterable[bytes], what: str) -> tuple[Dump, str]:
    """The dump whose layers are ``blobs``, which came from outside (``what`` names them in errors), and its hash.

    It is kept as the blobs are, unless it is short.
    """
    kept, hasher = list(blobs), blake3()

    def pieces() -> Iterator[bytes]:
        for number, blob in enumerate(kept):
            yield decompress(blob, READ_MAX, f"tree layer {number} of {what}")

    try:
        dump = Dump(lambda: whole_lines(pieces()), hasher.update)
    except DamagedError as exc:
        raise DamagedError(f"the tree of {what}: {exc.message}", hint=exc.hint) from None
    if dump.text is not None:
        kept.clear()
    return dump, hasher.hexdigest()
