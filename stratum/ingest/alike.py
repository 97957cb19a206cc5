"""Whether what is in a directory is already what a restore would make there."""

from __future__ import annotations

import os
import stat

from stratum.ingest.copying import SourceError, copy_hashed
from stratum.sys.holes import is_sparse
from stratum.tree.model import File, Inode, Symlink

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


def find_alike(
    directory: int, name: bytes, inode: Inode, *, mode: int, owner: tuple[int, int] | None, shared: bool
) -> int | None:
    """A descriptor of the entry ``name`` of the open ``directory`` where that is what ``inode`` describes; else None.

    Compared are type, ``mode``, ``owner`` (None: whoever it is), mtime, and the content by its digest; of a symbolic
    link the target, of a fifo or device its number. ``shared``: the inode has several names in its tree; another one
    must have just this. Extended attributes are left to the caller.
    """
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        if not _looks_alike(info, inode, mode, owner, shared):
            return None
        fd = os.open(name, _READ if isinstance(inode, File) else _HANDLE, dir_fd=directory)
    except OSError:
        return None
    try:
        alike = os.path.samestat(os.fstat(fd), info) and _has_content(fd, inode)
    except (OSError, SourceError):
        alike = False
    if not alike:
        os.close(fd)
        return None
    return fd


def _looks_alike(info: os.stat_result, inode: Inode, mode: int, owner: tuple[int, int] | None, shared: bool) -> bool:
    if stat.S_IFMT(info.st_mode) != stat.S_IFMT(inode.mode) or not (shared or info.st_nlink == 1):
        return False
    if owner is not None and (info.st_uid, info.st_gid) != owner:
        return False
    if info.st_mtime_ns != inode.mtime:
        return False
    if isinstance(inode, Symlink):
        return True
    if isinstance(inode, File) and info.st_size != inode.size:
        return False
    return stat.S_IMODE(info.st_mode) == mode and info.st_rdev == getattr(inode, "rdev", 0)


def _has_content(fd: int, inode: Inode) -> bool:
    if isinstance(inode, Symlink):
        return os.fsencode(os.readlink("", dir_fd=fd)) == inode.target
    if not isinstance(inode, File):
        return True
    if inode.digest is None:
        return os.pread(fd, inode.size + 1, 0) == (inode.content or b"")
    digest, size = copy_hashed(fd, None, inode.size, sparse=is_sparse(os.fstat(fd)))
    return digest == inode.digest and size == inode.size
