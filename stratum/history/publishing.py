"""Batches become durable: contents get their names in the store, then records their place in the log.

Contents wait in a transaction that lasts as long as the watcher does, apart from the store's lock, so that a garbage
collection never waits for the watcher. They keep their names there until the records that tell of them are on disk:
where a log cannot be written, the contents are still there for the next try, whatever was collected meanwhile. What was
on its way when a watcher was killed is taken over by the next one (``history.pending``).

All this is done in a thread, as a lock or a disk may take its time, while versions have to be taken when they are
closed. A batch of several worktrees is one job: what is small is synced file by file, as a syncfs(2) would have the
writer's own pages written.
"""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stratum.errors import BusyError, DamagedError, StratumError
from stratum.history.pending import Pending
from stratum.store.layout import storing
from stratum.store.objects import Staging
from stratum.sys.syscalls import syncfs

if TYPE_CHECKING:
    from stratum.store import Store
    from stratum.store.logwriter import LogWriter
    from stratum.tree.oplog import Record

FILES_SYNCED = 64
"""Up to so many files or directories are synced one by one."""
REST = 3.0
"""After a job comes a pause, so many times as long,"""
REST_MAX = 3.0
"""but so many seconds at most."""
_LOCK_WAIT = 5.0
_LOST = "the content of a version is gone from the store's tmp directory"


@dataclass
class Batch:
    """Records for one log, and the digests and sizes of the objects that they tell of. ``error`` is why it is not
    durable, when it is done."""

    log: LogWriter
    records: Sequence[Record]
    objects: dict[bytes, int] = field(default_factory=dict)
    error: StratumError | None = None


class Publisher:
    """Makes batches of one store durable, one job at a time. ``wake`` is called, in a thread, when a job is done."""

    def __init__(self, store: Store, wake: Callable[[], None]) -> None:
        self._store = store
        self._wake = wake
        self._held: Counter[bytes] = Counter()
        self._jobs: queue.SimpleQueue[list[Batch] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[list[Batch]] = queue.SimpleQueue()
        self._closing = False
        self._stack = ExitStack()
        tx = self._stack.enter_context(store.begin("what is written in worktrees", resumable=True, apart=True))
        self.staging = Staging(str(tx.object_staging))
        self.left = list(tx.dead)
        """The directories of transactions of watchers that were killed."""
        self.pending = Pending(tx.directory)
        self._stack.callback(self.pending.close)
        with storing("open the store"):
            self._root = os.open(store.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._stack.callback(os.close, self._root)
        self.busy = False
        """Whether a job is not done yet, or was not taken."""
        self.rest_until = 0.0
        """Until when no other one should be begun (``time.monotonic``): a sync has writers wait for the disk."""
        self._thread = threading.Thread(target=self._run, name="publishing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Wait for the job, unless it waits for a lock, and give up what was not published."""
        self._closing = True
        self._jobs.put(None)
        self._thread.join()
        self._stack.close()

    # What is staged. Whoever captured something holds it, until the batch with it is durable, or it is not wanted.

    def hold(self, digest: bytes) -> None:
        """Keep a staged object once more."""
        self._held[digest] += 1

    def is_staged(self, digest: bytes) -> bool:
        """Whether it is still there: of two that are equal, the first may have been dropped meanwhile."""
        return os.path.lexists(self.staging.path(digest))

    def drop(self, digests: Iterable[bytes]) -> None:
        """Keep them once less; what nobody holds any more is deleted from ``staging``."""
        for digest in digests:
            self._held[digest] -= 1
            if self._held[digest] <= 0:
                del self._held[digest]
                with suppress(OSError):
                    os.unlink(self.staging.path(digest))

    # Jobs

    def start(self, batches: list[Batch]) -> None:
        """Have a job done; there is no other one."""
        assert not self.busy
        self.busy = True
        self._jobs.put(batches)

    def take(self) -> list[Batch]:
        """The job that is done since the last call, if one is."""
        try:
            done = self._done.get_nowait()
        except queue.Empty:
            return []
        self.busy = False
        return done

    def _run(self) -> None:
        while (batches := self._jobs.get()) is not None:
            try:
                self._publish(batches)
            except StratumError as exc:
                _fail(batches, exc)
            except Exception as exc:  # a defect: it must not end the thread, and those who wait must hear of it
                _fail(batches, StratumError(f"cannot write the history: {type(exc).__name__}: {exc}"))
            self._done.put(batches)
            del batches  # many records, which nobody wants any more
            self._wake()

    def _publish(self, batches: list[Batch]) -> None:
        with self._locked():
            began = time.monotonic()
            self._write(batches)
            done = time.monotonic()
            self.rest_until = done + min((done - began) * REST, REST_MAX)

    def _write(self, batches: list[Batch]) -> None:
        self._name_objects(batches)
        for batch in batches:
            if batch.error is None and batch.records:
                try:
                    batch.log.append(batch.records)
                except StratumError as exc:
                    batch.error = exc

    def _locked(self) -> ExitStack:
        """The store's lock, shared. Whoever has it for itself is waited for: what is captured meanwhile is kept."""
        while True:
            with ExitStack() as stack:
                try:
                    stack.enter_context(self._store.locks.store(timeout=_LOCK_WAIT))
                except BusyError:
                    if self._closing:
                        raise
                    continue
                return stack.pop_all()

    def _name_objects(self, batches: list[Batch]) -> None:
        """Give all objects of the batches their names, durably; a batch whose objects are gone gets its error."""
        objects, wanted = self._store.objects, {}
        shards = set()  # also of what is there, which somebody else may have named a moment ago
        for batch in batches:
            for digest, size in batch.objects.items():
                if digest not in wanted and not objects.has(digest, size):
                    if not os.path.lexists(self.staging.path(digest)):
                        batch.error = DamagedError(f"{_LOST} ({digest.hex()})")
                        continue
                    wanted[digest] = size
                shards.add(os.path.dirname(objects.path(digest)))
        if not shards:
            return
        with storing("write objects to the store"):
            self._sync([self.staging.path(digest) for digest in wanted])
            refused = set(objects.share(self.staging, wanted.items()))
            self._sync([*shards, os.fspath(self._store.layout.objects)])
        for batch in batches:
            if not refused.isdisjoint(batch.objects):
                batch.error = DamagedError("the store has something else than a file in place of an object")

    def _sync(self, paths: Sequence[str]) -> None:
        if len(paths) > FILES_SYNCED:
            syncfs(self._root)
            return
        for path in paths:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)


def _fail(batches: list[Batch], error: StratumError) -> None:
    for batch in batches:
        batch.error = batch.error or error
