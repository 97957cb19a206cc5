"""A profile: the order in which the objects of a commit were first asked for. Pure.

The file, numbers little-endian::

    magic       8 bytes "stratprf"
    u32 version = 1, u32 number of entries
    entries     digest 32 | first chunk u32 | number of chunks u32, zeros for an object that is fetched whole
    check       BLAKE3 of all before

A profile travels with commits, so it is read as what it is, the word of a stranger: it decides what is fetched early
and nothing else.
"""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from stratum.errors import DamagedError
from stratum.store.profiles import PROFILE_MAX

MAGIC = b"stratprf"
VERSION = 1

_HEADER = struct.Struct("<8sII")
_ENTRY = struct.Struct("<32sII")
_CHECK = 32
ENTRIES_MAX = (PROFILE_MAX - _HEADER.size - _CHECK) // _ENTRY.size


class Entry(NamedTuple):
    """An object that was asked for; of a large one, ``chunks`` of it from the number ``first`` on."""

    digest: bytes
    first: int = 0
    chunks: int = 0


def write_profile(entries: Iterable[Entry]) -> bytes:
    """The file; entries that are too many are left out."""
    from blake3 import blake3

    kept = [_ENTRY.pack(*entry) for _, entry in zip(range(ENTRIES_MAX), entries, strict=False)]
    text = _HEADER.pack(MAGIC, VERSION, len(kept)) + b"".join(kept)
    return text + blake3(text).digest()


def read_profile(data: bytes, what: str = "a profile") -> list[Entry]:
    """What such a file says; ``DamagedError`` names ``what``."""
    from blake3 import blake3

    text, check = data[:-_CHECK], data[-_CHECK:]
    if len(data) > PROFILE_MAX or len(text) < _HEADER.size or blake3(text).digest() != check:
        raise DamagedError(f"{what} is damaged")
    magic, version, count = _HEADER.unpack_from(text)
    if magic != MAGIC or version != VERSION or len(text) != _HEADER.size + count * _ENTRY.size:
        raise DamagedError(f"{what} is damaged, or of a later version")
    return [Entry(*fields) for fields in _ENTRY.iter_unpack(text[_HEADER.size :])]


def merged(new: Iterable[Entry], old: Iterable[Entry]) -> Iterator[Entry]:
    """``new``, and what only older runs asked for after it."""
    seen: set[Entry] = set()
    for entry in (*new, *old):
        if entry not in seen:
            seen.add(entry)
            yield entry


class Recording:
    """What is asked for, in order, each once. Objects are numbers below ``count``: a million of them cost a few MiB.
    For one thread at a time."""

    def __init__(self, count: int) -> None:
        self._order = array("Q")  # number, first chunk << 32 | number of chunks
        self._seen = bytearray(count)
        self._chunks: dict[int, bytearray] = {}

    def __len__(self) -> int:
        return len(self._order) // 2

    def asked(self, number: int) -> None:
        """The object was asked for."""
        if not self._seen[number] and len(self) < ENTRIES_MAX:
            self._seen[number] = 1
            self._order.extend((number, 0))

    def asked_range(self, number: int, first: int, last: int, chunks: int) -> None:
        """Chunks [first, last) of the ``chunks`` of a large object were."""
        seen = self._chunks.setdefault(number, bytearray(chunks))
        for chunk in range(first, last):
            if seen[chunk] or len(self) >= ENTRIES_MAX:
                continue
            seen[chunk] = 1
            begun, count = divmod(self._order[-1], 1 << 32) if self._order else (0, 0)
            if count and self._order[-2] == number and begun + count == chunk:
                self._order[-1] += 1
            else:
                self._order.extend((number, chunk << 32 | 1))

    def entries(self, digest_of: Callable[[int], bytes]) -> Iterator[Entry]:
        """What was asked for; ``digest_of`` knows the objects by their numbers."""
        for at in range(0, len(self._order), 2):
            first, count = divmod(self._order[at + 1], 1 << 32)
            yield Entry(digest_of(self._order[at]), first, count)
