"""The segments of one log: files of a worktree's history (``store.histories``), each named by its first CHANGE.

::

    000000004711.jsonl       raw: lines of ``tree.oplog``, appended to a batch at a time, each batch synced
    000000000001.jsonl.zst   sealed: the same, without the ends of batches within, in zstd frames of whole lines
    000000000990-000000001000.jsonl.zst   carried over, sealed: a base and what it does not hold, in the place of all
                             segments up to that CHANGE, which are not there for readers

Only the newest segment is appended to. Once it has ``SEAL_SIZE`` bytes, the next batch begins another and the full one
is sealed: a temporary file is written and synced, gets its name by one rename, and then the raw one goes. Where both
are there, as after a power cut, the raw one is read. What is behind the last whole batch of a raw segment is not there
for readers; the next writer cuts it off.

CHANGES are numbered one by one. Where some are missing, the first that is there again has to be a ``gap`` or a
``base``, as a writer begins with after damage.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stratum.errors import DamagedError
from stratum.store.layout import Layout, storage_error
from stratum.tree.oplog import LINE_MAX, LOST, Record, end_line, parse, parse_end

SEAL_SIZE = 2 << 20
FRAME_SIZE = 1 << 20
"""Bytes of lines that are compressed together; of the last frame, less."""
SEGMENT_MAX = 1 << 30
"""Bytes of a segment's file that are read."""
HINT = "'stratum fsck' tells more; what can be read stays listed, and a new batch begins behind the damage"

MAGIC = b"\x28\xb5\x2f\xfd"
"""How a zstd frame begins."""
_RLE = 1
_RESERVED = 3

_LEVEL = 9
_UNPACKED_MAX = 2 * FRAME_SIZE
_NAME = re.compile(r"([0-9]{12})(?:\.jsonl(\.zst)?|-([0-9]{12})\.jsonl\.zst)")
_END = b'{"end":'
_END_MAX = 64
"""Bytes of the line that ends a batch."""
_BASE = b'"op":"base"'


class Segment(NamedTuple):
    """A segment's first CHANGE, whether it is sealed, and of one that was carried over the last CHANGE, else 0."""

    first: int
    sealed: bool
    carried: int = 0

    @property
    def name(self) -> str:
        """The name of its file."""
        return segment_name(self.first, sealed=self.sealed, carried=self.carried)


def segment_name(first: int, *, sealed: bool = False, carried: int = 0) -> str:
    """The name of the file of a segment."""
    if carried:
        return f"{first:012d}-{carried:012d}.jsonl.zst"
    return f"{first:012d}.jsonl" + (".zst" if sealed else "")


