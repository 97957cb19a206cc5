"""Reading one source file and staging its content as an object.

The digest is computed over the bytes that are written, in the same pass, so what is stored is what the tree says
whatever happens to the source meanwhile. A file is read again where its size, mtime or ctime differ after the read; if
it never holds still, the last read is kept and reported: a log file that grows must not stop a snapshot of a whole
tree, and the object is at least one state that a reader of the file could have seen. A file that was replaced by
another regular file between listing and opening is taken as it is now; one that is gone is left out.

What this uses is little, so that a worker process starts quickly.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
import time
from collections.abc import Sequence

from stratum.composefs.verity import verity_digest
from stratum.ingest.copying import SourceError, copy_hashed
from stratum.store.objects import OBJECT_MODE, Objects, Staging
from stratum.sys.atomic import write_all
from stratum.sys.dirstack import OPEN_DIRECTORY
from stratum.sys.holes import is_sparse
from stratum.sys.xattrs import read_xattrs
from stratum.tree.model import INLINE_MAX, Xattrs

ATTEMPTS = 4
_PAUSE = 0.02
IN_MEMORY_MAX = 4 << 20
"""Files up to this size are read whole, so that nothing is written where their object is in the store already."""
_MORE = 64 << 10
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_SOURCE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

Signature = tuple[int, int, int, int, int]
"""Device, inode, size, mtime and ctime (ns): a file whose content or attributes changed has another one."""

Metadata = tuple[int, int, int, int]
"""Mode, uid, gid, mtime in ns."""

FileRead = tuple[int, bytes | None, bytes | None, Xattrs, bool, bool, Metadata | None]
"""Size, digest, inline content, xattrs, whether the object was staged (else it is in the store or inline), whether the
file kept changing, and its metadata where the file is not as it was listed (else None)."""


class StagingError(Exception):
    """The store's side failed; ``error`` is the ``OSError``."""

    def __init__(self, error: OSError) -> None:
        super().__init__(str(error))
        self.error = error


