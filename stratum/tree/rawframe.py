"""zstd frames (RFC 8878) of raw blocks: nothing is compressed, so what a frame takes follows from what is in it. Pure.

The header of such a frame tells the size of its content, in four bytes; blocks have 128 KiB, the last one has the rest.
There is no checksum: any part of a frame can be made of that part of its content.
"""

from __future__ import annotations

import struct

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


def raw_frame(data: bytes | bytearray | memoryview) -> bytes:
    """The frame of ``data``: 1 to ``CONTENT_MAX`` bytes."""
    view, size = memoryview(data), len(data)
    parts: list[bytes | memoryview] = [_HEAD.pack(_MAGIC, _ONE_SEGMENT_WITH_SIZE, size)]
    for start in range(0, size, _BLOCK):
        block = view[start : start + _BLOCK]
        last = start + _BLOCK >= size
        parts += ((len(block) << 3 | last).to_bytes(_BLOCK_HEAD, "little"), block)
    return b"".join(parts)
