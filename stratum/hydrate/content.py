"""The objects of a commit as a content store: near, what is in the store and the landing; far, its sources.

``content.cached.CachedStore`` puts one before the other, and is what a first read asks: what is near is there; what is
not is brought by one fetch for all who want it, and has become near when they are told. The IDs are digests.

How it is brought is the far side's own (``hydrate.wants``, ``hydrate.ranges``): by frames, of which all that is needed
is kept, by what is waited for first, from the next source where one fails. There is no limit here, and nothing counts
references: what of the store may go is for ``hydrate.evict`` and the garbage collection to know, by what commits need.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from io import FileIO
from typing import TYPE_CHECKING, BinaryIO

from stratum.composefs.verity import VerityHasher
from stratum.content.base import ContentSource, Done, Entry, KeptStore, Stream
from stratum.content.streams import file_pieces, open_stream, pieces_of, verified
from stratum.errors import NotFoundError, StratumError, UnsupportedError
from stratum.hydrate.frames import compressed
from stratum.hydrate.unpack import NEW_FILE, content_of
from stratum.hydrate.unpacker import UNPACKING
from stratum.store.layout import storing
from stratum.store.objects import OBJECT_MODE
from stratum.store.quarantine import Quarantine
from stratum.sys.atomic import write_all

if TYPE_CHECKING:
    from stratum.hydrate.landing import Landing
    from stratum.hydrate.supply import Place, Supplies

REQUEST_BYTES = 4 << 20
_LOCK_SECONDS = 0.5


class NearObjects(KeptStore[bytes]):
    """The objects that are here, in the store of ``landing`` or waiting there for their names."""

    def __init__(self, landing: Landing, supplies: Supplies) -> None:
        self._landing, self._supplies = landing, supplies
        self._objects = landing.store.objects

    def size(self, content_id: bytes) -> int | None:
        place = self._supplies.find(content_id)
        if place is None:
            return self._objects.size(content_id)
        size = place.member.size
        # In this order: so it goes.
        is_here = self._landing.has(content_id, size) or self._objects.has(content_id, size)
        return size if is_here else None

    def get(self, content_id: bytes) -> BinaryIO:
        file = FileIO(self._landing.open(content_id))
        pieces = file_pieces(file, f"read object {content_id.hex()}")
        return open_stream(_verified(pieces, content_id, "this store"), file.close)

    def keep(self, stream: Stream) -> bytes:
        hasher, size = VerityHasher(), 0
        path = self._landing.putter.fresh()
        try:
            with storing(f"write {path}"), FileIO(os.open(path, NEW_FILE, OBJECT_MODE), "w") as file:
                for piece in pieces_of(stream):
                    hasher.update(piece)
                    size += len(piece)
                    write_all(file.fileno(), piece)
            digest = hasher.digest()
            with storing(f"write object {digest.hex()}"):
                self._landing.take(path, digest, size)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(path)
        return digest

    def put(self, stream: Stream) -> bytes:
        """As ``keep``: it stays where a commit needs it, and else until the next garbage collection."""
        return self.keep(stream)

    def delete(self, content_id: bytes) -> None:
        raise UnsupportedError(
            "objects have no references that are counted: they go when no commit needs them",
            hint="run 'stratum gc', or 'stratum unrealize' for what a source has",
        )

    def discard(self, content_id: bytes) -> None:
        """Put an object that is damaged into the quarantine. ``BusyError`` where others use the store."""
        store = self._landing.store
        with store.locks.store(exclusive=True, timeout=_LOCK_SECONDS):
            if self._objects.has(content_id):
                Quarantine(store.layout).take(self._objects.path(content_id))

    def touch(self, content_id: bytes) -> None:
        """Nothing: what was of use lately is known by when it came."""

    def entries(self) -> Iterator[Entry[bytes]]:
        for digest in self._objects.names():
            found = self._objects.weigh(digest)
            if found is not None:
                yield digest, found.size, found.came


class FarObjects(ContentSource[bytes]):
    """The objects that ``supplies`` have. ``fetch`` has one brought here, and tells when it is."""

    def __init__(self, supplies: Supplies, fetch: Callable[[Place, Done, object], None]) -> None:
        self._supplies, self._fetch = supplies, fetch
        self._closed = False

    def close(self) -> None:
        """Nothing is brought or read any more: ``StratumError``."""
        self._closed = True

    def size(self, content_id: bytes) -> int | None:
        place = self._supplies.find(content_id)
        return None if place is None else place.member.size

    def bring(self, content_id: bytes, into: KeptStore[bytes], done: Done, who: object = None) -> None:
        try:
            self._check_open()
            place = self._supplies.find(content_id)
            if place is None:
                raise _unknown(content_id)
            self._fetch(place, done, who)
        except StratumError as exc:
            done(exc)

    def get(self, content_id: bytes) -> BinaryIO:
        """The object straight from a source that has it; nothing is kept."""
        self._check_open()
        error: StratumError = _unknown(content_id)
        for place in self._supplies.places(content_id):
            pieces = _pieces(place)
            try:
                first = next(pieces, b"")
            except StratumError as exc:
                error = exc
                continue
            where = str(place.supply.remote.source.place)
            return open_stream(_verified(_after(first, pieces), content_id, where))
        raise error

    def _check_open(self) -> None:
        if self._closed:
            raise StratumError("the mount has ended")


def _pieces(place: Place) -> Iterator[bytes]:
    """The object, from the frames that it lies in. ``StratumError``."""
    (supply, member), what = place, f"a pack of {place.supply.remote.source.place}"
    first, last = supply.catalog.frames_of(member)
    for frame, data in compressed(supply.catalog, supply.remote, first, last, REQUEST_BYTES):
        start = member.offset - frame.archive_start
        with UNPACKING:
            content = content_of(data, frame.archive_size, what)
            piece = bytes(content[max(0, start) : start + member.size])
            del content
        yield piece


def _after(first: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield first
    yield from rest


def _verified(pieces: Iterator[bytes], digest: bytes, where: str) -> Iterator[bytes | memoryview]:
    hasher = VerityHasher()
    return verified(pieces, hasher, lambda: hasher.digest() == digest, f"object {digest.hex()} of {where}")


def _unknown(digest: bytes) -> NotFoundError:
    return NotFoundError(f"no source of the commit has object {digest.hex()}")
