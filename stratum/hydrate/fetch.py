"""Fetching the objects of one commit for whoever reads them.

A **want** is an object that somebody asked for and that is not here; all who want it share it. What is fetched are
**spans**: runs of frames of a pack, from one source. Every object of a span that is needed is kept, be it wanted or
not. A want whose frames are on their way waits for those; else it gets a span of its own. When a span has ended without
bringing a want, that is tried again alone, then at the next source, until none is left: then the reader gets EIO, and
``status`` says why. Nothing but what has the digest that was asked for ever counts as fetched.

Spans are done by lanes (``hydrate.lanes``): first what is waited for, then what is likely to be next
(``hydrate.readahead``), then what nobody asked for.
"""

from __future__ import annotations

import errno
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, StratumError, foreseen
from stratum.hydrate.account import Account, Reader
from stratum.hydrate.frames import SEAM_MAX, Cutter, archive_of
from stratum.hydrate.lanes import AHEAD, BACKGROUND, DEMAND, Lanes
from stratum.hydrate.supply import Supplies
from stratum.store.clock import rfc3339, utc_now
from stratum.transfer.packs import LARGE_OBJECT

if TYPE_CHECKING:
    from stratum.hydrate.landing import Landing
    from stratum.hydrate.supply import Place, Supply
    from stratum.oci.access import Access
    from stratum.store.catalog import CatalogFrame, CatalogMember
    from stratum.store.sources import CommitSource

REQUEST_BYTES = 4 << 20
"""Consecutive frames are asked for together up to so many bytes."""
AHEAD_BYTES = 1 << 20
"""The same of frames that nobody waits for: several such requests are on their way at once."""
RETRY_SECONDS = 5.0
"""With ``wait``, sources that failed are asked again after so long."""
_TRIES = 2
"""How often a source is asked for an object that its frames did not bring, though nothing was wrong with them."""
_ERRORS_KEPT = 20

HERE, LANDED, UNREAL = "here", "landed", "unreal"


Done = Callable[[int], None]
"""Told an errno, 0 where the object is in the landing or the store; by any thread."""


class _Want:
    """An object that is waited for, or to be brought anyway (``waiting`` is empty)."""

    __slots__ = ("digest", "error", "reader", "size", "source", "spans", "tries", "waiting")

    def __init__(self, digest: bytes, size: int, reader: Reader | None) -> None:
        self.digest, self.size, self.reader = digest, size, reader
        self.waiting: list[Done] = []
        self.spans = 0  # those on their way that may bring it
        self.source = 0  # the number of the source that is to be asked
        self.tries = 0
        self.error: StratumError | None = None


class _Span:
    """Frames [first, last) of a pack, to be fetched from a source; a job of the lanes."""

    __slots__ = ("_fetcher", "begun", "first", "last", "rank", "supply", "wants")

    def __init__(self, fetcher: Fetcher, supply: Supply, first: int, last: int, rank: int) -> None:
        self._fetcher = fetcher
        self.supply, self.first, self.last, self.rank = supply, first, last, rank
        self.begun = False
        self.wants: set[_Want] = set()

    def run(self) -> None:
        self._fetcher._run(self)


class _Retry:
    """A want that is tried again from the first source on; a job of the lanes."""

    rank = DEMAND

    def __init__(self, fetcher: Fetcher, want: _Want) -> None:
        self._fetcher, self._want = fetcher, want

    def run(self) -> None:
        self._want.source = self._want.tries = 0
        self._fetcher._plan(self._want)


