"""The hashes of the chunks of content that a test has at hand."""

from __future__ import annotations

from collections.abc import Iterable

from stratum.composefs.verity import ChunkHasher


def level1_hashes(pieces: Iterable[bytes]) -> bytes:
    """Those of a file that consists of ``pieces``."""
    hasher = ChunkHasher()
    for piece in pieces:
        hasher.update(piece)
    return hasher.chunk_hashes()
