"""What lstat(2) says of many files, as bytes that are compared at once: no object is made for each of them.

Of each file there are link count, owner, group, mode, inode number, size, change time, modification time and device:
all that says that it is still the same, and nothing that reading it changes. Of many files there are first all link
counts and owners, then all groups and modes, and so on. Whoever has the answers of lstat in the form of Python gets the
same bytes from them (``row``, ``columns``); they mean something on this machine only.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from itertools import repeat

from stratum.sys.syscalls import AT_SYMLINK_NOFOLLOW, libc, raise_errno

_STATX_BASIC_STATS = 0x7FF
_AT_NO_AUTOMOUNT = 0x800
_STATX_WORDS = 32
_WORD = 8
_WORDS = (2, 3, 4, 5, 12, 13, 14, 15, 17)
"""Of struct statx: nlink and uid, gid and mode, ino, size, ctime (two), mtime (two), device number."""
_ROW = struct.Struct("=IIIHHQQqIIqII8s")
_DEVICE = struct.Struct("=II")
_SECOND = 1_000_000_000

ROW_SIZE = _ROW.size
"""Bytes of one file."""


class ManyStat:
    """lstat(2) of at most ``most`` files at a time, named from the open ``directory``."""

    def __init__(self, directory: int, most: int) -> None:
        self._directory = directory
        self._most = most
        self._buffer = bytearray(_STATX_WORDS * _WORD * most)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._buffer))
        self._words = memoryview(self._buffer).cast("Q")
        self._statx = libc()["statx"]  # one of its own, with types that spare a conversion for each argument
        self._statx.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_uint, ctypes.c_void_p]

    def columns(self, paths: Sequence[bytes]) -> bytes:
        """Of the files at ``paths``, none of which has a NUL. ``OSError`` where one cannot be looked at."""
        if len(paths) > self._most:
            raise ValueError(f"{len(paths)} files are more than {self._most}")
        flags = repeat(AT_SYMLINK_NOFOLLOW | _AT_NO_AUTOMOUNT)
        places = range(self._address, self._address + len(self._buffer), _STATX_WORDS * _WORD)
        if any(map(self._statx, repeat(self._directory), paths, flags, repeat(_STATX_BASIC_STATS), places)):
            code = ctypes.get_errno()
            for path in paths:  # which it was
                os.stat(path, dir_fd=self._directory, follow_symlinks=False)
            raise_errno(code)
        end = len(paths) * _STATX_WORDS
        return b"".join([self._words[word:end:_STATX_WORDS].tobytes() for word in _WORDS])

    def look(self, paths: Sequence[bytes]) -> tuple[list[int], list[int], list[int]]:
        """The sizes, modes (with the type) and link counts of the same files."""
        count, data = len(paths), memoryview(self.columns(paths))
        return (
            data.cast("Q")[3 * count : 4 * count].tolist(),
            data.cast("H")[4 * count + 2 : 8 * count : 4].tolist(),
            data.cast("I")[: 2 * count : 2].tolist(),
        )


def row(info: os.stat_result, device: bytes) -> bytes:
    """Of one file, whose device number is ``device`` (``device_of``)."""
    changed, modified = info.st_ctime_ns, info.st_mtime_ns
    return _ROW.pack(
        info.st_nlink,
        info.st_uid,
        info.st_gid,
        info.st_mode,
        0,
        info.st_ino,
        info.st_size,
        changed // _SECOND,
        changed % _SECOND,
        0,
        modified // _SECOND,
        modified % _SECOND,
        0,
        device,
    )


def device_of(number: int) -> bytes:
    """The device ``number``, as ``row`` takes it."""
    return _DEVICE.pack(os.major(number), os.minor(number))


def columns(rows: bytes | bytearray | memoryview) -> bytes:
    """Of many files, given one after the other: what ``ManyStat.columns`` says of them."""
    with memoryview(rows).cast("B").cast("Q") as words:
        return b"".join([words[number :: len(_WORDS)].tobytes() for number in range(len(_WORDS))])
