"""A glance at an upperdir: whether anything was written there since, and whether anything was removed or renamed. No
file is opened, so it is a hint: what a worktree shows is found by those who commit it."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from stratum.frozen import frozen
from stratum.ingest.upperentry import is_whiteout


@frozen
class Glance:
    """What was seen: path -> what tells of a change of it (None: a deleted name)."""

    entries: dict[str, tuple[int, ...] | None]

    def removed_since(self, before: Glance) -> bool:
        """Whether a name went, or was deleted, that was there before; so it is with a rename."""
        gone = before.entries.keys() - self.entries.keys()
        deleted = {path for path, told in self.entries.items() if told is None}
        known = {path for path, told in before.entries.items() if told is None}
        return bool(gone) or not deleted <= known


def glance(upperdir: Path) -> Glance:
    """Look at the names, times and sizes in ``upperdir``; what goes just now is left out."""
    entries: dict[str, tuple[int, ...] | None] = {}
    waiting = [os.fspath(upperdir)]
    while waiting:
        directory = waiting.pop()
        try:
            with os.scandir(directory) as found:
                for entry in found:
                    info = entry.stat(follow_symlinks=False)
                    told = (info.st_ino, info.st_mode, info.st_uid, info.st_gid, info.st_size, info.st_mtime_ns)
                    is_directory = stat.S_ISDIR(info.st_mode)
                    # The times of a directory tell no more than its names do.
                    entries[entry.path] = None if is_whiteout(info) else told[:4] if is_directory else told
                    if is_directory:
                        waiting.append(entry.path)
        except OSError:
            continue
    return Glance(entries)
