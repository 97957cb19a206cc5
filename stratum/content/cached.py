"""A near store before a far one: what was read once is read from near by.

``get`` looks in the near store first. What is not there, or is damaged there, is fetched from the far one: all who want
it meanwhile wait for the same fetch. Nothing is given out that was not compared with its ID before: what is fetched,
as it is kept; what was kept by an earlier process, when it is first read. ``put`` goes to both, ``delete`` too: the
references are the far store's, copies have none.

With a ``limit`` the near store has at most so many bytes: before more is fetched, what was not used for the longest
time goes, but never what is being read. What is larger than the limit is not kept. Several processes may share a near
store: each looks at all of it whenever it evicts, so together they are over the limit by what they fetch between two
looks, a tenth of it each at most. A near store that cannot be written to is done without.

What lazy strata read is such a store too: ``hydrate.content``.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from io import SEEK_END, BytesIO
from queue import SimpleQueue
from typing import BinaryIO

from stratum.content.base import ContentSource, ContentStore, Done, Id, KeptStore, Stream
from stratum.content.streams import PIECE, open_stream
from stratum.errors import DamagedError, NotFoundError, StratumError, UnsupportedError

_STEPS = 10
_TRIES = 3
_TRUSTED_MAX = 1 << 20


class CachedStore(ContentStore[Id]):
    """The store ``far``, with what was read or written by here in the store ``near``, up to ``limit`` bytes.

    ``far`` may be a source only: then nothing can be put or deleted (``UnsupportedError``).
    """

    def __init__(self, near: KeptStore[Id], far: ContentSource[Id], *, limit: int | None = None) -> None:
        self.near, self.far, self.limit = near, far, limit
        self._lock = threading.Lock()
        self._coming: dict[Id, list[Done]] = {}
        self._reading: dict[Id, int] = {}
        self._trusted: set[Id] = set()
        """What this process saw to be what its ID says."""
        self._room = threading.Lock()
        self._since = 0
        self._held: int | None = None
        self._expected: list[tuple[Id | None, int]] = []
        """What is on its way to the near store, in bytes; of what is put, the ID is not known yet."""

    def close(self) -> None:
        self.near.close()
        self.far.close()

    # Reading

    def size(self, content_id: Id) -> int | None:
        size = self.near.size(content_id)
        return self.far.size(content_id) if size is None else size

    def get(self, content_id: Id) -> BinaryIO:
        with ExitStack() as opened:
            opened.enter_context(self._pinned(content_id))
            stream = self._near_pieces(content_id)
            if stream is None:
                stream = self._fetched_pieces(content_id)
            return open_stream(stream, opened.pop_all().close)

    def _fetched_pieces(self, content_id: Id) -> Iterator[bytes]:
        """The content, after it was fetched to the near store; from the far one, where it cannot be kept."""
        for _ in range(_TRIES):
            with self._room_for(self.far.size(content_id) if self.limit else None, content_id) as has_room:
                if not has_room:
                    break
                answer = SimpleQueue[StratumError | None]()
                self.want(content_id, answer.put)
                error = answer.get()
            if isinstance(error, (NotFoundError, DamagedError)):
                raise error
            found = self._near_pieces(content_id)
            if found is not None:
                return found
            if error is not None:
                break
        return _pieces(self.far.get(content_id))

    def want(self, content_id: Id, done: Done, who: object = None) -> None:
        """Have the content be in the near store, whoever has to bring it; ``done`` is told when it is, or why not."""
        with self._lock:
            waiting = self._coming.get(content_id)
            if waiting is not None:
                waiting.append(done)
                return
            self._coming[content_id] = [done]
        try:
            is_near = self.near.has(content_id)
        except StratumError as exc:
            self._came(content_id, exc)
            return
        if is_near:
            self._came(content_id, None)
        else:
            self.far.bring(content_id, self.near, partial(self._came, content_id), who)

    def _came(self, content_id: Id, error: StratumError | None) -> None:
        with self._lock:
            waiting = self._coming.pop(content_id)
        for done in waiting:
            done(error)

    def _near_pieces(self, content_id: Id) -> Iterator[bytes] | None:
        """The content, where the near store has it and it is right; what is damaged goes from there."""
        try:
            stream = self.near.get(content_id)
            size = self.near.size(content_id)
            with suppress(StratumError):
                self.near.touch(content_id)
            if size is not None and size <= PIECE:  # at once, so that damage is noticed before anything is given out
                with stream:
                    return iter([stream.read()])
            if content_id not in self._trusted:
                with stream:
                    while stream.read(PIECE):
                        pass
                self._trust(content_id)
                stream = self.near.get(content_id)
            return self._watched(stream, content_id)
        except NotFoundError:
            return None
        except DamagedError:
            if self._drop(content_id):
                return None
            return _pieces(self.far.get(content_id))  # it stays in the way

    def _watched(self, stream: BinaryIO, content_id: Id) -> Iterator[bytes]:
        try:
            yield from _pieces(stream)
        except DamagedError:  # since it was compared
            self._drop(content_id)
            raise

    def _trust(self, content_id: Id) -> None:
        if len(self._trusted) >= _TRUSTED_MAX:
            self._trusted.clear()
        self._trusted.add(content_id)

    def _drop(self, content_id: Id) -> bool:
        """Have the near store not have the content; whether that could be done."""
        self._trusted.discard(content_id)
        try:
            self.near.discard(content_id)
        except StratumError:
            return False
        return True

    # Writing

    def put(self, stream: Stream) -> Id:
        far = self._far_store()
        if isinstance(stream, bytes):
            stream = BytesIO(stream)
        start, size = _left(stream)
        try:
            with self._room_for(size) as has_room:
                if not has_room:
                    return far.put(stream)
                content_id = self.near.keep(stream)
        except StratumError:
            if start is None:
                raise
            stream.seek(start)
            return far.put(stream)
        with self._pinned(content_id):
            try:
                with self.near.get(content_id) as copy:
                    far.put(copy)
            except BaseException:
                self._drop(content_id)
                raise
            self._trust(content_id)
        if size is None:
            with self._room:
                self._held = None  # to be measured
            self._make_room(0)
        return content_id

    def delete(self, content_id: Id) -> None:
        far = self._far_store()
        is_left = False
        try:
            far.delete(content_id)
            is_left = far.has(content_id)
        finally:
            if not is_left:
                self._drop(content_id)

    def _far_store(self) -> ContentStore[Id]:
        if not isinstance(self.far, ContentStore):
            raise UnsupportedError("nothing can be stored or deleted here: what is behind this cache can only be read")
        return self.far

    # Room

    @contextmanager
    def _pinned(self, content_id: Id) -> Iterator[None]:
        """The content is not evicted meanwhile."""
        with self._lock:
            self._reading[content_id] = self._reading.get(content_id, 0) + 1
        try:
            yield
        finally:
            with self._lock:
                self._reading[content_id] -= 1
                if not self._reading[content_id]:
                    del self._reading[content_id]

    @contextmanager
    def _room_for(self, size: int | None, content_id: Id | None = None) -> Iterator[bool]:
        """Whether so many bytes more are within the limit, which are on their way meanwhile."""
        expected = (content_id, size or 0)
        has_room = size is None or self._make_room(size, expected)
        try:
            yield has_room
        finally:
            with self._room, suppress(ValueError):
                self._expected.remove(expected)

    def _make_room(self, size: int, expected: tuple[Id | None, int] | None = None) -> bool:
        """Evict what was not used for the longest time, until so many bytes more are within the limit; whether they
        are now, so that they can be ``expected``."""
        if self.limit is None:
            return True
        if size > self.limit:
            return False
        step = self.limit // _STEPS
        with self._room:
            self._since += size
            if self._held is None or self._since > step or self._held + size > self.limit:
                self._since = size
                self._held = self._evict(size, step)
            if self._held + size > self.limit:
                return False
            self._held += size
            if expected is not None:
                self._expected.append(expected)
            return True

    def _evict(self, size: int, step: int) -> int:
        """The bytes that the near store has or gets, after it has room for ``size`` more, and some."""
        assert self.limit is not None, "there is a limit"
        entries = sorted(self.near.entries(), key=lambda entry: entry[2])
        held = sum(entry[1] for entry in entries) + self._bytes_coming({entry[0] for entry in entries})
        if held + size <= self.limit:
            return held
        for content_id, bytes_there, _ in entries:
            if held + size <= self.limit - step:
                break
            with self._lock:
                is_read = content_id in self._reading or content_id in self._coming
            if not is_read:
                self._drop(content_id)
                held -= bytes_there
        return held

    def _bytes_coming(self, there: set[Id]) -> int:
        """The bytes on their way, without those that are ``there`` already."""
        named = {content_id: size for content_id, size in self._expected if content_id is not None}
        named_bytes = sum(size for content_id, size in named.items() if content_id not in there)
        return named_bytes + sum(size for content_id, size in self._expected if content_id is None)


def _pieces(stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := stream.read(PIECE):
            yield piece


def _left(stream: BinaryIO) -> tuple[int | None, int | None]:
    """Where the stream is, and how many bytes it has left; None of what is not known."""
    try:
        start = stream.tell()
        size = stream.seek(0, SEEK_END) - start
        stream.seek(start)
    except (OSError, ValueError, AttributeError):
        return None, None
    return start, max(0, size)
