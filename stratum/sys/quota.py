"""Project quotas: what the files of a directory take, and how much they may.

A **project** is a number that a file has; a directory hands it on to what is made in it. File systems with project
quotas (ext4 with the feature ``project``, XFS; mounted with ``prjquota``) count blocks and inodes of each, and may
limit them: who goes beyond gets EDQUOT, or ENOSPC on XFS. All that is asked here is asked of an open directory of the
file system (quotactl_fd(2), Linux 5.14), so no device has to be found. Whoever sets anything is root.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from stratum.frozen import frozen
from stratum.sys.namespaces import raise_effective_capabilities, without_capability
from stratum.sys.syscalls import raw_call

_NR_QUOTACTL_FD = 443
_PROJECTS = 2
_GET, _SET, _GET_NEXT = 0x800007, 0x800008, 0x800009

_GET_XATTR, _SET_XATTR = 0x801C581F, 0x401C5820
_INHERIT = 0x200
_XATTR = struct.Struct("=IIIII8x")
"""struct fsxattr: flags, extent size, extents, project, extent size of copies."""

_QUOTA = struct.Struct("=8QI4x")
"""struct if_dqblk: block limits hard and soft in KiB, bytes used, inode limits hard and soft, inodes used, times, which
of these are valid."""
_NEXT = struct.Struct("=8QII")
_VALID_LIMITS = 1 | 4
_MOST = 1 << 62
_KIB = 1024
_CAP_SYS_RESOURCE = 24

_NO_PROJECTS = (errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS)
_NO_QUOTA = (errno.ESRCH, errno.ENOENT, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOTBLK, errno.ENODEV)


@frozen
class Quota:
    """What the files of a project take, and may take: bytes and inodes, limits 0 where there are none."""

    bytes: int
    inodes: int
    limit: int = 0
    inode_limit: int = 0

    def __bool__(self) -> bool:
        return bool(self.bytes or self.inodes or self.limit or self.inode_limit)


NOTHING = Quota(0, 0)


def project_of(directory: int) -> int | None:
    """The project of an open directory, 0 where it has none in particular; None on file systems without."""
    found = _attributes(directory)
    return found[3] if found is not None else None


def hands_on(directory: int) -> bool:
    """Whether what is made in the open directory gets its project."""
    found = _attributes(directory)
    return found is not None and bool(found[0] & _INHERIT)


def join(directory: int, project: int) -> None:
    """Give an open directory, which is empty, a project, and have it hand that on. Raises ``OSError``."""
    found = _attributes(directory)
    if found is None:
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
    flags, extent, extents, _, copies = found
    fcntl.ioctl(directory, _SET_XATTR, _XATTR.pack(flags | _INHERIT, extent, extents, project, copies))


def _attributes(directory: int) -> tuple[int, ...] | None:
    try:
        return _XATTR.unpack(fcntl.ioctl(directory, _GET_XATTR, bytes(_XATTR.size)))
    except OSError as exc:
        if exc.errno in _NO_PROJECTS:
            return None
        raise


def quota_of(fd: int, project: int) -> Quota | None:
    """What a project takes on the file system of ``fd``; None where that does not count it."""
    buffer = ctypes.create_string_buffer(_QUOTA.size)
    try:
        raw_call(_NR_QUOTACTL_FD, fd, _command(_GET), project, buffer)
    except OSError as exc:
        if exc.errno == errno.ENOENT:  # XFS has nothing on record for it
            return NOTHING
        if exc.errno in _NO_QUOTA:
            return None
        raise
    limit, _, used, inode_limit, _, inodes, *_ = _QUOTA.unpack(buffer.raw)
    return Quota(used, inodes, limit * _KIB, inode_limit)


def set_limits(fd: int, project: int, size: int, inodes: int = 0) -> None:
    """Have the files of a project take no more than ``size`` bytes, rounded up to KiB, and ``inodes``; 0 is no limit.
    What is beyond already stays. Raises ``OSError``."""
    data = _QUOTA.pack(-(-min(size, _MOST) // _KIB), 0, 0, inodes, 0, 0, 0, 0, _VALID_LIMITS)
    raw_call(_NR_QUOTACTL_FD, fd, _command(_SET), project, ctypes.create_string_buffer(data, len(data)))


def quotas(fd: int, first: int, last: int) -> Iterator[tuple[int, Quota]]:
    """The projects from ``first`` to ``last`` that the file system of ``fd`` has anything on record for."""
    while first <= last:
        buffer = ctypes.create_string_buffer(_NEXT.size)
        try:
            raw_call(_NR_QUOTACTL_FD, fd, _command(_GET_NEXT), first, buffer)
        except OSError as exc:
            if exc.errno in _NO_QUOTA:
                return
            raise
        limit, _, used, inode_limit, _, inodes, _, _, _, project = _NEXT.unpack(buffer.raw)
        if not first <= project <= last:
            return
        yield project, Quota(used, inodes, limit * _KIB, inode_limit)
        first = project + 1


def _command(number: int) -> int:
    return number << 8 | _PROJECTS


def is_limited(directory: int) -> bool:
    """Whether the limits of the project of an open directory, which has one of its own and no limits, hold: tried by
    making one inode more than may be. Raises ``OSError``."""
    project = project_of(directory)
    used = quota_of(directory, project) if project else None
    if project is None or used is None or not used.inodes:
        return False
    set_limits(directory, project, 0, used.inodes)
    try:
        with _bound_by_limits():
            os.close(os.open("more", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=directory))
    except OSError as exc:
        return exc.errno in (errno.EDQUOT, errno.ENOSPC)
    finally:
        with suppress(FileNotFoundError):
            os.unlink("more", dir_fd=directory)
        set_limits(directory, project, 0)
    return False


@contextmanager
def _bound_by_limits() -> Iterator[None]:
    """Have the calling thread bound by limits that root may go beyond. A pod's writes are: overlayfs makes them."""
    without_capability(_CAP_SYS_RESOURCE)
    try:
        yield
    finally:
        raise_effective_capabilities()
