"""What a watcher that was killed had taken, taken over by the next one (``history.pending``)."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError
from stratum.history.pending import NOTES, READING, Left, left_in
from stratum.history.versions import Taken
from stratum.store.objects import Staging
from stratum.store.salvage import take_object
from stratum.tree.model import File
from stratum.tree.oplog import inode_of

if TYPE_CHECKING:
    from stratum.history.publishing import Publisher
    from stratum.history.watched import Watched
    from stratum.store import Store

_LOOKED_AT = 5000
"""Records at the end of a log among which one that is there already is looked for."""
KILLED = "who recorded was killed while reading what was closed"


def adopt(store: Store, publisher: Publisher, watched: Mapping[str, Watched], is_kept: Callable[[str], bool]) -> None:
    """Take over the versions that killed watchers left, of worktrees that are watched. Where one of them may have had
    more, a gap is told of those that are kept otherwise (``is_kept``)."""
    for directory in publisher.left:
        versions, was_reading = left_in(directory)
        told = {ref: _told(store, ref) for ref in {left.ref for left in versions} & watched.keys()}
        for left in versions:
            if left.ref in told and (left.hint, _content(left)) not in told[left.ref]:
                _take(store, publisher.staging, watched[left.ref], left, directory)
        if was_reading:
            for ref in filter(is_kept, watched):
                watched[ref].lose(KILLED)
        for name in (NOTES, READING):  # they are noted anew
            with suppress(OSError):
                os.unlink(directory / name)
    publisher.left.clear()


def _take(store: Store, staging: Staging, watched: Watched, left: Left, directory: Path) -> None:
    digest, size = left.captured.digest, left.captured.size
    if digest is not None and not store.objects.has(digest, size):
        try:
            there = take_object(
                [str(directory / "objects" / Staging.name(digest))], digest, size, staging.place(digest)
            )
        except OSError:
            there = False
        if not there and not os.path.lexists(staging.path(digest)):
            return
    watched.take(Taken(left.captured, left.when, left.handle, left.hint, left.mode, left.actor))


def _told(store: Store, ref: str) -> set[tuple[bytes | None, object]]:
    """The paths and contents of the last records of a log."""
    found: set[tuple[bytes | None, object]] = set()
    try:
        for number, record in enumerate(store.histories.newest(*ref.split("+", 1))):
            if number >= _LOOKED_AT:
                break
            inode = inode_of(record.entry) if record.entry is not None else None
            if isinstance(inode, File):
                found.add((record.path, (inode.mtime, inode.size, inode.digest, inode.content)))
    except StratumError:  # whoever reads the log tells what is wrong with it
        return found
    return found


def _content(left: Left) -> object:
    captured = left.captured
    return captured.signature[3], captured.size, captured.digest, captured.content
