"""Where commits come from: their ancestors, as far as anybody told.

A commit's metadata name its parent. Where the store lacks that one, because the commit was pulled without it or the
parent was collected, ``commits/<hash>.ancestors`` goes on, written by the pull or by the collection::

    stratum-ancestors 1
    HASH                  the nearest first, at most ``ANCESTORS_MAX`` lines
    end                   where the last one has no parent
    check HEX             SHA-256 of everything before this line

All of this is what the first writers said and proves nothing. Equal trees are one commit, so a commit can have several
histories, and even be its own ancestor (``store.lineage``). What is listed are ancestors of the one commit; their order
says only which are nearer.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Protocol

from stratum.errors import DamagedError
from stratum.frozen import frozen
from stratum.hashes import sha256
from stratum.store.layout import ANCESTORS
from stratum.store.lineage import ANCESTORS_MAX, Lineages, Recorded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stratum.store.commits import Commits
    from stratum.store.layout import Layout
    from stratum.store.transaction import Transaction

_HEAD = b"stratum-ancestors 1\n"
_FORM = re.compile(rb"(?:[0-9a-f]{64}\n){1,%d}(?:end\n)?" % ANCESTORS_MAX)
_CHECK = b"check "
_MANY = 256
"""So many looks for files take as long as a list of a thousand."""
_FILE_MAX = 128 << 10
NOTHING = Recorded()


class HasCommits(Protocol):
    """A store, or what has a store's commits."""

    layout: Layout

    @property
    def commits(self) -> Commits:
        """The commits."""


@frozen
class Step:
    """A commit of a line of descent. ``missing`` are the ancestors, nearest first, that come next and are not in this
    store, as they were collected or never pulled. ``is_last``: no other commit of the line is here, and what is beyond
    the last of ``missing`` is not known."""

    commit: str
    missing: tuple[str, ...]
    is_last: bool


def write_ancestors(recorded: Recorded) -> bytes:
    """The file ``ancestors``."""
    lines = [*recorded.ancestors, *(["end"] if recorded.whole else [])]
    body = _HEAD + "".join(f"{line}\n" for line in lines).encode()
    return body + _CHECK + sha256(body).hexdigest().encode() + b"\n"


def read_ancestors(data: bytes, where: str) -> Recorded:
    """What such a file says; ``DamagedError`` names ``where``."""
    body, check, rest = data.rpartition(_CHECK)
    form = body.removeprefix(_HEAD)
    if not check or rest != sha256(body).hexdigest().encode() + b"\n" or form == body or not _FORM.fullmatch(form):
        raise DamagedError(f"{where} is damaged", hint="run 'stratum fsck --repair'")
    *lines, last = form.decode().split()
    return Recorded(tuple(lines), True) if last == "end" else Recorded((*lines, last))


