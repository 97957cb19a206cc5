"""Loop devices: a file as a block device, for kernels whose EROFS cannot mount a file."""

from __future__ import annotations

import errno
import fcntl
import os
import struct

_LOOP_CTL_GET_FREE = 0x4C82
_LOOP_CONFIGURE = 0x4C0A

_LO_FLAGS_READ_ONLY = 1
_LO_FLAGS_AUTOCLEAR = 4

# struct loop_config: fd, block size, struct loop_info64 (of which only lo_flags is set), reserved.
_CONFIG = struct.Struct("=II 40x 12x I 176x 64x")
_TRIES = 64


def attach_read_only(file: int) -> int:
    """A read-only loop device over the open ``file``, as an fd.

    The kernel frees the device when the last user, this fd or a mount, is gone. Raises ``OSError``.
    """
    config = _CONFIG.pack(file, 0, _LO_FLAGS_READ_ONLY | _LO_FLAGS_AUTOCLEAR)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_TRIES):
            device = _open_free(control)
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, config)
            except OSError as exc:
                os.close(device)
                # Somebody else took the device between the question and the answer.
                if exc.errno != errno.EBUSY:
                    raise
                continue
            return device
    finally:
        os.close(control)
    raise OSError(errno.EBUSY, "no loop device stays free long enough to be taken")


def _open_free(control: int) -> int:
    number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
    return os.open(f"/dev/loop{number}", os.O_RDONLY | os.O_CLOEXEC)
