"""What the last import of a directory found, so that files which have not changed since are not opened again.

One file for each source directory and user, ``STORE/cache/ingest/<SHA-256 of "UID:PATH">``::

    magic            b"stratum ingest cache 1\\n"
    check            SHA-256 of all that follows
    counts           records, attribute sets, blobs: three u32
    records          RECORD each: device, inode, size, mtime ns, ctime ns, digest, attribute set + 1 (0: none),
                     blob + 1 (0: none); a blob is the content of an inline file or the target of a symbolic link
    attribute sets   u32 number of attributes, then name and value of each as blobs
    blobs            u32 length, bytes

All little-endian. The cache may be deleted at any time; one that is damaged or of another version is ignored. It is
replaced by one rename and not synced.

When an entry is trusted: device, inode, size, mtime and ctime are what they were, and the object is in the store.
The kernel sets ctime on every change, to a clock that moves in steps; a file that was changed, read and changed again
within one step looks unchanged. So an inode is only recorded where its ctime was older than ``SETTLED`` when it was
listed (``SETTLED_COARSE`` where the time stamp is a whole second, which is all that some file systems keep). No such
rule helps against a process that writes through a shared memory mapping: the kernel moves ctime when it first dirties
a page and not again before the page was written back.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import struct
from collections.abc import Iterable
from pathlib import Path

from stratum.ingest.staging import Signature
from stratum.store.objects import Objects
from stratum.sys.atomic import write_atomic
from stratum.tree.model import Xattrs

SETTLED = 100_000_000
SETTLED_COARSE = 3_000_000_000
_SECOND = 1_000_000_000
_MAGIC = b"stratum ingest cache 1\n"
_RECORD = struct.Struct("<QQqqq32sII")
_COUNTS = struct.Struct("<III")
_U32 = struct.Struct("<I")
_NO_DIGEST = bytes(32)
_LIST_FACTOR = 3
_SIZE_MAX = 1 << 32
_REST = re.compile("[0-9a-f]{62}")

Found = tuple[Xattrs, "bytes | None", "bytes | None"]
"""Xattrs, digest, blob (inline content or link target)."""


def settled(ctime: int, now: int) -> bool:
    """Whether an inode listed at ``now`` with this ctime can be told from a later state of it (ns)."""
    return now - ctime > (SETTLED if ctime % _SECOND else SETTLED_COARSE)


class StatCache:
    """The entries of one source directory."""

    def __init__(self, path: Path, objects: Objects) -> None:
        self._path = path
        self._records: dict[int, dict[int, tuple[int, int, int, int, int, bytes, int, int]]] = {}
        self._xattrs: list[Xattrs] = [()]
        self._blobs: list[bytes | None] = [None]
        self._count = 0
        self._presence = _Presence(objects)

    @classmethod
    def load(cls, store_root: Path, objects: Objects, source: bytes) -> StatCache:
        """The cache of the directory with the real path ``source``; empty where there is none to trust."""
        name = hashlib.sha256(b"%d:%b" % (os.geteuid(), source)).hexdigest()
        cache = cls(store_root / "cache" / "ingest" / name, objects)
        try:
            data = _read(cache._path)
        except OSError:
            return cache
        start = len(_MAGIC) + hashlib.sha256().digest_size
        if data[: len(_MAGIC)] == _MAGIC and hashlib.sha256(data[start:]).digest() == data[len(_MAGIC) : start]:
            cache._parse(memoryview(data)[start:])
        return cache

    def _parse(self, data: memoryview) -> None:
        records, attribute_sets, blobs = _COUNTS.unpack_from(data)
        end = _COUNTS.size + records * _RECORD.size
        for record in _RECORD.iter_unpack(data[_COUNTS.size : end]):
            self._records.setdefault(record[0], {})[record[1]] = record
        self._count = records
        self._presence.expect(records)
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

    def save(self, entries: Iterable[tuple[Signature, Found]]) -> None:
        """Replace the cache by ``entries``. Failing to is no error: the next import is slower."""
        writer = _Writer()
        for key, found in entries:
            writer.add(key, found)
        body = writer.finish()
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            write_atomic(self._path, _MAGIC + hashlib.sha256(body).digest() + body, 0o600, durable=False)


def _read(path: Path) -> bytes:
    """The content of a regular file; nothing where it is of another kind or too large to be a cache."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    with open(fd, "rb") as file:
        info = os.fstat(fd)
        return file.read() if stat.S_ISREG(info.st_mode) and info.st_size <= _SIZE_MAX else b""


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
        self._records: list[bytes] = []
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
        self._records.append(record)

    def finish(self) -> bytes:
        parts = [_COUNTS.pack(len(self._records), len(self._sets) - 1, len(self._blobs)), *self._records]
        for xattrs in list(self._sets)[1:]:
            parts.append(_U32.pack(len(xattrs)))
            for item in xattrs:
                parts += [piece for part in item for piece in (_U32.pack(len(part)), part)]
        for blob in self._blobs:
            parts += [_U32.pack(len(blob)), blob]
        return b"".join(parts)


class _Presence:
    """Whether objects are in the store: one lstat each, or one listing of each shard where there are many to ask for.

    The caller holds the store lock shared, so that no object goes away meanwhile.
    """

    def __init__(self, objects: Objects) -> None:
        self._objects = objects
        self._expected = 0
        self._listing: bool | None = None
        self._there: set[bytes] = set()

    def expect(self, count: int) -> None:
        """About this many objects will be asked for."""
        self._expected = count

    def has(self, digest: bytes, size: int) -> bool:
        if self._listing is None:
            shard = self._shard(digest[0])
            self._listing = len(shard) * 256 < self._expected * _LIST_FACTOR
            if self._listing:
                self._there.update(shard, *(self._shard(number) for number in range(256) if number != digest[0]))
        if self._listing:
            return digest in self._there
        return self._objects.has(digest, size)

    def _shard(self, number: int) -> list[bytes]:
        name = f"{number:02x}"
        try:
            names = os.listdir(self._objects.directory / name)
        except FileNotFoundError:
            return []
        return [bytes.fromhex(name + rest) for rest in names if _REST.fullmatch(rest)]