class Ancestry(Lineages):
    """The ancestors of the commits of one store, each read once. For one verb: it sees no later change."""

    def __init__(self, store: HasCommits) -> None:
        self._store = store
        self._steps: dict[str, Recorded] = {}
        self._asked = 0
        self._files: set[str] = set()

    def has(self, commit: str) -> bool:
        return commit in self._files if self._is_listed() else self._store.commits.exists(commit)

    def _is_listed(self) -> bool:
        """Whether it is known which files of commits there are, as it is from the time on when many were asked for."""
        self._asked += 1
        if self._asked == _MANY:
            self._files = self._store.layout.files_in(self._store.layout.commits)
        return self._asked >= _MANY

    def recorded(self, commit: str) -> Recorded:
        """What the commit's file ``ancestors`` says, nothing where it has none. ``DamagedError``."""
        if self._is_listed() and f"{commit}.{ANCESTORS}" not in self._files:
            return NOTHING
        path = self._store.layout.beside(commit, ANCESTORS)
        if not path.exists():  # nearly always, and told at once
            return NOTHING
        data = self._store.layout.content_of(path, _FILE_MAX)
        if data is None:
            return NOTHING
        return read_ancestors(data, str(path))

    def known(self, commit: str) -> Recorded:
        """Of a commit of this store: its parent, then what is recorded. ``NotFoundError``, ``DamagedError``."""
        found = self._steps.get(commit)
        if found is None:
            found = self._steps[commit] = self._known(commit)
        return found

    def parent(self, commit: str) -> str | None:
        """What the metadata of a commit of this store say; raises as ``known``."""
        return self._store.commits.parent(commit)

    def _known(self, commit: str) -> Recorded:
        parent, recorded = self.parent(commit), self.recorded(commit)
        if parent is None or recorded.ancestors[:1] == (parent,):
            found = recorded.ancestors
        else:
            found = (parent, *(other for other in recorded.ancestors if other != parent))
        if not recorded.ancestors:
            return Recorded((parent,) if parent else (), parent is None or self.has(parent))
        gap = [other for other in ((parent,) if parent else ()) + recorded.ancestors[-1:] if not self.has(other)]
        whole = not gap or recorded.whole or any(self.has(other) for other in recorded.ancestors)
        return Recorded(tuple(other for other in found if other != commit), whole)

    def line(self, commit: str) -> Iterator[Step]:
        """The commit and its ancestors, newest first, each the nearest that is here of the one before.

        ``NotFoundError``, ``DamagedError``.
        """
        seen: set[str] = set()
        current: str | None = commit
        while current is not None:
            seen.add(current)
            try:
                ancestors = self.known(current).ancestors
            except DamagedError:  # fsck tells
                parent = self.parent(current)
                ancestors = (parent,) if parent is not None else ()
            missing: list[str] = []
            following = None
            for ancestor in ancestors:
                if self.has(ancestor):
                    following = ancestor if ancestor not in seen else None
                    break
                missing.append(ancestor)
            yield Step(current, tuple(missing), following is None)
            current = following

    def fork_on(self, fork: str, head: str, base: str) -> str:
        """Where the work that is a worktree's own begins, once ``base`` is its base and last commit; ``fork`` is where
        it begins now, and ``head`` the last commit.

        That stays where it was while ``base`` is of the same line of work: the worktree's last commit, an earlier one
        since the beginning, or one that others made on top. Anywhere else the line begins anew.
        """
        if base == head:
            return fork
        try:
            if self.descends(base, head):
                return base if head == fork else fork
            return fork if self.descends(head, base) and self.descends(base, fork) else base
        except DamagedError:
            return base

    def to_send(self, commit: str) -> Recorded:
        """What goes with the commit to another store: its nearest ancestors, at most ``ANCESTORS_MAX``."""
        found = self.lineage(commit, limit=ANCESTORS_MAX + 1)
        ancestors = tuple(found.distance)[1:]
        return Recorded(ancestors, found.whole and bool(ancestors))

    def record(self, tx: Transaction, commit: str, told: Recorded) -> None:
        """Note the ancestors that came with a commit, which the store has, unless they tell nothing new."""
        told = Recorded(tuple(other for other in told.ancestors if other != commit), told.whole)
        if not told.ancestors:
            return
        seen = self.lineage(commit, limit=ANCESTORS_MAX + 1)
        if set(told.ancestors) <= seen.distance.keys() and (seen.whole or not told.whole):
            return
        before = self.recorded(commit)
        if set(told.ancestors) <= set(before.ancestors) and before.whole >= told.whole:
            return
        self.replace(tx, commit, _joined(told, before))

    def replace(self, tx: Transaction, commit: str, recorded: Recorded) -> None:
        """Write the commit's file ``ancestors`` anew, durably."""
        path = self._store.layout.beside(commit, ANCESTORS)
        tx.place_file(write_ancestors(recorded), path)
        self._steps.pop(commit, None)
        self._files.add(path.name)


def _joined(told: Recorded, before: Recorded) -> Recorded:
    """Both lists as one; one that was cut off is not whole."""
    ancestors = tuple(dict.fromkeys((*told.ancestors, *before.ancestors)))
    whole = told.whole and (before.whole or not before.ancestors or set(before.ancestors) <= set(told.ancestors))
    return Recorded(ancestors[:ANCESTORS_MAX], whole and len(ancestors) <= ANCESTORS_MAX)
