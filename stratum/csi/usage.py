"""How much a worktree holds beyond its base commit, and may hold."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from stratum.errors import StratumError, os_error_text
from stratum.store import Store
from stratum.store.worktree import Worktree

_BLOCK = 512


@dataclass(frozen=True, slots=True)
class Used:
    """What a worktree takes on the disk beyond its base, and the bytes that it may take; 0 where nothing limits it."""

    bytes: int
    inodes: int
    limit: int = 0


def usage_of(store: Store, worktree: Worktree) -> Used:
    """What a worktree takes: what the store's file system keeps count of, if it does, which costs the same however
    much there is; else all of it is looked at."""
    quota = store.worktrees.quotas.usage(worktree.workdir) if worktree.limit is not None else None
    if quota is not None:
        return Used(quota.bytes, quota.inodes, quota.limit)
    return Used(*upperdir_usage(worktree.upperdir))


def upperdir_usage(upperdir: Path) -> tuple[int, int]:
    """(bytes on disk, inodes) below the directory ``upperdir``; a file with several names counts once."""
    seen: set[tuple[int, int]] = set()
    size = count = 0
    stack = [upperdir]
    while stack:
        try:
            with os.scandir(stack.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    if info.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if (info.st_dev, info.st_ino) in seen:
                            continue
                        seen.add((info.st_dev, info.st_ino))
                    size += info.st_blocks * _BLOCK
                    count += 1
                    if entry.is_dir(follow_symlinks=False):
                        stack.append(Path(entry.path))
        except FileNotFoundError:
            continue  # in use: what was there a moment ago need not be now
        except OSError as exc:
            raise StratumError(f"cannot read {upperdir}: {os_error_text(exc)}") from None
    return size, count
