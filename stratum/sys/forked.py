"""For a process that was forked to be something else than its parent: its name, and what it has open."""

from __future__ import annotations

import os
from collections.abc import Collection
from contextlib import suppress

_ARGUMENTS = 48 - 3
"""Where the addresses of a command line begin among the fields of stat that follow the name."""


def call_itself(name: str, line: str = "") -> None:
    """Have lists of processes show this process as ``name``, of 15 bytes at most, and with ``line`` as that command
    line, as much of it as there is room where its own was. Where that is not possible it is done without."""
    with suppress(OSError), open("/proc/self/comm", "w", encoding="ascii") as file:
        file.write(name)
    if not line:
        return
    import ctypes  # most have a name only

    with suppress(OSError, ValueError, IndexError):
        with open("/proc/self/stat", "rb") as stat:
            fields = stat.read().rpartition(b")")[2].split()
        start, end = int(fields[_ARGUMENTS]), int(fields[_ARGUMENTS + 1])
        if 0 < start < end:
            text = os.fsencode(line)[: end - start - 1]
            ctypes.memset(start, 0, end - start)
            ctypes.memmove(start, text, len(text))


def keep_only(descriptors: Collection[int]) -> None:
    """Close all that is open but the standard files and ``descriptors``."""
    for number in map(int, os.listdir("/proc/self/fd")):
        if number > 2 and number not in descriptors:
            with suppress(OSError):
                os.close(number)
