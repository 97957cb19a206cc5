"""Directories that came since the last batch: the kernel is to tell of them at once, not when that next finds them.

Between the making of a directory and its mark nothing is told of it. That is as short as this can make it: when its
making is heard of, it is marked, and what is in it already is looked at, directory by directory. Files that were closed
before are taken now, so that only a version is missed that was replaced within this time.

Who makes a flood of directories, as an unpacking archive does, writes to each for a moment and never again. There each
is left alone for that moment: the kernel has nothing to tell of files that are looked at anyway, and the writer nothing
to pay for it.
"""

from __future__ import annotations

import os
import stat
import time
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from stratum.history.dirt import NewDirectory
from stratum.history.versions import Closed
from stratum.sys.handles import handle_of
from stratum.sys.syscalls import fd_path

if TYPE_CHECKING:
    from stratum.history.dirt import AnyDirectory
    from stratum.history.epoch import Common, Epoch
    from stratum.history.watched import Watched

ENTRIES_MAX = 2000
"""So many entries are looked at when one directory is heard of; the next batch looks at all."""
FLOOD = 16
"""So many directories may come at once before it is a flood,"""
FLOOD_RATE = 100
"""and so many a second."""
ALONE = 0.004
"""Seconds for which a directory is left alone in a flood."""
_LIST = os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOATIME | os.O_CLOEXEC


class Arrival(NamedTuple):
    """A directory that was heard of: ``name`` in ``directory`` of an upperdir, with its handle."""

    epoch: Epoch
    directory: AnyDirectory
    name: bytes
    handle: bytes


class Arrivals:
    """Those that are left alone for a moment. A batch that is made meanwhile finds them as any other."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[float, Arrival]] = deque()
        self._left = float(FLOOD)
        self._seen = 0.0

    def wait(self, arrival: Arrival) -> bool:
        """Whether it is one of a flood, and is to be welcomed later (``due``)."""
        now = time.monotonic()
        self._left = min(FLOOD, self._left + (now - self._seen) * FLOOD_RATE)
        self._seen = now
        if self._left >= 1:
            self._left -= 1
            return False
        self._waiting.append((now + ALONE, arrival))
        return True

    def due(self) -> list[Arrival]:
        """Those whose moment is over."""
        now, found = time.monotonic(), []
        while self._waiting and self._waiting[0][0] <= now:
            found.append(self._waiting.popleft()[1])
        return found

    @property
    def next_due(self) -> float | None:
        """When the first of them is due (``time.monotonic``)."""
        return self._waiting[0][0] if self._waiting else None


def welcome(common: Common, watched: Watched, arrival: Arrival) -> None:
    """Have the kernel tell of a directory, if it is still there, and of those in it; take what files in them hold.
    Raises ``StratumError`` where a directory cannot be marked; what is gone is passed over."""
    epoch = arrival.epoch
    todo: list[tuple[AnyDirectory, bytes, bytes | None]] = [(arrival.directory, arrival.name, arrival.handle)]
    left = ENTRIES_MAX
    while todo and left > 0:
        parent, name, wanted = todo.pop()
        path = parent.path().rstrip(b"/") + b"/" + name
        if watched.excluding.covers(path):
            continue
        with suppress(OSError):
            directory = NewDirectory(parent, name)
            fd = _marked(common, epoch, directory, path, wanted)
            if fd is None:
                continue
            try:
                left -= _look_into(watched, fd, directory, todo, left)
            finally:
                os.close(fd)


def _marked(common: Common, epoch: Epoch, directory: NewDirectory, path: bytes, wanted: bytes | None) -> int | None:
    """The directory, open to be listed, with a mark; None where it is known already, or another one. ``OSError``."""
    entry = epoch.open_entry(path)
    try:
        handle = handle_of(entry)
        if handle in common.directories or (wanted is not None and handle != wanted):
            return None
        if not stat.S_ISDIR(os.fstat(entry).st_mode):
            return None
        epoch.mark(handle, directory, entry)
        return os.open(fd_path(entry), _LIST)
    finally:
        os.close(entry)


def _look_into(
    watched: Watched, fd: int, directory: NewDirectory, todo: list[tuple[AnyDirectory, bytes, bytes | None]], most: int
) -> int:
    """Take files, and note directories for later; how many entries were looked at."""
    count = 0
    with os.scandir(fd) as entries:
        for entry in entries:
            count += 1
            if count > most:
                break
            name = os.fsencode(entry.name)
            if entry.is_dir(follow_symlinks=False):
                todo.append((directory, name, None))
            elif entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    _take(watched, fd, directory, name)
    return count


def _take(watched: Watched, directory: int, place: NewDirectory, name: bytes) -> None:
    fd = os.open(name, _READ, dir_fd=directory)
    keep = False
    try:
        info = os.fstat(fd)
        if stat.S_ISREG(info.st_mode) and info.st_size:
            hint = place.path().rstrip(b"/") + b"/" + name
            handle = handle_of(fd)
            watched.remember(handle, place, name)
            keep = watched.closed(Closed(fd, info, handle, hint, (place, name), None))
    finally:
        if not keep:
            os.close(fd)
