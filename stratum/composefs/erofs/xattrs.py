"""Extended attributes in an image: the area of those that several inodes share, and each inode's own part."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from stratum.composefs.erofs import layout
from stratum.composefs.erofs.xxhash import xxh32
from stratum.tree.model import Xattrs

_ALL_NAMES_ABSENT: Final = 0xFFFFFFFF
Pair = tuple[bytes, bytes]


def split_name(name: bytes) -> tuple[int, bytes]:
    """(prefix index, rest of the name) as they are stored."""
    for prefix, index in layout.XATTR_PREFIXES:
        if name.startswith(prefix):
            return index, name[len(prefix) :]
    return 0, name


def filter_bit(name: bytes) -> int:
    """The bit of the name filter that stands for ``name`` and others."""
    index, rest = split_name(name)
    return 1 << (xxh32(rest, layout.XATTR_FILTER_SEED + index) & 31)


def entry(name: bytes, value: bytes) -> bytes:
    """One stored attribute, padded to 4 bytes."""
    index, rest = split_name(name)
    data = layout.XATTR_ENTRY.pack(len(rest), index, len(value)) + rest + value
    return data + bytes(-len(data) % 4)


@dataclass(slots=True)
class InodeXattrs:
    """An inode's part: ``data`` starts with a header, then come ``shared`` IDs, which count from the area's start."""

    data: bytes
    shared: int


class XattrTable:
    """All attributes of an image.

    First every inode's attributes are ``count``-ed, then ``share`` decides which are stored once for several inodes,
    then ``encode`` gives each inode's part.
    """

    def __init__(self) -> None:
        self._sets: dict[Xattrs, int] = {}
        self._offsets: dict[Pair, int] = {}
        self._encoded: dict[Xattrs, InodeXattrs] = {}
        self._bits: dict[bytes, int] = {}
        self.area = b""

    def count(self, xattrs: Xattrs) -> None:
        """One more inode has ``xattrs``, among others."""
        self._sets[xattrs] = self._sets.get(xattrs, 0) + 1

    def share(self, others: Iterable[Pair] = ()) -> None:
        """Lay out the area of the attributes that were counted more than once, and of ``others``."""
        uses: dict[Pair, int] = {}
        for xattrs, count in self._sets.items():
            for pair in xattrs:
                uses[pair] = uses.get(pair, 0) + count
        shared = [pair for pair, count in uses.items() if count > 1]
        shared.extend(others)
        shared.sort(key=lambda pair: (pair[0], len(pair[1]), pair[1]), reverse=True)
        area = bytearray()
        for pair in shared:
            self._offsets[pair] = len(area)
            area += entry(*pair)
        self.area = bytes(area)

    def has_name(self, *names: bytes) -> bool:
        """Whether any attribute counted so far has one of ``names``."""
        wanted = frozenset(names)
        return any(name in wanted for xattrs in self._sets for name, _ in xattrs)

    def encode(self, xattrs: Xattrs) -> InodeXattrs:
        """The part of an inode with ``xattrs`` (sorted by name, not empty)."""
        known = self._encoded.get(xattrs)
        if known is not None:
            return known
        ids: list[bytes] = []
        own: list[bytes] = []
        names = 0
        for pair in xattrs:
            offset = self._offsets.get(pair)
            if offset is not None and len(ids) < layout.XATTR_SHARED_MAX:
                ids.append(layout.XATTR_ID.pack(offset // 4))
            else:
                own.append(entry(*pair))
            names |= self._bit(pair[0])
        header = layout.XATTR_HEADER.pack(_ALL_NAMES_ABSENT & ~names, len(ids))
        result = InodeXattrs(b"".join([header, *ids, *own]), len(ids))
        if self._sets.get(xattrs, 0) > 1:
            self._encoded[xattrs] = result
        return result

    def _bit(self, name: bytes) -> int:
        bit = self._bits.get(name)
        if bit is None:
            bit = self._bits[name] = filter_bit(name)
        return bit
