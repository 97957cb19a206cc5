"""Taking the content of a file that somebody has just closed, while others may already write to it again.

What is taken is always a whole version, what the file held between two writers, or nothing. A read lease
(``sys.leases``) says that nobody has the file open for writing, or mapped to be written to, and keeps the next writer
waiting in its open(2); only truncate(2) through an overlay and changes of metadata go on, and are seen in the size and
the times, which are compared. Where a writer has the file open, its close is still to come, and the version is taken
then.

The lease is held while the content is copied, never while it is hashed. Where the file system shares blocks between
files (FICLONE) that is no time at all; elsewhere a large file is given up as soon as a writer waits.

Nothing is taken from what is no regular file, nor from files whose data overlayfs has not copied up (``metacopy``),
which are holes. A file's holes are not read and stay holes. The descriptor that is read has to be one of the file in
the upperdir; of its owners and its mode nothing is believed, as an event's descriptor may show them mapped.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import threading
import time
from collections.abc import Callable
from contextlib import suppress

from stratum.composefs.verity import verity_digest
from stratum.frozen import frozen
from stratum.ingest.copying import SourceError, copy_hashed
from stratum.ingest.staging import Signature, signature
from stratum.store.layout import storage_error
from stratum.store.objects import OBJECT_MODE, Staging
from stratum.sys.atomic import temporary_name, write_all
from stratum.sys.holes import is_sparse, next_data
from stratum.sys.leases import Lease, give_back, is_wanted, take_lease
from stratum.sys.xattrs import get_xattr
from stratum.tree.model import INLINE_MAX
from stratum.tree.overlay import METACOPY, Dialect

IN_MEMORY_MAX = 1 << 20
"""Files up to this size are read whole, also while a writer waits: it waits for one read(2)."""
_DENSE_MIN = 64 << 10
"""Below this size holes are not looked for."""
_TRIES = 3
_STEP = 4 << 20
_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC

_FICLONE = 0x40049409
_NEVER_SHARES = (errno.EOPNOTSUPP, errno.EXDEV, errno.ENOTTY)
_CANNOT_SHARE = (*_NEVER_SHARES, errno.EINVAL, errno.EPERM, errno.ETXTBSY)
_CANNOT_COPY = (errno.EOPNOTSUPP, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.ETXTBSY)
_FULL = (errno.ENOSPC, errno.EDQUOT)

# A close is told a moment before the kernel stops counting the writer.
_PAUSES = (0.0, 0.0001, 0.0005, 0.002)
_WAITING_SHARE = 0.1
_WAITING_MOST = 0.05


@frozen
class Captured:
    """What a file held when nobody had it open for writing.

    ``key`` is device and inode number, ``signature`` what ``ingest.staging.signature`` says of the file that was read.
    The content is in the staging directory under the name of ``digest``, or is ``content`` where it is that small (None
    where it is empty); or it is unknown, and why is "large", "space" or "unreadable".
    """

    key: tuple[int, int]
    signature: Signature
    size: int
    digest: bytes | None
    content: bytes | None
    unknown: str | None


class Capturer:
    """Takes contents into ``staging``, which may be replaced by another one at any time.

    ``max_file``: the size in bytes of the largest file whose content is taken. ``has_space``: whether there is room for
    contents at all. Its methods may be called by several threads.
    """

    def __init__(
        self,
        staging: Staging,
        *,
        max_file: Callable[[], int],
        has_space: Callable[[], bool],
        dialect: Dialect = Dialect.TRUSTED,
    ) -> None:
        self.staging = staging
        self._max_file = max_file
        self._has_space = has_space
        self._metacopy = dialect.own(METACOPY)
        self._patience = _Patience(_WAITING_SHARE, _WAITING_MOST)
        self._placing = threading.Lock()
        self._shares_blocks = True

    def capture(
        self, fd: int, info: os.stat_result | None = None, *, max_file: int | None = None, held_up: bool = False
    ) -> Captured | None:
        """The content of the file that ``fd`` is open on for reading, and as ``info`` says if that is known already.

        None where there is no whole version to be taken: somebody writes to it now and will close it, it kept changing,
        it is no regular file, or has no data of its own. ``max_file`` is another limit for this file. ``held_up``:
        who has it open for writing is held up in the open(2), so that no lease is needed. ``StratumError`` where the
        store fails for another reason than that it is full.
        """
        info = os.fstat(fd) if info is None else info
        if not stat.S_ISREG(info.st_mode):
            return None
        limit = self._max_file() if max_file is None else max_file
        for _ in range(_TRIES):
            if info.st_size > limit:
                return _unknown(info, "large")
            if info.st_size > INLINE_MAX and not self._has_space():
                return _unknown(info, "space")
            lease = take_lease(fd) if held_up else self._lease(fd)
            if lease is Lease.REFUSED and not held_up:
                return None
            try:
                taken = self._take(fd, info, lease)
                after = os.fstat(fd)  # before the next writer, who waits for the lease, goes on
            except OSError as exc:
                return _unknown(info, "space" if exc.errno in _FULL else "unreadable")
            finally:
                if lease is Lease.GRANTED:
                    give_back(fd)
            before, info = signature(info), after
            if isinstance(taken, _GivenUp):
                return None
            if taken is not None and signature(info) == before:
                return self._keep(info, taken)
            if isinstance(taken, _Copy):
                taken.remove()
        return None

    def is_open_for_writing(self, fd: int) -> bool:
        """Whether somebody has the file open for writing, or mapped such that it can be written to, as far as that is
        known: where a file system has no leases, nobody has."""
        lease = take_lease(fd)
        if lease is Lease.GRANTED:
            give_back(fd)
        return lease is Lease.REFUSED

    def _lease(self, fd: int) -> Lease:
        for pause in _PAUSES:
            if pause and not self._patience.wait(pause):
                break
            lease = take_lease(fd)
            if lease is not Lease.REFUSED:
                return lease
        return Lease.REFUSED

    def _take(self, fd: int, info: os.stat_result, lease: Lease) -> bytes | _Copy | _GivenUp | None:
        """What the file holds, in memory or as a copy; None where it is not as ``info`` says any more.

        ``OSError`` where it cannot be read, or the disk is full. Where its data is not its own, it is given up.
        """
        if info.st_size and get_xattr(fd, self._metacopy) is not None:
            return _GivenUp()
        if info.st_size <= (_DENSE_MIN if is_sparse(info) else IN_MEMORY_MAX):
            data = os.pread(fd, info.st_size + 1, 0)
            return data if len(data) == info.st_size else None
        return self._copy(fd, info, lease)

    def _copy(self, fd: int, info: os.stat_result, lease: Lease) -> _Copy | _GivenUp | None:
        copy = self._new_copy()
        try:
            if self._clone(fd, copy.fd):
                done: int | None = os.fstat(copy.fd).st_size
            else:
                done = _copy_data(fd, copy.fd, info, lambda: lease is Lease.GRANTED and is_wanted(fd))
        except BaseException:
            copy.remove()
            raise
        if done == info.st_size:
            return copy
        copy.remove()
        return _GivenUp() if done is None else None

    def _new_copy(self) -> _Copy:
        path = f"{self.staging.directory}/{temporary_name()}"
        try:
            return _Copy(path, _create(path))
        except OSError as exc:
            if exc.errno in _FULL:
                raise
            raise storage_error(exc, f"make {path}") from None

    def _clone(self, fd: int, out: int) -> bool:
        if not self._shares_blocks:
            return False
        try:
            fcntl.ioctl(out, _FICLONE, fd)
        except OSError as exc:
            if exc.errno not in _CANNOT_SHARE:
                raise
            self._shares_blocks = exc.errno not in _NEVER_SHARES
            return False
        return True

    def _keep(self, info: os.stat_result, taken: bytes | _Copy) -> Captured:
        """Name what was taken by its digest."""
        digest = content = None
        try:
            if isinstance(taken, _Copy):
                digest = self._keep_copy(taken, info)
            elif info.st_size > INLINE_MAX:
                digest = verity_digest(taken)
                self._keep_bytes(digest, taken)
            else:
                content = taken or None
        except OSError as exc:
            if exc.errno in _FULL:
                return _unknown(info, "space")
            raise storage_error(exc, "keep the content of a file") from None
        return Captured(_key(info), signature(info), info.st_size, digest, content, None)

    def _keep_copy(self, copy: _Copy, info: os.stat_result) -> bytes:
        try:
            digest, _ = copy_hashed(copy.fd, None, info.st_size, sparse=is_sparse(os.fstat(copy.fd)))
            with self._placing:
                os.rename(copy.path, self._place(digest))
        except SourceError as exc:
            copy.remove()
            raise exc.error from None
        except BaseException:
            copy.remove()
            raise
        os.close(copy.fd)
        return digest

    def _keep_bytes(self, digest: bytes, data: bytes) -> None:
        with self._placing:  # so that a name that is there is complete
            path = self._place(digest)
            try:
                out = _create(path)
            except FileExistsError:
                return
            try:
                write_all(out, data)
            except BaseException:
                with suppress(OSError):
                    os.unlink(path)
                raise
            finally:
                os.close(out)

    def _place(self, digest: bytes) -> str:
        """Where the object is to be, in a directory that is there also if an earlier one moved into the store."""
        path = self.staging.place(digest)
        if not os.path.isdir(os.path.dirname(path)):
            self.staging = Staging(self.staging.directory)
            path = self.staging.place(digest)
        return path


class _Copy:
    """A file in the staging directory that has no name yet that means anything."""

    __slots__ = ("fd", "path")

    def __init__(self, path: str, fd: int) -> None:
        self.path = path
        self.fd = fd

    def remove(self) -> None:
        os.close(self.fd)
        with suppress(OSError):
            os.unlink(self.path)


class _GivenUp:
    """In place of a content that is not to be had now."""


class _Patience:
    """How long may be waited in all: a share of the time that passes, so that nobody holds up everything by keeping
    files open. At most ``most`` seconds of it are saved up."""

    def __init__(self, share: float, most: float) -> None:
        self._share = share
        self._most = most
        self._left = most
        self._seen = time.monotonic()

    def wait(self, seconds: float) -> bool:
        """Wait, or say at once that there is no time left for it."""
        now = time.monotonic()
        self._left = min(self._most, self._left + (now - self._seen) * self._share)
        self._seen = now
        if self._left < seconds:
            return False
        time.sleep(seconds)
        self._left -= time.monotonic() - now
        return True


def _create(path: str) -> int:
    """A new file with an object's mode, whatever the umask of whoever watches."""
    fd = os.open(path, _NEW, OBJECT_MODE)
    os.fchmod(fd, OBJECT_MODE)
    return fd


