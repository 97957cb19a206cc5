"""Copying and hashing file content in one pass, holes kept."""

from __future__ import annotations

import os
from collections.abc import Callable

from stratum.composefs.verity import VerityHasher
from stratum.sys.atomic import write_all
from stratum.sys.holes import next_data

CHUNK = 1 << 20


def copy_hashed(
    source: int, target: int | None, size: int, *, sparse: bool, told: Callable[[int], None] | None = None
) -> tuple[bytes, int]:
    """Copy ``size`` bytes from the start of ``source`` to ``target`` (None: only hash); (fs-verity digest, bytes read).

    The digest is of exactly the bytes written. Fewer bytes are read where the file ends early. With ``sparse`` the
    holes of the source are not read and become holes of the target, a new and empty file. ``told`` is called with the
    bytes of each piece, holes too. Raises ``SourceError`` for
    what goes wrong with the source and ``OSError`` for the target.
    """
    hasher = VerityHasher()
    buffer = bytearray(min(CHUNK, max(size, 1)))
    offset = 0
    while offset < size:
        start, end = _next_data(source, offset, size) if sparse else (0, size)
        if start > offset:
            hasher.update_zeros(start - offset)
            if told is not None:
                told(start - offset)
            offset = start
        while offset < end:
            done = _read(source, memoryview(buffer)[: end - offset], offset)
            if not done:
                return _finish(hasher, target, offset)
            piece = memoryview(buffer)[:done]
            hasher.update(piece)
            if target is not None:
                os.lseek(target, offset, os.SEEK_SET)
                write_all(target, piece)
            offset += done
            if told is not None:
                told(done)
    return _finish(hasher, target, offset)


class SourceError(Exception):
    """Reading the source failed; ``error`` is the ``OSError``."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def _finish(hasher: VerityHasher, target: int | None, size: int) -> tuple[bytes, int]:
    if target is not None:
        os.ftruncate(target, size)
    return hasher.digest(), size


def _read(source: int, buffer: memoryview, offset: int) -> int:
    try:
        return os.preadv(source, [buffer], offset)
    except OSError as exc:
        raise SourceError(exc) from None


def _next_data(fd: int, offset: int, size: int) -> tuple[int, int]:
    try:
        return next_data(fd, offset, size)
    except OSError as exc:
        raise SourceError(exc) from None