def signature(info: os.stat_result) -> Signature:
    """The signature of an inode."""
    return (info.st_dev, info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def open_source(name: bytes | str, flags: int, directory: int | None = None) -> int:
    """open(2) that leaves the access time alone where the caller may ask for that."""
    try:
        return os.open(name, flags | os.O_NOATIME, dir_fd=directory)
    except PermissionError as exc:
        if exc.errno != errno.EPERM:
            raise
        return os.open(name, flags, dir_fd=directory)


class Stager:
    """Reads files into ``staging``, a directory on the store's file system, where objects get the names that they will
    have in the store.

    ``store`` is the store's directory. ``tag`` keeps the temporary names of several stagers apart.
    ``salvage`` are directories like ``staging`` that transactions left which were killed or interrupted.
    """

    def __init__(self, store: bytes, staging: bytes, tag: str, salvage: Sequence[bytes] = ()) -> None:
        self._presence = Objects.below(os.fsdecode(store)).many()
        self._staging = Staging(os.fsdecode(staging))
        self._salvage = [Staging(os.fsdecode(directory)) for directory in salvage]
        self._tag = tag
        self._counter = 0
        self._directory = -1

    def close(self) -> None:
        """Close what is open."""
        if self._directory >= 0:
            os.close(self._directory)
            self._directory = -1

    def read(
        self,
        directory: int,
        name: bytes,
        listed: Signature,
        *,
        xattrs: bool,
        candidate: bytes | None,
        before: bytes | None = None,
    ) -> FileRead | None:
        """Read the regular file ``name`` in the open ``directory``; None where it is gone.

        With an empty ``name``, ``directory`` is the open file itself.
        ``xattrs``: read the extended attributes too. ``candidate`` is the digest that the content probably has,
        ``before`` the one that it had when a file with the signature ``listed`` was read: where that object is in the
        store or in ``salvage``, the content is not read again.
        Raises ``OSError`` for the source (``ELOOP`` and ``EINVAL`` where it is no regular file any more) and
        ``StagingError`` for the store.
        """
        try:
            fd = open_source(name, _SOURCE, directory) if name else os.dup(directory)
        except FileNotFoundError:
            return None
        try:
            return self._taken(fd, directory, name, listed) or self._read_open(fd, listed, xattrs, candidate, before)
        except SourceError as exc:
            raise exc.error from None
        finally:
            os.close(fd)

    def _taken(self, fd: int, directory: int, name: bytes, listed: Signature) -> FileRead | None:
        """The file, where it need not be copied to become an object (``ingest.adopting``)."""
        return None

    def _read_open(
        self, fd: int, listed: Signature, xattrs: bool, candidate: bytes | None, before: bytes | None
    ) -> FileRead:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise OSError(errno.EINVAL, "it was replaced by something else than a regular file")
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(_PAUSE * attempt)
            key = signature(info)
            known = self._known(before, info.st_size) if before is not None and key == listed else None
            size, digest, content, staged = known or self._content(fd, info, candidate)
            found = read_xattrs(fd) if xattrs else ()
            info = os.fstat(fd)
            after = signature(info)
            if after == key:
                break
        metadata = None if after == listed else (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
        return (size, digest, content, found, staged, after != key, metadata)

    def _known(self, digest: bytes, size: int) -> tuple[int, bytes | None, bytes | None, bool] | None:
        """What ``_content`` says, where the object is in the store or among the leavings."""
        if self._stored(digest, size):
            return size, digest, None, False
        if not self._salvage:
            return None
        from stratum.store.salvage import take_object

        try:
            target = self._staging.place(digest)
            left = [place.path(digest) for place in self._salvage]
            taken = os.path.lexists(target) or take_object(left, digest, size, target)
        except OSError as exc:
            raise StagingError(exc) from None
        return (size, digest, None, True) if taken else None

    def _content(
        self, fd: int, info: os.stat_result, candidate: bytes | None
    ) -> tuple[int, bytes | None, bytes | None, bool]:
        """(size, digest, inline content, staged) of one read from the start to the end of ``fd``."""
        if info.st_size > IN_MEMORY_MAX:
            return self._large(fd, info, candidate)
        return self._small(fd, info.st_size)

    def _small(self, fd: int, expected: int) -> tuple[int, bytes | None, bytes | None, bool]:
        data = read_whole(fd, expected)
        size = len(data)
        if size <= INLINE_MAX:
            return size, None, data or None, False
        digest = verity_digest(data)
        return size, digest, None, not self._stored(digest, size) and self._write(digest, data)

    def _stored(self, digest: bytes, size: int) -> bool:
        """Whether the store has the object; one of another size is damaged and does not count."""
        try:
            return self._presence.size(digest) == size
        except OSError as exc:
            raise StagingError(exc) from None

    def _write(self, digest: bytes, data: bytes) -> bool:
        """Stage ``data``, which has this digest; nothing to do where some worker has, or is about to."""
        try:
            name = self._staging.made(digest)
            out = os.open(name, _NEW, OBJECT_MODE, dir_fd=self._opened())
        except FileExistsError:
            return True
        except OSError as exc:
            raise StagingError(exc) from None
        try:
            write_all(out, data)
        except OSError as exc:
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=self._directory)
            raise StagingError(exc) from None
        finally:
            os.close(out)
        return True

    def _opened(self) -> int:
        """The directory ``staging``. Names are looked up from there: a short way, where there are many."""
        if self._directory < 0:
            self._directory = os.open(self._staging.directory, OPEN_DIRECTORY)
        return self._directory

    def _large(
        self, fd: int, info: os.stat_result, candidate: bytes | None
    ) -> tuple[int, bytes | None, bytes | None, bool]:
        sparse = is_sparse(info)
        if candidate is not None and self._stored(candidate, info.st_size):
            digest, size = copy_hashed(fd, None, info.st_size, sparse=sparse)
            if digest == candidate:
                return size, digest, None, False
        self._counter += 1
        path = f"{self._staging.directory}/{self._tag}-{self._counter}"
        try:
            digest, size = _copy_to_new(fd, path, info.st_size, sparse)
            staged = size > INLINE_MAX and not self._stored(digest, size)
            if staged:
                os.rename(path, self._staging.place(digest))
            else:
                os.unlink(path)
        except OSError as exc:
            raise StagingError(exc) from None
        if size <= INLINE_MAX:  # it was cut short while it was read
            return self._small(fd, size)
        return size, digest, None, staged


def _create(path: str) -> int:
    return os.open(path, _NEW, OBJECT_MODE)


def _copy_to_new(fd: int, path: str, size: int, sparse: bool) -> tuple[bytes, int]:
    """Copy ``fd`` to a new file, which is gone again where that fails; (digest, size)."""
    out = _create(path)
    try:
        return copy_hashed(fd, out, size, sparse=sparse)
    except (OSError, SourceError):
        with contextlib.suppress(OSError):
            os.unlink(path)
        raise
    finally:
        os.close(out)


def read_whole(fd: int, size: int) -> bytes:
    """The content of ``fd`` up to its end, for which one call is enough where the file has ``size`` bytes."""
    data = os.pread(fd, size + 1, 0)
    if len(data) == size:
        return data
    parts = [data]
    length = len(data)
    while part := os.pread(fd, _MORE, length):
        parts.append(part)
        length += len(part)
        if length > size + IN_MEMORY_MAX:
            if os.fstat(fd).st_size < length:
                raise OSError(errno.EFBIG, "it goes on far beyond its size")
            break  # it is growing, and is read again
    return b"".join(parts)
