"""A file of a commit, open for reading: each byte that is read was compared with the digest of the file.

A small file is read whole. A large one is hashed once, from its beginning to its end but for its holes, which gives the
hashes of its chunks (``composefs.verity``); from then on only the chunks that are asked for are read, and each of them
is checked. The hashes belong to the content, so they are kept for whoever opens the same file again.
"""

from __future__ import annotations

import io
import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING, BinaryIO

from stratum.composefs.verity import CHUNK_SIZE, DIGEST_SIZE, ChunkHasher, chunk_hash, verity_digest
from stratum.errors import DamagedError, StratumError, os_error_text
from stratum.sys.holes import sparse_pieces

if TYPE_CHECKING:
    from typing_extensions import Buffer

WHOLE_MAX = 4 << 20
"""Bytes of a file that is read whole."""
_KEPT_MAX = 16 << 20
_BUFFER = 128 << 10


class ChunkHashes:
    """The chunk hashes of objects that were hashed lately, at most so many bytes of them. Threads may share one."""

    def __init__(self, most: int = _KEPT_MAX) -> None:
        self._most = most
        self._size = 0
        self._lock = threading.Lock()
        self._kept: OrderedDict[bytes, bytes] = OrderedDict()

    def of(self, fd: int, digest: bytes, size: int) -> bytes:
        """Those of the object ``digest``, which is open as ``fd``. ``DamagedError`` where it has another one."""
        with self._lock:
            found = self._kept.get(digest)
            if found is not None:
                self._kept.move_to_end(digest)
                return found
        made = _hashes(fd, digest, size)
        with self._lock:
            self._kept[digest] = made
            self._size = sum(map(len, self._kept.values()))
            while self._size > self._most and len(self._kept) > 1:
                _, gone = self._kept.popitem(last=False)
                self._size -= len(gone)
        return made


def _hashes(fd: int, digest: bytes, size: int) -> bytes:
    hasher = ChunkHasher()
    with io.FileIO(fd, closefd=False) as file:
        os.lseek(fd, 0, os.SEEK_SET)
        for piece in sparse_pieces(file, size, CHUNK_SIZE):
            if isinstance(piece, int):
                hasher.update_zeros(piece)
            else:
                hasher.update(piece)
    if hasher.digest() != digest:
        raise _damaged(digest)
    return hasher.chunk_hashes()


def _damaged(digest: bytes) -> DamagedError:
    return DamagedError(f"object {digest.hex()} does not match its digest", hint="run 'stratum fsck'")


class ObjectFile(io.RawIOBase):
    """The object ``digest`` of ``size`` bytes, open as ``fd``, which is closed with it. ``checked``: what is read is
    compared with the digest. Reading raises ``DamagedError``, and ``StratumError`` where the disk fails."""

    def __init__(self, fd: int, digest: bytes, size: int, hashes: ChunkHashes, *, checked: bool = True) -> None:
        self._fd = fd
        self._digest = digest
        self._size = size
        self._kept = hashes
        self._checked = checked
        self._position = 0
        self._hashes: bytes | None = None
        self._whole: bytes | None = None
        self._chunk: tuple[int, bytes] = (-1, b"")

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed:
            os.close(self._fd)
        super().close()

    def tell(self) -> int:
        self._check_open()
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        self._check_open()
        if whence in (os.SEEK_DATA, os.SEEK_HOLE):
            found = os.lseek(self._fd, offset, whence)
        else:
            start = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
            found = start + offset
        if found < 0:
            raise ValueError(f"negative seek position {found}")
        self._position = found
        return found

    def readinto(self, buffer: Buffer, /) -> int:
        self._check_open()
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), self._size - self._position)
        if wanted <= 0:
            return 0
        try:
            done = self._read(view[:wanted])
        except OSError as exc:
            raise StratumError(f"cannot read object {self._digest.hex()}: {os_error_text(exc)}") from None
        self._position += done
        return done

    def _read(self, view: memoryview) -> int:
        if not self._checked:
            done = os.preadv(self._fd, [view], self._position)
            if not done:
                raise _damaged(self._digest)
            return done
        if self._size <= WHOLE_MAX:
            data, start = self._all(), self._position
        else:
            number, start = divmod(self._position, CHUNK_SIZE)
            data = self._chunk_at(number)
        done = min(len(view), len(data) - start)
        view[:done] = data[start : start + done]
        return done

    def _all(self) -> bytes:
        if self._whole is None:
            data = os.pread(self._fd, self._size + 1, 0)
            if len(data) != self._size or verity_digest(data) != self._digest:
                raise _damaged(self._digest)
            self._whole = data
        return self._whole

    def _chunk_at(self, number: int) -> bytes:
        if self._chunk[0] != number:
            if self._hashes is None:
                self._hashes = self._kept.of(self._fd, self._digest, self._size)
            start = number * CHUNK_SIZE
            data = os.pread(self._fd, min(CHUNK_SIZE, self._size - start), start)
            at = number * DIGEST_SIZE
            if not data or chunk_hash(data) != self._hashes[at : at + DIGEST_SIZE]:
                raise _damaged(self._digest)
            self._chunk = (number, data)
        return self._chunk[1]

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")


def buffered(raw: io.RawIOBase) -> BinaryIO:
    """``raw`` as what ``open`` gives."""
    return io.BufferedReader(raw, _BUFFER)
