"""What is known of file systems by their kind."""

from __future__ import annotations

import ctypes
import struct

from stratum.sys.syscalls import libc_call

_KEEP_TIMES = frozenset((0xEF53, 0x58465342, 0x9123683E, 0x01021994, 0xF2F52010, 0x2FC12FC1, 0xCA451A4E))
"""ext4 and its like, XFS, Btrfs, tmpfs, F2FS, ZFS, bcachefs."""
_STATFS_SIZE = 256


def keeps_times(fd: int) -> bool:
    """Whether, where ``fd`` is, each name that comes into or leaves a directory changes its time, whoever does it.

    What shows files of elsewhere may tell that late, or never.
    """
    buffer = ctypes.create_string_buffer(_STATFS_SIZE)
    libc_call("fstatfs", fd, buffer)
    (kind,) = struct.unpack_from("=I", buffer)
    return kind in _KEEP_TIMES