class Log:
    """The segments in one directory; ``what`` is the worktree, for messages."""

    def __init__(self, layout: Layout, directory: Path, what: str) -> None:
        self._layout = layout
        self.directory = directory
        self.what = what

    def segments(self) -> list[Segment]:
        """What there is, oldest first; of one that is both raw and sealed, the raw one."""
        found: dict[int, bool] = {}
        carried = Segment(0, True)
        for name in self.names():
            if match := _NAME.fullmatch(name):
                first = int(match[1])
                if match[3] is None:
                    found[first] = found.get(first, True) and match[2] is not None
                elif int(match[3]) > carried.carried:
                    carried = Segment(first, True, int(match[3]))
        rest = [Segment(first, found[first]) for first in sorted(found) if first > carried.carried]
        return [carried, *rest] if carried.carried else rest

    def open_directory(self) -> int:
        """A descriptor of the directory. ``OSError``; ``DamagedError`` where a symbolic link is in the way."""
        return self._layout.open_beneath(self.directory, os.O_RDONLY | os.O_DIRECTORY)

    def names(self) -> list[str]:
        """The names of everything in the directory."""
        return self._layout.names_in(self.directory)

    def files(self) -> list[str]:
        """The names of the files of all segments."""
        return [name for name in self.names() if _NAME.fullmatch(name)]

    def size(self, segment: Segment) -> int:
        """The bytes of a segment's file, 0 where it went meanwhile."""
        try:
            return (self.directory / segment.name).lstat().st_size
        except OSError:
            return 0

    def key(self, segment: Segment) -> object:
        """Another one where the segment's file may be another."""
        path = self.directory / segment.name
        try:
            info = path.lstat()
        except OSError:
            return object()
        return (str(path), info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns)

    def blocks(self, segment: Segment, *, whole: bool = True) -> list[bytes | None]:
        """The lines of a segment in blocks of whole ones, with ``whole`` as far as batches are whole; None in the place
        of a frame that is damaged, or of all of a sealed segment that is empty. Nothing where the segment went
        meanwhile."""
        found = self._read(segment)
        if found is None:
            return []
        sealed, data = found
        if sealed:
            return list(unpack(data)) or [None]  # it was sealed with a frame at least
        return [data[: whole_end(data)] if whole else data]

    def raw(self, segment: Segment) -> bytes:
        """The file of a segment as it is; nothing where it went meanwhile."""
        found = self._read(segment)
        return found[1] if found is not None else b""

    def _read(self, segment: Segment) -> tuple[bool, bytes] | None:
        """Whether the segment's file is sealed, and what is in it."""
        for sealed in (segment.sealed, not segment.sealed, segment.sealed):  # it is sealed at this moment, maybe
            path = self.directory / segment_name(segment.first, sealed=sealed, carried=segment.carried)
            try:
                return sealed, self._layout.read_beneath(path, SEGMENT_MAX)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise storage_error(exc, f"read {path}") from None
        return None

    def lines(self, segment: Segment) -> Iterator[bytes]:
        """The lines of a segment without their line breaks; an empty one in the place of a damaged frame."""
        for block in self.blocks(segment):
            yield from split_lines(block)

    def records(self, first: int = 0, last: int | None = None, *, exact: bool = False) -> Iterator[Record]:
        """The records ``first`` to ``last``, oldest first. ``DamagedError`` where a line between them is none, or
        where some are missing; with ``exact`` also where a gap or base tells that."""
        segments = self.segments()
        begin = max((number for number, segment in enumerate(segments) if segment.first <= first), default=0)
        before: int | None = None
        for segment in segments[begin:]:
            if last is not None and segment.first > last:
                return
            for line in self._from(segment, first):
                end, record = parse_end(line), parse(line)
                if end is not None and before in (None, end):
                    continue
                if record is None:
                    raise self.damaged(before or segment.first - 1)
                if problem := out_of_order(before, record, exact=exact):
                    raise DamagedError(f"the history of {self.what} {problem}", hint=HINT)
                before = record.n
                if first <= before and (last is None or before <= last):
                    yield record
                if last is not None and before >= last:
                    return

    def _from(self, segment: Segment, n: int) -> Iterator[bytes]:
        """The lines of a segment from that of the record ``n``, or all where it has none."""
        blocks, start = self.blocks(segment), b'{"n":%d,' % n
        for number, block in enumerate(blocks):
            at = _line_at(block, start) if block is not None else -1
            if block is not None and at >= 0:
                blocks = [block[at:], *blocks[number + 1 :]]
                break
        for block in blocks:
            yield from split_lines(block)

    def last_base(self, segment: Segment, n: int | None) -> Record | None:
        """The last ``base`` record in a segment, up to that of number ``n``."""
        for block in reversed(self.blocks(segment)):
            for line in reversed(list(lines_with(block, _BASE))):
                record = parse(line)
                if record is not None and record.op == "base" and (n is None or record.n <= n):
                    return record
        return None

    def damaged(self, n: int) -> DamagedError:
        """What to raise where the line after the CHANGE ``n`` is none."""
        where = f"after CHANGE {n}" if n else "at its beginning"
        return DamagedError(f"the history of {self.what} is damaged {where}", hint=HINT)


def split_lines(block: bytes | None) -> list[bytes]:
    """The lines of a block without their line breaks; of a damaged one, one that is no line."""
    if block is None:
        return [b""]
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


