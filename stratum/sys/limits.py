"""A bound on the memory of this process, for as long as it reads what somebody may have made to take all there is."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager


class MemoryLimitError(Exception):
    """What was done in ``bounded_memory`` wanted more."""


@contextmanager
def bounded_memory(more: int) -> Iterator[None]:
    """For the block, this process may have ``more`` bytes of address space than it has now. ``MemoryLimitError`` where
    that was not enough. The limit is the process's, so other threads have it, too."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm", "rb") as file:
        wanted = int(file.read().split()[0]) * resource.getpagesize() + more
    bounds = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_AS, (min([wanted, *bounds]), hard))
    try:
        yield
    except MemoryError:
        raise MemoryLimitError from None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
