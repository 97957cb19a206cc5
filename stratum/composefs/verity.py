"""fs-verity file digests: SHA-256, 4096-byte blocks, no salt (Linux Documentation/filesystems/fsverity.rst).

A file's digest is the SHA-256 of its ``fsverity_descriptor``, which holds the size of the file and the root of a
hash tree: every block, the last one padded with zeros, is hashed; the digests are packed 128 to a block and these
blocks are hashed in turn, until one digest is left. The root of an empty file is all zeros.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from stratum import hashes

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

Buffer = bytes | bytearray | memoryview

BLOCK_SIZE: Final = 4096
DIGEST_SIZE: Final = 32

# version 1, SHA-256 = 1, log2 of the block size, size of the salt, reserved, size of the file, root hash (room for
# 64 bytes), salt (32) and reserved bytes (144).
_DESCRIPTOR = struct.Struct("<BBBB4xQ32s32x32x144x")
_EMPTY_ROOT = bytes(DIGEST_SIZE)
_ZERO_BLOCK = bytes(BLOCK_SIZE)
_FANOUT = BLOCK_SIZE // DIGEST_SIZE
_FEW = 512 << 10


class _Few:
    """SHA-256 of the first ``_FEW`` bytes that are hashed; then ``hashlib`` is loaded, which brings OpenSSL."""

    def __init__(self) -> None:
        self._left = _FEW

    def __call__(self, data: Buffer) -> _Hash:
        self._left -= len(data)
        if self._left >= 0:
            return hashes.sha256(data)
        from hashlib import sha256

        globals()["sha256"] = sha256
        return sha256(data)


sha256: Callable[[Buffer], _Hash] = _Few()


def _descriptor_digest(size: int, root: bytes) -> bytes:
    return sha256(_DESCRIPTOR.pack(1, 1, 12, 0, size, root)).digest()


def verity_digest(data: Buffer) -> bytes:
    """The digest (32 bytes) of a file that consists of ``data``."""
    view = memoryview(data)
    size = view.nbytes
    if 0 < size <= BLOCK_SIZE:
        return _descriptor_digest(size, sha256(bytes(view).ljust(BLOCK_SIZE, b"\0")).digest())
    if 0 < size <= CHUNK_SIZE:
        return _descriptor_digest(size, chunk_hash(view))
    hasher = VerityHasher()
    hasher.update(view)
    return hasher.digest()


class VerityHasher:
    """The digest of a file that is fed in pieces of any size; memory stays constant however large the file is.

    Pieces whose sizes are multiples of ``BLOCK_SIZE`` are hashed in place, without being copied.
    """

    def __init__(self) -> None:
        self._size = 0
        self._partial = bytearray()  # the beginning of a block, shorter than BLOCK_SIZE
        self._levels = [bytearray()]  # digests of each level of the tree that do not fill a block yet, leaves first

    def update(self, data: Buffer) -> None:
        """Append ``data`` (any C-contiguous buffer) to the file."""
        view = memoryview(data).cast("B")
        size = len(view)
        self._size += size
        start = 0
        if self._partial:
            start = min(BLOCK_SIZE - len(self._partial), size)
            self._partial += view[:start]
            if len(self._partial) < BLOCK_SIZE:
                return
            self._add(0, sha256(self._partial).digest())
            self._partial.clear()
        stop = size - (size - start) % BLOCK_SIZE
        self._add(0, b"".join([sha256(view[i : i + BLOCK_SIZE]).digest() for i in range(start, stop, BLOCK_SIZE)]))
        self._partial += view[stop:]

    def update_zeros(self, count: int) -> None:
        """Append ``count`` zero bytes, a hole for example: like ``update``, without hashing every block of them."""
        head = min(-self._size % BLOCK_SIZE, count)
        self.update(_ZERO_BLOCK[:head])
        blocks, tail = divmod(count - head, BLOCK_SIZE)
        self._add_equal(0, sha256(_ZERO_BLOCK).digest(), blocks)
        self._size += blocks * BLOCK_SIZE
        self.update(_ZERO_BLOCK[:tail])

    def _add_equal(self, level: int, digest: bytes, count: int) -> None:
        """Append ``count`` equal digests to a level: the blocks that they fill alone are equal, too."""
        begun = len(self._levels[level]) // DIGEST_SIZE
        head = min(-begun % _FANOUT, count)
        self._add(level, digest * head)
        blocks, tail = divmod(count - head, _FANOUT)
        if blocks:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            self._add_equal(level + 1, sha256(digest * _FANOUT).digest(), blocks)
        self._add(level, digest * tail)

    def _add(self, level: int, digests: bytes) -> None:
        """Append digests to a level, and the digests of the blocks that they fill to the level above."""
        pending = self._levels[level]
        pending += digests
        full = len(pending) - len(pending) % BLOCK_SIZE
        if full:
            if level + 1 == len(self._levels):
                self._levels.append(bytearray())
            with memoryview(pending) as view:
                above = b"".join([sha256(view[i : i + BLOCK_SIZE]).digest() for i in range(0, full, BLOCK_SIZE)])
            del pending[:full]
            self._add(level + 1, above)

    def digest(self) -> bytes:
        """The digest (32 bytes) of what was fed so far; more may follow."""
        return _descriptor_digest(self._size, self._root())

    def hexdigest(self) -> str:
        """``digest`` as 64 lower-case hex digits."""
        return self.digest().hex()

    def _root(self) -> bytes:
        if not self._size:
            return _EMPTY_ROOT
        carry = sha256(self._partial.ljust(BLOCK_SIZE, b"\0")).digest() if self._partial else b""
        top = len(self._levels) - 1
        for level, pending in enumerate(self._levels):
            block = bytes(pending) + carry
            if level == top and len(block) == DIGEST_SIZE:
                return block
            carry = sha256(block.ljust(BLOCK_SIZE, b"\0")).digest() if block else b""
        return carry


# A part of a file, checked without the rest


CHUNK_SIZE: Final = BLOCK_SIZE * _FANOUT
"""Bytes of a file that one hash of the tree's second level is for."""


