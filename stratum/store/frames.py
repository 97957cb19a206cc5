"""How a dump is stored: zstd frames (RFC 8878), one after the other, so that ``zstd -dc`` gives the dump back.

A small dump is one frame. A large one is cut into frames of ``FRAME_SIZE`` bytes, each compressed by itself: the dump
of a tree that differs in little from another is then mostly the other's frames, copied as they are. Each frame that is
written here records its size, as is; what others wrote may not.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from operator import attrgetter
from typing import NamedTuple

from stratum.errors import DamagedError
from stratum.tree.blocks import Span
from stratum.tree.splice import SplicedDump

FRAME_SIZE = 1 << 19
ONE_FRAME_MAX = 1 << 21
"""A dump of up to this many bytes is one frame."""
_TOGETHER = 1 << 23
"""New lines of this many bytes are compressed before there are more."""
_PIECE = 1 << 22
_LEVEL = 1
MAGIC = b"\x28\xb5\x2f\xfd"
_RLE = 1
_RESERVED = 3


class Frame(NamedTuple):
    """A frame at ``start`` to ``end`` of a stored dump, and where what it holds begins and ends in the dump."""

    start: int
    end: int
    first: int
    last: int


class StoredDump(NamedTuple):
    """A dump as it is stored, ``data``, and its frames in their order."""

    data: bytes
    frames: tuple[Frame, ...]


NOT_STORED = StoredDump(b"", ())


def compress_dump(dump: SplicedDump, known: StoredDump = NOT_STORED) -> Iterator[bytes | memoryview]:
    """``dump`` as it is stored, piece by piece. ``known`` is how its ``source`` is stored."""
    if dump.size <= ONE_FRAME_MAX:
        yield _compress(dump.join())
        return
    waiting: list[bytes | memoryview] = []
    size = 0  # of the new lines that wait
    source, data = memoryview(dump.source), memoryview(known.data)
    for piece in dump.pieces:
        if not isinstance(piece, Span):
            waiting.append(piece)
            size += len(piece)
            if size >= _TOGETHER:
                yield from _new_frames(waiting)
                waiting, size = [], 0
            continue
        start = bisect_left(known.frames, piece.start, key=attrgetter("first"))
        end = bisect_right(known.frames, piece.end, key=attrgetter("last"))
        if start >= end:
            waiting.append(source[piece.start : piece.end])
            continue
        first, last = known.frames[start], known.frames[end - 1]
        waiting.append(source[piece.start : first.first])
        yield from _new_frames(waiting)
        yield data[first.start : last.end]
        waiting, size = [source[last.last : piece.end]], 0
    yield from _new_frames(waiting)


def _new_frames(parts: list[bytes | memoryview]) -> Iterator[bytes]:
    """Frames of equal size, so that what is left of a frame between others does not become a tiny one."""
    content = memoryview(b"".join(parts))
    count = max(1, round(len(content) / FRAME_SIZE)) if content else 0
    for number in range(count):
        yield _compress(content[len(content) * number // count : len(content) * (number + 1) // count])


def _compress(content: bytes | memoryview) -> bytes:
    from stratum import zstd

    return zstd.compress(content, _LEVEL)


class FrameReader:
    """Reads a stored dump in pieces, as often as one likes; ``frames`` are those that were found by the last reading
    that came to the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._frames: list[Frame] = []

    @property
    def stored(self) -> StoredDump:
        """The dump as it is stored."""
        return StoredDump(self._data, tuple(self._frames))

    def pieces(self) -> Iterator[bytes]:
        """What the frames hold. ``DamagedError`` for anything but whole frames.

        Memory is bounded whatever the frames claim.
        """
        data, view, frames = self._data, memoryview(self._data), list[Frame]()
        start = first = 0
        while start < len(data) or not frames:
            end, last = frame_end(data, start), first
            for piece in unpacked(view[start:end]):
                last += len(piece)
                yield piece
            frames.append(Frame(start, end, first, last))
            start, first = end, last
        self._frames = frames


def unseen_lines(dump: bytes, stored: StoredDump, seen: set[bytes]) -> Iterator[bytes]:
    """The lines of ``dump``, in whole lines, that were in no frame so far.

    ``seen`` knows the frames of the dumps before and gets those of this one. A frame that another dump has too holds
    the same lines there, but for its first one, which it may begin in the middle of, and its last one, which then is
    the first of the next frame.
    """
    from hashlib import blake2b

    data = memoryview(stored.data)
    for frame in stored.frames:
        key = blake2b(data[frame.start : frame.end], digest_size=16).digest()
        first = dump.rfind(b"\n", 0, frame.first) + 1
        last = frame.first + 1 if key in seen else max(frame.last, frame.first + 1)
        seen.add(key)
        yield dump[first : dump.find(b"\n", last - 1) + 1 or len(dump)]


def unpacked(frame: bytes | memoryview, size: int = _PIECE) -> Iterator[bytes]:
    """What a frame holds, in pieces of at most ``size`` bytes. ``DamagedError``."""
    from stratum import zstd

    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
    try:
        content: bytes = decompressor.decompress(frame, size)
        while content:
            yield content
            content = b"" if decompressor.needs_input or decompressor.eof else decompressor.decompress(b"", size)
    except zstd.ZstdError as exc:
        raise DamagedError(f"a zstd frame of it is not valid: {exc}") from None
    if not decompressor.eof or decompressor.unused_data:
        raise DamagedError("a zstd frame of it is not valid")


def frame_end(data: bytes, start: int) -> int:
    """Where the frame at ``start`` ends, by its blocks' sizes (RFC 8878, section 3.1.1)."""
    if data[start : start + 4] != MAGIC:
        raise DamagedError("it is not a zstd frame" if not start else "something follows its last zstd frame")
    try:
        descriptor = data[start + 4]
        single_segment = descriptor >> 5 & 1
        size_field = (single_segment, 2, 4, 8)[descriptor >> 6]
        at = start + 5 + (1 - single_segment) + (0, 1, 2, 4)[descriptor & 3] + size_field
        final = False
        while not final:
            header = data[at] | data[at + 1] << 8 | data[at + 2] << 16
            final, kind = bool(header & 1), header >> 1 & 3
            if kind == _RESERVED:
                raise DamagedError("a zstd frame of it is damaged")
            at += 3 + (1 if kind == _RLE else header >> 3)
        at += 4 if descriptor & 4 else 0  # the checksum
    except IndexError:
        at = len(data) + 1
    if at > len(data):
        raise DamagedError("its zstd frame is cut short")
    return at
