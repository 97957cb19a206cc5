"""Garbage collection of an object store: what no tag there leads to any more goes, beside pushes that go on.

First everything is looked at (the mark): tags, what they lead to (``reaching``), then all objects. What nothing names
is written down with the time since when that is known (``marks``). What has been so for the age, and is older than that
itself, is then deleted in batches (the sweep), each by the steps of ``oci.guard``, which say why no push is hurt. So a
first collection deletes nothing, unless the age is 0.

An interrupted collection leaves the marks of the one before, or its own; all of its steps can be done again. What is
kept in memory is eight bytes for each blob that is needed, and the names of manifests and tags; what is not needed goes
from the listing to the marks and from these to batches.

The only clock that counts for ages is the server's; a dry run, which writes nothing, cannot read it, and tells by that
of this machine. Only keys of the forms in ``objectstore`` are deleted; what has another name is counted.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from secrets import token_hex

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.bucketstore import BucketStore, Entry
from stratum.oci.descriptor import MalformedError
from stratum.oci.guard import LateError, Machine, understood_sweep
from stratum.oci.sweeprecord import (
    BLOBS,
    KEYS_MAX,
    REFERRERS,
    SWEEP_KEY,
    SWEEP_MAX,
    TAGS,
    SweepRecord,
    is_hex,
    is_push_key,
)
from stratum.progress import Progress
from stratum.transfer.digestset import DigestSet
from stratum.transfer.knownmanifests import TAGS_KEY, KnownManifests, is_part
from stratum.transfer.marks import MARKS, Mark, MarkWriter, read_marks, run_of
from stratum.transfer.reaching import Pushes, Reach
from stratum.transfer.sweeplease import SweepLease

CONTENTS, METADATA, MANIFESTS, NAMES, UNKNOWN = "contents", "metadata", "manifests", "names", "unknown"
KINDS = (MANIFESTS, METADATA, CONTENTS, NAMES, UNKNOWN)
"""Of what is deleted: manifests; packs and layers; other blobs of manifests; tags that were removed and lists of
referrers; and blobs of which no manifest is known, such as a push leaves that was cut short."""

_OWN = {"conditions.json", "clock"}
_OTHERS_MAX = 10
_BULK, _SINGLE = 1000, 100


@dataclass(slots=True)
class Amount:
    """Objects and their bytes."""

    objects: int = 0
    bytes: int = 0

    def add(self, size: int) -> None:
        self.objects += 1
        self.bytes += size


def _amounts() -> dict[str, Amount]:
    return {kind: Amount() for kind in KINDS}


@dataclass(slots=True)
class PlaceCollected:
    """What a collection did, or in a dry run would do.

    ``removed`` and ``waiting`` (what nothing names, but not for long enough) are by ``KINDS``; of what waits, the first
    may go at ``due`` and the last at ``all_due``, by the server's clock, on which it was ``time``. ``kept`` are blobs
    that are needed, or that a push may need. ``missing`` is how many blobs are needed that are not there, ``others``
    counts what is not ours, of which ``other_keys`` are the first. ``manifests`` are needed, ``manifests_read`` were
    not known from before. ``pushes`` were going on.
    """

    dry_run: bool
    time: float = 0.0
    tags: int = 0
    manifests: int = 0
    manifests_read: int = 0
    kept: Amount = field(default_factory=Amount)
    removed: dict[str, Amount] = field(default_factory=_amounts)
    waiting: dict[str, Amount] = field(default_factory=_amounts)
    due: float | None = None
    all_due: float | None = None
    missing: int = 0
    others: Amount = field(default_factory=Amount)
    other_keys: list[str] = field(default_factory=list)
    pushes: int = 0
    taken_over: bool = False


def collect_place(
    store: BucketStore,
    age: float,
    *,
    dry_run: bool = False,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> PlaceCollected:
    """Remove from the object store what nothing there has named for ``age`` seconds.

    Raises ``NotFoundError`` where there is nothing, ``BusyError`` where another one collects, ``DamagedError``, before
    anything is deleted, where what is needed cannot be told for certain, and ``StratumError`` in the server's words.
    """
    _check_there(store)
    lease, machine = None, machine or Machine()
    if not dry_run:
        store.ready_to_write()
        lease = SweepLease(store, machine)
    with lease or nullcontext():
        run = _Run(store, age, lease, machine, progress)
        run.mark()
        if lease is not None:
            run.sweep(lease)
            run.tidy(lease)
        return run.done


def _check_there(store: BucketStore) -> None:
    for folder in (TAGS, BLOBS, REFERRERS):
        for _ in store.list(folder):
            return
    if store.head(SWEEP_KEY) is None:  # else nothing is left there
        raise NotFoundError(f"there are neither tags nor blobs in {store.bucket}", hint="is its prefix the right one?")


class _Run:
    """One collection; without a lease, a dry run."""

    def __init__(
        self,
        store: BucketStore,
        age: float,
        lease: SweepLease | None,
        machine: Machine,
        progress: Progress | None,
    ) -> None:
        self._store = store
        self._age = age
        self._lease = lease
        self._limits = machine.limits
        self._progress = progress
        self.done = PlaceCollected(dry_run=lease is None)
        self.done.taken_over = lease is not None and lease.taken_over
        self._known = KnownManifests(store, save=lease is not None)
        self._reach = Reach(store, self._known, jobs=machine.jobs, beat=self._keep)
        self._kinds = {kind: DigestSet() for kind in (MANIFESTS, METADATA, CONTENTS)}
        self._there: set[str] = set()
        self._old: list[str] = []
        self._bytes = 0

    def _keep(self) -> None:
        if self._lease is not None:
            self._lease.keep()

    # Marking

    def mark(self) -> None:
        """Find out what nothing names, and write it down."""
        done, lease, reach = self.done, self._lease, self._reach
        done.time = lease.time if lease is not None else time.time()
        self._known.load()
        reach.load_tags()
        pushes = reach.look(done.time, self._limits.forgotten)
        done.pushes, self._old = pushes.live, list(pushes.forgotten)
        self._keep()
        for digest, links in self._known.others(reach.named.__contains__):
            for kind, digests in ((MANIFESTS, [digest]), (METADATA, links.metadata), (CONTENTS, links.contents)):
                for each in digests:
                    self._kinds[kind].add(each)
        writer = MarkWriter(self._store, token_hex(16)) if lease is not None else None
        before = _Before(self._store, lease.record if lease is not None else _record(self._store))
        for entry in self._unnamed():
            mark = Mark(entry.key, entry.size, entry.modified, before.since(entry, done.time))
            if writer is not None:
                writer.add(mark)
            if not self._is_due(mark) or (lease is None and self._is_young(mark, pushes)):
                self._wait(mark)
            elif lease is None:
                self._count(done.removed, mark)
        reach.missing(self._there)
        done.tags = sum(entry.key.startswith(TAGS) and entry.size > 0 for entry in reach.tags.values())
        if not pushes.live:
            done.missing = max(len(reach.named) - reach.absent - done.kept.objects, 0)
        if lease is not None and writer is not None:
            writer.flush()
            lease.marked(writer.run, writer.chunks)
            self._known.flush()
            reach.save_tags()
        done.manifests, done.manifests_read = reach.manifests, reach.read

    def _unnamed(self) -> Iterator[Entry]:
        """Go through all objects; those of ours that nothing names."""
        for number, entry in enumerate(self._store.list("")):
            if number % 1000 == 0:
                self._keep()
                if self._progress is not None:
                    self._progress(self._bytes, None, number)
            key = entry.key
            if key.startswith(BLOBS) and is_hex(digest := key.removeprefix(BLOBS)):
                self._bytes += entry.size
                self._reach.check(entry)
                if self._reach.is_manifest(digest) or digest in self._known:
                    self._there.add(digest)
                if digest not in self._reach.named:
                    yield entry
                else:
                    self.done.kept.add(entry.size)
            elif key.startswith((TAGS, REFERRERS)):
                if self._reach.tags.get(key) == entry and self._reach.is_dead(entry):
                    yield entry
            elif not _is_own(key):
                self.done.others.add(entry.size)
                if len(self.done.other_keys) < _OTHERS_MAX:
                    self.done.other_keys.append(key)

    def _is_due(self, mark: Mark) -> bool:
        # Without an age nothing depends on clocks, of which some tell whole seconds only.
        return not self._age or self.done.time - max(mark.since, mark.modified) >= self._age

    def _is_young(self, mark: Mark, pushes: Pushes) -> bool:
        """Whether a push may have sent it that is going on."""
        return pushes.begun is not None and mark.modified >= pushes.begun - self._limits.young

    def _wait(self, mark: Mark) -> None:
        self._count(self.done.waiting, mark)
        due = max(mark.since, mark.modified) + self._age
        self.done.due = due if self.done.due is None else min(due, self.done.due)
        self.done.all_due = due if self.done.all_due is None else max(due, self.done.all_due)

    def _count(self, amounts: dict[str, Amount], mark: Mark) -> None:
        amounts[self._kind(mark.key)].add(mark.size)

    def _kind(self, key: str) -> str:
        if not key.startswith(BLOBS):
            return NAMES
        digest = key.removeprefix(BLOBS)
        return next((kind for kind, digests in self._kinds.items() if digest in digests), UNKNOWN)

    # Sweeping

    def sweep(self, lease: SweepLease) -> None:
        """Delete what was marked and is due."""
        if lease.record.marks is None:
            return
        batch: list[Mark] = []
        for mark in self._marks(lease, lease.record.marks):
            if self._is_due(mark):
                batch.append(mark)
            if len(batch) == KEYS_MAX:
                self._sweep(lease, batch)
                batch = []
        if batch:
            self._sweep(lease, batch)
        lease.swept()

    def _marks(self, lease: SweepLease, run: str) -> Iterator[Mark]:
        try:
            yield from read_marks(self._store, run, lease.record.chunks)
        except MalformedError as exc:
            lease.swept()  # an error where another collection has taken over, and removed them
            raise DamagedError(
                f"the marks that were just written cannot be read: {exc}", hint="collect again"
            ) from None

    def _sweep(self, lease: SweepLease, batch: list[Mark]) -> None:
        """Delete what of a batch nobody has come to need."""
        at_once = _BULK if self._store.bucket.scheme == "s3" else _SINGLE
        while True:
            try:
                lease.look([mark.key for mark in batch])
                pushes = self._reach.look(lease.time, self._limits.forgotten)
                going = [mark for mark in batch if self._is_unneeded(mark, pushes)]
                lease.delete([mark.key for mark in going if not self._is_young(mark, pushes)], at_once)
                break
            except LateError:
                continue
        self._old = list(pushes.forgotten)
        for mark in going:
            if self._is_young(mark, pushes):
                self._wait(mark)
            else:
                self._count(self.done.removed, mark)

    def _is_unneeded(self, mark: Mark, pushes: Pushes) -> bool:
        if mark.key.startswith(BLOBS):
            return mark.key.removeprefix(BLOBS) not in self._reach.named
        entry = self._reach.tags.get(mark.key)
        return (
            mark.key not in pushes.keys
            and entry is not None
            and (entry.size, round(entry.modified, 3)) == (mark.size, mark.modified)
            and self._reach.is_dead(entry)
        )

    # Tidying

    def tidy(self, lease: SweepLease) -> None:
        """Remove records that count no more."""
        self._known.tidy(self._there.__contains__)
        keep = lease.record.marks
        marks = [entry.key for entry in self._store.list(MARKS) if (run := run_of(entry.key)) and run != keep]
        lease.keep()
        self._store.delete([*marks, *self._old])


class _Before:
    """The marks of the collection before, read along with a listing."""

    def __init__(self, store: BucketStore, record: SweepRecord | None) -> None:
        self._marks: Iterator[Mark] = iter(())
        if record is not None and record.marks is not None:
            self._marks = read_marks(store, record.marks, record.chunks)
        self._next = self._read()

    def _read(self) -> Mark | None:
        try:
            return next(self._marks, None)
        except MalformedError:  # they are made anew
            return None

    def since(self, entry: Entry, now: float) -> float:
        """Since when it is known that nothing names an object. Asked for ascending keys."""
        while self._next is not None and self._next.key < entry.key:
            self._next = self._read()
        mark = self._next
        if mark is None or (mark.key, mark.size, mark.modified) != (entry.key, entry.size, round(entry.modified, 3)):
            return now
        return min(mark.since, now)


def _record(store: BucketStore) -> SweepRecord | None:
    with suppress(NotFoundError):
        return understood_sweep(store.get(SWEEP_KEY, SWEEP_MAX)[0])
    return None


def _is_own(key: str) -> bool:
    """Whether an object is one of Stratum's own records."""
    if key in _OWN or key in (SWEEP_KEY, TAGS_KEY):
        return True
    return is_push_key(key) or is_part(key) or run_of(key) is not None
