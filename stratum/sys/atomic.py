"""Files that appear whole or not at all.

Durability rules, for everything that must survive a power cut:

1. the new content is complete under a temporary name in the same directory, and synced (``fsync``, or one ``syncfs``
   for many files), before
2. one rename gives it its name, and
3. the directory is synced before anything that relies on the name is written.

A crash before 2 leaves a temporary file (``TEMPORARY_PREFIX``) that nobody reads; after 2, the old content or the new.
State that a reboot voids (``durable=False``) needs the rename only. A writer has its temporary file locked (flock)
until it has its name, so ``remove_abandoned`` knows those whose writer is dead.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

TEMPORARY_PREFIX = ".tmp-"
_RANDOM = 8
_NEW_FILE_TRIES = 5
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


def temporary_name() -> str:
    """A fresh name for a file in progress: short, unguessable, and recognised by its prefix."""
    return TEMPORARY_PREFIX + os.urandom(_RANDOM).hex()


def fsync_dir(path: str | bytes | os.PathLike[str]) -> None:
    """Make the names in the directory ``path`` durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directories(path: Path) -> None:
    """Make the directory ``path`` with those above it where they are missing, durably. Raises ``OSError``."""
    if path.is_dir():
        return
    if path != path.parent:
        make_directories(path.parent)
    path.mkdir(exist_ok=True)
    fsync_dir(path.parent)


def is_temporary(name: str) -> bool:
    """Whether ``name`` is one of ``temporary_name``."""
    digits = name.removeprefix(TEMPORARY_PREFIX)
    return len(name) - len(digits) > 0 and len(digits) == 2 * _RANDOM and set(digits) <= set("0123456789abcdef")


def new_file(parent: Path, mode: int = 0o600, *, directory: int | None = None) -> tuple[int, Path]:
    """A new, locked file in progress in ``parent`` (relative to the descriptor ``directory``, where given): its
    descriptor and temporary path. ``mode`` is subject to the umask."""
    for _ in range(_NEW_FILE_TRIES):
        path = parent / temporary_name()
        fd = os.open(path, _NEW_FILE, mode, dir_fd=directory)
        if _lock(fd) and os.fstat(fd).st_nlink:
            return fd, path
        os.close(fd)  # somebody took it for abandoned in the moment before it was locked
    raise OSError(errno.EBUSY, os.strerror(errno.EBUSY), str(parent))


def _lock(fd: int) -> bool:
    """Lock a new file; False where somebody else has. A file system without locks goes without."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as exc:
        if exc.errno not in (errno.EOPNOTSUPP, errno.ENOLCK, errno.ENOSYS):
            raise
    return True


def remove_abandoned(directory: int) -> None:
    """Delete the files in progress in the directory (a descriptor) whose writers are dead, as far as possible."""
    for name in filter(is_temporary, os.listdir(directory)):
        with contextlib.suppress(OSError):
            if stat.S_ISREG(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
                _remove_if_abandoned(directory, name)


def _remove_if_abandoned(directory: int, name: str) -> None:
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=directory)
    finally:
        os.close(fd)


def write_atomic(
    path: Path,
    data: bytes | Sequence[bytes | bytearray | memoryview],
    mode: int = 0o644,
    durable: bool = True,
    *,
    directory: int | None = None,
) -> None:
    """Make ``path`` a regular file with ``data`` (or all of several pieces) and exactly ``mode``, replacing what has
    that name.

    A relative path is below the descriptor ``directory``, where one is given. A symlink at ``path`` is replaced, not
    followed. Raises ``OSError``; the old file is then untouched and the temporary one gone.
    """
    fd, temporary = new_file(path.parent, directory=directory)
    try:
        for piece in (data,) if isinstance(data, bytes) else data:
            write_all(fd, piece)
        os.fchmod(fd, mode)
        if durable:
            os.fsync(fd)
        os.rename(temporary, path, src_dir_fd=directory, dst_dir_fd=directory)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(temporary, dir_fd=directory)
        raise
    finally:
        os.close(fd)
    if durable:
        parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=directory)
        try:
            os.fsync(parent)
        finally:
            os.close(parent)


@contextlib.contextmanager
def create_atomic(path: Path, mode: int = 0o644) -> Iterator[int]:
    """Yield a descriptor to write to; when the block ends well, what was written is durably the file ``path``.

    Like ``write_atomic``, for what is too large to hold. Until then it has no name, so that a kill leaves nothing,
    where the file system can do that (O_TMPFILE); what earlier writers left in the directory is removed. Raises
    ``OSError``.
    """
    parent = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    temporary: str | Path | None = None
    fd = -1
    try:
        remove_abandoned(parent)
        try:
            fd = os.open(".", os.O_WRONLY | os.O_TMPFILE | os.O_CLOEXEC, 0o600, dir_fd=parent)
            _lock(fd)
        except OSError as exc:
            if exc.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
                raise
            fd, temporary = new_file(Path(), directory=parent)
        yield fd
        os.fchmod(fd, mode)
        os.fsync(fd)
        if temporary is None:  # with a directory's descriptor, because only then is the link in /proc followed
            name = temporary_name()
            os.link(f"/proc/self/fd/{fd}", name, dst_dir_fd=parent, follow_symlinks=True)
            temporary = name
        os.rename(temporary, path.name, src_dir_fd=parent, dst_dir_fd=parent)
        os.fsync(parent)
    except BaseException:
        if temporary is not None:
            with contextlib.suppress(OSError):
                os.unlink(temporary, dir_fd=parent)
        raise
    finally:
        if fd >= 0:
            os.close(fd)
        os.close(parent)


def write_all(fd: int, data: bytes | bytearray | memoryview) -> None:
    """write(2) until everything is written."""
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(fd, rest) :]


def append_lines(fd: int, data: bytes) -> None:
    """Add whole lines to a file, durably; a line that a crash cut short before them stays by itself. ``OSError``, and
    the file is as it was."""
    size = os.fstat(fd).st_size
    if size and os.pread(fd, 1, size - 1) != b"\n":
        data = b"\n" + data
    try:
        write_all(fd, data)
        os.fsync(fd)
    except OSError:
        os.ftruncate(fd, size)
        raise
