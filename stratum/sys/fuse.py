"""Making a FUSE filesystem, and the descriptor that its server answers by (``sys.fuseproto`` has the messages).

The filesystem is mounted nowhere: what refers to it is the mount that has it as a layer, and with that it ends. The
server then reads ENODEV. As long as a process has a descriptor of it open, requests wait for an answer; when the last
one is closed, all requests, waiting ones too, fail with ENOTCONN.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from collections.abc import Sequence
from contextlib import suppress

from stratum.sys import fuseproto
from stratum.sys.mountapi import (
    MOUNT_ATTR_NODEV,
    MOUNT_ATTR_NOEXEC,
    MOUNT_ATTR_NOSUID,
    MOUNT_ATTR_RDONLY,
    FilesystemContext,
)
from stratum.sys.syscalls import AT_EMPTY_PATH, libc_call

DEVICE = "/dev/fuse"
READ_AHEAD = 512
"""KiB that the kernel reads ahead in the files of such a filesystem; 128 where nobody says."""

_AT_ONCE = 256
_CLONE = 0x8004E500
_AT_STATX_DONT_SYNC = 0x4000
_STATX_SIZE = 256
_STATX_DEVICE_OFFSET = 0x88


class Ended(Exception):  # noqa: N818 - no error: the expected end of every connection
    """The filesystem is gone: nothing refers to it any more, or somebody aborted it."""


def mount_detached(source: str = "stratum", *, unchanging: bool = False) -> tuple[int, int]:
    """A FUSE filesystem that is mounted nowhere: (descriptor to serve it by, mount fd); both the caller's.

    In one that is ``unchanging`` not even access times change, so the kernel asks for none again.

    The former does not block. Nothing but opening is possible with the latter before INIT is answered: stat and lookups
    wait for it. Readers are numbered as in the PID namespace of the caller. Raises ``OSError``: ENOENT or ENODEV where
    the kernel has no FUSE, EPERM without privilege.
    """
    device = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mount = _mounted(device, source, unchanging)
    except BaseException:
        os.close(device)
        raise
    with suppress(OSError):  # /sys may be read-only, and reads be just slower
        _set_read_ahead(mount, READ_AHEAD)
    return device, mount


def _mounted(device: int, source: str, unchanging: bool) -> int:
    with FilesystemContext("fuse") as context:
        parameters = {
            "source": source,
            "fd": str(device),
            "rootmode": "40000",
            "user_id": str(os.geteuid()),
            "group_id": str(os.getegid()),
            "max_read": str(fuseproto.MAX_READ),
        }
        for key, value in parameters.items():
            context.set_string(key, value)
        context.set_flag("allow_other")
        context.set_flag("default_permissions")
        if unchanging:
            context.set_flag("ro")
        context.create()
        return context.mount(MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC)


def device_number(mount: int) -> str:
    """The device of the mount's filesystem, "major:minor", without asking its server. The minor number also names it in
    ``/sys/fs/fuse/connections``."""
    buffer = ctypes.create_string_buffer(_STATX_SIZE)
    libc_call("statx", mount, b"", AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, 0, buffer)
    major, minor = struct.unpack_from("=II", buffer, _STATX_DEVICE_OFFSET)
    return f"{major}:{minor}"


def _set_read_ahead(mount: int, kib: int) -> None:
    with open(f"/sys/class/bdi/{device_number(mount)}/read_ahead_kb", "w", encoding="ascii") as file:
        file.write(str(kib))


def clone(device: int) -> int:
    """Another descriptor of the same filesystem. Requests that were read by it fail with EIO or ENOTCONN as soon as it
    is closed, others do not."""
    new = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        # A bytearray is handed over as it is; of bytes, the kernel would get a copy.
        fcntl.ioctl(new, _CLONE, bytearray(struct.pack("=I", device)), True)
    except BaseException:
        os.close(new)
        raise
    return new


def receive(device: int) -> bytes | None:
    """The next request, or None where there is none now. ``Ended``; ``OSError``."""
    try:
        return os.read(device, fuseproto.READ_BUFFER)
    except BlockingIOError:
        return None
    except OSError as exc:
        if exc.errno in (errno.ENODEV, errno.ECONNABORTED):
            raise Ended from None
        if exc.errno == errno.ENOENT:  # its caller was killed while it was read
            return None
        raise


def send(device: int, *parts: bytes | bytearray | memoryview) -> bool:
    """Send an answer, in one part or in parts; whether somebody still waited for it. ``Ended``; ``OSError``: EINVAL for
    a wrong answer."""
    try:
        os.writev(device, parts)
    except OSError as exc:
        if exc.errno in (errno.ENODEV, errno.ECONNABORTED):
            raise Ended from None
        if exc.errno == errno.ENOENT:
            return False
        raise
    return True


def send_again(device: int) -> bool:
    """Have every request sent again that was read and not answered, by whomever; False where the kernel cannot (before
    Linux 6.9). ``Ended``; ``OSError``."""
    return _notify(device, fuseproto.resend())


def prune(device: int, nodes: Sequence[int]) -> bool:
    """Have the kernel forget those of the nodes that nobody uses, so that they are looked up anew; False where it
    cannot (before Linux 6.18). ``Ended``; ``OSError``."""
    return all(
        _notify(device, fuseproto.prune(nodes[start : start + _AT_ONCE])) for start in range(0, len(nodes), _AT_ONCE)
    )


def _notify(device: int, message: bytes) -> bool:
    try:
        send(device, message)
    except OSError as exc:
        if exc.errno == errno.EINVAL:
            return False
        raise
    return True
