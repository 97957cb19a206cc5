"""The C4 IDs of the files of a commit: from the tree, from what the store remembers, or by reading objects.

One object is read once, by worker processes where that is worth it. In memory are the digests of all objects and as
many SHA-512s, each in one piece: a hundred bytes an object.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from itertools import groupby
from math import isqrt
from typing import TYPE_CHECKING

from stratum.c4.ids import DIGEST_SIZE, C4Id, id_of_bytes, id_of_digest
from stratum.progress import Progress
from stratum.tree.model import Directory, File

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store import Store
    from stratum.store.c4cache import C4Cache
    from stratum.sys.workers import Worker

_KEY = 32
_BATCH = 512
_BATCH_BYTES = 8 << 20
_WORTH_IT = 16 << 20
_MANY = 5_000
"""With fewer bytes and fewer objects than this, no process is started."""
_ASKED = 100_000
"""Objects that are asked for, or remembered, at once."""


class FileIds:
    """Says the ID of each file of a tree, once ``read`` has been called."""

    def __init__(self, session: Session, root: Directory) -> None:
        self._session = session
        files: list[File] = []
        todo = [root]
        while todo:
            for inode in todo.pop().children.values():
                if isinstance(inode, Directory):
                    todo.append(inode)
                elif isinstance(inode, File) and inode.digest is not None:
                    files.append(inode)
        files.sort(key=_digest)
        files = [next(same) for _, same in groupby(files, _digest)]
        self._count = len(files)
        self._keys = b"".join(map(_digest, files))
        self._sizes = array("Q", [file.size for file in files])
        self._spread = 4 * isqrt(self._count) + 1
        self._values = bytearray(DIGEST_SIZE * self._count)

    def __call__(self, file: File) -> C4Id:
        if file.digest is None:
            return id_of_bytes(file.content or b"")
        start = DIGEST_SIZE * self._place(file.digest)
        return id_of_digest(bytes(self._values[start : start + DIGEST_SIZE]))

    def _place(self, digest: bytes) -> int:
        """Where a digest is among all: they are evenly spread, so its first bytes say about where."""
        count, key = self._count, self._key
        guess = int.from_bytes(digest[:4], "big") * count >> 32
        low, high = max(0, guess - self._spread), min(count, guess + self._spread)
        if low and key(low) > digest:
            low = 0
        if high < count and key(high) < digest:
            high = count
        return bisect_left(range(count), digest, low, high, key=key)

    def read(self, progress: Progress | None = None, remembered: C4Cache | None = None) -> None:
        """Find the SHA-512 of every object: what is ``remembered`` is believed, and what is not is remembered then.
        With None every object is read. ``DamagedError`` for one that is missing or damaged."""
        if not self._count:
            return
        missing = list(self._unknown(remembered))
        total = sum(size for _, size in missing)
        done = 0
        fresh: dict[bytes, bytes] = {}
        for batch, found in _identified(self._session.store, _batches(missing), self._jobs(missing, total)):
            for (digest, size), sha in zip(batch, found, strict=True):
                self._set(digest, sha)
                done += size
                fresh[digest] = sha
            if len(fresh) >= _ASKED:
                if remembered is not None:
                    remembered.put(fresh)
                fresh = {}
            if progress is not None:
                progress(done, total)
        if remembered is not None:
            remembered.put(fresh)

    def _unknown(self, remembered: C4Cache | None) -> Iterator[tuple[bytes, int]]:
        """Take what is remembered; the objects that are not."""
        for start in range(0, self._count, _ASKED):
            places = range(start, min(start + _ASKED, self._count))
            found = {} if remembered is None else remembered.get([self._key(place) for place in places])
            for place in places:
                digest = self._key(place)
                if (sha := found.get(digest)) is not None:
                    self._values[DIGEST_SIZE * place : DIGEST_SIZE * (place + 1)] = sha
                else:
                    yield digest, self._sizes[place]

    def _key(self, place: int) -> bytes:
        return self._keys[_KEY * place : _KEY * (place + 1)]

    def _set(self, digest: bytes, sha: bytes) -> None:
        start = DIGEST_SIZE * self._place(digest)
        self._values[start : start + DIGEST_SIZE] = sha

    def _jobs(self, objects: Sequence[object], size: int) -> int:
        """How many worker processes to start; 0 where the work is done here."""
        jobs = self._session.config.jobs
        return jobs if jobs > 1 and (size >= _WORTH_IT or len(objects) >= _MANY) else 0


def _digest(file: File) -> bytes:
    assert file.digest is not None
    return file.digest


Batch = list[tuple[bytes, int]]


def _batches(objects: Sequence[tuple[bytes, int]]) -> Iterator[Batch]:
    batch: Batch = []
    held = 0
    for digest, size in objects:  # in order, as the directories of the store have them
        batch.append((digest, size))
        held += size
        if len(batch) >= _BATCH or held >= _BATCH_BYTES:
            yield batch
            batch, held = [], 0
    if batch:
        yield batch


def _identified(store: Store, batches: Iterator[Batch], jobs: int) -> Iterator[tuple[Batch, list[bytes]]]:
    """The SHA-512s of each batch, in any order."""
    from stratum.store.identify import identify

    if not jobs:
        for batch in batches:
            yield batch, identify(store.objects, batch)
        return
    from collections import deque

    from stratum.sys.workers import Worker

    workers: deque[tuple[Worker, Batch]] = deque()
    started: list[Worker] = []
    try:
        for batch in batches:
            if len(started) < jobs:
                worker = Worker("stratum.store.identify", "reads objects")
                started.append(worker)
                worker.post(bytes(store.root))
            else:
                worker, done = workers.popleft()
                yield done, _answer(worker)
            worker.post(batch)
            workers.append((worker, batch))
        for worker, done in workers:
            yield done, _answer(worker)
    finally:
        for worker in started:
            worker.close()


def _answer(worker: Worker) -> list[bytes]:
    from stratum import errors
    from stratum.store.identify import OK

    kind, *values = worker.next()
    if kind == OK:
        found: list[bytes] = values[0]
        return found
    name, message, hint = values
    raise getattr(errors, name, errors.StratumError)(message, hint=hint)
