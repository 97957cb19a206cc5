"""The verbs that read, on the stratum ``app`` with the tags ``v1`` and ``v2`` and the worktree ``dev``."""

from __future__ import annotations

READING: tuple[tuple[str, ...], ...] = (
    ("status",),
    ("list",),
    ("list", "app"),
    ("worktree", "list"),
    ("show", "app:v1"),
    ("show", "app+dev"),
    ("log", "app:v2"),
    ("log", "--reflog", "app"),
    ("diff", "app:v1", "app:v2"),
    ("diff", "app+dev"),
    ("verify", "app:v1"),
    ("gc", "-n"),
)
