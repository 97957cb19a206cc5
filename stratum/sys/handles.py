"""File handles: what tells an inode of a file system from every other one that there is, was or will be.

Other than an inode number, a handle is not given out again. They are compared only, never opened, so that no privilege
is needed. A handle is here what ``name_to_handle_at`` writes, ``struct file_handle``: its size, its type, and the file
system's own bytes; fanotify's events have the same (``sys.fanotify``).
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from stratum.sys.syscalls import AT_EMPTY_PATH, libc_call

_AT_HANDLE_FID = 0x200
_MAX_SIZE = 128
_HEAD = struct.Struct("=Ii")
_EMPTY = _HEAD.pack(_MAX_SIZE, 0)


def handle_of(fd: int, name: bytes = b"") -> bytes:
    """The handle of what ``fd`` is open on, which may be O_PATH; with ``name``, of that entry of the directory ``fd``,
    of a symlink itself. ``OSError``."""
    buffer = ctypes.create_string_buffer(_EMPTY, _HEAD.size + _MAX_SIZE)
    mount = ctypes.create_string_buffer(4)
    flags = 0 if name else AT_EMPTY_PATH
    try:
        libc_call("name_to_handle_at", fd, name, buffer, mount, flags | _AT_HANDLE_FID, path=name or None)
    except OSError as exc:
        if exc.errno != errno.EINVAL:
            raise
        # Linux before 6.5, where each handle can be opened, and is the same.
        libc_call("name_to_handle_at", fd, name, buffer, mount, flags, path=name or None)
    (size,) = struct.unpack_from("=I", buffer)
    return buffer.raw[: _HEAD.size + size]


def identity(info: os.stat_result) -> tuple[int, int]:
    """Device and inode number: what tells an inode from all others that there are at this moment."""
    return (info.st_dev, info.st_ino)
