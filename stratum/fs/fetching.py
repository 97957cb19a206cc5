"""Bytes of objects that are in packs somewhere, fetched as they are read, and verified.

What leads to an object's bytes is its digest, which the tree has, whose hash is the commit: a place can withhold bytes,
but not give wrong ones. A large object is read by chunks of 512 KiB, each checked by the hashes that the artifact has
for it, which lead to the digest: a read in the middle of it fetches the frames that hold its chunks, and no others. Any
other object is small, and fetched whole. Where an artifact has no hashes of a large one, nothing of it can be believed
before all of it came: then it is put down in a file without a name first.

What is fetched is kept in a ``Cache``: chunks and small objects once they are verified, and frames that hold other
objects too, for whoever reads on.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import closing
from typing import Protocol, TypeVar

from stratum.composefs.verity import (
    CHUNK_SIZE,
    DIGEST_SIZE,
    VerityHasher,
    chunk_count,
    chunk_hash,
    root_of_level1,
    verity_digest,
)
from stratum.errors import DamagedError, StratumError
from stratum.fs.cache import Cache
from stratum.hydrate.frames import archive_of, compressed
from stratum.hydrate.supply import Place
from stratum.store.layout import storage_error
from stratum.sys.atomic import write_all
from stratum.transfer.packs import FRAME_SIZE, LARGE_OBJECT

_T = TypeVar("_T")

WINDOW = 16 << 20
"""Bytes of an object that are fetched at the same time."""
REQUEST = 4 << 20
"""Compressed bytes of one request."""
_TOGETHER = 8
"""Chunks of one request: as many as have room in it."""
_WHOLE_MAX = 4
"""Large objects without hashes that are kept put down."""


class Supplying(Protocol):
    """Where objects can be had: ``hydrate.supply.Supplies`` is one."""

    def places(self, digest: bytes, start: int = 0) -> Iterator[Place]:
        """Where the object can be had, in the order in which it is to be tried. ``StratumError``."""


class Reader:
    """Reads objects that ``supplies`` has. For all threads; ``pool`` is what several requests are made by at once."""

    def __init__(self, supplies: Supplying, cache: Cache, pool: Executor) -> None:
        self._supplies, self._cache, self._pool = supplies, cache, pool
        self._lock = threading.Lock()
        self._whole: OrderedDict[bytes, int] = OrderedDict()

    def __del__(self) -> None:
        for fd in self.__dict__.get("_whole", {}).values():
            os.close(fd)

    def read(self, digest: bytes, size: int, start: int, stop: int) -> bytes:
        """Bytes [start, stop) of an object of ``size`` bytes, verified. ``StratumError`` where no place gives them."""
        start, stop = max(0, min(start, size)), min(stop, size)
        if start >= stop:
            return b""
        if size < LARGE_OBJECT:
            return self._small(digest, size)[start:stop]
        hashes = self._hashes(digest, size)
        if hashes is None:
            return self._from_whole(digest, size, start, stop)
        pieces = []
        for begin in range(start // CHUNK_SIZE, -(-stop // CHUNK_SIZE), WINDOW // CHUNK_SIZE):
            end = min(begin + WINDOW // CHUNK_SIZE, -(-stop // CHUNK_SIZE))
            chunks = self._chunks(digest, size, hashes, begin, end)
            for number in range(begin, end):
                first = max(start - number * CHUNK_SIZE, 0)
                last = min(stop - number * CHUNK_SIZE, CHUNK_SIZE)
                chunk = chunks[number]
                pieces.append(chunk if first == 0 and last >= len(chunk) else chunk[first:last])
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    # Small objects

    def _small(self, digest: bytes, size: int) -> bytes:
        def right(data: bytes) -> bool:
            return len(data) == size and verity_digest(data) == digest

        key = digest.hex()
        data = self._cache.load(key, right)
        if data is not None:
            return data

        def fetch(place: Place) -> bytes:
            supply, member = place
            first, last = supply.catalog.frames_of(member)
            # Who wants another object of the same frame waits, and finds it there.
            shared = _frame_key(place, first) if last - first == 1 else key
            with self._cache.alone(shared):
                again = self._cache.get(key)
                if again is not None:
                    return again
                data = self._cut(place, first, last)
            if not right(data):
                for frame in range(first, last):
                    self._cache.forget(_frame_key(place, frame))
                raise _differs(place, digest)
            self._cache.put(key, data)
            return data

        return self._tried(digest, fetch)

    def _cut(self, place: Place, first: int, last: int) -> bytes:
        """What the frames [first, last) have of the object at ``place``."""
        member, parts, at = place.member, [], first
        while at < last:
            key = _frame_key(place, at)
            content = self._cache.get(key)
            run = at
            while content is None and run < last and (run == at or self._cache.get(_frame_key(place, run)) is None):
                run += 1
            if content is not None:
                parts.append((place.supply.catalog.frame(at).archive_start, memoryview(content)))
                at += 1
                continue
            for begin, piece in self._frames(place, at, run):
                if at in (first, last - 1) and member.size < len(piece) + FRAME_SIZE:  # others are in it too
                    self._cache.put(_frame_key(place, at), bytes(piece), disk=False)
                parts.append((begin, memoryview(bytes(piece))))
                at += 1
        return b"".join(
            piece[max(member.offset - begin, 0) : max(member.offset + member.size - begin, 0)] for begin, piece in parts
        )

    def _frames(self, place: Place, first: int, last: int) -> Iterator[tuple[int, memoryview]]:
        """(where it begins in the archive, content) of the frames [first, last)."""
        supply, member = place
        what = f"a pack of {supply.remote.source.place}"
        frames = compressed(supply.catalog, supply.remote, first, last, REQUEST)
        with closing(archive_of(frames, what)) as pieces:
            try:
                yield from pieces
            except DamagedError as exc:
                supply.remote.damaged(supply.pack(member).pack.sha256, exc.message)
                raise

    # Large ones

    def _hashes(self, digest: bytes, size: int) -> bytes | None:
        """The hashes of the chunks of an object; None where no place has any."""

        def right(data: bytes) -> bool:
            fits = len(data) == chunk_count(size) * DIGEST_SIZE
            return fits and root_of_level1(data, size) == digest

        key = f"{digest.hex()}.hashes"
        data = self._cache.load(key, right)
        if data is not None:
            return data
        with self._cache.alone(key):
            data = self._cache.get(key)
            error: StratumError | None = None
            for place in self._supplies.places(digest) if data is None else ():
                blob = place.supply.pack(place.member).verity
                if blob is None:
                    continue
                try:
                    found = place.supply.remote.read_all(blob)
                except StratumError as exc:
                    error = error or exc
                    continue
                if right(found):
                    self._cache.put(key, found)
                    return found
            if error is not None and not isinstance(error, DamagedError):
                raise error
            return data

    def _chunks(self, digest: bytes, size: int, hashes: bytes, first: int, last: int) -> dict[int, bytes]:
        """The chunks [first, last) of an object, which is at most a window of it."""

        def right(number: int) -> Callable[[bytes], bool]:
            return lambda data: _is_chunk(data, size, hashes, number)

        name = digest.hex()
        found: dict[int, bytes] = {}
        missing: list[int] = []
        for number in range(first, last):
            data = self._cache.load(f"{name}.{number}", right(number))
            if data is None:
                missing.append(number)
            else:
                found[number] = data

        def bring(run: tuple[int, int]) -> dict[int, bytes]:
            with self._cache.alone(f"{name}.{run[0]}"):
                kept = {number: self._cache.get(f"{name}.{number}") for number in range(*run)}
                there = {number: data for number, data in kept.items() if data is not None}
                if len(there) == len(kept):
                    return there
                brought = self._tried(digest, lambda place: self._bring(place, size, hashes, run))
            for number, data in brought.items():
                self._cache.put(f"{name}.{number}", data)
            return brought

        runs = _runs(missing)
        for brought in map(bring, runs) if len(runs) < 2 else self._pool.map(bring, runs):
            found |= brought
        return found

    def _bring(self, place: Place, size: int, hashes: bytes, run: tuple[int, int]) -> dict[int, bytes]:
        """Fetch the chunks [first, last), and have what else is whole in the same frames."""
        member = place.member
        start, stop = run[0] * CHUNK_SIZE, min(run[1] * CHUNK_SIZE, size)
        first, last = place.supply.catalog.frames_of(member, start, stop - start)
        begun, data = None, bytearray()
        for begin, piece in self._frames(place, first, last):
            cut = piece[max(member.offset - begin, 0) : member.offset + size - begin]
            begun = max(begin - member.offset, 0) if begun is None else begun
            data += cut
        begun = begun or 0
        chunks = {}
        for number in range(-(-begun // CHUNK_SIZE), -(-(begun + len(data)) // CHUNK_SIZE)):
            at = number * CHUNK_SIZE - begun
            chunk = bytes(data[at : at + CHUNK_SIZE])
            if _is_chunk(chunk, size, hashes, number):
                chunks[number] = chunk
            elif run[0] <= number < run[1]:
                raise _differs(place, member.digest)
        if any(number not in chunks for number in range(*run)):
            raise _differs(place, member.digest)
        return chunks

    def _from_whole(self, digest: bytes, size: int, start: int, stop: int) -> bytes:
        with self._cache.alone(f"{digest.hex()}.whole"):
            with self._lock:
                fd = self._whole.get(digest)
            if fd is None:
                fd = self._tried(digest, lambda place: self._put_down(place, size))
                with self._lock:
                    self._whole[digest] = fd
                    while len(self._whole) > _WHOLE_MAX:
                        os.close(self._whole.popitem(last=False)[1])
            try:
                return os.pread(fd, stop - start, start)
            except OSError as exc:
                raise storage_error(exc, f"read object {digest.hex()}") from None

    def _put_down(self, place: Place, size: int) -> int:
        """A descriptor of a file without a name that has the object, verified."""
        member, hasher = place.member, VerityHasher()
        first, last = place.supply.catalog.frames_of(member)
        with tempfile.TemporaryFile(prefix="stratum-") as file:
            for begin, piece in self._frames(place, first, last):
                cut = piece[max(member.offset - begin, 0) : member.offset + size - begin]
                hasher.update(cut)
                try:
                    write_all(file.fileno(), cut)
                except OSError as exc:
                    raise storage_error(exc, f"write object {member.digest.hex()}") from None
            if hasher.digest() != member.digest:
                raise _differs(place, member.digest)
            return os.dup(file.fileno())

    def _tried(self, digest: bytes, use: Callable[[Place], _T]) -> _T:
        """What ``use`` gives of the first place that it can use. ``StratumError``: that of the first that could not."""
        error: StratumError | None = None
        for place in self._supplies.places(digest):
            try:
                return use(place)
            except StratumError as exc:  # noqa: PERF203 - places are few
                error = error or exc
        raise error or StratumError(f"no place has object {digest.hex()}", hint="pull the commit again")


def _frame_key(place: Place, frame: int) -> str:
    pack = place.supply.pack(place.member)
    return f"{pack.pack.sha256.hex()}.{frame - pack.frames[0]}"


def _runs(numbers: list[int]) -> list[tuple[int, int]]:
    """Numbers, ascending, as runs [first, last) of at most ``_TOGETHER``."""
    runs: list[tuple[int, int]] = []
    for number in numbers:
        if runs and runs[-1][1] == number and number - runs[-1][0] < _TOGETHER:
            runs[-1] = (runs[-1][0], number + 1)
        else:
            runs.append((number, number + 1))
    return runs


def _is_chunk(data: bytes, size: int, hashes: bytes, number: int) -> bool:
    wanted = hashes[number * DIGEST_SIZE : (number + 1) * DIGEST_SIZE]
    return len(data) == min(CHUNK_SIZE, size - number * CHUNK_SIZE) and chunk_hash(data) == wanted


def _differs(place: Place, digest: bytes) -> DamagedError:
    where = place.supply.remote.source.place
    return DamagedError(f"the bytes of object {digest.hex()} that {where} sent do not match its digest")
