"""Whether anybody may hold a worktree, told at a glance: each end of a container asks, and hardly ever is there one."""

from __future__ import annotations

import os
from pathlib import Path


def has_leases(root: Path) -> bool:
    """Whether a worktree of the store at ``root`` may have a lease, found out without opening the store: False only
    where all that could have one was looked at, and has none."""
    try:
        for name in os.listdir(root / "refs"):
            worktrees = f"{root}/refs/{name}/worktrees"
            for worktree in _names_in(worktrees):
                if _may_be_there(f"{worktrees}/{worktree}/lease.toml"):
                    return True
    except OSError:
        return True
    return False


def _names_in(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):  # a lock beside the strata, or a stratum that is removed now
        return []


def _may_be_there(path: str) -> bool:
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True
