"""How much address space threads take, for programs that have many of them."""

from __future__ import annotations

import threading
from contextlib import suppress

STACK_SIZE = 1 << 20
"""Bytes. The default is that of ``ulimit -s``, mostly 8 MiB, of which nothing here uses more than a fraction."""
_ARENAS = 4
_M_ARENA_MAX = -8


def use_little_address_space() -> None:
    """Have threads that are started from now on map little: small stacks, and few arenas of the C library's malloc,
    of which it would take 64 MiB for each of up to eight a processor. To be called before the first thread."""
    from stratum.sys.syscalls import libc

    threading.stack_size(STACK_SIZE)
    with suppress(AttributeError):  # other C libraries have no mallopt, and no arenas
        libc().mallopt(_M_ARENA_MAX, _ARENAS)
