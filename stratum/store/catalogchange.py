"""The catalog of an artifact that was built on another: what it has besides, on the catalog of that one. Pure.

A push of a small change to a large commit adds a small pack to those that are there, so that its catalog costs what
changed, and not as much as the commit has objects. The file, numbers little-endian::

    magic       8 bytes "stratchg"
    u32 version = 1, u32 number of objects that are gone, u32 number of counts, the check of the whole catalog 32
    gone        u32 numbers of objects that the commit does not need any more, ascending
    counts      number of an object u32 | how many lines of the commit's dump name it u32; of those that changed
    catalog     that of the new packs (``store.catalog``)
    check       BLAKE3 of all before

Numbers of packs, frames and objects count through the whole catalog and then the new one. The whole catalog is never
such a file itself: a change of a change is one change of the whole.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from heapq import merge

from stratum.store.catalog import (
    Buffer,
    Catalog,
    CatalogFrame,
    CatalogMember,
    CatalogPack,
    Listed,
    NewPack,
    write_catalog,
)

MAGIC = b"stratchg"
VERSION = 1

_HEADER = struct.Struct("<8sIII32s")
_COUNT = struct.Struct("<II")
_NUMBER = 4
_CHECK = 32


class ChangedCatalog(Catalog):
    """The catalog that ``data``, such a file, makes of the ``whole`` one. Otherwise as ``Catalog``."""

    def __init__(self, whole: Catalog, data: Buffer, what: str = "a catalog") -> None:
        self._data, self._what = memoryview(data), what
        self.whole = whole
        if len(data) < _HEADER.size + _CHECK or len(whole.parts) > 1:
            raise self._damaged()
        magic, version, gone, counts, check = _HEADER.unpack_from(data)
        counts_at = _HEADER.size + gone * _NUMBER
        catalog_at = counts_at + counts * _COUNT.size
        if (magic, version, check) != (MAGIC, VERSION, whole.checked_by) or catalog_at > len(data) - _CHECK:
            raise self._damaged()
        self.new = Catalog(self._data[catalog_at:-_CHECK], what)
        self.gone = struct.unpack_from(f"<{gone}I", data, _HEADER.size)
        self.counts: dict[int, int] = dict(_COUNT.iter_unpack(self._data[counts_at:catalog_at]))
        self._split = len(whole)
        self._frame_split = whole.frame_count
        if list(self.gone) != sorted(set(self.gone)) or any(n >= len(self) for n in (*self.gone[-1:], *self.counts)):
            raise self._damaged()
        self._gone = frozenset(self.gone)
        self.packs = (*whole.packs, *map(self._moved, self.new.packs))

    @property
    def parts(self) -> tuple[Catalog, ...]:
        return self.whole, self.new

    def __len__(self) -> int:
        return self._split + len(self.new)

    def check(self) -> None:
        from blake3 import blake3

        self.whole.check()
        if blake3(self._data[:-_CHECK]).digest() != bytes(self._data[-_CHECK:]):
            raise self._damaged()

    def find(self, digest: bytes) -> int | None:
        found = self.new.find(digest)
        number = self.whole.find(digest) if found is None else found + self._split
        return None if number in self._gone else number

    def beginning_with(self, prefix: bytes) -> Iterator[bytes]:
        both = merge(self.whole.beginning_with(prefix), self.new.beginning_with(prefix))
        return (digest for digest in both if self.find(digest) is not None)

    def digest(self, number: int) -> bytes:
        return self.whole.digest(number) if number < self._split else self.new.digest(number - self._split)

    def member(self, number: int) -> CatalogMember:
        if number < self._split:
            return self.whole.member(number)
        found = self.new.member(number - self._split)
        return replace(found, number=number, pack=found.pack + len(self.whole.packs))

    def members(self, first: int = 0, last: int | None = None) -> Iterator[CatalogMember]:
        numbers = range(first, len(self) if last is None else last)
        return (self.member(number) for number in numbers if number not in self._gone)

    def uses(self, number: int) -> int:
        if number in self.counts:
            return self.counts[number]
        return self.whole.uses(number) if number < self._split else self.new.uses(number - self._split)

    def digests(self) -> Iterator[tuple[bytes, int]]:
        numbered = enumerate(item for part in self.parts for item in part.digests())
        return (item for number, item in numbered if number not in self._gone)

    def contents(self, pack: CatalogPack) -> Sequence[Listed]:
        if pack.number < len(self.whole.packs):
            return self.whole.contents(pack)
        return self.new.contents(self.new.packs[pack.number - len(self.whole.packs)])

    def unneeded(self, pack: CatalogPack) -> Sequence[Listed]:
        part, own = self.whole, pack
        if pack.number >= len(self.whole.packs):
            part, own = self.new, self.new.packs[pack.number - len(self.whole.packs)]
        numbers = self.gone[bisect_left(self.gone, pack.members[0]) : bisect_left(self.gone, pack.members[1])]
        gone = [(member.digest, member.offset, member.size) for member in map(self.member, numbers)]
        return [*part.unneeded(own), *gone]

    def frame(self, number: int) -> CatalogFrame:
        if number < self._frame_split:
            return self.whole.frame(number)
        found = self.new.frame(number - self._frame_split)
        return replace(found, number=number, pack=found.pack + len(self.whole.packs))

    def frames_of(self, member: CatalogMember, start: int = 0, size: int | None = None) -> tuple[int, int]:
        if member.pack < len(self.whole.packs):
            return self.whole.frames_of(member, start, size)
        first, last = self.new.frames_of(replace(member, pack=member.pack - len(self.whole.packs)), start, size)
        return first + self._frame_split, last + self._frame_split

    def members_within(self, first: int, last: int) -> tuple[int, int]:
        if first < self._frame_split:
            return self.whole.members_within(first, last)
        low, high = self.new.members_within(first - self._frame_split, last - self._frame_split)
        return low + self._split, high + self._split

    def _moved(self, pack: CatalogPack) -> CatalogPack:
        """A pack of the new catalog with its numbers in this one. Its spares are asked for by ``unneeded``."""
        frames = (pack.frames[0] + self._frame_split, pack.frames[1] + self._frame_split)
        members = (pack.members[0] + self._split, pack.members[1] + self._split)
        return replace(pack, number=pack.number + len(self.whole.packs), frames=frames, members=members)


def is_change(data: Buffer) -> bool:
    """Whether a file in the place of a catalog is such a change."""
    return bytes(data[: len(MAGIC)]) == MAGIC


def write_change(
    catalog: Catalog, counts: Mapping[int, int], packs: Iterable[NewPack], uses: Mapping[bytes, int]
) -> bytes:
    """The change that lists ``packs`` besides those of ``catalog``, whole or changed itself.

    ``counts`` are those of its objects that lines of the dump name more or less often now, by number; those with 0 are
    gone. ``uses`` is as for ``write_catalog``, of the objects in ``packs``.
    """
    from blake3 import blake3

    gone, whole, uses = {number for number, count in counts.items() if not count}, catalog, dict(uses)
    counted, before = dict(counts), list[NewPack]()
    if isinstance(catalog, ChangedCatalog):
        whole, gone = catalog.whole, gone | set(catalog.gone)
        counted = catalog.counts | counted
        before = [_again(catalog.new, pack) for pack in catalog.new.packs]
        uses |= {member.digest: catalog.new.uses(member.number) for member in catalog.new.members()}
    counted = {number: count for number, count in counted.items() if number not in gone}
    text = b"".join(
        (
            _HEADER.pack(MAGIC, VERSION, len(gone), len(counted), whole.checked_by),
            struct.pack(f"<{len(gone)}I", *sorted(gone)),
            *(_COUNT.pack(*item) for item in sorted(counted.items())),
            write_catalog([*before, *packs], uses),
        )
    )
    return text + blake3(text).digest()


def _again(catalog: Catalog, pack: CatalogPack) -> NewPack:
    """A pack of a catalog, for another."""
    members = [(member.digest, member.offset, member.size) for member in catalog.members(*pack.members)]
    frames = [catalog.frame(number) for number in range(*pack.frames)]
    sizes = [(frame.size, frame.archive_size) for frame in frames]
    return NewPack(pack.pack, sizes, members, pack.verity, list(catalog.spares(*pack.spares)))