class Fetcher:
    """Fetches objects of ``commit`` into ``landing``; for all threads. ``access`` says how a source is reached, and is
    called when one is, which may be again after a failure.

    ``wait``: readers wait for sources that are away, for as long as it takes. ``realized`` is told of each large
    object that is whole now, so that mounts that show it in parts can be refreshed. ``DamagedError`` where it is not
    known which sources the commit has.
    """

    def __init__(
        self,
        landing: Landing,
        commit: str,
        access: Callable[[CommitSource], Access],
        *,
        wait: bool = False,
        realized: Callable[[bytes], None] | None = None,
    ) -> None:
        self.commit = commit
        self.landing = landing
        self.store = landing.store
        self._wait = wait
        self._realized = realized
        self._lock = threading.Lock()
        self._wants: dict[bytes, _Want] = {}
        self._on_way: dict[tuple[int, int], _Span] = {}  # (number of the source, frame) -> the span that brings it
        self._account = Account()
        self._errors: deque[dict[str, str]] = deque(maxlen=_ERRORS_KEPT)
        self._closed = False
        self._supplies = Supplies(self.store, commit, access, landing.parts)
        self._lanes = Lanes(f"fetch {commit[:12]}", self._background)

    # What is where

    def size(self, digest: bytes) -> int | None:
        """The object's size in bytes; None where no source of the commit lists it."""
        place = self._supplies.find(digest)
        return None if place is None else place.member.size

    def is_large(self, digest: bytes) -> bool:
        """Whether the object is read in parts (``read_range``), before all of it is here."""
        return (self.size(digest) or 0) >= LARGE_OBJECT

    def condition(self, digest: bytes) -> str:
        """ "here" in the store, "landed", or "unreal"."""
        size = self.size(digest)
        if size is None:
            return UNREAL
        if self.landing.has(digest, size):
            return LANDED
        return HERE if self.store.objects.has(digest, size) else UNREAL

    # Asking

    def want(self, digest: bytes, reader: Reader | None, done: Done) -> None:
        """Have the object brought; ``done`` is told 0 when it is in the landing or the store, ENOENT where no source
        lists it, EIO where none has it."""
        place = self._supplies.find(digest)
        if place is None:
            done(errno.ENOENT)
            return
        is_here = self._is_here(place.member)
        with self._lock:
            closed = self._closed
            self._account.asks += 1
            self._account.hits += is_here
        if is_here or closed:
            done(0 if is_here else errno.EIO)
        else:
            self._wait_for(place.member, reader, done)
        self._read_ahead(place)

    def read_range(
        self, digest: bytes, start: int, size: int, reader: Reader | None, done: Callable[[int, bytes], None]
    ) -> None:
        """``size`` bytes, fewer at its end, of a large object from ``start`` on; ``done`` is told (errno, bytes)."""
        done(errno.EIO, b"")

    def prefetch(self, what: str) -> None:
        """Fetch what nobody asked for, while nobody waits: "profile", what the last runs read, or "all"."""
        self._lanes.stir()

    def close(self) -> None:
        """End; who waits is told EIO."""
        with self._lock:
            self._closed = True
            wants, self._wants = list(self._wants.values()), {}
        self._lanes.close()
        for want in wants:
            for done in want.waiting:
                done(errno.EIO)
        self._lanes.join(2.0)
        self._supplies.close()

    def status(self) -> dict[str, Any]:
        """What was fetched for whom, and how the sources are; a value for JSON."""
        with self._lock:
            counts, errors = self._account.status(), list(self._errors)
            counts["wanted"] = len(self._wants)
        sources = [supply.remote.condition() for supply in self._supplies]
        return {
            "commit": self.commit,
            **counts,
            "failed": errors,
            "sources": sources,
            "problems": self._supplies.problems,
        }

    # Planning

    def _wait_for(self, member: CatalogMember, reader: Reader | None, done: Done) -> None:
        with self._lock:
            known = self._wants.get(member.digest)
            want = known or _Want(member.digest, member.size, reader)
            self._wants[member.digest] = want
            want.waiting.append(done)
        if known is None:
            self._plan(want)
        else:
            self._hurry(want)

    def _has(self, want: _Want) -> bool:
        return self.landing.has(want.digest, want.size) or self.store.objects.has(want.digest, want.size)

    def _is_here(self, member: CatalogMember) -> bool:
        return self.landing.has(member.digest, member.size) or self.store.objects.has(member.digest, member.size)

    def _plan(self, want: _Want) -> None:
        """Have a want brought by what is on its way, or by a span of its own; fail where no source is left."""
        for place in self._supplies.places(want.digest, want.source):
            supply, member = place
            want.source = supply.number
            if not supply.remote.usable(supply.pack(member).pack.sha256):
                want.error = want.error or StratumError(supply.remote.words or f"{supply.remote.source.place} is away")
                want.tries = 0
                continue
            self._await(want, supply, member)
            return
        self._give_up(want)

    def _await(self, want: _Want, supply: Supply, member: CatalogMember) -> None:
        rank = DEMAND if want.waiting else BACKGROUND
        first, last = supply.catalog.frames_of(member)
        with self._lock:
            frames = [frame for frame in range(first, last) if not supply.complete[frame]]
            if not frames or (len(frames) < last - first and not supply.seams.has(member.number)):
                frames = list(range(first, last))
            spans = {self._on_way.get((supply.number, frame)) for frame in frames}
            if None in spans or want.tries:
                span = _Span(self, supply, first, last, rank)
                span.wants.add(want)
                want.spans += 1
                self._announce(span)
                put = [span]
            else:
                put = []
                for other in spans:
                    assert other is not None, "all frames are on their way"
                    other.wants.add(want)
                    want.spans += 1
                    if other.rank > rank and not other.begun:
                        other.rank = rank
                        put.append(other)
        for span in put:
            self._lanes.put(span)

    def _announce(self, span: _Span) -> None:
        for frame in range(span.first, span.last):
            self._on_way.setdefault((span.supply.number, frame), span)

    def _hurry(self, want: _Want) -> None:
        """Somebody waits for what was to be brought anyway."""
        with self._lock:
            spans = {span for span in self._on_way.values() if want in span.wants and span.rank > DEMAND}
            spans = {span for span in spans if not span.begun}
            for span in spans:
                span.rank = DEMAND
        for span in spans:
            self._lanes.put(span)

    def _read_ahead(self, place: Place) -> None:
        supply, member = place
        if member.size >= LARGE_OBJECT:
            return
        first, last = supply.catalog.frames_of(member)
        end = supply.pack(member).frames[1]
        with self._lock:
            start, stop = supply.ahead.asked(first, last, end)
            together = max(1, supply.ahead.size // 8)
            spans = [] if self._closed else list(self._spans(supply, start, stop, together, AHEAD))
        for span in spans:
            self._lanes.put(span)

    def _spans(self, supply: Supply, start: int, stop: int, together: int, rank: int) -> Iterator[_Span]:
        """Spans of at most ``together`` of the frames [start, stop) that neither came nor are on their way."""
        first = start
        for frame in range(start, stop + 1):
            needed = frame < stop and not supply.complete[frame] and (supply.number, frame) not in self._on_way
            if needed and frame - first < together:
                continue
            if first < frame:
                span = _Span(self, supply, *self._whole(supply, first, frame), rank)
                self._announce(span)
                yield span
            first = frame if needed else frame + 1

    def _whole(self, supply: Supply, first: int, last: int) -> tuple[int, int]:
        """The frames [first, last), and before and after them those of an object that is too large for a seam."""
        catalog = supply.catalog
        low, high = catalog.members_within(first, last)
        members = catalog.packs[catalog.frame(first).pack].members
        for number in {low - 1, high}.intersection(range(*members)):
            member = catalog.member(number)
            start, stop = catalog.frames_of(member)
            if not SEAM_MAX < member.size < LARGE_OBJECT or stop <= first or start >= last:
                continue
            around = {self._on_way.get((supply.number, frame)) for frame in (start, stop - 1)} - {None}
            if not any(span.first <= start and stop <= span.last for span in around if span):
                first, last = min(first, start), max(last, stop)
        return first, last

    # Fetching

    def _run(self, span: _Span) -> None:
        with self._lock:
            if span.begun:
                return
            span.begun = True
        error: StratumError | None = None
        try:
            self._fetch(span)
        except Exception as exc:
            error = foreseen(exc)
        self._ended(span, error)

    def _fetch(self, span: _Span) -> None:
        supply, catalog = span.supply, span.supply.catalog
        first, last = span.first, span.last
        if not any(not self._has(want) for want in span.wants):
            lacking = [frame for frame in range(first, last) if self._lacks(supply, frame)]
            if not lacking:
                self._completed(supply, first, last)
                return
            first, last = lacking[0], lacking[-1] + 1

        def wanted(member: CatalogMember) -> bool:
            return member.size < LARGE_OBJECT and not self._is_here(member)

        def landed(member: CatalogMember, error: StratumError | None) -> None:
            self._landed(span, member, error)

        what = f"a pack of {supply.remote.source.place}"
        frames = self._frames(supply, first, last, REQUEST_BYTES if span.rank == DEMAND else AHEAD_BYTES)
        try:
            Cutter(catalog, (first, last), self.landing, supply.seams, wanted, landed).cut(archive_of(frames, what))
        except DamagedError as exc:
            supply.remote.damaged(catalog.packs[catalog.frame(first).pack].pack.sha256, exc.message)
            raise
        self._completed(supply, span.first, span.last)

    def _lacks(self, supply: Supply, frame: int) -> bool:
        """Whether an object that lies in the frame, or begins or ends there, is not here."""
        first, last = supply.catalog.members_within(frame, frame + 1)
        low, high = supply.catalog.packs[supply.catalog.frame(frame).pack].members
        members = supply.catalog.members(max(first - 1, low), min(last + 1, high))
        return any(member.size < LARGE_OBJECT and not self._is_here(member) for member in members)

    def _completed(self, supply: Supply, first: int, last: int) -> None:
        supply.complete[first:last] = b"\1" * (last - first)

    def _frames(self, supply: Supply, first: int, last: int, most: int) -> Iterator[tuple[CatalogFrame, bytes]]:
        """The frames with their compressed bytes, which are asked for up to ``most`` bytes at a time."""
        catalog = supply.catalog
        while first < last:
            together = [catalog.frame(first)]
            size = together[0].size
            first += 1
            while first < last and size + (frame := catalog.frame(first)).size <= most:
                together.append(frame)
                size += frame.size
                first += 1
            start = together[0].start
            data = memoryview(supply.remote.read(catalog.packs[together[0].pack].pack, start, size))
            for frame in together:
                yield frame, bytes(data[frame.start - start : frame.start - start + frame.size])

    def _landed(self, span: _Span, member: CatalogMember, error: StratumError | None) -> None:
        """An object of a span landed, or did not."""
        digest = member.digest
        if isinstance(error, DamagedError):
            span.supply.remote.damaged(span.supply.pack(member).pack.sha256, error.message)
        with self._lock:
            want = self._wants.get(digest)
            if error is None:
                self._account.fetched(digest, member.size, want.reader if want else None)
        if error is not None and not isinstance(error, DamagedError):
            self.landing.log(error.told)
        if want is None:
            return
        if error is None:
            self._finish(want, 0)
            return
        want.error = error
        if not isinstance(error, DamagedError):  # it cannot be written, and other sources would not change that
            self._fail(want)

    def _ended(self, span: _Span, error: StratumError | None) -> None:
        """What a span did not bring is tried otherwise."""
        again: list[_Want] = []
        with self._lock:
            for frame in range(span.first, span.last):
                if self._on_way.get((span.supply.number, frame)) is span:
                    del self._on_way[span.supply.number, frame]
            for want in span.wants:
                want.spans -= 1
                if self._wants.get(want.digest) is not want:
                    continue
                want.error = error or want.error
                if want.spans == 0:
                    again.append(want)
        for want in again:
            if self._has(want):  # it came between the look and the wish
                self._finish(want, 0)
                continue
            want.tries += 1
            if error is not None or want.tries > _TRIES:
                want.source, want.tries = span.supply.number + 1, 0
            self._plan(want)

    def _give_up(self, want: _Want) -> None:
        """No source is left."""
        if self._wait and want.waiting and not self._closed:
            self._lanes.put(_Retry(self, want), RETRY_SECONDS)
        else:
            self._fail(want)

    def _fail(self, want: _Want) -> None:
        words = want.error.message if want.error else "no source of the commit has it any more"
        if self._finish(want, errno.EIO) and want.waiting:
            with self._lock:
                self._account.errors += 1
                self._errors.append({"object": want.digest.hex(), "error": words, "when": rfc3339(utc_now())})

    def _finish(self, want: _Want, code: int) -> bool:
        """Tell those who wait; whether there was still somebody to be told."""
        with self._lock:
            if self._wants.get(want.digest) is not want:
                return False
            del self._wants[want.digest]
        for done in want.waiting:
            done(code)
        return True

    def _background(self) -> None:
        return None
