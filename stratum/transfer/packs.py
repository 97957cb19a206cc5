"""Packs: many objects in one blob, readable with ``zstd -d | tar x`` and object by object.

A pack is a ustar archive in the zstd seekable format (independent frames, a seek table in a skippable frame at the
end). Its bytes follow from its objects alone: members ``ab/cdef...`` in the given order, regular files, mode 0444,
owner 0:0, mtime 0, no user or group name, two zero blocks at the end and no further padding. From 8 GiB on a member has
a pax header with its ``size``. Frames hold 1 MiB of the archive each; in the pack of a large object the headers have
the first frame for themselves, so that the others begin with a chunk of the object (``composefs.verity``).

The index of a pack is text, compressed as one zstd frame::

    stratum-index 1
    frame COMPRESSED UNCOMPRESSED           sizes in bytes, one line a frame, in order
    object DIGEST OFFSET SIZE               64 hex digits; where its data is in the archive; bytes

Because the archive is canonical, a reader computes every header and offset from the digests and sizes and compares;
nothing in a pack is ever used as a file name.
"""

from __future__ import annotations

import re
import struct
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from operator import itemgetter
from typing import BinaryIO, NamedTuple, overload

from stratum.composefs.verity import DIGEST_SIZE, ChunkHasher, VerityHasher
from stratum.errors import DamagedError
from stratum.sys.holes import sparse_pieces, zeros
from stratum.tree.model import File, object_path
from stratum.tree.rawframe import raw_frame
from stratum.tree.tarheader import BLOCK, END, USTAR_SIZE_MAX, TarHeader, padding, write_header
from stratum.tree.zstdframe import compress, decompress, options

FRAME_SIZE = 1 << 20
"""Bytes of the archive in one zstd frame."""

PACK_MAX = 64 << 20
"""A pack of several objects is an archive of at most this many bytes."""

LARGE_OBJECT = 16 << 20
"""An object of at least this size has a pack of its own, and goes with the hashes of its chunks."""

CHUNKED_MAX = 1 << 39
"""Bytes of the largest object whose hashes go with it: they are read as a whole, 32 bytes for each 512 KiB."""

OBJECT_MAX = 1 << 41
"""Bytes of the largest object that is sent: the index of its pack, with a line a frame, is within ``INDEX_MAX``."""

FRAME_MAX = 16 << 20
"""Largest frame that is read, in bytes of the archive."""

INDEX_MAX = 64 << 20
"""Largest index that is read, in bytes of text."""

END_SIZE = len(END)
"""Bytes of the archive behind its last member."""

_OBJECT_SIZE_MAX = 1 << 44
_AT_ONCE = 1 << 18
"""Bytes of an index whose lines are taken apart at a time: as records they take several times as much."""
_DIGEST_OF, _SIZE_OF = itemgetter(0), itemgetter(1)  # of a member, for a million of them
_MAGIC = b"stratum-index 1"
_FRAME = re.compile(rb"^frame ([1-9][0-9]{0,14}) ([1-9][0-9]{0,14})$", re.MULTILINE)
_OBJECT = re.compile(rb"^object ([0-9a-f]{64}) ([0-9]{1,15}) ([1-9][0-9]{0,14})$", re.MULTILINE)


class Member(NamedTuple):
    """An object: its fs-verity digest (32 bytes) and its size in bytes."""

    digest: bytes
    size: int


class Members(Sequence[Member]):
    """The members of an index that was read, in a fraction of the memory that as many records take: ``digests`` are
    those of all, one after the other, ``sizes`` their sizes."""

    __slots__ = ("_digests", "_sizes")

    def __init__(self, digests: bytes, sizes: array[int]) -> None:
        self._digests, self._sizes = digests, sizes

    def __len__(self) -> int:
        return len(self._sizes)

    @overload
    def __getitem__(self, number: int) -> Member: ...
    @overload
    def __getitem__(self, number: slice) -> tuple[Member, ...]: ...
    def __getitem__(self, number: int | slice) -> Member | tuple[Member, ...]:
        if isinstance(number, slice):
            return tuple(self[each] for each in range(*number.indices(len(self))))
        at = range(len(self))[number] * DIGEST_SIZE
        return Member(self._digests[at : at + DIGEST_SIZE], self._sizes[number])

    def __iter__(self) -> Iterator[Member]:
        digests = (self._digests[at : at + DIGEST_SIZE] for at in range(0, len(self._digests), DIGEST_SIZE))
        return map(Member, digests, self._sizes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]  # as of what is compared by its content