def _unknown(info: os.stat_result, why: str) -> Captured:
    return Captured(_key(info), signature(info), info.st_size, None, None, why)


def _key(info: os.stat_result) -> tuple[int, int]:
    return (info.st_dev, info.st_ino)


def _copy_data(fd: int, out: int, info: os.stat_result, wanted: Callable[[], bool]) -> int | None:
    """Copy the file but for its holes; how far it goes, None where somebody ``wanted`` it before the end. ``OSError``.

    More than ``info.st_size`` bytes are not copied; that there are more shows in the file's size.
    """
    size, offset, sparse = info.st_size, 0, is_sparse(info)
    while offset < size:
        offset, end = next_data(fd, offset, size) if sparse else (offset, size)
        while offset < end:
            if wanted():
                return None
            done = _copy_piece(fd, out, min(_STEP, end - offset), offset)
            if not done:
                return offset
            offset += done
    os.ftruncate(out, size)
    return size


def _copy_piece(fd: int, out: int, size: int, offset: int) -> int:
    try:
        return os.copy_file_range(fd, out, size, offset, offset)
    except OSError as exc:
        if exc.errno not in _CANNOT_COPY:
            raise
    data = os.pread(fd, size, offset)
    os.lseek(out, offset, os.SEEK_SET)
    write_all(out, data)
    return len(data)
