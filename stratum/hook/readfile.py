"""Reading a small file that others may have had their hands on."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, limit: int) -> tuple[os.stat_result, bytes]:
    """What fstat(2) says of ``path`` and its content; a symlink is followed.

    Raises ``OSError``, also for what is not a regular file (a fifo or device never blocks or acts) and for more than
    ``limit`` bytes.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "not a regular file")
        data = bytearray()
        while len(data) <= limit:
            chunk = os.read(fd, limit + 1 - len(data))
            if not chunk:
                return status, bytes(data)
            data += chunk
        raise OSError(errno.EFBIG, f"larger than {limit} bytes")
    finally:
        os.close(fd)
