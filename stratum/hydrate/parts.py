"""Large objects of which parts are here.

::

    landing/parts/<digest>           as large as the object, with holes where nothing came yet
    landing/parts/<digest>.hashes    the level-1 hashes of its fs-verity tree: 32 bytes for each chunk of 512 KiB
    landing/parts/<digest>.map       a byte for each chunk: 1 where it was written

The hashes lead to the digest, so each chunk is verified by itself. What a map says is a hint, however it got there: a
worker that died, a power cut, an order in which a disk wrote. So a chunk that was written by an earlier process is
verified again before it is first given out, which takes a millisecond, and nothing here is ever synced but the whole
object before it gets its name.

The parts of an object are shared by all mounts that a worker serves.
"""

from __future__ import annotations

import mmap
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stratum.composefs.verity import CHUNK_SIZE, DIGEST_SIZE, chunk_count, chunk_hash, root_of_level1
from stratum.errors import DamagedError
from stratum.store.layout import storage_error
from stratum.sys.atomic import write_all

Adopt = Callable[[Path, int, bytes, int], None]
"""``Landing.adopt``: gives a file, open as a descriptor, its name as the object of a digest and a size."""

CHUNK = CHUNK_SIZE
"""Bytes of the object that a hash is of."""
_HASH = DIGEST_SIZE
_OPEN = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Part:
    """The parts of one object that are here. For all threads. ``StratumError`` where it cannot be written."""

    def __init__(self, directory: Path, adopt: Adopt, digest: bytes, size: int) -> None:
        self.digest, self.size = digest, size
        self.chunks = chunk_count(size)
        self.users = 0
        self.filling = threading.Lock()
        """Held by whoever writes all of it, from the beginning to the end."""
        self._adopt = adopt
        self._path = directory / digest.hex()
        self._lock = threading.Lock()
        self._verified = bytearray(self.chunks)
        self._written = bytearray(self.chunks)
        self._hashes: mmap.mmap | bytes | None = None
        self.is_complete = False
        try:
            self._fd = os.open(self._path, _OPEN, 0o600)
            self._fresh = os.fstat(self._fd).st_size == 0
            os.ftruncate(self._fd, size)
            self._map = os.open(self._beside("map"), _OPEN, 0o600)
        except OSError as exc:
            raise storage_error(exc, f"write to {directory}") from None
        if not self._fresh:
            known = os.pread(self._map, self.chunks, 0)
            self._written[: len(known)] = known
            with suppress(OSError, DamagedError):
                self.use_hashes(self._beside("hashes").read_bytes(), keep=False)

    def _beside(self, what: str) -> Path:
        return self._path.with_name(f"{self._path.name}.{what}")

    def close(self) -> None:
        """Let go of the files, which stay."""
        os.close(self._fd)
        os.close(self._map)

    # Hashes

    @property
    def has_hashes(self) -> bool:
        """Whether chunks can be verified."""
        return self._hashes is not None

    def use_hashes(self, hashes: bytes, *, keep: bool = True) -> None:
        """Have chunks verified by ``hashes``. ``DamagedError`` where they do not lead to the object's digest."""
        if len(hashes) != self.chunks * _HASH or root_of_level1(hashes, self.size) != self.digest:
            raise DamagedError(f"the hashes of the parts of object {self.digest.hex()} do not lead to its digest")
        if self._hashes is not None:
            return
        if keep:
            try:
                temporary = self._beside("hashes.new")
                temporary.write_bytes(hashes)
                temporary.rename(self._beside("hashes"))
            except OSError as exc:
                raise storage_error(exc, f"write {self._path}") from None
        try:
            fd = os.open(self._beside("hashes"), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                self._hashes = mmap.mmap(fd, len(hashes), prot=mmap.PROT_READ)
            finally:
                os.close(fd)
        except (OSError, ValueError):
            self._hashes = hashes
        # Of a file that others may cut short the bytes would be gone; this one is the store's own.

    # Chunks

    def length(self, chunk: int) -> int:
        """The bytes of a chunk; the last one may be short."""
        return min(CHUNK, self.size - chunk * CHUNK)

    def has(self, chunk: int) -> bool:
        """Whether the chunk is here; it is verified the first time."""
        if self._verified[chunk]:
            return True
        if not self._written[chunk] or self._hashes is None:
            return False
        try:
            data = os.pread(self._fd, self.length(chunk), chunk * CHUNK)
        except OSError:
            data = b""
        is_right = self._is_right(chunk, data)
        (self._verified if is_right else self._written)[chunk] = is_right
        return is_right

    def missing(self, first: int, last: int) -> list[int]:
        """Those of the chunks [first, last) that are not here."""
        return [chunk for chunk in range(first, last) if not self.has(chunk)]

    def put(self, chunk: int, data: bytes) -> None:
        """Keep a chunk. ``DamagedError`` where it is not what its hash says, ``StratumError`` where it cannot be
        written."""
        if not self._is_right(chunk, data):
            raise DamagedError(f"the bytes of object {self.digest.hex()} at {chunk * CHUNK} do not match its digest")
        try:
            if not self._fresh or data.count(0) != len(data):
                _pwrite(self._fd, data, chunk * CHUNK)
            os.pwrite(self._map, b"\1", chunk)
        except OSError as exc:
            raise storage_error(exc, f"write object {self.digest.hex()}") from None
        self._verified[chunk] = self._written[chunk] = 1

    def read(self, start: int, size: int) -> bytes:
        """Bytes of chunks that are here. Raises ``OSError``."""
        return os.pread(self._fd, size, start)

    def _is_right(self, chunk: int, data: bytes) -> bool:
        assert self._hashes is not None, "chunks come after their hashes"
        wanted = self._hashes[chunk * _HASH : (chunk + 1) * _HASH]
        return len(data) == self.length(chunk) and chunk_hash(data) == wanted

    # The whole

    def begin_whole(self) -> None:
        """Forget all, to be written from the beginning to the end (``append``)."""
        try:
            os.ftruncate(self._fd, 0)
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.ftruncate(self._map, 0)
        except OSError as exc:
            raise storage_error(exc, f"write object {self.digest.hex()}") from None

    def abandon_whole(self) -> None:
        """Forget what was appended: it is a hole again, as large as the object. ``StratumError``."""
        try:
            os.ftruncate(self._fd, 0)
            os.ftruncate(self._fd, self.size)
        except OSError as exc:
            raise storage_error(exc, f"write object {self.digest.hex()}") from None
        self._fresh = True

    def append(self, piece: memoryview) -> None:
        """Write what comes next. ``StratumError``."""
        try:
            write_all(self._fd, piece)
        except OSError as exc:
            raise storage_error(exc, f"write object {self.digest.hex()}") from None

    def complete(self) -> bool:
        """Give the object its name in the store, where all of it is here; whether this did it. ``StratumError``."""
        if not all(self._written) or self.missing(0, self.chunks):
            return False
        return self.name_it()

    def name_it(self) -> bool:
        """The same of an object that was verified as a whole."""
        with self._lock:
            if self.is_complete:
                return False
            self._adopt(self._path, self._fd, self.digest, self.size)
            self.is_complete = True
            self._verified[:] = b"\1" * self.chunks
        for what in ("map", "hashes"):
            with suppress(OSError):
                self._beside(what).unlink()
        return True


class Parts:
    """The objects of a landing that are here in part, in ``directory``, each opened once."""

    def __init__(self, directory: Path, adopt: Adopt) -> None:
        self.directory = directory
        self._adopt = adopt
        self._lock = threading.Lock()
        self._open: dict[bytes, Part] = {}

    def take(self, digest: bytes, size: int) -> Part:
        """The parts of an object, until ``give_back``."""
        with self._lock:
            part = self._open.get(digest)
            if part is None:
                part = self._open[digest] = Part(self.directory, self._adopt, digest, size)
            part.users += 1
            return part

    def give_back(self, part: Part) -> None:
        with self._lock:
            part.users -= 1
            if part.users == 0:
                del self._open[part.digest]
                part.close()


def _pwrite(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