def lines_with(block: bytes | None, text: bytes) -> Iterator[bytes]:
    """The lines of a block that contain ``text``."""
    if block is None:
        return
    at = block.find(text)
    while at >= 0:
        end = block.find(b"\n", at)
        end = len(block) if end < 0 else end
        yield block[block.rfind(b"\n", 0, at) + 1 : end]
        at = block.find(text, end)


def record_in(block: bytes | None, n: int) -> Record | None:
    """The record of number ``n`` in a block, or None; ``DamagedError`` where its line is damaged."""
    start = b'{"n":%d,' % n
    at = _line_at(block or b"", start)
    if block is None or at < 0:
        return None
    record = parse(split_lines(block[at : at + LINE_MAX])[0])
    if record is None:
        raise DamagedError(f"CHANGE {n} is damaged", hint=HINT)
    return record


def _line_at(block: bytes, start: bytes) -> int:
    """Where a line begins with ``start``; -1 where none does."""
    if block.startswith(start):
        return 0
    at = block.find(b"\n" + start)
    return at if at < 0 else at + 1


def out_of_order(before: int | None, record: Record, *, exact: bool = False) -> str | None:
    """What is wrong with a record after that of number ``before``, as the end of a sentence, or None."""
    if exact and record.op == "gap" and record.why == LOST:
        return f"has lost what was told up to CHANGE {record.n}"
    if before is None or record.n == before + 1:
        return None
    if record.n <= before:
        return f"has CHANGE {record.n} after {before}"
    if not exact and record.op in ("gap", "base"):
        return None
    return f"has lost the CHANGES {before + 1} to {record.n - 1}"


def whole_end(data: bytes) -> int:
    """Where the last whole batch of a raw segment ends, with the line break, where it has one; 0 without any."""
    stop = len(data)
    while (at := data.rfind(_END, 0, stop)) >= 0:
        end = data.find(b"}", at, at + _END_MAX) + 1
        if (not at or data[at - 1] == 0x0A) and end and parse_end(data[at:end]) is not None:
            return end + 1 if data[end : end + 1] == b"\n" else end
        stop = at
    return 0


def pack(lines: bytes) -> Iterator[bytes]:
    """A sealed segment, frame by frame, of the lines of a raw one, which end with a batch."""
    from stratum import zstd

    options: dict[int, int] = {
        zstd.CompressionParameter.compression_level: _LEVEL,
        zstd.CompressionParameter.checksum_flag: 1,
    }
    start = last = 0
    while start < len(lines):
        cut = lines.rfind(b"\n", start, start + FRAME_SIZE) + 1 or lines.find(b"\n", start) + 1 or len(lines)
        kept = []
        for line in split_lines(lines[start:cut]):
            n = parse_end(line)
            if n is None:
                kept.append(line + b"\n")
            last = n or last
        start = cut
        if start == len(lines):
            kept.append(end_line(last))
        yield zstd.compress(b"".join(kept), options=options)


def unpack(data: bytes) -> Iterator[bytes | None]:
    """What the frames of a sealed segment hold; None for each that is damaged, or holds more than any does."""
    start = size = 0
    while 0 <= start < len(data):
        block, start = _unpack_frame(data, start)
        size += len(block or b"")
        yield block if size <= SEGMENT_MAX else None


def _unpack_frame(data: bytes, start: int) -> tuple[bytes | None, int]:
    """What the frame at ``start`` holds, and where the next may begin."""
    try:
        end = frame_end(data, start)
        return _unpacked(memoryview(data)[start:end]), end
    except DamagedError:
        return None, data.find(MAGIC, start + 1)


def _unpacked(frame: memoryview) -> bytes:
    from stratum import zstd

    decompressor = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
    try:
        block: bytes = decompressor.decompress(frame, _UNPACKED_MAX + 1)
    except zstd.ZstdError as exc:
        raise DamagedError(f"a zstd frame of it is not valid: {exc}") from None
    if len(block) > _UNPACKED_MAX or not decompressor.eof:
        raise DamagedError("a zstd frame of it is not valid")
    return block


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
