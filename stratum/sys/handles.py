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
from collections.abc import Callable
from functools import cache
from typing import cast

from stratum.sys.syscalls import AT_EMPTY_PATH, libc, raise_errno

_AT_HANDLE_FID = 0x200
_MAX_SIZE = 128
_HEAD = struct.Struct("=Ii")
_EMPTY = _HEAD.pack(_MAX_SIZE, 0)
_Buffer = ctypes.c_char * (_HEAD.size + _MAX_SIZE)
_MOUNT = ctypes.create_string_buffer(4)  # of which nothing is read


def handle_of(fd: int, name: bytes = b"") -> bytes:
    """The handle of what ``fd`` is open on, which may be O_PATH; with ``name``, of that entry of the directory ``fd``,
    of a symlink itself. ``OSError``."""
    buffer = _Buffer()
    buffer.raw = _EMPTY
    flags = 0 if name else AT_EMPTY_PATH
    call = _name_to_handle_at()
    if call(fd, name, buffer, _MOUNT, flags | _AT_HANDLE_FID) == -1:
        code = ctypes.get_errno()
        # Linux before 6.5, where each handle can be opened, and is the same.
        if code != errno.EINVAL or call(fd, name, buffer, _MOUNT, flags) == -1:
            raise_errno(ctypes.get_errno() if code == errno.EINVAL else code, path=name or None)
    found = buffer.raw
    return found[: _HEAD.size + _HEAD.unpack_from(found)[0]]


@cache
def _name_to_handle_at() -> Callable[[int, bytes, object, object, int], int]:
    """The C library's function. It is called for every file that a watcher looks at, so its types are told once."""
    function = libc().name_to_handle_at
    function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int]
    return cast("Callable[[int, bytes, object, object, int], int]", function)


def identity(info: os.stat_result) -> tuple[int, int]:
    """Device and inode number: what tells an inode from all others that there are at this moment."""
    return (info.st_dev, info.st_ino)
