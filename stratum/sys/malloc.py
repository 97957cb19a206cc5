"""How the C library keeps freed memory, for processes that live long and must stay small.

glibc has an arena a thread, and keeps what large buffers leave behind as long as anything above them is in use. A
server whose threads work on megabytes at a time then has many times of what it needs.
"""

from __future__ import annotations

from stratum.sys.syscalls import libc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 128 << 10


def give_back_at_once() -> None:
    """From now on, give memory of large buffers back to the kernel when they are freed. Nothing where the C library has
    no such thing. To be called before there are threads."""
    mallopt = getattr(libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)