@dataclass(frozen=True)
class PackIndex:
    """What is where in a pack.

    ``frames`` are (compressed, uncompressed) sizes; ``members`` are in archive order, and ``offsets`` are where the
    data of each begins in the archive.
    """

    frames: tuple[tuple[int, int], ...]
    members: Sequence[Member]

    @cached_property
    def _placed(self) -> tuple[Sequence[int], int]:
        return _layout(self.members)

    @property
    def offsets(self) -> Sequence[int]:
        """Where in the archive the data of each member begins."""
        return self._placed[0]

    @property
    def archive_size(self) -> int:
        """Bytes of the uncompressed archive."""
        return self._placed[1]

    @cached_property
    def blob_size(self) -> int:
        """Bytes of the pack as stored: its frames and the seek table."""
        return sum(compressed for compressed, _ in self.frames) + len(seek_table(self.frames))

    @cached_property
    def frame_starts(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Where each frame begins: (in the pack, in the archive), each with the end as one more entry."""
        compressed = accumulate((size for size, _ in self.frames), initial=0)
        archive = accumulate((size for _, size in self.frames), initial=0)
        return tuple(compressed), tuple(archive)

    def frames_of(self, position: int) -> tuple[int, int]:
        """The frames [first, last) that hold the header and the data of ``members[position]``."""
        member, archive = self.members[position], self.frame_starts[1]
        start = self.offsets[position] - header_size(member)
        end = self.offsets[position] + member.size
        return bisect_right(archive, start) - 1, bisect_left(archive, end)


def plan_packs(
    objects: Iterable[Member], ends: Callable[[Member, int], bool] | None = None
) -> list[tuple[Member, ...]]:
    """How ``objects`` (distinct, in tree order) are put into packs: a pure function of its input. ``ends`` is whether
    an object is the last of its pack, whose archive has so many bytes with it, though there is room for more."""
    packs: list[tuple[Member, ...]] = []
    current: list[Member] = []
    filled = len(END)
    for member in objects:
        if member.size >= LARGE_OBJECT:
            packs.append((member,))
            continue
        space = archived_size(member)
        if current and filled + space > PACK_MAX:
            packs.append(tuple(current))
            current, filled = [], len(END)
        current.append(member)
        filled += space
        if ends is not None and ends(member, filled):
            packs.append(tuple(current))
            current, filled = [], len(END)
    if current:
        packs.append(tuple(current))
    return packs


def archived_size(member: Member) -> int:
    """Bytes that a member takes in the archive: header, data and padding."""
    return header_size(member) + member.size + padding(member.size)


def header_size(member: Member) -> int:
    """Bytes of a member's header blocks: one, or three with a pax header."""
    return BLOCK if member.size <= USTAR_SIZE_MAX else 3 * BLOCK


def header(member: Member) -> bytes:
    """The tar header blocks of a member, byte for byte."""
    if member.size > USTAR_SIZE_MAX:
        return _written(member)
    name, size = object_path(member.digest), b"%011o" % member.size
    return b"%b%b%b%b%06o%b" % (
        name,
        _BETWEEN,
        size,
        _BEFORE_CHECKSUM,
        _CHECKSUM + sum(name) + sum(size),
        _AFTER_CHECKSUM,
    )


def _written(member: Member) -> bytes:
    return write_header(TarHeader(object_path(member.digest), mode=0o444, size=member.size), pax_mode=0o444)


def _divided(block: bytes) -> tuple[bytes, bytes, int, bytes]:
    """What all ustar headers of members have in common, as they differ in name, size and checksum only: the bytes
    between name and size, those before the checksum, what they add to it, and the bytes after it."""
    name, size, checksum = slice(0, 65), slice(124, 135), slice(148, 154)
    common = int(block[checksum], 8) - sum(block[name]) - sum(block[size])
    return block[name.stop : size.start], block[size.stop : checksum.start], common, block[checksum.stop :]


_BETWEEN, _BEFORE_CHECKSUM, _CHECKSUM, _AFTER_CHECKSUM = _divided(_written(Member(bytes(32), 0)))


def _layout(members: Sequence[Member]) -> tuple[Sequence[int], int]:
    offsets, position = array("Q"), 0
    for _, size in members:
        position += BLOCK if size <= USTAR_SIZE_MAX else 3 * BLOCK  # header_size, for a million members
        offsets.append(position)
        position += size + -size % BLOCK
    return offsets, position + len(END)


def seek_table(frames: Sequence[tuple[int, int]]) -> bytes:
    """The skippable frame at the end of a pack (zstd seekable format 0.1.0, no checksums)."""
    entries = b"".join(struct.pack("<II", *frame) for frame in frames)
    footer = struct.pack("<IBI", len(frames), 0, 0x8F92EAB1)
    return struct.pack("<II", 0x184D2A5E, len(entries) + len(footer)) + entries + footer


class PackWriter:
    """Makes the pack of ``members``.

    ``pieces`` gives its bytes; once it has ended, ``index`` tells what is where, and ``verity`` are the hashes of the
    chunks of a large object. ``open_object(digest)`` opens an object for reading. ``raw``: nothing is compressed
    (``tree.rawframe``). Memory: a few frames and the hashes, whatever the sizes.
    """

    def __init__(
        self, members: Sequence[Member], open_object: Callable[[bytes], BinaryIO], *, raw: bool = False
    ) -> None:
        self._members = tuple(members)
        self._open_object = open_object
        self._raw = raw
        self._frames: list[tuple[int, int]] = []
        self._large = len(self._members) == 1 and self._members[0].size >= LARGE_OBJECT
        self._hasher = ChunkHasher() if self._large and self._members[0].size <= CHUNKED_MAX else None

    @property
    def verity(self) -> bytes | None:
        """The blob that goes with the pack of a large object; None for any other."""
        return self._hasher.chunk_hashes() if self._hasher is not None else None

    @property
    def index(self) -> PackIndex:
        return PackIndex(tuple(self._frames), self._members)

    def pieces(self) -> Iterator[bytes]:
        """The pack's bytes, a frame at a time. ``DamagedError`` where an object is not what its name says."""
        frame = raw_frame if self._raw else _compressor()
        empty, of_zeros = bytes(FRAME_SIZE), b""  # most of a sparse file is one frame again and again
        buffer = bytearray()
        for piece in self._archive():
            buffer += piece
            if self._large and not self._frames:
                yield self._count(frame(piece), len(piece))
                buffer.clear()
            while len(buffer) >= FRAME_SIZE:
                data = bytes(buffer[:FRAME_SIZE])
                del buffer[:FRAME_SIZE]
                if data == empty:
                    of_zeros = of_zeros or frame(empty)
                    yield self._count(of_zeros, FRAME_SIZE)
                else:
                    yield self._count(frame(data), FRAME_SIZE)
        if buffer:
            yield self._count(frame(bytes(buffer)), len(buffer))
        yield seek_table(self._frames)

    def _count(self, frame: bytes, size: int) -> bytes:
        self._frames.append((len(frame), size))
        return frame

    def _archive(self) -> Iterator[bytes]:
        for member in self._members:
            yield header(member)
            yield from object_pieces(self._open_object, *member, hasher=self._hasher)
            yield bytes(padding(member.size))
        yield END


def object_pieces(
    open_object: Callable[[bytes], BinaryIO], digest: bytes, size: int, *, hasher: VerityHasher | None = None
) -> Iterator[bytes]:
    """An object's content, at most a frame at a time; ``DamagedError`` at the end where it is not what its name says.

    ``open_object(digest)`` opens it; ``hasher`` is a new one to use. Holes are not read.
    """
    hasher, left = hasher or VerityHasher(), size
    with open_object(digest) as file:
        for piece in sparse_pieces(file, size, FRAME_SIZE):
            left -= piece if isinstance(piece, int) else len(piece)
            if left < 0:
                break
            if isinstance(piece, int):
                hasher.update_zeros(piece)
                yield from zeros(piece, FRAME_SIZE)
            else:
                hash_piece(hasher, piece)
                yield piece
    if left or hasher.digest() != digest:
        raise DamagedError(f"object {digest.hex()} does not match its digest", hint="run 'stratum fsck'")


def file_pieces(open_object: Callable[[bytes], BinaryIO], file: File) -> Iterator[bytes]:
    """The content of a file of a tree, as ``object_pieces`` gives it."""
    if file.digest is None:
        yield file.content or b""
    else:
        yield from object_pieces(open_object, file.digest, file.size)


def hash_piece(hasher: VerityHasher, piece: bytes) -> bool:
    """Feed ``piece`` to ``hasher``; whether it is all zeros, which is much faster."""
    if piece[:1] == b"\0" and piece[-1:] == b"\0" and piece.count(0) == len(piece):
        hasher.update_zeros(len(piece))
        return True
    hasher.update(piece)
    return False


def _compressor() -> Callable[[bytes], bytes]:
    """Makes frames; they do not tell the size of what they hold, as the seekable format does that."""
    from stratum.zstd import ZstdCompressor

    compressor = ZstdCompressor(options=options())
    return lambda data: compressor.compress(data) + compressor.flush(compressor.FLUSH_FRAME)


def write_index(index: PackIndex) -> bytes:
    """The index blob of a pack."""
    lines = [_MAGIC]
    lines += [b"frame %d %d" % frame for frame in index.frames]
    lines += [
        b"object %b %d %d" % (member.digest.hex().encode(), offset, member.size)
        for member, offset in zip(index.members, index.offsets, strict=True)
    ]
    lines.append(b"")
    return compress(b"\n".join(lines))


def read_index(blob: bytes, pack_size: int, what: str) -> PackIndex:
    """The index in ``blob``, which came from outside and describes a pack of ``pack_size`` bytes.

    Everything that can be computed is: offsets, the archive's size and the pack's size must be what the frames and
    objects give. ``DamagedError`` (naming ``what``) otherwise.
    """
    text = decompress(blob, INDEX_MAX, what)
    if not text.startswith(_MAGIC + b"\n") or not text.endswith(b"\n"):
        raise DamagedError(f"{what} is not a version 1 pack index")
    # A million lines are not looked at one by one: of each kind there are as many as there are line ends.
    first = len(_MAGIC) + 1
    cut = text.find(b"\nobject ", len(_MAGIC)) + 1 or len(text)
    frames, (members, offsets) = _FRAME.findall(text, first, cut), _read_objects(text, cut)
    if len(frames) != text.count(b"\n", first, cut) or len(members) != text.count(b"\n", cut):
        raise DamagedError(f"{what}: line {_malformed_line(text, first, cut)} is malformed")
    index = PackIndex(tuple([(int(stored), int(size)) for stored, size in frames]), members)
    _check_index(index, offsets, pack_size, what)
    return index


def _read_objects(text: bytes, start: int) -> tuple[Members, array[int]]:
    """What the lines of objects say from ``start`` on, and where their data begins; other lines are passed over."""
    digests, offsets, sizes = bytearray(), array("Q"), array("Q")
    while start < len(text):
        end = text.find(b"\n", min(start + _AT_ONCE, len(text) - 1)) + 1
        found = _OBJECT.findall(text, start, end)
        digests += bytes.fromhex("".join([digest.decode() for digest, _, _ in found]))
        offsets.extend([int(offset) for _, offset, _ in found])
        sizes.extend([int(size) for _, _, size in found])
        start = end
    return Members(bytes(digests), sizes), offsets


def _malformed_line(text: bytes, first: int, cut: int) -> int:
    """The number of the first line from ``first`` on that is no line of a frame, or behind ``cut`` of an object."""
    number, start = 2, first
    while end := text.find(b"\n", start) + 1:
        if not (_FRAME if start < cut else _OBJECT).fullmatch(text, start, end - 1):
            break
        number, start = number + 1, end
    return number


def _check_index(index: PackIndex, offsets: array[int], pack_size: int, what: str) -> None:
    if not index.members or len(set(map(_DIGEST_OF, index.members))) != len(index.members):
        raise DamagedError(f"{what} lists no object, or one twice")
    if any(uncompressed > FRAME_MAX or compressed > 2 * FRAME_MAX for compressed, uncompressed in index.frames):
        raise DamagedError(f"{what} has a frame of more than {FRAME_MAX} bytes")
    if max(map(_SIZE_OF, index.members)) > _OBJECT_SIZE_MAX:
        raise DamagedError(f"{what} has an object of more than {_OBJECT_SIZE_MAX} bytes")
    if index.offsets != offsets:
        for member, expected, offset in zip(index.members, index.offsets, offsets, strict=True):
            if expected != offset:
                raise DamagedError(f"{what} says object {member.digest.hex()} is at {offset}; it must be at {expected}")
    if sum(size for _, size in index.frames) != index.archive_size:
        raise DamagedError(f"{what}: its frames do not add up to its objects")
    if index.blob_size != pack_size:
        raise DamagedError(f"{what} describes a pack of {index.blob_size} bytes, not of {pack_size}")


Receive = Callable[[Member, Iterator[bytes]], None]
"""Takes one member: the object it should be, and its data in pieces."""


def unpack(
    index: PackIndex,
    span: tuple[int, int],
    read: Callable[[int], bytes],
    wanted: Set[Member],
    receive: Receive,
    what: str,
) -> None:
    """Hand the ``wanted`` objects in the frames ``span`` = [first, last) to ``receive``.

    ``read(n)`` gives the next ``n`` compressed bytes, beginning with frame ``first``. Every byte of the archive in
    between is compared with what the index says; ``DamagedError`` (naming ``what``) where it differs. Objects are not
    verified here: ``receive`` must. Memory: one frame.
    """
    archive = index.frame_starts[1]
    stream = _Archive(index.frames[span[0] : span[1]], read, archive[span[0]], what)
    end = archive[span[1]]
    for member, offset in zip(index.members, index.offsets, strict=True):
        expected = header(member)
        if offset - len(expected) < stream.position:
            continue
        padded = offset + member.size + padding(member.size)
        if offset + member.size > end:
            break
        stream.skip_to(offset - len(expected))
        if stream.take(len(expected)) != expected:
            raise DamagedError(
                f"{what}: at {offset - len(expected)} is something else than object {member.digest.hex()}"
            )
        if member in wanted:
            receive(member, stream.pieces(member.size))
        stream.skip_to(offset + member.size)
        stream.zeros(min(padded, end) - stream.position)
    if span[1] == len(index.frames):
        stream.skip_to(end - len(END))
        stream.zeros(len(END))


class _Archive:
    """The decompressed bytes of some consecutive frames, from ``position`` on."""

    def __init__(
        self, frames: Sequence[tuple[int, int]], read: Callable[[int], bytes], position: int, what: str
    ) -> None:
        self._frames = iter(frames)
        self._read = read
        self._what = what
        self._buffer = memoryview(b"")
        self.position = position

    def pieces(self, size: int) -> Iterator[bytes]:
        """The next ``size`` bytes, in pieces of at most a frame."""
        while size:
            if not self._buffer:
                self._next_frame()
            piece = self._buffer[:size]
            self._buffer = self._buffer[len(piece) :]
            self.position += len(piece)
            size -= len(piece)
            yield bytes(piece)

    def take(self, size: int) -> bytes:
        return b"".join(self.pieces(size))

    def skip_to(self, position: int) -> None:
        for _ in self.pieces(position - self.position):
            pass

    def zeros(self, size: int) -> None:
        position = self.position
        if self.take(size).strip(b"\0"):
            raise DamagedError(f"{self._what}: at {position} are bytes that belong to no object")

    def _next_frame(self) -> None:
        compressed, uncompressed = next(self._frames)
        data = decompress(self._read(compressed), uncompressed, self._what)
        if len(data) != uncompressed:
            raise DamagedError(f"{self._what}: a frame has {len(data)} bytes, not {uncompressed}")
        self._buffer = memoryview(data)
