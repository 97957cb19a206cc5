"""How a push and a garbage collection of the same object store stay out of each other's way.

The danger: a push finds a blob there, so it does not send it; a collection, for which nothing names that blob, deletes
it; then the push's tag names a manifest whose blob is gone. Object stores have no lock and no conditional delete. They
do have this, all of them: a request that was answered is seen by every later one (strong consistency), writes that
depend on what is there (conditional puts), and a clock of their own, which stands beside every object. So each side
first writes down what it is about to do, then looks what the other has written (store, then load): of two that do so,
at least one sees the other.

A push (``Guard``), for each manifest that gets a tag:

1.  writes a record, ``gc/pushes/...``, of the manifest, of the blobs and manifests that it names, and of the tag;
2.  reads the record of the collection, ``gc/sweep``. While that is about to delete something that the manifest names,
    it waits, until the record names that no more;
3.  asks for each blob whether it is there; not for those that it found or sent itself, where no collection deleted
    anything since the push began. What is gone makes the push begin anew (``CollectedError``);
4.  writes the manifest, moves the tag, by a conditional put, and in the end deletes its record.

A collection (``transfer.placegc``), for each batch of what nothing names and has been so for long enough:

1.  writes into ``gc/sweep`` the keys that it would like to delete, by a conditional put, which is also how it knows
    that it is the only one;
2.  reads the records of pushes, *then* the tags. What these name it drops from the batch;
3.  writes the keys that are left, deletes them, and goes on to the next batch.

*A tag's manifest has all its blobs.* Let a push move a tag to a manifest that needs a blob, and let a collection delete
that blob after the push had step 3. If that batch was written (1) before the push read ``gc/sweep`` (2), the push saw
the blob in it and waited until the record named it no more, when the deleting was over: the deletion did not come after
step 3. If it was written later, it was written after the push's record, and so the collection's look (2) came after
that, too. It saw the record, or found that it was deleted, which is after the tag was moved; then it saw the tag, as it
looks at tags after records. (Or the tag had been removed again, and the blob is rightly garbage.) Either way the blob
was dropped from the batch. A manifest that gets another tag in place of one that is removed goes the same way: its
first tag goes after the second was set.

An index of referrers is a name, too: what it lists stays as long as it is there. It goes, by the same steps, when no
tag leads to the manifest that it is about.

*What nothing names goes in the end.* A record keeps what it names, so it must not stay for ever. That of a push that
died is not looked at when it is older than ``Limits.forgotten``. The push itself moves no tag when its record is older
than ``Limits.fresh``: it writes a new one, under a new key (so that a collection that deletes the old key takes nothing
from it), and goes through all steps again.

*Who dies.* A push that dies leaves blobs without a name, and a record for a day. A collection that dies leaves
``gc/sweep`` as it was. The next collection takes that over, and finds out anew what nothing names; nobody goes on
deleting what the dead one had in its list. It may do so when the record was not written for ``Limits.stale``, or when
its process is known to be gone, which can be told on the same machine only. A push ignores the record after the same
time. So a collection that finds, by the server's clock, that it stood still for so long between two writes of its
record begins the batch anew, with another look: a push may have taken it for dead meanwhile.

*What is assumed.* Deleting depends on nothing, so a collection that stood still between its last look at the clock and
its request, for longer than ``Limits.stale``, could delete what others have come to need since. Its clock is one that
goes on while a machine sleeps. The clocks of the object store's machines are taken to agree within a minute. Who
writes blobs without this protocol, such as a copy by another program, has only the age to rely on: a collection takes
nothing that is younger.

*Age.* A push also writes a record when it sends its first blob. Blobs that came after the oldest such record are not
deleted, however young the age is that was given, so a push makes headway beside a collection that runs all the time.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from secrets import token_hex
from threading import Lock
from typing import TypeVar

from stratum.errors import ConflictError, DamagedError, NotFoundError, StratumError
from stratum.oci.bucketstore import ALWAYS, BucketStore
from stratum.oci.descriptor import MANIFEST_MAX, MalformedError, digest_of
from stratum.oci.links import Links, links_of
from stratum.oci.remote import CollectedError
from stratum.oci.sweeprecord import (
    LIMITS,
    PUSHES,
    SWEEP_KEY,
    SWEEP_MAX,
    Limits,
    PushRecord,
    SweepRecord,
    Who,
    blob_key,
    read_sweep,
)
from stratum.sys.proc import boot_id, fate, this_process

_T = TypeVar("_T")

_HOST_MAX = 200
_POLL_MIN, _POLL_MAX = 0.2, 5.0
_RENEW = 3600
_TRIES = 3
_NAMED_MAX = 3


class LateError(ConflictError):
    """A push stood still for so long that what it found out counts no more."""

    id = "late"


def clock() -> float:
    """Seconds of this machine, also while it sleeps; only differences say something."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def this_who() -> Who:
    """This process."""
    process = this_process()
    host = socket.gethostname()[:_HOST_MAX]
    return Who(host, process.pid, process.start_time, process.pid_namespace or "", process.boot or "")


