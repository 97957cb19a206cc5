"""How much room files take on disk."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path


def disk_usage(path: Path) -> int:
    """Bytes on disk of a file, or of a directory and all below it; 0 for what is gone."""
    try:
        info = path.lstat()
    except OSError:
        return 0
    total = info.st_blocks * 512
    if stat.S_ISDIR(info.st_mode):
        for directory, names, files in os.walk(path):
            for name in (*names, *files):
                with suppress(OSError):
                    total += os.lstat(os.path.join(directory, name)).st_blocks * 512
    return total
