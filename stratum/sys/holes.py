"""Reading sparse files without reading their holes."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import BinaryIO


def is_sparse(info: os.stat_result) -> bool:
    """Whether a regular file occupies less than its size, so that looking for holes pays."""
    return info.st_blocks * 512 < info.st_size


def next_data(fd: int, offset: int, size: int) -> tuple[int, int]:
    """(start, end) of the first data at or after ``offset``; (size, size) where only a hole is left. ``OSError``."""
    try:
        start = min(os.lseek(fd, offset, os.SEEK_DATA), size)
        return start, min(os.lseek(fd, start, os.SEEK_HOLE), size)
    except OSError as exc:
        if exc.errno == errno.ENXIO:
            return size, size
        raise


def sparse_pieces(file: BinaryIO, size: int, step: int) -> Iterator[bytes | int]:
    """``file`` from its beginning to its end: at most ``step`` bytes at a time, and the size of each hole in it.

    The file should have ``size`` bytes; of one that has more it is enough to show that. ``OSError``.
    """
    fd = _sparse_descriptor(file)
    if fd is None:
        left = size
        while left >= 0 and (piece := file.read(min(step, left + 1))):
            left -= len(piece)
            yield piece
        return
    offset, total = 0, os.fstat(fd).st_size
    while offset < total:
        start, end = next_data(fd, offset, total)
        if start > offset:
            yield start - offset
        offset = start
        while offset < end:
            piece = os.pread(fd, min(step, end - offset), offset)
            if not piece:
                return
            yield piece
            offset += len(piece)


def zeros(size: int, step: int) -> Iterator[bytes]:
    """``size`` bytes of zeros, at most ``step`` at a time."""
    block = bytes(min(size, step))
    for at in range(0, size, step):
        yield block if size - at >= step else block[: size - at]


def _sparse_descriptor(file: BinaryIO) -> int | None:
    try:
        fd = file.fileno()
    except OSError:  # it is none of the kernel's files
        return None
    return fd if is_sparse(os.fstat(fd)) else None
