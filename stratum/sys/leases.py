"""Read leases (fcntl(2)): the kernel says whether a file is open for writing, and keeps who wants to write waiting.

A lease is granted where nobody has the file open for writing, or mapped such that it can be written to. While it is
held, open(2) for writing and truncate(2) wait until it is given back; with O_NONBLOCK open fails at once with
EWOULDBLOCK. Reading, renaming, unlinking and changing metadata go on. Who waits is told by ``is_wanted``; after
``/proc/sys/fs/lease-break-time`` seconds the kernel takes the lease away.

For a mounted overlay it has to be the file in the upperdir, which is what its writers open. There truncate(2) of a path
does not wait: overlayfs cuts the file without opening it. The descriptor is open for reading only. A writer that is
just closing may still count as one for a moment after its close is told.

A write lease is granted where nobody else has the file open at all. While it is held, who opens it waits.
"""

from __future__ import annotations

import errno
import fcntl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from enum import Enum

_SIGURG = 23  # without loading signal, which defines an enum of all of them
_BUSY = (errno.EAGAIN, errno.EBUSY)


class Lease(Enum):
    """What the kernel answered to the wish for a lease."""

    GRANTED = "granted"
    REFUSED = "refused"
    """Somebody has the file open for writing."""
    IMPOSSIBLE = "impossible"
    """The file system has no leases, or the file is another user's: who writes is not known."""


def take_lease(fd: int) -> Lease:
    """Take a read lease of the file, which lasts until ``give_back`` or until the open file is closed."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGURG)  # for who opens it meanwhile: one that is ignored
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as exc:
        return Lease.REFUSED if exc.errno in _BUSY else Lease.IMPOSSIBLE
    return Lease.GRANTED


def give_back(fd: int) -> None:
    """End the lease; no error where there is none any more."""
    with suppress(OSError):
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)


def is_wanted(fd: int) -> bool:
    """Whether somebody waits for the lease that is held, or the kernel took it."""
    return fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_RDLCK


@contextmanager
def read_lease(fd: int) -> Iterator[Lease]:
    """The file with a read lease for the block, where it is granted."""
    lease = take_lease(fd)
    try:
        yield lease
    finally:
        if lease is Lease.GRANTED:
            give_back(fd)


def nobody_writes(fd: int) -> bool:
    """Whether the file was not open for writing at this moment, as far as the caller may know."""
    with read_lease(fd) as lease:
        return lease is Lease.GRANTED


def is_in_use(fd: int) -> bool | None:
    """Whether somebody else has the file open, as a filesystem that is mounted of it, or a mapping, does; None where
    that is not known. Who opens it at this moment waits, or with O_NONBLOCK is refused (EWOULDBLOCK)."""
    try:
        fcntl.fcntl(fd, fcntl.F_SETSIG, _SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
    except OSError as exc:
        return True if exc.errno in _BUSY else None
    give_back(fd)
    return False
