"""What an import read so far, so that one that is killed or interrupted can be taken up.

A file ``read`` in the directory of the transaction, to which records are appended while the import goes on::

    batch      number of records, CRC-32 of them: two u32
    record     device, inode, size, mtime ns, ctime ns, digest

All little-endian. It is not synced: a batch that is cut or garbled ends it. A record says that the file with this
signature had this content; the object is in the store, or staged beside the journal and verified before it is taken
(``store.salvage``). As in ``ingest.statcache``, an inode is only recorded where a later change will be seen in its
change time.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from stratum.ingest.staging import Signature

NAME = "read"
_HEAD = struct.Struct("<II")
_SIGNATURE = struct.Struct("<QQqqq")
_DIGEST_SIZE = 32
_RECORD_SIZE = _SIGNATURE.size + _DIGEST_SIZE
_BATCH_MAX = 1 << 20
_APPEND = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Journal:
    """Writes the journal of the transaction in ``directory``. Failing to is no error: less can be taken up."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / NAME
        self._records: list[bytes] = []
        self._usable = True

    def add(self, key: Signature, digest: bytes) -> None:
        """The file with the signature ``key`` has the content ``digest``, and its object is staged or in the store."""
        with suppress(struct.error):  # a time outside 1677 to 2262
            self._records.append(_SIGNATURE.pack(*key) + digest)

    def flush(self) -> None:
        """Write down what was added."""
        body = b"".join(self._records)
        batch = _HEAD.pack(len(self._records), zlib.crc32(body)) + body
        self._records.clear()
        if not body or not self._usable:
            return
        self._usable = False  # what follows a batch that was not written whole would not be read
        with suppress(OSError):
            fd = os.open(self._path, _APPEND, 0o600)
            try:
                self._usable = os.write(fd, batch) == len(batch)
            finally:
                os.close(fd)


class Journalled:
    """What the journals of dead transactions say."""

    def __init__(self, directories: Iterable[Path]) -> None:
        self._digests: dict[bytes, bytes] = {}
        for directory in directories:
            with suppress(OSError), open(os.open(directory / NAME, _READ), "rb") as file:
                self._read(file.read(os.fstat(file.fileno()).st_size))

    def _read(self, data: bytes) -> None:
        at = 0
        while at + _HEAD.size <= len(data):
            count, check = _HEAD.unpack_from(data, at)
            start, end = at + _HEAD.size, at + _HEAD.size + count * _RECORD_SIZE
            if not 0 < count <= _BATCH_MAX or end > len(data) or zlib.crc32(data[start:end]) != check:
                return
            for record in range(start, end, _RECORD_SIZE):
                digest = record + _SIGNATURE.size
                self._digests[data[record:digest]] = data[digest : digest + _DIGEST_SIZE]
            at = end

    def __bool__(self) -> bool:
        return bool(self._digests)

    def find(self, key: Signature) -> bytes | None:
        """The digest that the file with this signature had."""
        try:
            return self._digests.get(_SIGNATURE.pack(*key))
        except struct.error:
            return None
