"""What history leaves to those who write: it never is why a disk is full."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from stratum.store.layout import Layout

RESERVE_PERCENT = 5
RESERVE = 1 << 30
"""Bytes. Below this or ``RESERVE_PERCENT`` of free space, whichever is more, no contents are kept."""
SMALL_DISK_PERCENT = 10
"""Of a small file system, this is what ``RESERVE`` takes at most."""
_LOOKED = 0.5


class Space:
    """Whether a store has room for contents, looked at twice a second at most. ``changed`` is told of a change."""

    def __init__(self, layout: Layout, changed: Callable[[bool], None]) -> None:
        self._layout = layout
        self._changed = changed
        self._looked = -_LOOKED
        self._enough = True

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._looked >= _LOOKED:
            self._looked = now
            enough = has_space(self._layout)
            if enough is not self._enough:
                self._enough = enough
                self._changed(enough)
        return self._enough


def has_space(layout: Layout) -> bool:
    """Whether more is free than the reserve that history leaves to those who write."""
    try:
        disk = os.statvfs(layout.root)
    except OSError:
        return False
    size, free = disk.f_blocks * disk.f_frsize, disk.f_bavail * disk.f_frsize
    reserve = max(size * RESERVE_PERCENT // 100, min(RESERVE, size * SMALL_DISK_PERCENT // 100))
    return free >= reserve
