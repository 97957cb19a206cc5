"""Extended attributes of a file, never through a symlink at the end of a path."""

from __future__ import annotations

import errno
import os

Target = int | str | bytes | os.PathLike[str]


def list_xattrs(target: Target) -> tuple[bytes, ...]:
    """The names of the attributes of a path or an open fd, sorted; empty where the filesystem has none."""
    try:
        names = os.listxattr(target) if isinstance(target, int) else os.listxattr(target, follow_symlinks=False)
    except OSError as exc:
        if exc.errno == errno.EOPNOTSUPP:
            return ()
        raise
    return tuple(sorted(map(os.fsencode, names)))


def get_xattr(target: Target, name: bytes) -> bytes | None:
    """The value of attribute ``name``, or None where the file (or its filesystem) does not have it."""
    try:
        if isinstance(target, int):
            return os.getxattr(target, name)
        return os.getxattr(target, name, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.ENODATA, errno.EOPNOTSUPP):
            return None
        raise


def read_xattrs(target: Target) -> tuple[tuple[bytes, bytes], ...]:
    """All attributes as (name, value), sorted by name: the shape of ``tree.model.Xattrs``.

    An attribute that disappears while they are read is left out.
    """
    found = []
    for name in list_xattrs(target):
        value = get_xattr(target, name)
        if value is not None:
            found.append((name, value))
    return tuple(found)


def read_fd_xattrs(fd: int) -> tuple[tuple[bytes, bytes], ...]:
    """``read_xattrs`` of what ``fd`` is open on, which may be O_PATH, also of a symlink, device or fifo itself."""
    path = f"/proc/self/fd/{fd}"  # following this link ends at the open inode, not at what that leads to
    found = []
    try:
        for name in sorted(map(os.fsencode, os.listxattr(path))):
            value = _get_followed(path, name)
            if value is not None:
                found.append((name, value))
    except OSError as exc:
        if exc.errno != errno.EOPNOTSUPP:
            raise
    return tuple(found)


def _get_followed(path: str, name: bytes) -> bytes | None:
    try:
        return os.getxattr(path, name)
    except OSError as exc:
        if exc.errno == errno.ENODATA:
            return None
        raise
