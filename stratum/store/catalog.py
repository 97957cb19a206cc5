"""Where the objects of a commit are in the packs of an artifact that has them. Pure.

A catalog is made from the indexes of the artifact's packs when it is pulled or pushed, and is what an object is looked
up in later: by its digest, without reading all of it, so that one of a million objects costs a process a few pages of a
file that is mapped. It lists what the artifact's own commit needs; what else its packs hold are **spares**, which
nobody finds. Both together are all that the indexes said, so that a push can build on the packs without them.

The file, numbers little-endian::

    magic       8 bytes "stratcat"
    u32 version = 2, u32 number of packs, u64 number of frame entries, u64 number of members, u64 number of spares
    packs       SHA-256 of the pack 32 | its size u64 | its first frame entry u64 | its first member u64
                | SHA-256 of its verity blob 32 (zeros: it has none) | size of that u64 | its first spare u64
    frames      where it begins in the pack u64 | where in the archive u64; each pack has one more, its end
    members     digest 32 | where its data begins in the archive u64 | size u64 | how many lines of the commit's dump
                name it u32 (0: not known); in the order of the archive
    order       u32 numbers of members, in the order of their digests
    spares      digest 32 | where its data begins in the archive u64 | size u64; in the order of the archive
    check       BLAKE3 of all before

Numbers of frames and members count through all packs.
"""

from __future__ import annotations

import io
import struct
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import itemgetter

from stratum.errors import DamagedError
from stratum.frozen import frozen

MAGIC = b"stratcat"
VERSION = 2

_HEADER = struct.Struct("<8sIIQQQ")
_PACK = struct.Struct("<32sQQQ32sQQ")
_FRAME = struct.Struct("<QQ")
_MEMBER = struct.Struct("<32sQQI")
_SPARE = struct.Struct("<32sQQ")
_NUMBER = struct.Struct("<I")
_CHECK = 32
_NONE = bytes(32)

Buffer = bytes | memoryview


@frozen
class Blob:
    """A blob of the place: ``sha256`` are 32 bytes, ``size`` is in bytes."""

    sha256: bytes
    size: int


Listed = tuple[bytes, int, int]
"""(digest, where its data begins in the archive of its pack, size) of an object."""


@frozen
class NewPack:
    """A pack that a catalog is to list. ``frames`` are (compressed, uncompressed) bytes of each frame, ``members``
    (digest, where its data begins in the archive, size), in the order of the archive, as far as they are needed,
    ``spares`` the others. ``verity`` is the blob with the hashes of the pack's large object, for parts of it."""

    pack: Blob
    frames: Sequence[tuple[int, int]]
    members: Sequence[Listed]
    verity: Blob | None = None
    spares: Sequence[Listed] = ()


@dataclass(frozen=True, slots=True)
class CatalogPack:
    """A pack: ``frames``, ``members`` and ``spares`` are [first, last) of the catalog's numbers."""

    number: int
    pack: Blob
    frames: tuple[int, int]
    members: tuple[int, int]
    verity: Blob | None
    spares: tuple[int, int]


@dataclass(frozen=True, slots=True)
class CatalogMember:
    """An object: its data begins at byte ``offset`` of the archive of the pack with the number ``pack``."""

    number: int
    digest: bytes
    size: int
    offset: int
    pack: int


@dataclass(frozen=True, slots=True)
class CatalogFrame:
    """A frame: ``size`` bytes from ``start`` on of the pack hold ``archive_size`` bytes from ``archive_start`` on of
    the archive."""

    number: int
    pack: int
    start: int
    size: int
    archive_start: int
    archive_size: int


