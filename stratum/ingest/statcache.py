"""What the last import of a directory found, so that files which have not changed since are not opened again.

One file for each source directory and user, ``STORE/cache/ingest/<SHA-256 of "UID:PATH">`` (``store.cachefile``)::

    counts           records, attribute sets, blobs: three u32
    records          RECORD each: device, inode, size, mtime ns, ctime ns, digest, attribute set + 1 (0: none),
                     blob + 1 (0: none); a blob is the content of an inline file or the target of a symbolic link
    attribute sets   u32 number of attributes, then name and value of each as blobs
    blobs            u32 length, bytes

All little-endian.

When an entry is trusted: device, inode, size, mtime and ctime are what they were, and the object is in the store.
The kernel sets ctime on every change, to a clock that moves in steps; a file that was changed, read and changed again
within one step looks unchanged. So an inode is only recorded where its ctime was older than ``TELLS_AFTER`` when it was
listed (``TELLS_AFTER_COARSE`` where the time stamp is a whole second, which is all that some file systems keep). No
such rule helps against a process that writes through a shared memory mapping: the kernel moves ctime when it first
dirties a page and not again before the page was written back.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable

from stratum.hashes import sha256
from stratum.ingest.staging import Signature
from stratum.store.cachefile import CacheFile
from stratum.store.layout import Layout
from stratum.store.objects import Objects
from stratum.tree.model import Xattrs

TELLS_AFTER = 100_000_000
TELLS_AFTER_COARSE = 3_000_000_000
_SECOND = 1_000_000_000
_FORM = "inodes of an import 2"
_RECORD = struct.Struct("<QQqqq32sII")
_COUNTS = struct.Struct("<III")
_U32 = struct.Struct("<I")
_NO_DIGEST = bytes(32)

Found = tuple[Xattrs, "bytes | None", "bytes | None"]
"""Xattrs, digest, blob (inline content or link target)."""


def tells_changes(ctime: int, now: int) -> bool:
    """Whether an inode listed at ``now`` with this ctime can be told from a later state of it (ns)."""
    return now - ctime > (TELLS_AFTER if ctime % _SECOND else TELLS_AFTER_COARSE)


def source_cache(layout: Layout, source: bytes, form: str, suffix: str = "") -> CacheFile:
    """The file about the directory with the real path ``source``, for this user. It goes when nobody has used it for
    long (``store.gc``)."""
    name = sha256(b"%d:%b" % (os.geteuid(), source)).hexdigest()
    return CacheFile(layout, layout.ingest_cache / f"{name}{suffix}", form)


class StatCache:
    """The entries of one source directory."""

    def __init__(self, objects: Objects, source: bytes) -> None:
        """Empty; ``source`` is the directory's real path."""
        self._file = source_cache(objects.layout, source, _FORM)
        self._records: dict[int, dict[int, tuple[int, int, int, int, int, bytes, int, int]]] = {}
        self._xattrs: list[Xattrs] = [()]
        self._blobs: list[bytes | None] = [None]
        self._count = 0
        self._objects = objects
        self._presence = objects.many()

    @classmethod
    def load(cls, objects: Objects, source: bytes) -> StatCache:
        """What was saved; empty where there is nothing to trust."""
        cache = cls(objects, source)
        data = cache._file.load()
        if data is not None:
            cache._parse(data)
        return cache

    def _parse(self, data: memoryview) -> None:
        records, attribute_sets, blobs = _COUNTS.unpack_from(data)
        end = _COUNTS.size + records * _RECORD.size
        for record in _RECORD.iter_unpack(data[_COUNTS.size : end]):
            self._records.setdefault(record[0], {})[record[1]] = record
        self._count = records
        self._presence = self._objects.many(records)
        rest = _Pieces(data[end:])
        for _ in range(attribute_sets):
            self._xattrs.append(tuple((rest.blob(), rest.blob()) for _ in range(rest.number())))
        self._blobs += [rest.blob() for _ in range(blobs)]

    def find(self, info: os.stat_result) -> Found | None:
        """What is known about the inode, or None. Its object is in the store."""
        record = self._records.get(info.st_dev, {}).get(info.st_ino)
        if (
            record is None
            or record[4] != info.st_ctime_ns
            or record[3] != info.st_mtime_ns
            or record[2] != info.st_size
        ):
            return None
        digest = record[5]
        if digest == _NO_DIGEST:
            return self._xattrs[record[6]], None, self._blobs[record[7]]
        if not self._presence.has(digest, record[2]):
            return None
        return self._xattrs[record[6]], digest, None

    def candidate(self, info: os.stat_result) -> bytes | None:
        """The digest that a changed file of unchanged size had, and may well have still."""
        record = self._records.get(info.st_dev, {}).get(info.st_ino)
        return record[5] if record is not None and record[2] == info.st_size and record[5] != _NO_DIGEST else None

    def __len__(self) -> int:
        return self._count

    @property
    def size(self) -> int:
        """The bytes of the files that are known and have objects."""
        known = (record for records in self._records.values() for record in records.values())
        return sum(record[2] for record in known if record[5] != _NO_DIGEST)

    def save(self, entries: Iterable[tuple[Signature, Found]]) -> None:
        """Replace the cache by ``entries``. Failing to is no error: the next import is slower."""
        writer = _Writer()
        for key, found in entries:
            writer.add(key, found)
        self._file.save(*writer.finish())

    def touch(self) -> None:
        """It is as it should be, and was of use."""
        self._file.touch()


class _Pieces:
    """Reads numbers and blobs one after the other."""

    def __init__(self, data: memoryview) -> None:
        self._data = data
        self._at = 0

    def number(self) -> int:
        value: int = _U32.unpack_from(self._data, self._at)[0]
        self._at += _U32.size
        return value

    def blob(self) -> bytes:
        length = self.number()
        self._at += length
        return bytes(self._data[self._at - length : self._at])


class _Writer:
    """Collects records; equal attribute sets are stored once."""

    def __init__(self) -> None:
        self._records = bytearray()
        self._count = 0
        self._sets: dict[Xattrs, int] = {(): 0}
        self._blobs: list[bytes] = []

    def add(self, key: Signature, found: Found) -> None:
        xattrs, digest, blob = found
        number = self._sets.setdefault(xattrs, len(self._sets))
        if blob is not None:
            self._blobs.append(blob)
        try:
            record = _RECORD.pack(*key, digest or _NO_DIGEST, number, len(self._blobs) if blob is not None else 0)
        except struct.error:  # a time outside 1677 to 2262
            return
        self._records += record
        self._count += 1

    def finish(self) -> tuple[bytes, bytearray, bytes]:
        """Counts, records, and all that comes behind them."""
        parts = []
        for xattrs in list(self._sets)[1:]:
            parts.append(_U32.pack(len(xattrs)))
            for item in xattrs:
                parts += [piece for part in item for piece in (_U32.pack(len(part)), part)]
        for blob in self._blobs:
            parts += [_U32.pack(len(blob)), blob]
        counts = _COUNTS.pack(self._count, len(self._sets) - 1, len(self._blobs))
        return counts, self._records, b"".join(parts)
