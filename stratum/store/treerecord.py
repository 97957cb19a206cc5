"""The record of how a commit's dump is stored, which is the second half of the commit's file. Pure.

::

    commits/<hash>   metadata.toml, a NUL byte, the record:
      SIZE LEVEL GROUND STEPS FRAMES LINES    decimal; GROUND a hash or "-"; STEPS, LINES: bytes; FRAMES: how many
      of each frame: SHA-256 (32 bytes) of its file, bytes of the dump in it (4, big-endian)
      one zstd frame (RFC 8878): the steps, then the lines
      BLAKE3 (32 bytes) of the commit's hash (32 bytes) and all of the record before

A dump is stored whole (level 0), in frames or, where it is small, as lines; or as an edit script (``tree.script``)
on the dump of another commit, its ground, whose level is lower. A step is a number (LEB128) of bytes, whose lowest bit
says of what: 0, of new lines; 1, of the ground's dump, after another number, of bytes of it that are left out before.
"""

from __future__ import annotations

import re
from typing import Final, NamedTuple

from stratum.errors import DamagedError
from stratum.tree.blocks import DUMP_MAX, Span
from stratum.tree.script import Script, Step, check_steps

LEVEL_MAX: Final = 3
"""So many grounds are read below a commit, at most."""
FRAME_MAX: Final = 16 << 20
"""Bytes of the dump in a frame."""
RECORD_MAX: Final = 1 << 30
"""Bytes of a commit's file."""
_LINES_FREE: Final = 1 << 20
_LINES_PART: Final = 4
"""No record has more lines than this part of its dump and ``_LINES_FREE`` bytes."""

_HEAD = re.compile(rb"([0-9]{1,10}) ([0-3]) ([0-9a-f]{64}|-) ([0-9]{1,10}) ([0-9]{1,6}) ([0-9]{1,10})\n")
HEAD_MAX: Final = 128
"""Bytes of a record's first line."""
_HASH_SIZE = 32
_FRAME_SIZE = _HASH_SIZE + 4
_SEPARATOR = b"\0"
_END = b"\n\0"
"""How metadata.toml ends, and the separator: a flipped bit may make a NUL of a space."""


class FrameRef(NamedTuple):
    """A frame: SHA-256 of its file, and how many bytes of the dump are in it."""

    sha256: bytes
    size: int


class TreeRecord(NamedTuple):
    """How a dump of ``size`` bytes is stored: see the module. ``steps`` and ``ground`` are of levels above 0 only,
    ``frames`` of level 0."""

    size: int
    level: int
    ground: str | None
    steps: tuple[Step, ...]
    frames: tuple[FrameRef, ...]
    lines: bytes

    @property
    def script(self) -> Script:
        """Of a level above 0: what makes the dump of the ground's."""
        return Script(self.steps, self.lines)


def small_whole(dump: bytes) -> TreeRecord:
    """The record of a dump that is small, whole."""
    return TreeRecord(len(dump), 0, None, (), (), dump)


