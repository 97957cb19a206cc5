"""What a shell's prompt shows of the worktree that one is in: looked at for a moment, and never longer."""

from __future__ import annotations

import os
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from stratum.errors import StratumError
from stratum.frozen import frozen
from stratum.refs import parse_ref

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store import Store
    from stratum.store.worktree import Worktree

LOOKED_AT = 2000
"""Entries of an upperdir that are looked at."""
_TAGS = 500
"""Tags that are looked at."""


@frozen
class Prompt:
    """What is mounted: its ``ref`` as it was mounted, and what could be found out, else None.

    ``commit`` is the worktree's last commit, or the mounted one, ``tag`` a tag that names it. ``dirty``: a worktree
    shows what is not committed, as far as a short look tells; None also where there is too much to look at. ``history``
    is "on" while somebody watches, "gap" where nobody does, and None where none is kept. ``partial``: not all of its
    base is here.
    """

    ref: str
    commit: str | None = None
    tag: str | None = None
    dirty: bool | None = None
    history: Literal["on", "gap"] | None = None
    partial: bool | None = None
    read_only: bool | None = None


def prompt(session: Session, path: str = ".") -> Prompt | None:
    """What is mounted at ``path``, or where it is in; None where that is nothing of Stratum's. Whose store cannot be
    read is told of by its ref alone. Nothing is locked or written. Never raises for what it finds."""
    from stratum.mount.record import mount_at

    found = mount_at(path)
    if found is None:
        return None
    number, ref = found
    try:
        record = session.state.peek(number)
        if record is None:
            return Prompt(ref)
        from stratum.store import Store

        store = Store.open(Path(record.store))
        if record.is_worktree:
            parsed = parse_ref(record.ref)
            tree = store.worktrees.get(parsed.name, parsed.worktree or "")
            return _worktree(store, tree, record.read_only)
        partial, tag = store.sources.is_partial(record.commit), parse_ref(record.ref).tag
        return Prompt(record.ref, record.commit, tag, partial=partial, read_only=True)
    except (StratumError, OSError):
        return Prompt(ref)


def _worktree(store: Store, tree: Worktree, read_only: bool) -> Prompt:
    return Prompt(
        str(tree),
        tree.commit,
        _tag(store, tree),
        is_dirty(store, tree),
        _history(store, tree),
        store.sources.is_partial(tree.base_commit),
        read_only,
    )


def _tag(store: Store, tree: Worktree) -> str | None:
    """A tag that names the worktree's last commit; any other rather than ``latest``."""
    names = islice(store.tags.names(tree.name), _TAGS)
    found = [tag for tag in names if store.tags.find(tree.name, tag) == tree.commit]
    return min(found, key=lambda tag: (tag == "latest", tag), default=None)


def is_dirty(store: Store, tree: Worktree) -> bool | None:
    """Whether the worktree shows what is in no commit. Where its last commit was made while it was mounted, what is
    newer than that is not in it; what was written while that was made may be missed."""
    if tree.commit == tree.base_commit:
        return not store.worktrees.is_untouched(tree)
    from stratum.sys.dirstack import OPEN_DIRECTORY
    from stratum.sys.usage import below

    committed = (tree.directory / "meta.toml").lstat().st_mtime_ns
    root = os.open(tree.upperdir, OPEN_DIRECTORY)
    if os.fstat(root).st_mtime_ns > committed:  # a mount changes its attributes, and with them st_ctime
        os.close(root)
        return True
    looked = 0
    for info in below(root, LOOKED_AT):
        looked += 1
        if info.st_ctime_ns > committed:
            return True
    return None if looked == LOOKED_AT else False


def _history(store: Store, tree: Worktree) -> Literal["on", "gap"] | None:
    if store.histories.settings(tree.name, tree.worktree) is None:
        return None
    return "on" if store.histories.is_written() else "gap"
