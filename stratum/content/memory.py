"""Contents in the memory of this process: for tests, and for what need not last."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import BinaryIO

from stratum.c4.ids import C4Id, hasher, id_of_digest
from stratum.content.base import Entry, KeptStore, Stream
from stratum.content.c4content import c4_id, checked_stream, not_there
from stratum.content.streams import pieces_of

_WHERE = "this store in memory"


class _Held:
    __slots__ = ("count", "data", "used")

    def __init__(self) -> None:
        self.data = b""
        self.count = 0
        self.used = 0.0


class MemoryStore(KeptStore[C4Id]):
    """Contents by their C4 IDs, for as long as this object lives."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[C4Id, _Held] = {}

    def put(self, stream: Stream) -> C4Id:
        return self._put(stream, counts=True)

    def keep(self, stream: Stream) -> C4Id:
        return self._put(stream, counts=False)

    def _put(self, stream: Stream, *, counts: bool) -> C4Id:
        state, pieces = hasher(), []
        for piece in pieces_of(stream):
            state.update(piece)
            pieces.append(bytes(piece))
        c4id, data = id_of_digest(state.digest()), b"".join(pieces)
        with self._lock:
            held = self._held.get(c4id)
            if held is None:
                held = self._held[c4id] = _Held()
            held.data = data
            held.count = held.count + 1 if counts else max(held.count, 1)
            held.used = time.time()
        return c4id

    def get(self, content_id: C4Id) -> BinaryIO:
        c4id = c4_id(content_id)
        with self._lock:
            held = self._held.get(c4id)
        if held is None:
            raise not_there(c4id, _WHERE)
        return checked_stream(pieces_of(held.data), c4id, _WHERE)

    def size(self, content_id: C4Id) -> int | None:
        with self._lock:
            held = self._held.get(c4_id(content_id))
        return None if held is None else len(held.data)

    def delete(self, content_id: C4Id) -> None:
        c4id = c4_id(content_id)
        with self._lock:
            held = self._held.get(c4id)
            if held is None:
                raise not_there(c4id, _WHERE)
            held.count -= 1
            if held.count == 0:
                del self._held[c4id]

    def discard(self, content_id: C4Id) -> None:
        with self._lock:
            self._held.pop(c4_id(content_id), None)

    def touch(self, content_id: C4Id) -> None:
        with self._lock:
            held = self._held.get(c4_id(content_id))
            if held is not None:
                held.used = time.time()

    def entries(self) -> Iterator[Entry[C4Id]]:
        with self._lock:
            found = [(c4id, len(held.data), held.used) for c4id, held in self._held.items()]
        return iter(found)
