"""Eviction: content that can be fetched again makes room, what was not used for longest first.

What may go is derived (``hydrate.evictable``). Of that, objects go in this order: those that rules call unreal; then
those of which nothing is in the page cache, which the kernel fills for whoever reads, so nobody has to be asked on the
way of a read; then the others; among equals those that came longest ago, by the hour, and of those the largest. What
came within the last minutes stays, and so does what still has a name in the landing.

Each batch is removed under the store's exclusive lock, after a look whether anything changed since it was derived what
may go. First the commits that need the objects are marked as partial, durably, then the objects go: a kill or a power
cut in between leaves a mark on a commit that is here whole. Whoever has an object open or mapped goes on reading it.
The mounts with a gate are then made to look anew, so that their kernel objects do not keep what was removed.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from stratum.errors import DamagedError, StratumError
from stratum.hydrate.evictable import Derived, Shelf, Why
from stratum.hydrate.guarding import refresh, unguarded
from stratum.store.budget import read_budget
from stratum.store.clock import rfc3339, utc_now
from stratum.store.objects import Weight
from stratum.store.retention import parse_time

if TYPE_CHECKING:
    from stratum.config import Config
    from stratum.mount.state import State
    from stratum.oci.access import Access
    from stratum.store.sources import CommitSource
    from stratum.store.store import Store

MIN_AGE = 600.0
"""Seconds for which what came stays."""
SHORT_AGE = 60.0
"""The same where nothing older may go: time enough for whoever has it fetched to open it."""
LOCK_WAIT = 10.0
"""Seconds to wait for others to let go of the store, where somebody waits for room."""
_BATCH = 250
"""Objects that go while the store is locked, at first; then as many as take ``_LOCKED`` seconds, by the last ones."""
_BATCH_MAX = 5000
_LOCKED = 0.25
_TRIES = 5
_SKEW = 60.0
"""Seconds by which a clock may have been put back since something was noted."""


class _Here(NamedTuple):
    """An object that is here."""

    digest: bytes
    weight: Weight


@dataclass(slots=True)
class Evicted:
    """What went, or would go: ``objects`` with ``bytes`` on disk. ``stays`` counts what of what was looked at does not,
    by why: (objects, bytes). ``short`` are the bytes that were asked for and could not be had; ``marked`` the commits
    that are partial from now on. ``problems`` tells of sources that could not be asked."""

    dry_run: bool = False
    objects: int = 0
    bytes: int = 0
    stays: dict[Why, tuple[int, int]] = field(default_factory=dict)
    short: int = 0
    marked: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Held:
    """The content of a store that sources have: what is ``real`` and what is ``unreal``, (objects, bytes; those of real
    ones on disk); how much of it is ``evictable`` now, and what stays, by why."""

    real: tuple[int, int] = (0, 0)
    unreal: tuple[int, int] = (0, 0)
    evictable: tuple[int, int] = (0, 0)
    stays: dict[Why, tuple[int, int]] = field(default_factory=dict)


class Evictor:
    """Evicts from ``store``, whose mounts are on record in ``state``, by the settings ``config``. ``access`` is how
    sources are asked whether they still have what they had; without it only what was seen lately is believed."""

    def __init__(self, store: Store, state: State, config: Config, access: Access | None = None) -> None:
        self._store = store
        self._state = state
        self._config = config
        self._access = access
        self._shelf = Shelf(store)
        self._estimate: int | None = None
        self._asked: set[str] = set()
        self._confirmed: set[str] = set()
        self._counted_on: list[CommitSource] = []
        self._promised: dict[str, int] = {}  # by which reference, in which era

    @property
    def estimate(self) -> int | None:
        """The bytes that the content takes that sources have, by the last look and what was let in since; None where
        nobody looked."""
        return self._estimate

    def held(self, *, older_than: float = MIN_AGE) -> Held:
        """What the store holds. Raises as ``evict``."""
        with self._store.locks.store():
            derived = self._derive()
            here = self._here(derived.listed)
        found = Held()
        for item in here:
            why = self._why(derived, item, older_than)
            if why is None:
                found.evictable = _plus(found.evictable, item.weight.usage)
            else:
                found.stays[why] = _plus(found.stays.get(why, (0, 0)), item.weight.usage)
            found.real = _plus(found.real, item.weight.usage)
        real = {item.digest for item in here}
        for digest, size in derived.listed.items():
            if digest not in real:
                found.unreal = _plus(found.unreal, size)
        return found

    def make_room(self, coming: int) -> Evicted:
        """Evict what must go for ``coming`` bytes to fit into the limits of the store, and some more. Nothing where
        they do; nor where the store has no partial commit and nobody set a limit, as it is no cache then.

        What cannot be had is ``short``: the caller may go on. ``BusyError`` where somebody holds the store,
        ``StratumError``.
        """
        budget = read_budget(self._store.layout, self._config)
        known = self._estimate
        if known is not None and budget.excess(self._store.layout, known, coming) <= 0:
            self._estimate = known + coming
            return Evicted()
        if known is None and not budget.is_set and not self._store.sources.any_partial():
            return Evicted()
        done = Evicted()
        for older_than in (MIN_AGE, SHORT_AGE):  # rather than to fill the disk
            more = self.evict(
                lambda held: budget.excess(self._store.layout, held, coming), older_than=older_than, timeout=LOCK_WAIT
            )
            more.objects, more.bytes = more.objects + done.objects, more.bytes + done.bytes
            more.marked, more.problems = done.marked + more.marked, done.problems + more.problems
            done = more
            if not done.short:
                break
        if self._estimate is not None:
            self._estimate += coming
        return done

    def evict(
        self,
        want: Callable[[int], int],
        *,
        only: Collection[bytes] | None = None,
        older_than: float = MIN_AGE,
        dry_run: bool = False,
        timeout: float | None = None,
    ) -> Evicted:
        """Evict as many bytes as ``want`` says when it is told how many the content takes that sources have: of
        ``only`` these objects, where given.

        Raises ``DamagedError`` where it cannot be known what is needed, ``BusyError`` where the store is in use.
        """
        try:
            return self._evict(want, only=only, older_than=older_than, dry_run=dry_run, timeout=timeout)
        finally:
            self._let_off()

    def _let_off(self) -> None:
        """Let peers off what they have promised to keep, as far as nothing was let go for that."""
        from stratum.hydrate.asking import let_off

        if self._counted_on and self._access is not None:
            with suppress(StratumError):  # then they keep it longer
                let_off(self._store, self._counted_on, self._access)
            self._asked -= {source.reference for source in self._counted_on}
            self._counted_on.clear()

    def _evict(
        self,
        want: Callable[[int], int],
        *,
        only: Collection[bytes] | None,
        older_than: float,
        dry_run: bool,
        timeout: float | None,
    ) -> Evicted:
        done, trials = Evicted(dry_run), 0
        while True:
            with self._store.locks.store():
                derived = self._derive()
                here = self._here(derived.listed)
                looked_at = here if only is None else self._here(only)
            held = sum(item.weight.usage for item in here)
            self._estimate = held
            needed = want(held)
            done.stays, may_go = self._parted(derived, looked_at, older_than)
            chosen = list(_enough(self._in_order(may_go, derived), needed))
            done.short = max(0, needed - sum(item.weight.usage for item in chosen))
            new = {ref: source for ref, source in derived.unverified.items() if ref not in self._asked}
            if done.short and new and self._access is not None:
                self._asked.update(new)
                self._ask(new.values(), done)
                continue
            if dry_run:
                done.objects, done.bytes = len(chosen), sum(item.weight.usage for item in chosen)
                return done
            trials += 1
            if self._remove(chosen, derived, done, timeout) or trials >= _TRIES:
                break
        self._estimate = max(0, held - done.bytes)
        if done.objects:
            refresh(self._store, self._state)
        return done

    # What may go

    def _derive(self) -> Derived:
        limit, era = self._config.cache_verified_hours * 3600, self._store.promises.era()

        def fresh(source: CommitSource) -> bool:
            if source.at_peer:  # which may let go as this store does, but for what it has promised
                return self._promised.get(source.reference) == era
            return source.reference in self._confirmed or _age(source.seen) <= limit

        return self._shelf.derive(fresh, self._unguarded())

    def _unguarded(self) -> set[str]:
        return unguarded(self._store, self._state)

    def _here(self, objects: Iterable[bytes]) -> list[_Here]:
        """Those of the objects that are here."""
        weigh = self._store.objects.weigh
        found = ((digest, weigh(digest)) for digest in objects)
        return [_Here(digest, weight) for digest, weight in found if weight is not None]

    def _why(self, derived: Derived, item: _Here, older_than: float) -> Why | None:
        """Why an object stays; None where it may go."""
        if derived.listed.get(item.digest) != item.weight.size:
            return Why.LOCAL
        why = derived.why(item.digest)
        # One that is still in the landing would free nothing, and whoever was just told that it is there looks for it.
        if why is None and (item.weight.came > time.time() - older_than or item.weight.names > 1):
            return Why.RECENT
        return why

    def _parted(
        self, derived: Derived, items: Iterable[_Here], older_than: float
    ) -> tuple[dict[Why, tuple[int, int]], list[_Here]]:
        stays: dict[Why, tuple[int, int]] = {}
        may_go = []
        for item in items:
            why = self._why(derived, item, older_than)
            if why is None:
                may_go.append(item)
            else:
                stays[why] = _plus(stays.get(why, (0, 0)), item.weight.usage)
        return stays, may_go

    def _in_order(self, items: Iterable[_Here], derived: Derived) -> Iterator[_Here]:
        """The objects in the order in which they go, by the hand of a clock that passes those in use once."""
        now = time.time()

        def rank(item: _Here) -> tuple[bool, int, int]:
            return item.digest not in derived.first, -int((now - item.weight.came) // 3600), -item.weight.usage

        in_use = []
        for item in sorted(items, key=rank):
            if item.digest not in derived.first and self._is_in_use(item.digest):
                in_use.append(item)
            else:
                yield item
        yield from in_use

    def _is_in_use(self, digest: bytes) -> bool:
        from stratum.sys.pagecache import resident_pages

        with suppress(OSError):
            return bool(resident_pages(self._store.objects.path(digest)))
        return False

    def _ask(self, sources: Collection[CommitSource], done: Evicted) -> None:
        """Ask places whether they still have what they had, and note what they say. Nothing is locked meanwhile."""
        from stratum.hydrate.asking import ask

        assert self._access is not None
        era = self._store.promises.era()
        answers, problems = ask(self._store, sources, self._access, counting_on=era)
        done.problems += problems
        self._confirmed.update(reference for reference, is_there in answers.items() if is_there)
        promised = [source for source in sources if source.at_peer and answers.get(source.reference)]
        self._promised.update((source.reference, era) for source in promised)
        self._counted_on += promised
        now = rfc3339(utc_now())
        with self._store.begin("noting what sources have") as tx:
            for commit in self._store.commits.list() if answers else ():
                with suppress(DamagedError):  # then it has no sources, and a check tells
                    for source in self._store.sources.of(commit):
                        is_there = answers.get(source.reference)
                        if is_there is not None:
                            self._store.sources.seen(tx, commit, source.reference, now, gone=not is_there)

    # Having it go

    def _remove(self, items: list[_Here], derived: Derived, done: Evicted, timeout: float | None) -> bool:
        """Remove the objects, batch by batch; whether it came to the end: else things have changed meanwhile."""
        first, count = 0, _BATCH
        while batch := items[first : first + count]:
            first += count
            with self._exclusive(timeout):
                locked = time.monotonic()
                if self._shelf.stamp(self._unguarded()) != derived.stamp:
                    return False
                busy = set(self._store.transactions.needed())
                unchanged = [
                    item
                    for item in batch
                    if item.digest not in busy and self._store.objects.weigh(item.digest) == item.weight
                ]
                done.marked += self._mark({item.digest for item in unchanged})
                for item in unchanged:
                    done.bytes += self._store.objects.remove(item.digest)
                    done.objects += 1
                seconds = max(time.monotonic() - locked, 1e-3)
            count = max(_BATCH // 10, min(int(count * _LOCKED / seconds), _BATCH_MAX), 1)
        return True

    def _exclusive(self, timeout: float | None) -> AbstractContextManager[None]:
        if timeout is None:
            return self._store.locks.store(exclusive=True)
        return self._store.locks.store(exclusive=True, timeout=timeout)

    def _mark(self, objects: set[bytes]) -> list[str]:
        """Mark the commits that need one of the objects as partial, durably; which were not so before."""
        sources = self._store.sources
        whole = [commit for commit in self._store.commits.list() if not sources.is_partial(commit)]
        new = self._shelf.needing(whole, objects)
        if new:
            with self._store.begin("marking commits as partial") as tx:
                for commit in new:
                    sources.set_partial(tx, commit)
        return new


def make_room(store: Store, state: State, config: Config, access: Access | None, coming: int) -> Evicted:
    """``Evictor.make_room``, for who asks once, and goes on where no room can be made, be it that somebody holds the
    store or that it is damaged: that is ``short`` too."""
    try:
        return Evictor(store, state, config, access).make_room(coming)
    except StratumError as exc:
        return Evicted(short=coming, problems=[exc.message])


def _age(time_text: str) -> float:
    """How many seconds ago that was; endless for what is no time, or is still to come."""
    when = parse_time(time_text)
    age = (utc_now() - when).total_seconds() if when is not None else -math.inf
    return age if age >= -_SKEW else math.inf


def _plus(count: tuple[int, int], size: int) -> tuple[int, int]:
    return count[0] + 1, count[1] + size


def _enough(items: Iterable[_Here], needed: int) -> Iterator[_Here]:
    """As many of the objects as make up ``needed`` bytes."""
    sizes = 0
    for item in items:
        if sizes >= needed:
            return
        sizes += item.weight.usage
        yield item