def write_catalog(packs: Iterable[NewPack], uses: Mapping[bytes, int] | None = None) -> bytes:
    """The catalog of ``packs``, as a file. ``uses``: digest -> how many lines of the dump name it, where that is more
    than one; None: it is not known of any."""
    from blake3 import blake3

    entries, frames, members, spares = list[bytes](), bytearray(), bytearray(), bytearray()
    alike = [array("I") for _ in range(256)]  # numbers of members, by the first byte of their digests
    counts, otherwise = (uses, 1) if uses is not None else ({}, 0)
    frame_count = count = 0
    for new in packs:
        verity = new.verity or Blob(_NONE, 0)
        before = frame_count, count, verity.sha256, verity.size, len(spares) // _SPARE.size
        entries.append(_PACK.pack(new.pack.sha256, new.pack.size, *before))
        compressed = accumulate((size for size, _ in new.frames), initial=0)
        archive = accumulate((size for _, size in new.frames), initial=0)
        frames += b"".join(map(_FRAME.pack, compressed, archive))
        frame_count += len(new.frames) + 1
        members += b"".join([_MEMBER.pack(*member, counts.get(member[0], otherwise)) for member in new.members])
        spares += b"".join([_SPARE.pack(*spare) for spare in new.spares])
        for number, (digest, _, _) in enumerate(new.members, count):
            alike[digest[0]].append(number)
        count += len(new.members)
    text = io.BytesIO()  # what is written to this file is not copied again
    text.write(_HEADER.pack(MAGIC, VERSION, len(entries), frame_count, count, len(spares) // _SPARE.size))
    text.writelines((*entries, frames, members))
    for numbers in alike:
        order = sorted(numbers, key=lambda number: members[number * _MEMBER.size : number * _MEMBER.size + 32])
        text.write(struct.pack(f"<{len(order)}I", *order))
    members.clear()
    text.write(spares)
    text.write(blake3(text.getbuffer()).digest())
    return text.getvalue()


class Catalog:
    """A catalog in ``data`` (a file, or one that is mapped). ``what`` names it in errors.

    ``DamagedError`` where it is none, or its parts do not add up. Whether its bytes are those that were written is
    asked by ``check``: what a damaged one leads to is compared with its digest, so that nothing wrong is taken for it.
    """

    def __init__(self, data: Buffer, what: str = "a catalog") -> None:
        self._data = data
        self._what = what
        if len(data) < _HEADER.size + _CHECK:
            raise self._damaged()
        magic: bytes
        version: int
        packs: int
        frames: int
        members: int
        spares: int
        magic, version, packs, frames, members, spares = _HEADER.unpack_from(data)
        if magic != MAGIC or version != VERSION:
            raise self._damaged()
        self._frames_at = _HEADER.size + packs * _PACK.size
        self._members_at = self._frames_at + frames * _FRAME.size
        self._order_at = self._members_at + members * _MEMBER.size
        self._spares_at = self._order_at + members * _NUMBER.size
        self._end = self._spares_at + spares * _SPARE.size
        self._frame_count = frames
        self._member_count = members
        self._spare_count = spares
        if len(data) != self._end + _CHECK:
            raise self._damaged()
        self.packs: tuple[CatalogPack, ...] = tuple(self._read_packs(packs))

    @property
    def parts(self) -> tuple[Catalog, ...]:
        """The catalogs that it is made of."""
        return (self,)

    @property
    def data(self) -> Buffer:
        """The file."""
        return self._data

    @property
    def checked_by(self) -> bytes:
        """The check of the file, 32 bytes."""
        return bytes(self._data[self._end :])

    @property
    def frame_count(self) -> int:
        """How many numbers of frames there are."""
        return self._frame_count

    def __len__(self) -> int:
        """How many numbers of objects there are."""
        return self._member_count

    def check(self) -> None:
        """``DamagedError`` where a byte of it is another than was written."""
        from blake3 import blake3

        if blake3(memoryview(self._data)[: self._end]).digest() != bytes(self._data[self._end :]):
            raise self._damaged()

    def find(self, digest: bytes) -> int | None:
        """The number of the object, or None where it is not listed."""
        low, high = 0, self._member_count
        while low < high:
            middle = (low + high) // 2
            number = self._ordered(middle)
            found = self._digest(number)
            if found == digest:
                return number
            if found < digest:
                low = middle + 1
            else:
                high = middle
        return None

    def beginning_with(self, prefix: bytes) -> Iterator[bytes]:
        """The digests that begin with ``prefix``, in order."""
        low, high = 0, self._member_count
        while low < high:
            middle = (low + high) // 2
            if self._digest(self._ordered(middle)) < prefix:
                low = middle + 1
            else:
                high = middle
        for place in range(low, self._member_count):
            digest = self._digest(self._ordered(place))
            if not digest.startswith(prefix):
                return
            yield digest

    def digest(self, number: int) -> bytes:
        """The digest of the object of that number, which is below ``len``."""
        return self._digest(number)

    def member(self, number: int) -> CatalogMember:
        """The object of that number. ``DamagedError`` where its pack cannot be."""
        if not 0 <= number < self._member_count:
            raise self._damaged()
        digest, offset, size, _ = _MEMBER.unpack_from(self._data, self._members_at + number * _MEMBER.size)
        return CatalogMember(number, digest, size, offset, self._pack_of(number))

    def uses(self, number: int) -> int:
        """How many lines of the commit's dump name the object of that number, which is below ``len``; 0: not known."""
        at = self._members_at + number * _MEMBER.size
        return int(_MEMBER.unpack_from(self._data, at)[3])

    def spares(self, first: int = 0, last: int | None = None) -> Iterator[Listed]:
        """What the packs hold besides: those of the numbers [first, last), all of them by default."""
        end = self._spare_count if last is None else last
        part = memoryview(self._data)[self._spares_at + first * _SPARE.size : self._spares_at + end * _SPARE.size]
        return _SPARE.iter_unpack(part)

    def contents(self, pack: CatalogPack) -> Sequence[Listed]:
        """All that a pack of the catalog holds, in the order of the archive, be it needed or not."""
        low, high = (self._members_at + number * _MEMBER.size for number in pack.members)
        needed = _MEMBER.iter_unpack(memoryview(self._data)[low:high])
        found = [(digest, offset, size) for digest, offset, size, _ in needed]
        spares = self.spares(*pack.spares)
        return sorted((*found, *spares), key=itemgetter(1)) if pack.spares[0] < pack.spares[1] else found

    def unneeded(self, pack: CatalogPack) -> Sequence[Listed]:
        """What of a pack of the catalog the commit does not need."""
        return list(self.spares(*pack.spares))

    def members(self, first: int = 0, last: int | None = None) -> Iterator[CatalogMember]:
        """Those of the numbers [first, last), all of them by default."""
        return map(self.member, range(first, self._member_count if last is None else last))

    def digests(self) -> Iterator[tuple[bytes, int]]:
        """(digest, size) of every object, in the order of the packs."""
        for digest, _, size, _ in _MEMBER.iter_unpack(memoryview(self._data)[self._members_at : self._order_at]):
            yield digest, size

    def frame(self, number: int) -> CatalogFrame:
        """The frame of that number."""
        pack = self._pack_of_frame(number)
        start, archive_start = self._frame_entry(number)
        end, archive_end = self._frame_entry(number + 1)
        if end <= start or archive_end <= archive_start:
            raise self._damaged()
        return CatalogFrame(number, pack.number, start, end - start, archive_start, archive_end - archive_start)

    def frames_of(self, member: CatalogMember, start: int = 0, size: int | None = None) -> tuple[int, int]:
        """The frames [first, last) with ``size`` bytes of the object from ``start`` on (None: to its end). For nothing,
        the frame that it would be in."""
        pack = self.packs[member.pack]
        first_byte = member.offset + start
        last_byte = member.offset + (member.size if size is None else start + size)
        first = self._frame_at(pack, first_byte)
        return first, self._frame_at(pack, last_byte - 1) + 1 if last_byte > first_byte else first + 1

    def members_within(self, first: int, last: int) -> tuple[int, int]:
        """The members [first, last) whose data lies wholly in the frames [first, last), which are of one pack."""
        pack = self._pack_of_frame(first)
        start, end = self._frame_entry(first)[1], self._frame_entry(last)[1]
        low = self._first_member(pack, start)
        # Members lie one behind the other, so only the last that begins there can end elsewhere.
        high = self._first_member(pack, end)
        if high > low:
            behind = self.member(high - 1)
            high -= behind.offset + behind.size > end
        return low, high

    # The parts

    def _damaged(self) -> DamagedError:
        return DamagedError(f"{self._what} is damaged", hint="pull the commit again")

    def _read_packs(self, count: int) -> Iterator[CatalogPack]:
        entries = [_PACK.unpack_from(self._data, _HEADER.size + number * _PACK.size) for number in range(count)]
        frame_ends = [entry[2] for entry in entries[1:]] + [self._frame_count]
        member_ends = [entry[3] for entry in entries[1:]] + [self._member_count]
        spare_ends = [entry[6] for entry in entries[1:]] + [self._spare_count]
        for number, (sha256, size, frame, member, verity, verity_size, spare) in enumerate(entries):
            end = frame_ends[number], member_ends[number], spare_ends[number]
            if not (frame < end[0] <= self._frame_count and member <= end[1] <= self._member_count):
                raise self._damaged()
            if not spare <= end[2] <= self._spare_count:
                raise self._damaged()
            blob = Blob(verity, verity_size) if verity != _NONE else None
            # The last entry of a pack's frames is its end.
            yield CatalogPack(number, Blob(sha256, size), (frame, end[0] - 1), (member, end[1]), blob, (spare, end[2]))

    def _ordered(self, place: int) -> int:
        (number,) = _NUMBER.unpack_from(self._data, self._order_at + place * _NUMBER.size)
        if number >= self._member_count:
            raise self._damaged()
        return int(number)

    def _digest(self, number: int) -> bytes:
        at = self._members_at + number * _MEMBER.size
        return bytes(self._data[at : at + 32])

    def _frame_entry(self, number: int) -> tuple[int, int]:
        if not 0 <= number < self._frame_count:
            raise self._damaged()
        start, archive_start = _FRAME.unpack_from(self._data, self._frames_at + number * _FRAME.size)
        return start, archive_start

    def _pack_of(self, member: int) -> int:
        low, high = 0, len(self.packs)
        while low < high:
            middle = (low + high) // 2
            if self.packs[middle].members[1] <= member:
                low = middle + 1
            else:
                high = middle
        if low == len(self.packs):
            raise self._damaged()
        return low

    def _pack_of_frame(self, frame: int) -> CatalogPack:
        low, high = 0, len(self.packs)
        while low < high:
            middle = (low + high) // 2
            if self.packs[middle].frames[1] <= frame:
                low = middle + 1
            else:
                high = middle
        if low == len(self.packs) or not self.packs[low].frames[0] <= frame:
            raise self._damaged()
        return self.packs[low]

    def _frame_at(self, pack: CatalogPack, byte: int) -> int:
        """The frame of ``pack`` that holds a byte of its archive."""
        low, high = pack.frames
        if low == high or not self._frame_entry(low)[1] <= byte < self._frame_entry(high)[1]:
            raise self._damaged()
        while high - low > 1:
            middle = (low + high) // 2
            if self._frame_entry(middle)[1] <= byte:
                low = middle
            else:
                high = middle
        return low

    def _first_member(self, pack: CatalogPack, byte: int) -> int:
        """The first member of ``pack`` whose data begins at or after a byte of its archive."""
        low, high = pack.members
        while low < high:
            middle = (low + high) // 2
            if int(_MEMBER.unpack_from(self._data, self._members_at + middle * _MEMBER.size)[1]) < byte:
                low = middle + 1
            else:
                high = middle
        return low