def is_gone(who: Who) -> bool:
    """Whether a process is known not to run any more, which can be told of one on this machine only."""
    if not who.boot or who.boot != boot_id():
        return False
    return fate(who.pid, who.started, who.namespace or None, who.boot) is False


@dataclass(frozen=True, slots=True)
class Machine:
    """What a push and a collection take from the machine that they run on: its clock, threads, who they are there, and
    whether somebody (``Who``) runs no more."""

    limits: Limits = LIMITS
    jobs: int = 16
    now: Callable[[], float] = clock
    sleep: Callable[[float], None] = time.sleep
    who: Callable[[], Who] = this_who
    gone: Callable[[Who], bool] = is_gone


class Guard:
    """The side of a push, in one session with an object store. Threads may share it."""

    def __init__(self, store: BucketStore, machine: Machine | None = None) -> None:
        machine = machine or Machine()
        self._store = store
        self._limits = machine.limits
        self._now = machine.now
        self._sleep = machine.sleep
        self._jobs = machine.jobs
        self._id = token_hex(16)
        self._lock = Lock()
        self._written: list[str] = []
        self._written_at = 0.0
        self._begun: float | None = None
        self._swept: str | None = None
        self._is_begun = False
        self._found: set[str] = set()

    def begin(self) -> None:
        """Called before the session relies on anything that is there."""
        with self._lock:
            if not self._is_begun:
                record = self._sweep()
                # A batch that is under way may take what is found from now on.
                self._swept = None if record is not None and record.deletes else _swept(record)
                self._is_begun = True

    def sending(self) -> None:
        """Called before a blob is sent: others are told that a push is under way."""
        with self._lock:
            if not self._written or self._now() - self._written_at > _RENEW:
                self._write(PushRecord(self._begun))

    def there(self, digest: str) -> None:
        """Called when a blob (``sha256:...``) was sent, or was found there, after ``begin``."""
        if self._is_begun:
            self._found.add(digest.partition(":")[2])

    def publish(self, manifest: bytes, key: str, put: Callable[[], None], move: Callable[[], None]) -> None:
        """``put`` the manifest, then ``move`` the tag to it, or add it to an index of referrers, by all steps of the
        protocol; ``key`` is that of the tag or index. ``move`` has to call ``check`` right before the write that does
        it, and let its error pass.

        ``CollectedError`` where something that it names is gone, ``StratumError`` where it is no manifest.
        """
        try:
            links = links_of(manifest)
        except MalformedError as exc:
            raise StratumError(f"what is to be put to {key} is no manifest: {exc}") from None
        with self._lock:
            while True:
                self._secure(digest_of(manifest), links, key)
                put()
                with suppress(LateError):
                    return move()

    def check(self) -> None:
        """Within ``publish``: that not too much time has passed, or ``LateError``, and all begins anew."""
        if self._now() - self._written_at > self._limits.fresh:
            raise LateError("the push stood still for too long", hint="push again")

    def close(self) -> None:
        """Have others forget this push."""
        with self._lock:
            keys, self._written = self._written, []
            if keys:
                with suppress(StratumError):  # it is forgotten by itself
                    self._store.delete(keys)

    # Writing and reading records

    def _write(self, record: PushRecord) -> None:
        for _ in range(_TRIES):
            key = f"{PUSHES}{self._id}-{len(self._written)}"
            at = self._now()
            self._store.put(key, record.to_bytes(), when=ALWAYS)
            self._written.append(key)
            self._written_at = at
            if self._begun is not None:
                return
            entry = self._store.head(key)
            if entry is not None:  # else it stood still for so long that the record was forgotten
                self._begun = entry.modified
                return
        raise StratumError(
            f"{self._written[-1]}, which was just written, is not there",
            hint="is the object store strongly consistent, and its bucket one that keeps what it gets?",
        )

    def _sweep(self) -> SweepRecord | None:
        try:
            data, _ = self._store.get(SWEEP_KEY, SWEEP_MAX)
        except NotFoundError:
            return None
        return understood_sweep(data)

    # The steps

    def _secure(self, digest: str, links: Links, key: str) -> None:
        """Steps 1 to 3 of the protocol."""
        own = digest.partition(":")[2]
        manifests, blobs = tuple(links.manifests), tuple(links.blobs)
        record = PushRecord(self._begun, key, own, manifests, blobs)
        self._write(record)
        sweep = self._sweep()
        needed = self._closure(links)
        if self._is_begun and _swept(sweep) == self._swept and not (sweep is not None and sweep.deletes):
            self._confirm(blob for blob in needed if blob not in self._found)
            return
        wanted = {blob_key(blob) for blob in (own, *needed)} | {key}
        pause = _POLL_MIN
        while sweep is not None and sweep.deletes and not wanted.isdisjoint(sweep.keys):
            if self._now() - self._written_at > self._limits.fresh / 2:
                self._write(record)
            if self._is_stale():
                break
            self._sleep(pause)
            pause = min(pause * 2, _POLL_MAX)
            sweep = self._sweep()
        self._confirm(needed)

    def _is_stale(self) -> bool:
        """Whether nobody writes the record of the collection any more, by the server's clock."""
        own, entry = self._store.head(self._written[-1]), self._store.head(SWEEP_KEY)
        if own is None:
            return False
        return entry is None or own.modified - entry.modified > self._limits.stale

    def _closure(self, links: Links) -> list[str]:
        """All that has to be there: the blobs, and of an index the manifests with their blobs, as far as these are
        there."""
        needed = dict.fromkeys(links.blobs)
        left, seen = list(links.manifests), set(links.manifests)
        while left:
            digest = left.pop()
            found = self._child(digest)
            if found is None:
                continue
            needed[digest] = None
            needed |= dict.fromkeys(found.blobs)
            left += [child for child in found.manifests if child not in seen]
            seen.update(found.manifests)
        return list(needed)

    def _child(self, digest: str) -> Links | None:
        try:
            data, _ = self._store.get(blob_key(digest), MANIFEST_MAX)
        except NotFoundError:
            return None  # an index may name what is elsewhere
        try:
            if digest_of(data) != f"sha256:{digest}":
                raise MalformedError("it does not match its digest")
            return links_of(data)
        except MalformedError as exc:
            raise DamagedError(f"the manifest sha256:{digest} is damaged: {exc}") from None

    def _confirm(self, digests: Iterable[str]) -> None:
        """Step 3: all blobs are there. ``CollectedError``."""
        gone = [digest for digest, there in in_threads(self._is_there, digests, self._jobs) if not there]
        if gone:
            named = ", ".join(f"sha256:{digest}" for digest in gone[:_NAMED_MAX])
            more = f" and {len(gone) - _NAMED_MAX} more" if len(gone) > _NAMED_MAX else ""
            raise CollectedError(
                f"{named}{more}: found there by this push, and removed since by a garbage collection",
                hint="push again: what is gone is sent then",
            )

    def _is_there(self, digest: str) -> bool:
        return self._store.head(blob_key(digest)) is not None


def in_threads(function: Callable[[str], _T], arguments: Iterable[str], jobs: int) -> Iterator[tuple[str, _T]]:
    """Each of the arguments with what ``function`` says of it, in their order; ``jobs`` are asked at the same time."""
    if jobs == 1:
        yield from ((argument, function(argument)) for argument in arguments)
        return
    left = iter(arguments)
    with ThreadPoolExecutor(jobs) as pool:
        while some := list(islice(left, jobs * 16)):
            yield from zip(some, pool.map(function, some), strict=True)


def _swept(record: SweepRecord | None) -> str:
    return record.swept if record is not None else ""


def understood_sweep(data: bytes) -> SweepRecord:
    """The record of a collection; ``DamagedError`` says what to do about one that nobody can read."""
    try:
        return read_sweep(data)
    except MalformedError as exc:
        raise DamagedError(
            f"the record of garbage collections, {SWEEP_KEY}, cannot be read: {exc}",
            hint="where no 'stratum gc --place' is running, of whatever version, delete that object",
        ) from None
