"""An object store by way of obstore: S3, Google Cloud Storage, Azure Blob Storage, and one in memory.

obstore (Rust's object_store) signs, tries again, sends parts side by side and renews credentials. Here is what it is
told, and what is believed of what it brings: everything that is read has a limit in size and has to keep up a pace
(``deadline``). Small requests must be over in ``access.patience`` seconds. A long body that is cut, by that or by
anything else, goes on from where it was, as long as the object is the same.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

from stratum.errors import (
    ChangedError,
    DamagedError,
    NotFoundError,
    StratumError,
    UnreachableError,
    UnsupportedError,
)
from stratum.oci.access import Access
from stratum.oci.bucketcalls import call, each
from stratum.oci.bucketerrors import NoBucketError, Place, failure, status_of
from stratum.oci.bucketname import Bucket
from stratum.oci.bucketstore import (
    ABSENT,
    ALWAYS,
    PIECE,
    Absent,
    Always,
    BucketStore,
    Entry,
    Exactly,
    Match,
    When,
    check_folder,
    check_key,
    is_key,
)
from stratum.oci.deadline import Account, Pace

if TYPE_CHECKING:
    from obstore import ObjectMeta
    from obstore.store import ObjectStore

PART = 8 << 20
"""Bytes of a part of an upload, and the largest object that is sent in one."""

_PARTS_MAX = 9000
_AT_ONCE = 6
_DELETED_AT_ONCE = 1000
_LISTED_AT_ONCE = 1000
_TRIES = 5
_SLACK = 10
_CLOCK = "clock"
_MARK = "conditions.json"
_MARK_MAX = 64 << 10
_PROBE = "probe"


@dataclass(frozen=True, slots=True)
class Clients:
    """obstore's stores of one bucket: ``reading`` for what is short and what is read, ``writing`` for parts that may
    take long, ``plain`` makes one that deletes object by object. ``known`` is whether it is known to heed conditions;
    ``where`` is the server, as it is remembered of one that was asked."""

    reading: ObjectStore
    writing: ObjectStore
    place: Place
    where: str
    known: bool = True
    located: Bucket | None = None
    plain: Callable[[], ObjectStore] | None = field(default=None, repr=False)


_memories: dict[str, ObjectStore] = {}
_conditional: dict[tuple[str, str], bool] = {}
_shared = threading.Lock()


def obstore() -> Any:
    """The library. ``UnsupportedError`` where it is missing."""
    try:
        import obstore as library
    except ImportError:
        raise UnsupportedError(
            "object stores need the Python package obstore, which is not here",
            hint="pip install 'stratum-oci[places]'",
        ) from None
    return library


def memory_of(bucket: Bucket) -> Clients:
    """The store in memory of this name, which this process has one of."""
    obstore()
    from obstore.store import MemoryStore

    with _shared:
        store = _memories.setdefault(bucket.name, MemoryStore())
    return Clients(store, store, Place(str(bucket), "memory", "memory"), "memory")


class RemoteBucket(BucketStore):
    """The objects of ``bucket``, reached by ``clients``."""

    def __init__(self, bucket: Bucket, clients: Clients, access: Access) -> None:
        self.bucket = bucket
        self.located = clients.located or bucket
        self._library = obstore()
        self._clients = clients
        self._place = clients.place
        self._access = access
        told = access.places.get(bucket.root)
        self._unsafe = access.unsafe_concurrent
        if self._unsafe is None:
            self._unsafe = told is not None and told.unsafe_concurrent
        self._below = f"{bucket.prefix}/" if bucket.prefix else ""
        self._account = Account(_SLACK * access.patience, access.min_rate)
        self._deleting = clients.reading

    def _full(self, key: str) -> str:
        return self._below + check_key(key)

    def _pace(self) -> Pace:
        return Pace(self._access.patience, self._access.min_rate, self._account)

    @contextmanager
    def _doing(self, doing: str) -> Iterator[None]:
        """Turn an error of obstore into the words for it."""
        try:
            yield
        except StratumError:
            raise
        except (self._library.exceptions.BaseError, OSError, ValueError, NotImplementedError) as exc:
            raise failure(exc, doing, self._place) from None

    # Reading

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        full, data = self._full(key), bytearray()
        with self._doing(f"get {key} of {self._place.name}"):
            result = call(self._library, "get", self._clients.reading, full)
            meta = result.meta
            if meta["size"] <= limit:
                for piece in self._body(result, key):
                    data += piece
                    if len(data) > limit:
                        break
        if meta["size"] > limit or len(data) > limit:
            raise DamagedError(f"{key} in {self._place.name} has more than {limit} bytes")
        return bytes(data), self._version(meta)

    def _body(self, result: Any, key: str, pace: Pace | None = None) -> Iterator[bytes]:
        """What arrives of an answer, piece by piece. ``StratumError`` where it is too slow."""
        pace = pace or self._pace()
        for piece in each(result.stream(min_chunk_size=1)):
            pace.count(len(piece))
            yield piece
            if pace.over:
                raise StratumError(f"{self._place.host} sends {key} too slowly: {pace}")

    def read(self, key: str) -> Iterator[bytes]:
        pace, position, tries = self._pace(), 0, 0
        options: dict[str, Any] = {}
        while True:
            begun = position
            try:
                with self._doing(f"get {key} of {self._place.name}"):
                    result = call(self._library, "get", self._clients.reading, self._full(key), options=options)
                    meta = result.meta
                    for piece in self._body(result, key, pace):
                        position += len(piece)
                        yield from _cut(piece)
                return
            except UnreachableError:
                tries = 1 if position > begun else tries + 1
                if not position or tries == _TRIES or pace.over:
                    raise
            if position >= meta["size"]:
                return
            options = {"range": {"offset": position}, "if_match": meta["e_tag"]}

    def read_range(self, key: str, start: int, size: int) -> bytes:
        if size <= 0:
            return b""
        data = bytearray()
        full, doing = self._full(key), f"get a part of {key} of {self._place.name}"
        try:
            result = call(self._library, "get", self._clients.reading, full, options={"range": (start, start + size)})
            with self._doing(doing):
                for piece in self._body(result, key):
                    data += piece
                    if len(data) >= size:
                        break
        except StratumError:
            raise
        except Exception as exc:  # the words tell, not the kind; what it is not comes out as it is below
            if status_of(exc) == 416 or "StartTooLarge" in str(exc):
                return b""
            with self._doing(doing):
                raise
        return bytes(data[:size])

    def head(self, key: str) -> Entry | None:
        full = self._full(key)
        try:
            with self._doing(f"ask for {key} of {self._place.name}"):
                meta = call(self._library, "head", self._clients.reading, full)
        except NotFoundError:
            return None
        return self._entry(key, meta)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        folder, last = self._below + check_folder(prefix), ""
        offset = self._below + after if after else None
        with self._doing(f"list {self._place.name}"):
            stream = self._library.list(
                self._clients.reading, folder.rstrip("/") or None, offset=offset, chunk_size=_LISTED_AT_ONCE
            )
            for page in self._pages(iter(stream)):
                for meta in page:
                    key = meta["path"].removeprefix(self._below)
                    if not (meta["path"].startswith(folder) and is_key(key) and key > after):
                        continue
                    if key <= last:
                        raise DamagedError(f"{self._place.host} does not list {self._place.name} in order")
                    last = key
                    yield self._entry(key, meta)

    def _pages(self, pages: Iterator[Sequence[ObjectMeta]]) -> Iterator[Sequence[ObjectMeta]]:
        """The pages of a listing, each of which has to come in ``access.patience`` seconds. ``UnreachableError``.

        A server can give empty pages without an end, for which obstore asks on and on, and hears no interrupt
        meanwhile. So another thread waits for it, and is left behind where that takes too long.
        """
        arrived: SimpleQueue[Sequence[ObjectMeta] | BaseException | None] = SimpleQueue()

        def wait() -> None:
            try:
                arrived.put(next(pages, None))
            except BaseException as exc:  # for who waits here
                arrived.put(exc)

        while True:
            waiting = threading.Thread(target=wait, daemon=True)
            waiting.start()
            try:
                page = arrived.get(timeout=self._access.patience)
            except Empty:
                seconds = f"{self._access.patience:g} seconds"
                raise UnreachableError(
                    f"cannot list {self._place.name}: {self._place.host} named nothing for {seconds}"
                ) from None
            waiting.join()  # what Rust keeps for a thread must not be let go of while the interpreter ends
            if page is None:
                return
            if isinstance(page, BaseException):
                raise page
            yield page

    def _entry(self, key: str, meta: ObjectMeta) -> Entry:
        return Entry(key, meta["size"], meta["last_modified"].timestamp(), self._version(meta))

    def _version(self, meta: Any) -> str:
        return str(meta["version" if self.bucket.scheme == "gs" else "e_tag"] or "")

    # Writing

    def put(self, key: str, data: bytes, *, when: When = ALWAYS) -> str:
        if not isinstance(when, Always) and not self.heeds_conditions():
            return self._put_without(key, data, when)
        return self._put(key, data, when)

    def _put(self, key: str, data: bytes, when: When) -> str:
        mode: Any = "overwrite"
        if isinstance(when, Absent):
            mode = "create"
        elif isinstance(when, Match):
            mode = {"version" if self.bucket.scheme == "gs" else "e_tag": when.version}
        full = self._full(key)
        client = self._clients.reading if len(data) <= PIECE else self._clients.writing
        with self._doing(f"put {key} to {self._place.name}"):
            done = call(self._library, "put", client, full, data, mode=mode, use_multipart=False)
        return self._version(done)

    def _put_without(self, key: str, data: bytes, when: When) -> str:
        """Put under a condition that the store does not heed: what is there is looked at shortly before."""
        there = self.head(key)
        if (there.version if there else None) != (when.version if isinstance(when, Match) else None):
            raise ChangedError(f"{key} in {self._place.name} was changed by somebody else meanwhile", hint="try again")
        return self._put(key, data, ALWAYS)

    def put_stream(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        checked = Exactly(pieces, size, f"{key} to {self._place.name}")
        if size <= PART:
            self._put(key, b"".join(checked), ALWAYS)
            return
        full, part = self._full(key), max(PART, -(-size // _PARTS_MAX))
        try:
            with self._doing(f"put {key} to {self._place.name}"):
                call(
                    self._library,
                    "put",
                    self._clients.writing,
                    full,
                    iter(checked),
                    use_multipart=True,
                    chunk_size=part,
                    max_concurrency=_AT_ONCE,
                )
        except StratumError:
            if checked.error is not None:
                raise checked.error from None
            raise

    def copy_from(self, prefix: str, key: str) -> bool:
        source = f"{prefix}/{check_key(key)}" if prefix else check_key(key)
        try:
            with self._doing(f"copy {key} to {self._place.name}"):
                call(self._library, "copy", self._clients.writing, source, self._full(key))
        except StratumError:  # not there, too large to be copied, not for this user: it is sent then
            return False
        return True

    def delete(self, keys: Iterable[str]) -> None:
        rest = iter(keys)
        while some := [self._full(key) for key in islice(rest, _DELETED_AT_ONCE)]:
            try:
                self._delete(some)
            except NotFoundError:  # noqa: PERF203  (where a missing one is an error, it may have hidden others)
                for key in some:
                    with self._suppressed():
                        self._delete([key])

    @contextmanager
    def _suppressed(self) -> Iterator[None]:
        try:
            yield
        except NoBucketError:
            raise
        except NotFoundError:
            pass

    def _delete(self, keys: Sequence[str]) -> None:
        with self._doing(f"remove objects from {self._place.name}"):
            try:
                call(self._library, "delete", self._deleting, [*keys])
            except self._library.exceptions.BaseError as exc:
                if status_of(exc) not in (400, 405, 501) or self._clients.plain is None:
                    raise
                self._deleting = self._clients.plain()  # it knows no removal of many at once
                call(self._library, "delete", self._deleting, [*keys])

    def server_time(self) -> float:
        self._put(_CLOCK, os.urandom(8), ALWAYS)
        entry = self.head(_CLOCK)
        if entry is None:
            raise DamagedError(f"{self._place.host} does not show an object that was just put to {self._place.name}")
        return entry.modified

    # Conditions

    def ready_to_write(self) -> None:
        self.heeds_conditions()

    def heeds_conditions(self) -> bool:
        """Whether the store heeds conditions of a put. It is asked once, by trying; that is remembered there, in the
        object ``conditions.json``. ``UnsupportedError`` where it does not, and that was not allowed."""
        if self._clients.known:
            return True
        known = (self._clients.where, self.bucket.root)
        if known not in _conditional:
            heeds = self._remembered() or self._probe()
            with _shared:
                _conditional[known] = heeds
        if not _conditional[known] and not self._unsafe:
            raise UnsupportedError(
                f"{self._place.host} does not heed conditions of a put, so that of two who write to {self._place.name}"
                " one may lose what the other wrote",
                hint="where nobody else writes there, --unsafe-concurrent allows it",
            )
        return _conditional[known]

    def _remembered(self) -> bool:
        try:
            value = json.loads(self.get(_MARK, _MARK_MAX)[0])
            return self._clients.where in value["heeded_at"]
        except (NotFoundError, DamagedError, ValueError, KeyError, TypeError, RecursionError):
            return False

    def _probe(self) -> bool:
        key = f"{_PROBE}-{os.urandom(8).hex()}"
        try:
            version = self._put(key, b"1", ABSENT)
            heeds = bool(version) and self._refuses(key, ABSENT)
            second = self._put(key, b"2", Match(version)) if heeds else ""
            heeds = heeds and second != version and self._refuses(key, Match(version))
        except ChangedError:
            heeds = False
        except StratumError as exc:
            if not isinstance(exc, UnsupportedError) and "answered 501" not in exc.message:
                raise
            heeds = False
        finally:
            with suppress(StratumError):  # who may not remove anything leaves a byte behind
                self.delete([key])
        if heeds:
            self._put(_MARK, json.dumps({"heeded_at": [self._clients.where]}).encode(), ALWAYS)
        return heeds

    def _refuses(self, key: str, when: When) -> bool:
        try:
            self._put(key, b"3", when)
        except ChangedError:
            return True
        return False


def _cut(piece: bytes) -> Iterator[bytes]:
    if len(piece) <= PIECE:
        yield piece
        return
    for start in range(0, len(piece), PIECE):
        yield piece[start : start + PIECE]
