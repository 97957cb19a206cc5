"""How the C library keeps freed memory, and how the kernel gives it.

glibc has an arena a thread, and keeps what large buffers leave behind as long as anything above them is in use. A
server whose threads work on megabytes at a time then has many times of what it needs. A short command is the other way
round: what it gives back it soon asks for again, and each page costs more than to fill it.
"""

from __future__ import annotations

import ctypes
import io

from stratum.sys.syscalls import libc

_M_TRIM_THRESHOLD = -1
_M_MMAP_THRESHOLD = -3
_M_ARENA_MAX = -8
_LARGE = 128 << 10
_KEPT = 8 << 20
_MADV_HUGEPAGE = 14
_PAGE = 4096


def give_back_at_once() -> None:
    """From now on, give memory of large buffers back to the kernel when they are freed. Nothing where the C library has
    no such thing. To be called before there are threads."""
    mallopt = getattr(libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _LARGE)
        mallopt(_M_TRIM_THRESHOLD, _LARGE)


def keep_for_reuse() -> None:
    """From now on, keep the memory of freed buffers of some megabytes, for a process that ends soon. Nothing where the
    C library has no such thing."""
    mallopt = getattr(libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _KEPT)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)


def large_file(size: int) -> io.BytesIO:
    """A file in memory of ``size`` zero bytes, to be written over, in pages as large as the kernel has them to spare:
    it takes memory where something was written."""
    file = io.BytesIO(bytes(size))
    advise = getattr(libc(), "madvise", None)
    if advise is None or not size:
        return file
    with file.getbuffer() as view:
        start = ctypes.addressof(ctypes.c_char.from_buffer(view))
    first, last = -(-start // _PAGE) * _PAGE, (start + size) // _PAGE * _PAGE
    if last > first:  # a kernel that has no large pages says so, which is all the same
        advise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), _MADV_HUGEPAGE)
    return file


def keep_for_next() -> None:
    """From now on, keep the memory of buffers below 4 MiB for the next ones, in one place: for a server that has many
    of them, one after another. Nothing where the C library has no such thing. To be called before there are threads."""
    mallopt = getattr(libc(), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, 4 << 20)
        mallopt(_M_TRIM_THRESHOLD, 32 << 20)
