"""Files of an upperdir that an earlier commit stored, and that are not read again as they did not change since.

A mounted worktree keeps everything that was ever written to it in its upperdir, so each commit finds the files of
those before it. What was stored of those whose content is an object is remembered in a cache of ``ingest.statcache``,
one for each worktree, and trusted by its rule: the inode and its change time are what they were.

A worktree is in use while it is read, and a change time alone would not do then: write(2) sets it once and may go on
copying for long, and so may a process that writes through a shared mapping. So a file is only remembered where, after
it was found unchanged for a while and before it is read, nobody had it open for writing or mapped writably; whoever
writes to it after that, sets its change time anew. The kernel tells by granting a read lease (fcntl(2)), which is given
back at once. Only file systems on a block device are trusted with this: tmpfs does not set the change time for writes
through a mapping.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.ingest.reader import Pending
from stratum.ingest.staging import Signature, signature
from stratum.ingest.upperdir import ContentReader
from stratum.store.objects import Objects
from stratum.sys.leases import nobody_writes
from stratum.tree.model import INLINE_MAX, File

if TYPE_CHECKING:
    from stratum.ingest.statcache import StatCache

REMEMBERED_MIN = INLINE_MAX + 1
REMEMBERED_MAX = 200_000
"""Of more files than that only the large ones are remembered: the cache is read whole."""
LARGE_MIN = 1 << 20


class RememberingReader:
    """A content reader that leaves to ``reader`` what is not known."""

    def __init__(self, reader: ContentReader, objects: Objects, upperdir: Path) -> None:
        self._reader = reader
        self._objects = objects
        self._upperdir = upperdir
        self._known: list[tuple[Signature, File]] = []
        self._read: list[tuple[Signature, File]] = []

    @cached_property
    def _cache(self) -> StatCache:
        from stratum.ingest.statcache import StatCache

        source = b"upperdir:" + os.fsencode(self._upperdir.resolve())
        return StatCache.load(self._objects, source)

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        """Take files to be read, as ``read_upperdir`` hands them over: open, as ``directory``."""
        for file in files:
            if file.info.st_size >= REMEMBERED_MIN and self._take(directory, file):
                continue
            self._reader.read(directory, path, [file])

    def _take(self, fd: int, file: Pending) -> bool:
        """Whether the content of the file is known; if not, whether it can be remembered is noted."""
        found = self._cache.find(file.info)
        if found is not None and found[1] is not None:
            file.node.digest, file.node.size = found[1], file.info.st_size
            self._known.append((signature(file.info), file.node))
            return True
        if is_at_rest(fd, file.info):
            self._read.append((signature(file.info), file.node))
        return False

    def finish(self) -> None:
        """Wait until everything is read."""
        self._reader.finish()

    def remember(self, unlike_listed: Collection[int]) -> None:
        """Keep what is known now for the next commit, but for the nodes whose ``id`` is in ``unlike_listed``."""
        entries = self._known + [
            (key, node) for key, node in self._read if id(node) not in unlike_listed and node.size == key[2]
        ]
        if len(entries) > REMEMBERED_MAX:
            entries = [(key, node) for key, node in entries if node.size >= LARGE_MIN]
        if not entries:
            return
        if len(entries) == len(self._known) == len(self._cache):
            self._cache.touch()
        else:
            self._cache.save((key, ((), node.digest, None)) for key, node in entries)


def is_at_rest(fd: int, info: os.stat_result) -> bool:
    """Whether every later change of the open file, which was found as ``info``, will be seen in its change time."""
    from stratum.ingest.statcache import tells_changes

    if os.major(info.st_dev) == 0 or not nobody_writes(fd):
        return False
    now = time.time_ns()
    return signature(os.fstat(fd)) == signature(info) and tells_changes(info.st_ctime_ns, now)
