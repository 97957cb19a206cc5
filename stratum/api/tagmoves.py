"""When a verb that makes or fetches a commit may move a tag: where there is none, or with --force, or where the new
commit is the next one of what the tag names and following it is what the verb is for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from stratum.errors import DamagedError, ExistsError
from stratum.frozen import frozen
from stratum.store.reflog import parse_entry

if TYPE_CHECKING:
    from stratum.store import Store

_LOOKED_AT = 20
"""Lines of a reflog."""


@frozen
class TagMove:
    """The tag NAME:TAG that a verb is to set, and the commit that it names so far (None: none, or with ``force`` one
    that cannot be read)."""

    name: str
    tag: str
    previous: str | None
    force: bool

    def __str__(self) -> str:
        return f"{self.name}:{self.tag}"

    def check(self, commit: str | None, *, follows: bool = False) -> None:
        """``ExistsError`` where the tag names another commit than ``commit`` (None: one that it cannot name yet) and
        does not move: without ``force``, and where ``commit`` does not follow upon what it names."""
        if self.force or follows or self.previous in (None, commit):
            return
        raise ExistsError(
            f"the tag {self} exists already and names commit {self.previous}",
            hint=f"use another tag, or --force to move this one; 'stratum show {self}' shows what it names",
        )

    def set(self, store: Store, commit: str, why: str) -> None:
        """Let the tag name ``commit``; ``ConflictError`` where somebody else moved it meanwhile, unless ``force``."""
        if self.force:
            store.tags.set(self.name, self.tag, commit, force=True, why=why)
        else:
            store.tags.set(self.name, self.tag, commit, expected=self.previous, why=why)


def relative(store: Store, move: TagMove) -> str | None:
    """The commit whose tree is probably most like the one that the tag is to name: the one that it names, or that the
    stratum was last given, as far as it is here."""
    if move.previous is not None:
        return move.previous
    entries = map(parse_entry, reversed(store.reflog.lines(move.name)[-_LOOKED_AT:]))
    told = (entry.new for entry in entries if entry is not None and entry.new is not None)
    return next(filter(store.commits.exists, told), None)


def tag_move(store: Store, name: str, tag: str, *, force: bool) -> TagMove:
    """The move of NAME:TAG. ``DamagedError`` where it cannot be read, without ``force``."""
    try:
        previous = store.tags.find(name, tag)
    except DamagedError:
        if not force:
            raise
        previous = None
    return TagMove(name, tag, previous, force)
