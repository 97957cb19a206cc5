"""The history of a stratum as one list: the commits that its tags and worktrees are at, and their ancestors."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import islice
from typing import TYPE_CHECKING

from stratum.api.log import pairs
from stratum.errors import StratumError
from stratum.frozen import frozen
from stratum.store.ancestry import Ancestry

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store import Store
    from stratum.store.ancestry import Step

_Pairs = Iterator["tuple[Step, Step | None]"]
_At = tuple["Moment", _Pairs]

ROWS_MAX = 20_000
"""Commits of one timeline that are looked at."""


@frozen
class Moment:
    """A commit of a timeline and the next of its line that is here; ``missing`` are those between, nearest first, and
    ``timestamp`` is RFC 3339."""

    commit: str
    timestamp: str
    parent: str | None
    missing: tuple[str, ...]


def tips(store: Store, name: str) -> tuple[str, ...]:
    """The commits that tags, pins and worktrees of a stratum are at. ``NotFoundError`` where it is not there."""
    store.namespaces.check(name)
    found = {*store.tags.list(name).values(), *store.tags.pins(name).commits}
    for tree in store.worktrees.list(name):
        found |= {tree.base_commit, tree.commit}
    return tuple(sorted(commit for commit in found if store.commits.exists(commit)))


class Timeline:
    """The commits of some ``tips`` and their ancestors, newest first, no commit twice. It is read as far as somebody
    asks, and kept. Threads may share one. ``DamagedError``."""

    def __init__(self, store: Store, of: Sequence[str]) -> None:
        self._lock = threading.Lock()
        self._coming = islice(_walk(store, of), ROWS_MAX)
        self._moments: list[Moment] = []
        self._commits: set[str] = set()

    def upto(self, count: int) -> Sequence[Moment]:
        """The first ``count`` of them, or as many as there are."""
        with self._lock:
            self._read(count)
            return self._moments[:count]

    def has(self, commit: str) -> bool:
        """Whether the commit is one of them."""
        with self._lock:
            while commit not in self._commits:
                before = len(self._moments)
                self._read(before + 100)
                if len(self._moments) == before:
                    return False
            return True

    def _read(self, count: int) -> None:
        for moment in islice(self._coming, max(0, count - len(self._moments))):
            self._moments.append(moment)
            self._commits.add(moment.commit)


def _walk(store: Store, of: Sequence[str]) -> Iterator[Moment]:
    line, seen = Ancestry(store), set[str]()
    queue: list[tuple[tuple[int, ...], int, _At]] = []

    def at(steps: _Pairs) -> _At:
        step, following = next(steps)
        seen.add(step.commit)
        parent = following.commit if following is not None else None
        moment = Moment(step.commit, store.commits.meta(step.commit).timestamp, parent, step.missing)
        return moment, steps

    def push(found: _At) -> None:
        heappush(queue, (tuple(-ord(char) for char in found[0].timestamp), len(seen), found))

    for tip in of:
        if tip not in seen:
            push(at(pairs(line.line(tip))))
    while queue:
        time, _, found = heappop(queue)
        together = [found]  # the commits of one time, in which a parent comes behind its children
        while queue and queue[0][0] == time:
            together.append(heappop(queue)[2])
        for moment, steps in together:
            if moment.parent is not None and moment.parent not in seen:
                following = at(steps)
                if following[0].timestamp == moment.timestamp:
                    together.append(following)
                else:
                    push(following)
        yield from _children_first([moment for moment, _ in together])


def _children_first(moments: list[Moment]) -> Iterator[Moment]:
    children = Counter(moment.parent for moment in moments)
    left = {moment.commit: moment for moment in moments}
    while left:
        ready = [moment for moment in left.values() if not children[moment.commit]]
        for moment in ready or list(left.values()):  # one that is its own ancestor has no place
            del left[moment.commit]
            children[moment.parent] -= 1
            yield moment


def in_reflog(store: Store, name: str, commit: str) -> bool:
    """Whether a tag or worktree of the stratum was once at the commit."""
    with suppress(StratumError):
        return any(commit in (entry.old, entry.new) for entry in store.reflog.read(name))
    return False


def timeline(session: Session, name: str) -> Timeline:
    """The timeline of a stratum as it is now. ``NotFoundError``."""
    return Timeline(session.store, tips(session.store, name))
