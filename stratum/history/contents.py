"""Contents of the files of one watched worktree: taken when they were closed, or read where none was taken.

A file that somebody has open for writing has no content yet: it keeps that of its last close, or, where it was empty,
is one whose content is not known, until it is closed. The same goes for a large file that is closed again and again
(``history.versions``).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from stratum.history.capture import Captured, Capturer
from stratum.history.excluding import Excluding
from stratum.history.largefiles import LargeFiles
from stratum.history.versions import CLOCK_STEP, Key, Taken, Versions, is_as_taken
from stratum.ingest.staging import open_source
from stratum.sys.handles import handle_of, identity
from stratum.sys.syscalls import fd_path
from stratum.tree.model import Directory, File, lookup

_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC

Content = tuple[int, "bytes | None", "bytes | None"]
"""Size, digest and inline content, as in ``tree.model.File``."""


class Contents:
    """What ``ingest.upperstate`` asks for contents."""

    def __init__(
        self,
        capturer: Capturer,
        max_file: int,
        excluding: Excluding,
        versions: Versions,
        large: LargeFiles,
        breathe: Callable[[], None],
    ) -> None:
        self._capturer = capturer
        self._max_file = max_file
        self._excluding = excluding
        self._versions = versions
        self._large = large
        self._breathe = breathe
        self._recorded: Directory | None = None
        self._recorded_at = 0
        self.unsettled: set[Key] = set()
        """Files whose content was not to be had when it was looked for: most are open for writing."""
        self.why: dict[bytes, str] = {}
        """Why the content of a path is not known."""
        self.newest = 0
        """When anything changed last, of all that was looked at (ns)."""

    def use(self, max_file: int, excluding: Excluding) -> None:
        """From now on, take contents of files up to ``max_file`` bytes that are not excluded."""
        self._max_file, self._excluding = max_file, excluding

    def trust(self, recorded: Directory | None, at: int) -> None:
        """Take a file to be the one that ``recorded`` has at its path, where it looks like it and was not changed after
        ``at`` (ns)."""
        self._recorded, self._recorded_at = recorded, at - CLOCK_STEP

    def content(self, fd: int, info: os.stat_result, path: bytes, before: File | None) -> Content:
        """The content of the file ``path``, open as ``fd`` (O_PATH); ``before`` is what was there the last time."""
        self._breathe()
        self.newest = max(self.newest, info.st_ctime_ns)
        key = identity(info)
        self.unsettled.discard(key)
        if self._excluding.covers(path):
            return info.st_size, None, None
        known = self._versions.latest.get(key)
        if known is not None and is_as_taken(known, info, handle_of(fd)):
            return self._of(known.captured, path)
        if (trusted := self._trusted(info, path)) is not None:
            return trusted.size, trusted.digest, trusted.content
        captured = None if self._versions.waits(key) or self._large.waits(key) else self._captured(fd, info, path)
        if captured is not None:
            return self._of(captured, path)
        self.unsettled.add(key)
        if known is not None and known.handle == handle_of(fd):
            return self._of(known.captured, path)
        if before is not None and before.size:  # one that is empty may just have been made, and was never closed
            return before.size, before.digest, before.content
        self.why[path] = "open"
        return info.st_size, None, None

    def _of(self, captured: Captured, path: bytes) -> Content:
        if captured.unknown is not None:
            self.why[path] = captured.unknown
        return captured.size, captured.digest, captured.content

    def _trusted(self, info: os.stat_result, path: bytes) -> File | None:
        if self._recorded is None or info.st_ctime_ns >= self._recorded_at:
            return None
        found = lookup(self._recorded, path)
        if not isinstance(found, File) or (found.size, found.mtime) != (info.st_size, info.st_mtime_ns):
            return None
        return found if found.digest is not None or found.content is not None else None

    def _captured(self, fd: int, info: os.stat_result, path: bytes) -> Captured | None:
        """The content as it is now; None where there is no whole one to be had."""
        try:
            source = open_source(fd_path(fd), _READ)
        except OSError:
            self.why[path] = "unreadable"
            return None
        try:
            captured = self._capturer.capture(source, max_file=self._max_file)
        finally:
            os.close(source)
        if captured is not None:
            self._versions.add(Taken(captured, time.time_ns(), handle_of(fd), path, info.st_mode, None, found=True))
        return captured
