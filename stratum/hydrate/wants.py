"""Small objects that are wanted, and the runs of frames that bring them.

A **want** is an object that somebody asked for and that is not here; all who want it share it. What is fetched are
**spans**: runs of frames of a pack, from one source. Every object of a span that is needed is kept, be it wanted or
not. A want whose frames are on their way waits for those; else it gets a span of its own. When a span has ended without
bringing a want, that is tried again alone, then at the next source, until none is left: then the reader gets EIO.
Nothing but what has the digest that was asked for ever counts as fetched.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, StratumError, foreseen
from stratum.hydrate.frames import SEAM_MAX, Cutter, compressed
from stratum.hydrate.lanes import AHEAD, BACKGROUND, DEMAND, Lanes
from stratum.hydrate.unpacker import unpack_here
from stratum.transfer.packs import LARGE_OBJECT

if TYPE_CHECKING:
    from stratum.hydrate.landing import Landing
    from stratum.hydrate.supply import Place, Supplies, Supply
    from stratum.hydrate.unpacker import Unpacker
    from stratum.store.catalog import CatalogMember
    from stratum.sys.actors import Actor

REQUEST_BYTES = 4 << 20
"""Consecutive frames are asked for together up to so many bytes."""
AHEAD_BYTES = 512 << 10
"""The same of frames that nobody waits for: several such requests are on their way at once."""
RETRY_SECONDS = 5.0
"""With ``wait``, sources that failed are asked again after so long."""
_TRIES = 2
"""How often a source is asked for an object that its frames did not bring, though nothing was wrong with them."""

Done = Callable[[int], None]
"""Told an errno, 0 where the object is in the landing or the store; by any thread."""


class _Want:
    """An object that is waited for, or to be brought anyway (``waiting`` is empty)."""

    __slots__ = ("digest", "error", "reader", "size", "source", "spans", "tries", "waiting")

    def __init__(self, digest: bytes, size: int, reader: Actor | None) -> None:
        self.digest, self.size, self.reader = digest, size, reader
        self.waiting: list[Done] = []
        self.spans = 0  # those on their way that may bring it
        self.source = 0  # the number of the source that is to be asked
        self.tries = 0
        self.error: StratumError | None = None


class _Span:
    """Frames [first, last) of a pack, to be fetched from a source; a job of the lanes."""

    __slots__ = ("_all", "begun", "first", "last", "rank", "supply", "wants")

    def __init__(self, owner: Wants, supply: Supply, first: int, last: int, rank: int) -> None:
        self._all = owner
        self.supply, self.first, self.last, self.rank = supply, first, last, rank
        self.begun = False
        self.wants: set[_Want] = set()

    def run(self) -> None:
        self._all.run(self)


class _Retry:
    """A want that is tried again from the first source on; a job of the lanes."""

    rank = DEMAND

    def __init__(self, owner: Wants, want: _Want) -> None:
        self._all, self._want = owner, want

    def run(self) -> None:
        self._want.source = self._want.tries = 0
        self._all.plan(self._want)


class Wants:
    """What is wanted of ``supplies``, to be brought to ``landing`` by ``lanes``; for all threads.

    ``came`` is told of each object that landed, and for whom; ``failed`` of each that readers were told EIO for. With
    ``wait``, readers wait for sources that are away.
    """

    def __init__(
        self,
        landing: Landing,
        supplies: Supplies,
        lanes: Lanes,
        *,
        came: Callable[[bytes, int, Actor | None], None],
        failed: Callable[[bytes, StratumError], None],
        unpacker: Unpacker | None,
        wait: bool,
    ) -> None:
        self._landing, self._supplies, self._lanes, self._unpacker = landing, supplies, lanes, unpacker
        self._unpack = unpack_here if unpacker is None else unpacker.unpack
        self._came, self._failed, self._wait = came, failed, wait
        self._landed_already, self._has = landing.has, landing.store.objects.has
        self._lock = threading.Lock()
        self._wants: dict[bytes, _Want] = {}
        self._on_way: dict[tuple[int, int], _Span] = {}  # (number of the source, frame) -> the span that brings it
        self._closed = False

    def __len__(self) -> int:
        return len(self._wants)

    def close(self) -> None:
        """Who waits is told EIO."""
        with self._lock:
            self._closed = True
            wants, self._wants = list(self._wants.values()), {}
        for want in wants:
            for done in want.waiting:
                done(errno.EIO)

    def is_here(self, digest: bytes, size: int) -> bool:
        """Whether the object is in the landing or the store."""
        return self._landed_already(digest, size) or self._has(digest, size)  # in this order: so it goes

    def spans(self, supply: Supply, start: int, stop: int, together: int, rank: int) -> list[_Span]:
        """Jobs that bring the frames [start, stop), but for those that came or are on their way, at most ``together``
        at a time. They have to be done: others wait for them from now on."""
        with self._lock:
            return [] if self._closed else list(self._spans(supply, start, stop, together, rank))

    def wait_for(self, member: CatalogMember, reader: Actor | None, done: Done) -> None:
        with self._lock:
            known = self._wants.get(member.digest)
            came = known is None and self.is_here(member.digest, member.size)  # since whoever asks looked
            if not came:
                want = known or _Want(member.digest, member.size, reader)
                self._wants[member.digest] = want
                want.waiting.append(done)
        if came:
            done(0)
        elif known is None:
            self.plan(want)
        else:
            self._hurry(want)

    def plan(self, want: _Want) -> None:
        """Have a want brought by what is on its way, or by a span of its own; fail where no source is left."""
        try:
            self._plan(want)
        except StratumError as exc:  # a catalog is damaged
            want.error = exc
            self._fail(want)

    def _plan(self, want: _Want) -> None:
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

    def read_ahead(self, place: Place) -> None:
        supply, member = place
        if member.size >= LARGE_OBJECT or member.number in supply.asked:
            return
        first, last = supply.catalog.frames_of(member)
        supply.asked = range(*supply.catalog.members_within(first, first + 1))
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

    def run(self, span: _Span) -> None:
        with self._lock:
            if span.begun:
                return
            span.begun = True
        error: StratumError | None = None
        try:
            self._fetch(span)
        except Exception as exc:  # also of a defect: readers wait for the end of the span
            error = foreseen(exc)
        self._ended(span, error)

    def _fetch(self, span: _Span) -> None:
        supply, catalog = span.supply, span.supply.catalog
        first, last = span.first, span.last
        with self._lock:
            wants = list(span.wants)
        if all(self.is_here(want.digest, want.size) for want in wants):
            lacking = [frame for frame in range(first, last) if self._lacks(supply, frame)]
            if not lacking:
                self._completed(supply, first, last)
                return
            first, last = lacking[0], lacking[-1] + 1

        def wanted(member: CatalogMember) -> bool:
            return member.size < LARGE_OBJECT and not self.is_here(member.digest, member.size)

        def ahead(member: CatalogMember) -> bool:
            return member.digest not in self._wants

        def landed(member: CatalogMember, error: StratumError | None) -> None:
            self._landed(span, member, error)

        if span.rank != DEMAND and self._unpacker is not None:
            self._unpacker.expect_much()
        what = f"a pack of {supply.remote.source.place}"
        most = REQUEST_BYTES if span.rank == DEMAND else AHEAD_BYTES
        frames = compressed(catalog, supply.remote, first, last, most)
        try:
            cutter = Cutter(catalog, (first, last), self._landing, supply.seams, wanted, ahead, landed)
            cutter.cut(frames, self._unpack, what)
        except DamagedError as exc:
            supply.remote.damaged(catalog.packs[catalog.frame(first).pack].pack.sha256, exc.message)
            raise
        self._completed(supply, span.first, span.last)

    def _lacks(self, supply: Supply, frame: int) -> bool:
        """Whether an object that lies in the frame, or begins or ends there, is not here."""
        first, last = supply.catalog.members_within(frame, frame + 1)
        low, high = supply.catalog.packs[supply.catalog.frame(frame).pack].members
        members = supply.catalog.members(max(first - 1, low), min(last + 1, high))
        return any(member.size < LARGE_OBJECT and not self.is_here(member.digest, member.size) for member in members)

    def _completed(self, supply: Supply, first: int, last: int) -> None:
        supply.complete[first:last] = b"\1" * (last - first)

    def _landed(self, span: _Span, member: CatalogMember, error: StratumError | None) -> None:
        """An object of a span landed, or did not."""
        digest = member.digest
        if isinstance(error, DamagedError):
            span.supply.remote.damaged(span.supply.pack(member).pack.sha256, error.message)
        with self._lock:
            want = self._wants.get(digest)
        if error is None:
            self._came(digest, member.size, want.reader if want else None)
        if error is not None and not isinstance(error, DamagedError):
            self._landing.log(error.told)
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
            if self.is_here(want.digest, want.size):  # it came between the look and the wish
                self._finish(want, 0)
                continue
            want.tries += 1
            if error is not None or want.tries > _TRIES:
                want.source, want.tries = span.supply.number + 1, 0
            self.plan(want)

    def _give_up(self, want: _Want) -> None:
        """No source is left."""
        if self._wait and want.waiting and not self._closed:
            self._lanes.put(_Retry(self, want), RETRY_SECONDS)
        else:
            self._fail(want)

    def _fail(self, want: _Want) -> None:
        if self._finish(want, errno.EIO) and want.waiting:
            self._failed(want.digest, want.error or StratumError("no source of the commit has it any more"))

    def _finish(self, want: _Want, code: int) -> bool:
        """Tell those who wait; whether there was still somebody to be told."""
        with self._lock:
            if self._wants.get(want.digest) is not want:
                return False
            del self._wants[want.digest]
        if not code:
            try:  # it may have come before it was asked for
                self._landing.show(want.digest)
            except StratumError as exc:
                want.error, code = exc, errno.EIO
        for done in want.waiting:
            done(code)
        return True