def chunk_count(size: int) -> int:
    """How many chunks, and so hashes, a file of ``size`` bytes has."""
    return -(-size // CHUNK_SIZE)


class ChunkHasher(VerityHasher):
    """``VerityHasher`` that keeps the hashes of the file's chunks: those one level above its blocks, 32 bytes for each
    ``CHUNK_SIZE`` bytes, the last of which may be of fewer."""

    def __init__(self) -> None:
        super().__init__()
        self._chunks = bytearray()

    def _add(self, level: int, digests: bytes) -> None:
        if level == 1:
            self._chunks += digests
        super()._add(level, digests)

    def _add_equal(self, level: int, digest: bytes, count: int) -> None:
        if level == 1:
            self._add(1, digest * count)
        else:
            super()._add_equal(level, digest, count)

    def chunk_hashes(self) -> bytes:
        """The hashes of all chunks of what was fed so far."""
        blocks = bytes(self._levels[0])
        if self._partial:
            blocks += sha256(self._partial.ljust(BLOCK_SIZE, b"\0")).digest()
        return bytes(self._chunks) + (sha256(blocks.ljust(BLOCK_SIZE, b"\0")).digest() if blocks else b"")


def root_of_level1(hashes: bytes, size: int) -> bytes:
    """The digest of the file of ``size`` bytes whose chunks have these ``hashes``: what an object is named by, so that
    hashes which lead to that name are the object's. The file has more than one block, and as many chunks as hashes, or
    ``ValueError``."""
    if size <= BLOCK_SIZE or len(hashes) != chunk_count(size) * DIGEST_SIZE:
        raise ValueError(f"{len(hashes)} bytes are not the hashes of the chunks of a file of {size} bytes")
    level = hashes
    while len(level) > DIGEST_SIZE:
        level = b"".join(
            sha256(level[start : start + BLOCK_SIZE].ljust(BLOCK_SIZE, b"\0")).digest()
            for start in range(0, len(level), BLOCK_SIZE)
        )
    return _descriptor_digest(size, level)


def chunk_hash(chunk: Buffer) -> bytes:
    """The hash of a chunk of a file: ``CHUNK_SIZE`` bytes, fewer at its end, never none."""
    view = memoryview(chunk).cast("B")
    whole = len(view) - len(view) % BLOCK_SIZE
    blocks = [sha256(view[start : start + BLOCK_SIZE]).digest() for start in range(0, whole, BLOCK_SIZE)]
    if whole < len(view):
        blocks.append(sha256(bytes(view[whole:]).ljust(BLOCK_SIZE, b"\0")).digest())
    return sha256(b"".join(blocks).ljust(BLOCK_SIZE, b"\0")).digest()
