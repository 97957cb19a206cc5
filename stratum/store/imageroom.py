"""The room that images, and the trees that stand in for them, may take: what goes where it is too much.

Nothing is read or removed here, but as the caller says (``store.images``).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from stratum.frozen import frozen

_MARGIN = 20
"""Where the limit is passed, so large a part of it (1 / 20) goes besides."""


@frozen
class Shown:
    """The ``commits`` that mounts show. ``unknown``: there are mounts of the store of which nobody knows what they
    show."""

    commits: Collection[str] = ()
    unknown: bool = False


@frozen
class Room:
    """What images and trees may take, in bytes, and who says what is mounted. ``spare`` is a directory for images where
    the store can only be read."""

    limit: int
    shown: Callable[[], Shown] = Shown
    spare: Path | None = None


@frozen
class Trimmed:
    """What went, or would go: how many images and trees, their bytes on disk, and how many bytes more were to go."""

    count: int = 0
    bytes: int = 0
    short: int = 0


class Entry(NamedTuple):
    """An image, or a tree: when it was last needed (seconds since the epoch), and its bytes on disk."""

    used: float
    disk: int
    commit: str
    is_tree: bool


class Removal(NamedTuple):
    """How it is found whether somebody has the image of a commit open (None: nobody can tell), and how the image, or
    the tree, of a commit is removed."""

    is_in_use: Callable[[str], bool | None]
    drop: Callable[[Entry], object]


def trim(
    entries: list[Entry], limit: int, shown: Shown, removal: Removal, *, older_than: float, dry_run: bool
) -> Trimmed:
    """Have the oldest of ``entries`` go until the rest is within ``limit`` bytes, but for what may be mounted and what
    was needed in the last ``older_than`` seconds. ``StratumError``."""
    over = sum(entry.disk for entry in entries) - limit
    if over <= 0:
        return Trimmed()
    over, now, count, freed = over + limit // _MARGIN, time.time(), 0, 0
    for entry in sorted(entries):
        if freed >= over:
            break
        if entry.commit in shown.commits or abs(now - entry.used) < older_than or _is_held(entry, shown, removal):
            continue
        if not dry_run:
            removal.drop(entry)
        count, freed = count + 1, freed + entry.disk
    return Trimmed(count, freed, max(over - limit // _MARGIN - freed, 0))


def _is_held(entry: Entry, shown: Shown, removal: Removal) -> bool:
    """Whether what is on no record may be mounted. Of a tree nobody can tell."""
    if entry.is_tree:
        return shown.unknown
    used = removal.is_in_use(entry.commit)
    return shown.unknown if used is None else used
