"""The tree layers: a canonical dump cut into pieces that stay the same where the tree does.

A dump is cut after lines whose content says so, so an entry that changes, comes or goes changes one piece, and a push
sends that piece only. Decompressed and joined in order the pieces are the dump: ``cat tree-*.zst | zstd -d | b3sum``
prints the commit ID.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Iterator

from stratum.errors import DamagedError
from stratum.registry.packs import compress, decompress

CUT_MASK = 0x7FF
"""A piece ends after a line whose CRC-32 has these bits clear, once it has ``PIECE_MIN`` bytes."""

PIECE_MIN = 64 << 10
PIECE_MAX = 4 << 20
"""A piece ends after the line that makes it at least this long, whatever that line says."""

READ_MAX = 16 << 20
"""Largest piece that is read, in bytes of the dump."""

DUMP_MAX = 1 << 30
"""Largest dump that is read, in bytes."""


def split_dump(dump: bytes) -> Iterator[bytes]:
    """Cut ``dump`` (lines that end in newlines) into its pieces."""
    start = position = 0
    for line in _lines(dump):
        position += len(line)
        size = position - start
        if size >= PIECE_MAX or (size >= PIECE_MIN and not zlib.crc32(line) & CUT_MASK):
            yield dump[start:position]
            start = position
    if start < len(dump):
        yield dump[start:]


def _lines(dump: bytes) -> Iterator[bytes]:
    start = 0
    while end := dump.find(b"\n", start) + 1:
        yield dump[start:end]
        start = end


def tree_blobs(dump: bytes) -> Iterator[bytes]:
    """The blobs of the tree layers, in order."""
    return (compress(piece) for piece in split_dump(dump))


def join_tree(blobs: Iterable[bytes], what: str) -> bytes:
    """The dump whose layers are ``blobs``, which came from outside (``what`` names them in errors)."""
    pieces, total = [], 0
    for number, blob in enumerate(blobs):
        pieces.append(decompress(blob, READ_MAX, f"tree layer {number} of {what}"))
        total += len(pieces[-1])
        if total > DUMP_MAX:
            raise DamagedError(f"the tree of {what} is larger than {DUMP_MAX} bytes")
    return b"".join(pieces)


def objects_of(dump: bytes, what: str) -> dict[bytes, int]:
    """The objects that a dump refers to, as digest (32 bytes) -> size in bytes, in tree order.

    ``DamagedError`` (naming ``what``) for a digest of another length, or one object with two sizes.
    """
    objects: dict[bytes, int] = {}
    for line in _lines(dump):
        fields = line.split(b" ", 11)
        if len(fields) < 11 or fields[2][:1] == b"@":
            continue
        digest = fields[10].rstrip(b"\n")
        if digest == b"-":
            continue
        try:
            key, size = bytes.fromhex(digest.decode("ascii")), int(fields[1])
        except ValueError:
            raise DamagedError(f"the tree of {what} has a malformed digest or size") from None
        if len(key) != 32 or size <= 0 or objects.setdefault(key, size) != size:
            raise DamagedError(
                f"the tree of {what} gives object {shown_digest(digest)} a digest or size that cannot be"
            )
    return objects


def shown_digest(digest: bytes) -> str:
    """A digest as somebody else wrote it, cut to a readable length."""
    return digest[:64].decode("ascii", "replace")
