"""Versions of the files of one watched worktree, from the close of a file until a batch with it is durable.

A file of more than ``LARGE`` bytes that is closed again and again is not taken each time: it waits, and the last close
within ``LARGE_PAUSE`` seconds counts. Meanwhile a descriptor keeps it from vanishing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from stratum.history.events import is_kernel
from stratum.ingest.staging import signature
from stratum.sys.handles import identity

if TYPE_CHECKING:
    from stratum.history.capture import Captured
    from stratum.history.publishing import Publisher
    from stratum.sys.actors import Actor

LARGE = 1 << 20
LARGE_PAUSE = 10.0
VERSIONS_MAX = 20_000
"""So many wait for a batch at most. There are more only where no batch can be made, and the oldest are given up."""
_SEEN_MAX = 4_000
_PAUSES_MAX = 1000

CLOCK_STEP = 20_000_000
"""Nanoseconds by which the time of a change may be behind the clock, and more."""

Key = tuple[int, int]
Handle = bytes


class Taken(NamedTuple):
    """A version: what was captured at ``when`` (ns), of the file with this handle. ``hint`` is a path that it probably
    has or had, ``mode`` that of the open file, ``actor`` who closed it."""

    captured: Captured
    when: int
    handle: bytes | None
    hint: bytes
    mode: int
    actor: Actor | None
    found: bool = False
    """Whether it is what was there when a batch looked, after all closes that were told of by then."""


def in_order(taken: Iterable[Taken], looked_at: int) -> list[Taken]:
    """Versions in the order in which they were there; ``looked_at`` (ns) is when a batch looked for what it found.

    What was captured before comes first; then what was closed before and read late, what the look found, and what was
    closed since. Those of one file are in the order of their changes.
    """

    def rank(item: Taken) -> tuple[int, int]:
        if item.found:
            return 2, item.when
        if item.when < looked_at:
            return 0, item.when
        return (3 if item.captured.signature[4] >= looked_at else 1), item.when

    found = sorted(taken, key=rank)
    places: dict[Key, list[int]] = {}
    for place, item in enumerate(found):
        places.setdefault(item.captured.key, []).append(place)
    for own in places.values():
        if len(own) > 1:
            changes = sorted((found[place] for place in own), key=lambda item: item.captured.signature[4])
            for place, item in zip(own, changes, strict=True):
                found[place] = item
    return found


@dataclass
class Closed:
    """A file that was closed: open as ``fd``, with the handle, the path that it probably has, and who closed it.
    ``place`` tells files apart that take turns at one path."""

    fd: int
    info: os.stat_result
    handle: bytes
    hint: bytes
    place: object
    actor: Actor | None


@dataclass
class _Deferred:
    closed: Closed
    due: float


def is_as_taken(taken: Taken, info: os.stat_result, handle: Handle) -> bool:
    """Whether the file with this handle is as it was taken: every change since would show in its times.

    A file that came in place of a deleted one may have its number, its size and, within a tick of the clock, its times;
    it has not its handle. Before Linux 6.13 there may be several changes within a tick, of which times tell nothing.
    """
    if taken.captured.signature != signature(info) or taken.handle != handle:
        return False
    return _is_clock_fine() or taken.when - info.st_ctime_ns > CLOCK_STEP


def _is_newer(taken: Taken, other: Taken | None) -> bool:
    """Whether it is not an earlier version of a file than another one, which may have come by a shorter way."""
    return other is None or taken.handle != other.handle or _changed(taken) >= _changed(other)


def _changed(taken: Taken) -> int:
    return taken.captured.signature[4]


@cache
def _is_clock_fine() -> bool:
    """Whether a change gets another time than what was looked at before it."""
    return is_kernel(os.uname().release, (6, 13))


class Versions:
    """What was taken of one worktree, and what is to be taken later."""

    def __init__(self, publisher: Publisher, ref: str) -> None:
        self._publisher = publisher
        self._ref = ref
        self.taken: list[Taken] = []
        """In the order of the closes."""
        self.latest: dict[Key, Taken] = {}
        """The last version of each file in ``taken``."""
        self.given_up = 0
        """How many were given up since somebody looked."""
        self._captured: set[Captured] = set()
        self._older: set[Captured] = set()
        self._seen: dict[Key, Taken] = {}
        self._deferred: dict[object, _Deferred] = {}
        self._large: dict[object, float] = {}

    def knows(self, info: os.stat_result, handle: Handle) -> bool:
        """Whether the file was taken as it is, lately."""
        taken = self._seen.get(identity(info))
        return taken is not None and is_as_taken(taken, info, handle)

    def add(self, taken: Taken) -> None:
        """Keep a version until its batch is durable."""
        captured = taken.captured
        if captured.digest is not None:
            self._publisher.hold(captured.digest)
        if captured in self._captured or captured in self._older:  # as by a strict history, and by this one
            self.release([taken])
            return
        self._captured.add(captured)
        if len(self._seen) >= _SEEN_MAX:
            self._seen.clear()
        if _is_newer(taken, self.latest.get(captured.key)):
            self._seen[captured.key] = self.latest[captured.key] = taken
        self.taken.append(taken)
        self._publisher.pending.add(self._ref, taken)
        if len(self.taken) > VERSIONS_MAX:
            half = self.taken[: VERSIONS_MAX // 2]
            del self.taken[: len(half)]
            self.given_up += len(half)
            self.release(half)
            self._find_latest()

    def swap(self) -> list[Taken]:
        """All that was taken, for a batch, in the order in which it was; ``release`` or ``put_back`` it."""
        taken, self.taken = self.taken, []
        # Of very many, what comes twice is told twice, at worst.
        self._older = self._captured if len(self._captured) <= _SEEN_MAX else set()
        self._captured = set()
        return taken

    def put_back(self, taken: list[Taken]) -> None:
        """They are for the next batch, before all that it adds."""
        self.taken[:0] = [item._replace(found=False) for item in taken]
        self._find_latest()

    def release(self, taken: Iterable[Taken]) -> None:
        """They are durable, or nobody wants them."""
        items = list(taken)
        self._publisher.drop(item.captured.digest for item in items if item.captured.digest is not None)
        self._publisher.pending.done(self._ref, items)

    def forget(self) -> None:
        """Give up what was taken, and take again what is there."""
        self.release(self.swap())
        self._find_latest()
        self._seen.clear()
        self._older.clear()

    def _find_latest(self) -> None:
        self.latest = {}
        for item in self.taken:
            if _is_newer(item, self.latest.get(item.captured.key)):
                self.latest[item.captured.key] = item

    def batch_is_done(self, taken: Iterable[Taken]) -> None:
        """A batch with them is durable."""
        self.release(taken)
        self._find_latest()

    def close(self) -> None:
        """Give up everything."""
        self.release(self.swap())
        for deferred in self._deferred.values():
            os.close(deferred.closed.fd)
        self._deferred.clear()

    # Large files

    def defer(self, closed: Closed) -> bool:
        """Whether it is to be taken later; its descriptor is not the caller's then."""
        now = time.monotonic()
        if closed.info.st_size <= LARGE:
            return False
        if len(self._large) > _PAUSES_MAX:
            self._large = {place: at for place, at in self._large.items() if now - at < LARGE_PAUSE}
        last = self._large.get(closed.place)
        if last is None or now - last >= LARGE_PAUSE:
            self._large[closed.place] = now
            return False
        before = self._deferred.pop(closed.place, None)
        if before is not None:
            os.close(before.closed.fd)
        self._deferred[closed.place] = _Deferred(closed, last + LARGE_PAUSE)
        return True

    def waits(self, key: Key) -> bool:
        """Whether the file is to be taken later."""
        return bool(self._deferred) and any(identity(item.closed.info) == key for item in self._deferred.values())

    def due(self, *, everything: bool) -> list[Closed]:
        """Those whose time has come, or all of them; their descriptors are the caller's."""
        now = time.monotonic()
        places = [place for place, item in self._deferred.items() if everything or item.due <= now]
        found = [self._deferred.pop(place).closed for place in places]
        for closed in found:
            self._large[closed.place] = now
        return found

    @property
    def next_due(self) -> float | None:
        """When the first of them is due (``time.monotonic``)."""
        return min((item.due for item in self._deferred.values()), default=None)
