"""What of a file is in the page cache, by cachestat(2), which Linux has since 6.5."""

from __future__ import annotations

import ctypes
import os
import struct

from stratum.sys.syscalls import raw_call

_NR_CACHESTAT = 451
_RANGE = struct.pack("=QQ", 0, 0)
"""From the beginning, as far as the file goes."""
_ANSWER = struct.Struct("=5Q")


def resident_pages(path: str | bytes | os.PathLike[str]) -> int | None:
    """How many pages of the file are in the page cache; None where the kernel does not tell. Raises ``OSError``."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    answer = ctypes.create_string_buffer(_ANSWER.size)
    try:
        raw_call(_NR_CACHESTAT, fd, _RANGE, answer, 0)
    except OSError:
        return None
    finally:
        os.close(fd)
    pages: int = _ANSWER.unpack(answer.raw)[0]
    return pages
