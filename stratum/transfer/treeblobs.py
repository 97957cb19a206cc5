"""The tree layers: a canonical dump cut into pieces that stay the same where the tree does.

A dump is cut after lines whose content says so, so an entry that changes, comes or goes changes one piece, and a push
sends that piece only. Decompressed and joined in order the pieces are the dump: ``cat tree-*.zst | zstd -d | b3sum``
prints the commit ID.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from blake3 import blake3

from stratum.errors import DamagedError
from stratum.transfer.packs import compress, decompress
from stratum.tree.blocks import Blocks, Dump, small_blocks, whole_lines

CUT_MASK = 0x7FF
"""A piece ends after a line whose CRC-32 has these bits clear, once it has ``PIECE_MIN`` bytes."""

PIECE_MIN = 64 << 10
PIECE_MAX = 4 << 20
"""A piece ends after the line that makes it at least this long, whatever that line says."""

READ_MAX = 16 << 20
"""Largest piece that is read, in bytes of the dump."""


def split_dump(dump: Blocks) -> Iterator[bytes]:
    """Cut ``dump`` (lines that end in newlines) into its pieces."""
    piece: list[bytes] = []
    size = 0
    for block in small_blocks(dump):
        start = position = 0
        while end := block.find(b"\n", position) + 1:
            size += end - position
            if size >= PIECE_MAX or (size >= PIECE_MIN and not zlib.crc32(block[position:end]) & CUT_MASK):
                piece.append(block[start:end])
                yield b"".join(piece)
                piece, size, start = [], 0, end
            position = end
        if start < len(block):
            piece.append(block[start:])
    if piece:
        yield b"".join(piece)


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
