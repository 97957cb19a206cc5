"""Files that appear whole or not at all.

Durability rules, for everything that must survive a power cut:

1. the new content is complete under a temporary name in the same directory, and synced (``fsync``, or one ``syncfs``
   for many files), before
2. one rename gives it its name, and
3. the directory is synced before anything that relies on the name is written.

A crash before 2 leaves a temporary file (``TEMPORARY_PREFIX``) that nobody reads and the owner of the directory may
delete when its writer is gone; after 2, the old content or the new. State that a reboot voids (``durable=False``)
needs the rename only.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
_MORE = 1 << 16
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def temporary_name() -> str:
    """A fresh name for a file in progress: short, unguessable, and recognised by its prefix."""
    return TEMPORARY_PREFIX + os.urandom(8).hex()


def fsync_dir(path: str | bytes | os.PathLike[str]) -> None:
    """Make the names in the directory ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_atomic(path: Path, data: bytes, mode: int = 0o644, durable: bool = True) -> None:
    """Make ``path`` a regular file with ``data`` and exactly ``mode``, replacing what has that name.

    A symlink at ``path`` is replaced, not followed. Raises ``OSError``; the old file is then untouched and the
    temporary one gone.
    """
    temporary = path.parent / temporary_name()
    try:
        fd = os.open(temporary, _NEW_FILE, 0o600)
        try:
            write_all(fd, data)
            os.fchmod(fd, mode)
            if durable:
                os.fsync(fd)
        finally:
            os.close(fd)
        os.rename(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary)
        raise
    if durable:
        fsync_dir(path.parent)


@contextlib.contextmanager
def create_atomic(path: Path, mode: int = 0o644) -> Iterator[int]:
    """Yield a descriptor to write to; when the block ends well, what was written is durably the file ``path``.

    Like ``write_atomic``, for what is too large to hold. Until then it has no name, so that a kill leaves nothing,
    where the file system can do that (O_TMPFILE). Raises ``OSError``.
    """
    temporary = temporary_name()
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=parent)
            named = False
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            fd = os.open(temporary, _NEW_FILE, 0o600, dir_fd=parent)
            named = True
        try:
            yield fd
            os.fchmod(fd, mode)
            os.fsync(fd)
            if not named:  # with a directory's descriptor, because only then is the link in /proc followed
                os.link(f"/proc/self/fd/{fd}", temporary, dst_dir_fd=parent, follow_symlinks=True)
                named = True
        finally:
            os.close(fd)
        os.rename(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=parent)
        raise
    finally:
        os.close(parent)


def write_all(fd: int, data: bytes | memoryview) -> None:
    """write(2) until everything is written."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def read_up_to(fd: int, limit: int) -> bytes:
    """What a regular file has from its beginning, at most ``limit`` bytes, in buffers of its own size.

    A read with a buffer of ``limit`` bytes would ask the kernel for that much memory however small the file is, which
    it refuses where that is more than the machine has.
    """
    pieces, done = [], 0
    size = min(os.fstat(fd).st_size + 1, limit)  # one more, so that the end is seen at once
    while done < limit and (piece := os.pread(fd, min(max(size - done, _MORE), limit - done), done)):
        pieces.append(piece)
        done += len(piece)
    return pieces[0] if len(pieces) == 1 else b"".join(pieces)