def lines_max(size: int) -> int:
    """How many bytes of new lines, and of steps, the record of a dump of ``size`` bytes may have."""
    return max(_LINES_FREE, size // _LINES_PART)


def encode(record: TreeRecord, commit: str) -> bytes:
    """The record of ``commit`` as it is written."""
    from blake3 import blake3

    from stratum import zstd

    steps = _write_steps(record.steps)
    head = b"%d %d %b %d %d %d\n" % (
        record.size,
        record.level,
        b"-" if record.ground is None else record.ground.encode(),
        len(steps),
        len(record.frames),
        len(record.lines),
    )
    frames = b"".join(frame.sha256 + frame.size.to_bytes(4, "big") for frame in record.frames)
    body = head + frames + zstd.compress(steps + record.lines, 3)
    return body + blake3(bytes.fromhex(commit) + body).digest()


def decode(data: bytes, commit: str, where: str) -> TreeRecord:
    """The record of ``commit``; ``DamagedError``, which names ``where``, for anything that ``encode`` would not have
    made of one that can be."""
    from blake3 import blake3

    body = data[:-_HASH_SIZE]
    head = _HEAD.match(body)
    if head is None or blake3(bytes.fromhex(commit) + body).digest() != data[-_HASH_SIZE:]:
        raise _damaged(where, "it was changed after it was written, or is cut short")
    size, level, steps_size, count, lines_size = (int(head[number]) for number in (1, 2, 4, 5, 6))
    ground = None if head[3] == b"-" else head[3].decode()
    start = head.end() + count * _FRAME_SIZE
    if size > DUMP_MAX or max(steps_size, lines_size) > lines_max(size) or start > len(body):
        raise _damaged(where, "it tells of more than there can be")
    try:
        text = _unpacked(body[start:], steps_size + lines_size)
        steps = _read_steps(text[:steps_size])
        frames = tuple(_read_frame(body, at) for at in range(head.end(), start, _FRAME_SIZE))
        record = TreeRecord(size, level, ground, steps, frames, text[steps_size:])
        _check(record)
    except DamagedError as exc:
        raise _damaged(where, exc.message) from None
    return record


def _check(record: TreeRecord) -> None:
    """``DamagedError`` where the parts do not belong together."""
    if record.lines and not record.lines.endswith(b"\n"):
        raise DamagedError("its last line has no end")
    if record.level:
        if record.ground is None or record.frames:
            raise DamagedError("it is neither whole nor on a ground")
        if check_steps(record.steps, len(record.lines), DUMP_MAX) != record.size:
            raise DamagedError("its steps make another size")
        return
    if record.ground is not None or record.steps or (record.frames and record.lines):
        raise DamagedError("it is neither whole nor on a ground")
    if sum(frame.size for frame in record.frames) + len(record.lines) != record.size:
        raise DamagedError("its frames make another size")


def _read_frame(body: bytes, at: int) -> FrameRef:
    size = int.from_bytes(body[at + _HASH_SIZE : at + _FRAME_SIZE], "big")
    if not 0 < size <= FRAME_MAX:
        raise DamagedError("a frame of it has a size that none has")
    return FrameRef(body[at : at + _HASH_SIZE], size)


def _write_steps(steps: tuple[Step, ...]) -> bytes:
    found, last = bytearray(), 0
    for step in steps:
        if isinstance(step, Span):
            _add_number(found, (step.end - step.start) << 1 | 1)
            _add_number(found, step.start - last)
            last = step.end
        else:
            _add_number(found, step << 1)
    return bytes(found)


def _add_number(found: bytearray, number: int) -> None:
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    found.append(number)


def _read_steps(data: bytes) -> tuple[Step, ...]:
    numbers, value, shift = list[int](), 0, 0
    for byte in data:
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            numbers.append(value)
            value = shift = 0
        elif shift > 63:
            raise DamagedError("a step of it is too long")
    steps, last, rest = list[Step](), 0, iter(numbers)
    for number in rest:
        if number & 1:
            start = last + next(rest, DUMP_MAX)
            last = start + (number >> 1)
            steps.append(Span(start, last))
        else:
            steps.append(number >> 1)
    if shift:
        raise DamagedError("its steps are cut short")
    return tuple(steps)


def _unpacked(frame: bytes, size: int) -> bytes:
    from stratum import zstd

    decompressor = zstd.ZstdDecompressor()
    try:
        text: bytes = decompressor.decompress(frame, size + 1)
    except zstd.ZstdError as exc:
        raise DamagedError(f"it cannot be decompressed: {exc}") from None
    if len(text) != size or not decompressor.eof or decompressor.unused_data:
        raise DamagedError("it does not hold what it tells of")
    return text


def join_file(metadata: bytes, record: bytes) -> bytes:
    """A commit's file."""
    return metadata + _SEPARATOR + record


def split_file(data: bytes, where: str) -> tuple[bytes, bytes]:
    """metadata.toml and the record in a commit's file; ``DamagedError``, which names ``where``."""
    metadata, separator, record = data.partition(_END)
    if not separator:
        raise _damaged(where, "it is cut short")
    return metadata + _END[:1], record


def read_head(beginning: bytes) -> tuple[int, str | None] | None:
    """The level and the ground that a commit's file tells of, of which this is the beginning; None where it tells none.
    It may have been changed: only ``decode`` sees that."""
    head = _HEAD.match(beginning.partition(_END)[2])
    return None if head is None else (int(head[2]), None if head[3] == b"-" else head[3].decode())


def _damaged(where: str, why: str) -> DamagedError:
    return DamagedError(f"{where} is damaged: {why}", hint="run 'stratum fsck'")
