"""A large object, read in parts while it is being fetched.

Asked for are the frames that hold the chunks that a reader needs. Whoever reads on from where they were has more
fetched ahead each time, up to ``WINDOW_MAX``; whoever jumps gets what they asked for and no more. A chunk is verified
when it arrives (``hydrate.parts``), by hashes that the artifact has in a blob of their own. Where it has none, nothing
can be believed before all of it is here: then the object is fetched from the beginning to the end, from one source or
several, and readers wait for that.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Generator
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError, UnreachableError, foreseen
from stratum.hydrate.frames import Seams, archive_of, compressed
from stratum.hydrate.lanes import AHEAD, BACKGROUND, DEMAND
from stratum.hydrate.parts import CHUNK, Part

if TYPE_CHECKING:
    from stratum.hydrate.landing import Landing
    from stratum.hydrate.lanes import Job, Lanes
    from stratum.hydrate.supply import Place, Supplies, Supply
    from stratum.store.catalog import Blob

WINDOW_MIN = 1 << 20
WINDOW_MAX = 16 << 20
TOGETHER = 2
"""Frames of a request for what is ahead; what is asked for is fetched at once."""
_NEAR = 2 << 20
"""The kernel asks for what is next in several requests, which come in any order."""
_REQUEST_BYTES = 4 << 20
_TRIES = 6

Done = Callable[[int, bytes], None]


class _Ask:
    """Somebody who waits for chunks [first, last) of which ``start`` and ``size`` are bytes; ``size`` may be 0."""

    __slots__ = ("done", "first", "last", "size", "start", "tries")

    def __init__(self, start: int, size: int, first: int, last: int, done: Done) -> None:
        self.start, self.size, self.first, self.last, self.done = start, size, first, last, done
        self.tries = 0


class _Fetch:
    """Frames [first, last) to be fetched; a job of the lanes."""

    def __init__(self, large: LargeObject, place: Place, first: int, last: int, rank: int) -> None:
        self._large, self.place, self.first, self.last, self.rank = large, place, first, last, rank

    def run(self) -> None:
        self._large._run(self)


class _Call:
    """Something else to be done for an object; a job of the lanes."""

    def __init__(self, call: Callable[[], object], rank: int) -> None:
        self._call, self.rank = call, rank

    def run(self) -> None:
        self._call()


class LargeObject:
    """The object that ``supplies`` lists, for the readers of one fetcher; for all threads.

    ``came`` is told of the bytes that were fetched, ``failed`` of an error that readers were told, ``realized`` once
    when the object is whole and has its name. With ``retry``, sources that failed are asked again after so many
    seconds, instead. ``StratumError`` where its parts cannot be written.
    """

    def __init__(
        self,
        landing: Landing,
        supplies: Supplies,
        lanes: Lanes,
        digest: bytes,
        size: int,
        *,
        came: Callable[[int], None],
        failed: Callable[[StratumError], None],
        realized: Callable[[], None],
        retry: float | None = None,
    ) -> None:
        self.digest, self.size = digest, size
        self._landing, self._supplies, self._lanes = landing, supplies, lanes
        self._came, self._failed, self._realized, self._retry = came, failed, realized, retry
        self.part: Part = landing.parts.take(digest, size)
        self._lock = threading.Lock()
        self._asks: list[_Ask] = []
        self._on_way: dict[tuple[int, int], _Fetch] = {}  # (number of the source, frame)
        self._came_frames: set[tuple[int, int]] = set()
        self._seams: dict[int, Seams] = {}
        self._source = 0
        self._preparing = False
        self._preparation = threading.Lock()
        self._cursor = 0
        self._prepared: threading.Event | None = None
        self._next = self._ahead = self._window = 0
        self._error: StratumError | None = None
        self._closed = False

    def close(self) -> None:
        """Who waits is told EIO."""
        with self._lock:
            self._closed = True
            asks, self._asks = self._asks, []
        for ask in asks:
            ask.done(errno.EIO, b"")
        self._landing.parts.give_back(self.part)

    # Asking

    def read(self, start: int, size: int, done: Done) -> None:
        """Tell ``done`` (errno, bytes): ``size`` bytes from ``start`` on, fewer at the end."""
        size = max(0, min(size, self.size - start))
        ask = _Ask(start, size, start // CHUNK, -(-(start + size) // CHUNK), done)
        with self._lock:
            self._asks.append(ask)
        self._serve()
        if size:
            self._read_ahead(start, size)

    def fill(self, done: Done) -> None:
        """Have all of it fetched, and tell ``done`` when it is here."""
        with self._lock:
            self._asks.append(_Ask(0, 0, 0, self.part.chunks, done))
        self._serve(AHEAD)

    def background(self, first: int, last: int) -> Job | None:
        """The next thing to do so that the chunks [first, last) come; None where nothing is left to be begun. For one
        thread at a time, which asks for one range until it is told None."""
        if not self.part.has_hashes and not self.part.is_complete:
            if self._prepared is None:
                self._prepared = threading.Event()
                return _Call(self._prepare_ahead, BACKGROUND)
            if not self._prepared.is_set():
                return _Call(partial(self._prepared.wait, 1.0), BACKGROUND)
            self._prepared = None  # it could not be prepared; whoever asks next tries again
            return None
        self._cursor = max(self._cursor, first)
        with self._lock:
            place = self._place()
            while place is not None and self._cursor < last:
                chunk = self._cursor
                self._cursor += 1
                if not self.part.has(chunk):
                    fetches = self._fetches(place, [chunk], BACKGROUND)
                    if fetches:
                        return fetches[0]
        self._cursor = 0
        return None

    # Planning

    def _serve(self, rank: int = DEMAND) -> None:
        """Give those who wait what is here, and have fetched what is not."""
        if not self._is_ready(rank):
            return
        with self._lock:
            asks, self._asks = self._asks, []
        waiting: list[_Ask] = []
        jobs: list[_Fetch] = []
        for ask in asks:
            missing = self.part.missing(ask.first, ask.last)
            if not missing:
                self._answer(ask)
                continue
            with self._lock:
                place = self._place()
                if place is not None and ask.tries <= _TRIES:
                    self._asks.append(ask)
                    jobs += self._fetches(place, missing, rank if ask.size else AHEAD)
                    continue
            waiting.append(ask)
        for job in jobs:
            self._lanes.put(job)
        if waiting:
            self._give_up(waiting)

    def _place(self) -> Place | None:
        """Where it is to be fetched from now."""
        for place in self._supplies.places(self.digest, self._source):
            if place.supply.remote.usable(place.supply.pack(place.member).pack.sha256):
                self._source = place.supply.number
                return place
            self._error = self._error or StratumError(place.supply.remote.words)
        return None

    def _fetches(self, place: Place, chunks: list[int], rank: int) -> list[_Fetch]:
        """What is to be fetched so that the chunks come, but for what is on its way. With the lock held."""
        supply, member = place
        number, catalog = supply.number, supply.catalog
        needed: set[int] = set()
        for chunk in chunks:
            first, last = catalog.frames_of(member, chunk * CHUNK, self.part.length(chunk))
            frames = {frame for frame in range(first, last) if (number, frame) not in self._came_frames}
            if not frames or (len(frames) < last - first and not self._seams_of(number).has(chunk)):
                frames = set(range(first, last))
            needed |= frames
        together = max(TOGETHER, _REQUEST_BYTES >> 20) if rank == DEMAND else TOGETHER
        fetches: list[_Fetch] = []
        for frame in sorted(needed):
            if (number, frame) in self._on_way:
                continue
            if fetches and fetches[-1].last == frame and frame - fetches[-1].first < together:
                fetches[-1].last += 1
            else:
                fetches.append(_Fetch(self, place, frame, frame + 1, rank))
            self._on_way[number, frame] = fetches[-1]
        return fetches

    def _seams_of(self, source: int) -> Seams:
        return self._seams.setdefault(source, Seams())

    def _read_ahead(self, start: int, size: int) -> None:
        with self._lock:
            end = start + size
            if self._next - _NEAR <= start <= self._next + _NEAR and self._next:
                self._window = min(max(2 * self._window, WINDOW_MIN), WINDOW_MAX)
            else:
                self._window, self._ahead = 0, end
            self._next = end
            begin, self._ahead = max(self._ahead, end), max(self._ahead, min(end + self._window, self.size))
            chunks = range(begin // CHUNK, -(-self._ahead // CHUNK)) if begin < self._ahead else range(0)
            if not self.part.has_hashes or not chunks:
                return
            place = self._place()
            missing = [chunk for chunk in chunks if not self.part.has(chunk)]
            jobs = self._fetches(place, missing, AHEAD) if place is not None and missing else []
        for job in jobs:
            self._lanes.put(job)

    # Hashes

    def _is_ready(self, rank: int) -> bool:
        """Whether chunks can be verified; else that is brought about first."""
        if self.part.has_hashes or self.part.is_complete:
            return True
        with self._lock:
            if not self._preparing and not self._closed:
                self._preparing = True
                self._lanes.put(_Call(self._prepare, rank))
        return False

    def _prepare_ahead(self) -> None:
        try:
            self._prepare()
        finally:
            if self._prepared is not None:
                self._prepared.set()

    def _prepare(self) -> None:
        """Get the hashes or, where no source has any, all of the object."""
        with self._preparation:
            error = self._brought_about()
        with self._lock:
            self._preparing = False
            self._error = error or self._error
            asks, self._asks = (self._asks, []) if error else ([], self._asks)
        if error is None:
            self._serve()
        else:
            self._give_up(asks)

    def _brought_about(self) -> StratumError | None:
        """What failed."""
        error: StratumError | None = None
        if self.part.has_hashes or self.part.is_complete:
            return None
        for supply, member in self._supplies.places(self.digest):
            blob = supply.pack(member).verity
            if blob is None:
                continue
            if supply.remote.is_away:
                error = error or UnreachableError(supply.remote.words)
            elif supply.remote.usable(blob.sha256):
                error = self._guarded(partial(self._use_hashes, supply, blob))
                if error is None:
                    return None
        if error is not None and not isinstance(error, (DamagedError, NotFoundError)):
            return error
        return self._guarded(partial(self._fetch_whole, error))

    def _use_hashes(self, supply: Supply, blob: Blob) -> None:
        self.part.use_hashes(supply.remote.read_all(blob))

    def _guarded(self, call: Callable[[], None]) -> StratumError | None:
        try:
            call()
        except Exception as exc:  # also of a defect: readers wait
            return foreseen(exc)
        return None

    def _fetch_whole(self, error: StratumError | None) -> None:
        """Fetch the object from the beginning to the end. ``StratumError`` where no source gives it."""
        with self.part.filling:
            if self.part.is_complete:
                return
            self.part.begin_whole()
            try:
                self._append_all(error)
            except BaseException:
                self.part.abandon_whole()
                raise
            if self.part.name_it():
                self._realized()

    def _append_all(self, error: StratumError | None) -> None:
        """Write the object from its first byte to its last, and check it. ``StratumError``, ``error`` where there is no
        other."""
        from stratum.composefs.verity import VerityHasher

        hasher, position = VerityHasher(), 0
        for place in self._supplies.places(self.digest):
            try:
                with closing(self._pieces(place, position)) as pieces:
                    for piece in pieces:
                        hasher.update(piece)
                        self.part.append(piece)
                        position += len(piece)
                        self._came(len(piece))
            except StratumError as exc:
                error = exc
            if position == self.size:
                break
        if position < self.size:
            raise error or StratumError(f"no source has object {self.digest.hex()} any more")
        if hasher.digest() != self.digest:
            raise DamagedError(f"the bytes of object {self.digest.hex()} do not match its digest")

    def _pieces(self, place: Place, position: int) -> Generator[memoryview, None, None]:
        """The object's bytes from ``position`` on."""
        supply, member = place
        first, last = supply.catalog.frames_of(member, position)
        frames = compressed(supply.catalog, supply.remote, first, last, _REQUEST_BYTES)
        with closing(archive_of(frames, f"a pack of {supply.remote.source.place}")) as pieces:
            for begin, content in pieces:
                start = max(member.offset + position - begin, 0)
                piece = content[start : member.offset + member.size - begin]
                position += len(piece)
                yield piece

    # Fetching

    def _run(self, fetch: _Fetch) -> None:
        error = self._guarded(partial(self._fetch, fetch))
        number = fetch.place.supply.number
        with self._lock:
            for frame in range(fetch.first, fetch.last):
                if self._on_way.get((number, frame)) is fetch:
                    del self._on_way[number, frame]
                    if error is None:
                        self._came_frames.add((number, frame))
            if error is not None:
                self._error = error
                self._source = number + 1 if self._source <= number else self._source
            else:
                self._source = 0
            for ask in self._asks:
                ask.tries += any(fetch.first <= frame < fetch.last for frame in self._frames_of(fetch.place, ask))
        if error is None:
            self._complete()
        self._serve(fetch.rank)

    def _frames_of(self, place: Place, ask: _Ask) -> range:
        if not ask.size:
            return range(0)
        return range(*place.supply.catalog.frames_of(place.member, ask.start, ask.size))

    def _fetch(self, fetch: _Fetch) -> None:
        supply, member = fetch.place
        seams = self._seams_of(supply.number)
        what = f"a pack of {supply.remote.source.place}"
        frames = compressed(supply.catalog, supply.remote, fetch.first, fetch.last, _REQUEST_BYTES)
        try:
            with closing(archive_of(frames, what)) as pieces:
                for begin, content in pieces:
                    first = max(member.offset - begin, 0)
                    data = content[first : member.offset + member.size - begin]
                    self._cut(begin + first - member.offset, data, seams)
        except DamagedError as exc:
            supply.remote.damaged(supply.pack(member).pack.sha256, exc.message)
            raise

    def _cut(self, position: int, data: memoryview, seams: Seams) -> None:
        """Keep what chunks ``data``, which begins at byte ``position`` of the object, has or makes whole."""
        end, at = position + len(data), position
        while at < end:
            chunk = at // CHUNK
            length = self.part.length(chunk)
            stop = min(end, chunk * CHUNK + length)
            piece: bytes | None = bytes(data[at - position : stop - position])
            if stop - at < length and piece is not None:
                piece = seams.meet(chunk, length, at - chunk * CHUNK, piece)
            if piece is not None and not self.part.has(chunk):
                self.part.put(chunk, piece)
                self._came(length)
            seams.landed(chunk)
            at = stop

    def _complete(self) -> None:
        try:
            if not self.part.is_complete and self.part.complete():
                self._realized()
        except StratumError as exc:
            self._landing.log(exc.told)

    # Answering

    def _answer(self, ask: _Ask) -> None:
        try:
            data = self.part.read(ask.start, ask.size) if ask.size else b""
        except OSError as exc:
            ask.done(exc.errno or errno.EIO, b"")
            return
        ask.done(0, data)

    def _give_up(self, asks: list[_Ask]) -> None:
        """No source is left for these."""
        error = self._error or StratumError(f"no source has object {self.digest.hex()} any more")
        with self._lock:
            self._source, self._error = 0, None
            closed = self._closed
            if self._retry is not None and not closed:
                for ask in asks:
                    ask.tries = 0
                self._asks += asks
        if self._retry is not None and not closed:
            self._lanes.put(_Call(self._serve, DEMAND), self._retry)
            return
        for ask in asks:
            self._failed(error)
            ask.done(errno.EIO, b"")
