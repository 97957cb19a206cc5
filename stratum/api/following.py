"""``sync --watch``: a stratum that follows its peers, and a worktree whose changes go to them, by themselves.

The worktree is a line of work of its own: its commits are moves of the tag that were made on what the worktree has, and
not on what others did meanwhile, so they are merged with that and undo nothing. The worktree itself stays as it is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from stratum.api.merging import Carried, in_hand
from stratum.api.settling import conflicts
from stratum.api.syncing import Met, meet, peers_of, reach
from stratum.errors import StratumError
from stratum.frozen import field, frozen
from stratum.ingest.glance import Glance, glance
from stratum.refs import DEFAULT_TAG, DEFAULT_WORKTREE

if TYPE_CHECKING:
    from threading import Event

    from stratum.api.session import Session
    from stratum.oci.access import Access
    from stratum.refs import Ref

_TICK = 1.0
_SHARE = 20
"""A glance takes at most one of so many seconds."""
_BACKOFF_MAX = 600.0


@frozen
class Pace:
    """Seconds: how long files have to be left alone before they are committed, after how long they are anyway, and how
    often peers are asked."""

    rest: float = 10.0
    every: float = 3600.0
    poll: float = 60.0


@frozen
class Happened:
    """What happened in one round: the commit that was made of the worktree, if any, tags that were moved by that, and
    what came of syncs; how many paths are in conflict, where these are more than before."""

    commit: str | None = None
    carried: tuple[Carried, ...] = ()
    met: list[Met] = field(default_factory=list)
    error: StratumError | None = None
    conflicts: int = 0


def follow(
    session: Session,
    ref: Ref,
    peers: Sequence[str],
    *,
    access: Access,
    pace: Pace,
    stop: Event,
    tell: Callable[[Happened], None],
    lazy: bool = False,
    tag: str | None = None,
) -> None:
    """Sync the stratum of ``ref`` with ``peers`` (by default as ``sync``) until ``stop``: when a tag of it moves, and
    as often as ``pace`` says. Where ``ref`` has a worktree, commit that: at once where something was removed or
    renamed, else when its files were left alone for a while. Its commits go to ``tag``, by default ``latest`` for
    ``main`` and else the worktree's name. ``tell`` gets what happened, if anything.

    Errors are told, and tried again. Raises ``NotFoundError`` where there is no such worktree or peer.
    """
    session.create_store()
    for peer in peers:
        session.store.peers.get(peer)
    if ref.worktree is not None:
        session.store.worktrees.check(ref.name, ref.worktree)
    job = _Following(session, ref, peers, access, pace, lazy, tag)
    while not stop.is_set():
        begun = time.monotonic()
        happened = job.round()
        if happened.commit or happened.carried or happened.met or happened.error:
            tell(happened)
        stop.wait(max(_TICK, job.looking * _SHARE) if time.monotonic() - begun < pace.poll else _TICK)


class _Following:
    def __init__(
        self, session: Session, ref: Ref, peers: Sequence[str], access: Access, pace: Pace, lazy: bool, tag: str | None
    ) -> None:
        self.looking = 0.0
        self._session = session
        self._store = session.store
        self._ref = ref
        self._peers = peers
        self._access = access
        self._pace = pace
        self._lazy = lazy
        self._tag = tag or (DEFAULT_TAG if ref.worktree == DEFAULT_WORKTREE else ref.worktree)
        self._committed: Glance | None = None  # what was there at the last commit
        self._last: Glance | None = None
        self._changed = self._since = time.monotonic()
        self._due: dict[str, float] = {}
        self._failures: dict[str, int] = {}
        self._told: dict[str, str] = {}
        self._tags: dict[str, str] | None = None
        self._conflicts = 0

    def round(self) -> Happened:
        """Commit and sync what there is to commit and sync."""
        commit: str | None = None
        carried: list[Carried] = []
        error: StratumError | None = None
        try:
            if self._ref.worktree is not None and self._is_due():
                commit, carried = self._commit(self._ref)
        except StratumError as exc:
            error = self._news("", exc)
        met = self._sync()
        more = self._more_conflicts() if carried or any(each.carried for each in met) else 0
        return Happened(commit, tuple(carried), met, error, more)

    def _more_conflicts(self) -> int:
        """How many paths are in conflict, if these are more than when it was asked last."""
        before, self._conflicts = self._conflicts, len(conflicts(self._session, self._ref.name))
        return self._conflicts if self._conflicts > before else 0

    # The worktree

    def _is_due(self) -> bool:
        """Whether to commit the worktree now."""
        assert self._ref.worktree is not None
        now = time.monotonic()
        seen = glance(self._store.worktrees.get(self._ref.name, self._ref.worktree).upperdir)
        self.looking = time.monotonic() - now
        if self._last is None or seen != self._last:
            self._last, self._changed = seen, now
        if self._committed is None:
            return True  # what was written before this began
        if seen == self._committed:
            self._since = now
            return False
        rested = now - self._changed >= self._pace.rest
        return rested or now - self._since >= self._pace.every or seen.removed_since(self._committed)

    def _commit(self, ref: Ref) -> tuple[str | None, list[Carried]]:
        """Commit the worktree, and have the tag follow; the commit, if there is a new one, and the tags that moved."""
        before = self._last
        with self._session.hold(ref) as held:
            done = held.commit()
            self._committed = before
            if done.commit != done.parent:  # where nobody has it, its upperdir is another one now
                self._committed = self._last = glance(held.worktree.upperdir) if held.mounted is None else before
        with in_hand(self._session, ref.name) as hand:
            hand.note()
            assert self._tag is not None
            hand.work(self._tag, done.commit, is_new=done.changed)
            outcome = hand.carry_out()
        for why in outcome.failed.values():
            raise StratumError(why)
        return (done.commit if done.changed else None), outcome.carried

    # Peers

    def _sync(self) -> list[Met]:
        """Sync with those whose time has come."""
        name, now = self._ref.name, time.monotonic()
        tags = self._store.tags.list(name) if self._store.namespaces.exists(name) else {}
        if tags != self._tags:
            self._due.clear()  # tags moved
            self._failures.clear()
        met = []
        for peer in self._peers or peers_of(self._session, name):
            if self._due.get(peer, 0.0) <= now:
                found = meet(self._session, name, partial(reach, self._session, peer, self._access, self._lazy), peer)
                failures = self._failures[peer] = self._failures.get(peer, 0) + 1 if found.error else 0
                wait = min(self._pace.poll * 2 ** min(failures, 10), max(_BACKOFF_MAX, self._pace.poll))
                self._due[peer] = time.monotonic() + wait
                if self._is_news(found):
                    met.append(found)
        self._tags = self._store.tags.list(name) if self._store.namespaces.exists(name) else {}
        return met

    def _is_news(self, met: Met) -> bool:
        """Whether it is to be told: what was told of the peer the last time is not."""
        said = met.error.message if met.error is not None else "\n".join(met.notes)
        before = self._told.get(met.peer, "")
        self._told[met.peer] = said
        return said != before or bool(met.carried or met.moves_in or met.moves_out)

    def _news(self, what: str, error: StratumError) -> StratumError | None:
        before, self._told[what] = self._told.get(what), error.message
        return error if error.message != before else None
