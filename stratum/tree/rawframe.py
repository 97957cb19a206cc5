"""zstd frames (RFC 8878) of raw blocks: nothing is compressed, so what a frame takes follows from what is in it. Pure.

The header of such a frame tells the size of its content, in four bytes; blocks have 128 KiB, the last one has the rest.
There is no checksum: any part of a frame can be made of that part of its content.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

CONTENT_MAX = (1 << 32) - 1
"""Bytes of content that a frame can tell of."""

_BLOCK = 128 << 10
_BLOCK_HEAD = 3
_HEAD = struct.Struct("<IBI")
_MAGIC = 0xFD2FB528
_ONE_SEGMENT_WITH_SIZE = 0xA0  # the window is the content; its size has four bytes


def stored_size(size: int) -> int:
    """Bytes of the frame of ``size`` bytes, at least one."""
    return _HEAD.size + _BLOCK_HEAD * -(-size // _BLOCK) + size


def frame_parts(size: int, start: int, end: int) -> Iterator[bytes | tuple[int, int]]:
    """Bytes [start, end) of the frame of ``size`` bytes, 1 to ``CONTENT_MAX``: pieces of what is put around the
    content, and ranges [first, last) of that."""
    head = _HEAD.pack(_MAGIC, _ONE_SEGMENT_WITH_SIZE, size)
    if start < _HEAD.size:
        yield head[start:end]
    block = max(start - _HEAD.size, 0) // (_BLOCK_HEAD + _BLOCK)
    while block * _BLOCK < size:
        begin = _HEAD.size + block * (_BLOCK_HEAD + _BLOCK)
        if begin >= end:
            return
        content, length = block * _BLOCK, min(_BLOCK, size - block * _BLOCK)
        first, last = max(start - begin, 0), min(end - begin, _BLOCK_HEAD + length)
        if first < _BLOCK_HEAD:
            yield (length << 3 | (content + length == size)).to_bytes(_BLOCK_HEAD, "little")[first:last]
        if last > _BLOCK_HEAD:
            yield content + max(first - _BLOCK_HEAD, 0), content + last - _BLOCK_HEAD
        block += 1


def raw_frame(data: bytes | bytearray | memoryview) -> bytes:
    """The frame of ``data``: 1 to ``CONTENT_MAX`` bytes."""
    view, size = memoryview(data), len(data)
    parts: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, _ONE_SEGMENT_WITH_SIZE, size)]
    for start in range(0, size, _BLOCK):
        block = view[start : start + _BLOCK]
        last = start + _BLOCK >= size
        parts += ((len(block) << 3 | last).to_bytes(_BLOCK_HEAD, "little"), block)
    return b"".join(parts)
