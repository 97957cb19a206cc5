"""Landing: where objects that were fetched wait for their names in the store.

::

    landing/owner        flock of the worker that fetches; others leave all of this alone while it is held
    landing/ab/cdef...   an object, verified, mode 0444: a data layer of mounts, as ``objects/`` is
    landing/new/         objects that are arriving
    landing/parts/       large objects, of which parts are here (``hydrate.parts``)
    ahead/ab/cdef...     an object as in landing/, that nobody had asked for: a data layer before the gate

A mount finds what is in ``ahead`` without asking for it. Whoever looked there before it came, and asks, is told that it
is in ``landing``, and so it then is too (``show``).

A reader gets an object the moment it is verified; that its bytes get to the disk is not waited for. Every
``PUBLISH_SECONDS``, or ``PUBLISH_BYTES``, one syncfs makes all that has landed durable, and then link(2) gives each
object its name in ``objects/``. So a name there is never of bytes that a power cut can take. The other names
stay for ``KEPT_SECONDS``: whoever was told that the object is there finds it. A syncfs that fails has lost bytes,
nobody knows which: what waited then is forgotten, and fetched again when it is asked for.

What a dead worker left in both is not trusted, for after a power cut it may be anything: it is deleted when the next
one starts. Directories stay, as they are layers of mounts.

No lock of the store is held while objects get their names. That would have first reads wait for a garbage collection,
and is not needed: a collection removes only objects that no kept commit needs, and a commit that is mounted is kept.
Who mounts holds the lock, shared, from before the commit is looked at until the record of the mount names it, so no
collection is in between. Where the last mount went meanwhile, an object that is named after the collection is garbage
for the next one, and no more. Names only ever appear, or are replaced where their size shows damage, by bytes that
were verified; so nobody who holds the lock finds less here than they saw.
"""

from __future__ import annotations

import os
import shutil
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.composefs.verity import Buffer, VerityHasher
from stratum.errors import StratumError, os_error_text
from stratum.hydrate.parts import Parts
from stratum.hydrate.unpack import NEW_FILE, Putter, differs
from stratum.store.layout import storage_error
from stratum.store.objects import OBJECT_MODE
from stratum.sys.atomic import write_all
from stratum.sys.locks import FileLock
from stratum.sys.malloc import give_back_at_once
from stratum.sys.syscalls import syncfs

if TYPE_CHECKING:
    from stratum.store import Store

PUBLISH_SECONDS = 5.0
PUBLISH_BYTES = 64 << 20
KEPT_SECONDS = 60.0
OWNER = "owner"
NEW = "new"
PARTS = "parts"
_OWNER_WAIT = 10.0
_DIGEST = 32


class Landing:
    """The landing of ``store``, owned from here to ``close``. For all threads.

    ``log`` is told in a line what went wrong where nobody waits. ``before`` is called with a number of bytes that are
    about to be written, and may make room. ``BusyError`` where another process owns the landing, ``StratumError`` where
    the store cannot be written to.
    """

    def __init__(
        self,
        store: Store,
        *,
        log: Callable[[str], None] | None = None,
        before: Callable[[int], None] | None = None,
        publish_seconds: float = PUBLISH_SECONDS,
        kept_seconds: float = KEPT_SECONDS,
    ) -> None:
        self.store = store
        self.path = store.layout.landing
        self.parts = Parts(self.path / PARTS, self.adopt)
        self.log = log or _drop
        self.before = before
        self._publish_seconds, self._kept_seconds = publish_seconds, kept_seconds
        self.putter = Putter(str(self.path), str(store.layout.ahead), NEW)
        self._wake = threading.Condition()
        self._publishing = threading.Lock()
        self._pending: dict[bytes, int] = {}
        self._being_named: dict[bytes, int] = {}
        self._nameless: dict[bytes, int] = {}  # what cannot have its name: read from here for as long as this lives
        self._hidden: set[bytes] = set()  # what is in ahead only, and waits for its name
        self._pending_bytes = 0
        self._pending_since = 0.0
        self._named: deque[tuple[float, bytes]] = deque()  # (when, digests) of what has both names
        self._closed = False
        self.published = 0
        """How many objects got their names."""
        self._lock = FileLock(self.path / OWNER, timeout=_OWNER_WAIT, what=f"the landing of {store.root}")
        try:
            self.path.mkdir(mode=0o755, exist_ok=True)
            self._lock.acquire()
            store.layout.ahead.mkdir(mode=0o755, exist_ok=True)
            for directory in (
                self.path / NEW,
                self.parts.directory,
            ):  # a collection takes them where nobody has the lock
                directory.mkdir(mode=0o755, exist_ok=True)
            self._root = os.open(store.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._wipe()
        except OSError as exc:
            self._lock.release()
            raise storage_error(exc, f"write to {self.path}") from None
        give_back_at_once()
        self._thread = threading.Thread(target=self._run, name="landing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Give what has landed its name, and the landing to whoever wants it."""
        with self._wake:
            if self._closed:
                return
            self._closed = True
            self._wake.notify_all()
        self._thread.join()
        self.publish()
        os.close(self._root)
        self._lock.release()

    # Landing

    def has(self, digest: bytes, size: int) -> bool:
        """Whether the object has landed, and waits for its name in ``objects/``. Costs no system call."""
        found = self._pending.get(digest) or self._being_named.get(digest) or self._nameless.get(digest)
        return found == size

    def show(self, digest: bytes) -> None:
        """Have an object that landed be in ``landing``, for who will look there and nowhere else. ``StratumError``."""
        if digest not in self._hidden:
            return
        try:
            with suppress(FileExistsError):  # somebody else asked
                os.link(self.putter.ahead.path(digest), self.putter.landing.place(digest))
        except FileNotFoundError:  # it has had its name in objects for long
            pass
        except OSError as exc:
            raise storage_error(exc, f"write object {digest.hex()}") from None
        self._hidden.discard(digest)

    def add(self, digest: bytes, data: Buffer) -> None:
        """Land a small object that is at hand. ``DamagedError`` where ``data`` is not what the digest says,
        ``StratumError`` where it cannot be written."""
        self.make_room(len(data))
        self.putter.put(digest, data)
        self.landed(digest, len(data))

    def landed(self, digest: bytes, size: int, *, ahead: bool = False) -> None:
        """An object is there now, as ``putter`` puts it; ``ahead``: nobody asked for it."""
        with self._wake:
            if ahead:
                self._hidden.add(digest)
            if not self._pending:
                self._pending_since = time.monotonic()
            self._pending[digest] = size
            self._pending_bytes += size
            if len(self._pending) == 1 or self._pending_bytes >= PUBLISH_BYTES:
                self._wake.notify_all()

    def open(self, digest: bytes) -> int:
        """A read-only descriptor of an object that landed, or has its name by now. ``NotFoundError``."""
        for path in (self.putter.ahead.path(digest), self.putter.landing.path(digest)):
            with suppress(FileNotFoundError):
                return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self.store.objects.open(digest)

    def make_room(self, size: int) -> None:
        """So many bytes are about to be written."""
        if self.before is not None:
            self.before(size)

    def arriving(self, digest: bytes, size: int) -> Arriving:
        """An object that comes in pieces. ``StratumError`` where it cannot be written."""
        self.make_room(size)
        return Arriving(self.putter.fresh(), digest, size, self.take)

    def take(self, path: str, digest: bytes, size: int) -> None:
        """Have the file ``path``, of ``putter.fresh``, land: it was verified. Raises ``OSError``."""
        os.rename(path, self.putter.landing.place(digest))
        self.landed(digest, size)

    def adopt(self, path: Path, fd: int, digest: bytes, size: int) -> None:
        """Give the file at ``path``, open as ``fd``, whole and verified, its name among the objects, and no other.

        A sparse file has its full size from the beginning, and whatever has a name and the right size is trusted: so
        its bytes are on disk first. ``StratumError``.
        """
        try:
            os.fchmod(fd, OBJECT_MODE)
            os.fsync(fd)
            self.store.objects.adopt(path, digest, size)
        except OSError as exc:
            raise storage_error(exc, f"write object {digest.hex()}") from None
        self.published += 1

    # Names in objects/

    def publish(self) -> None:
        """Give all that has landed by now its name. What fails is logged."""
        with self._publishing:
            with self._wake:
                # What is on its way to the disk for seconds is not fetched once more. ``has`` takes no lock, so it is
                # in one of both at any moment.
                batch = self._being_named = self._pending
                self._pending, self._pending_bytes = {}, 0
            if batch:
                self._publish(batch)
                self._being_named = {}
            self._forget_old()

    def _publish(self, batch: dict[bytes, int]) -> None:
        try:
            syncfs(self._root)
        except OSError as exc:
            self.log(f"objects that were fetched could not be written to disk: {os_error_text(exc)}")
            self._being_named = {}
            self._hidden.difference_update(batch)
            self._remove(b"".join(batch))
            return
        try:
            refused = self._share(batch)
        except (OSError, StratumError) as exc:
            self.log(f"objects that were fetched get no names yet: {_words(exc)}")
            with self._wake:
                self._pending_since = time.monotonic()
                self._pending = batch | self._pending
                self._pending_bytes = sum(self._pending.values())
            return
        for digest in refused:
            self.log(f"object {digest.hex()} was fetched and gets no name: something else than a file has it")
            self._nameless[digest] = batch.pop(digest)
        self._hidden.difference_update(batch)
        self.published += len(batch)
        self._named.append((time.monotonic(), b"".join(batch)))

    def _share(self, batch: dict[bytes, int]) -> list[bytes]:
        hidden = {digest: size for digest, size in batch.items() if digest in self._hidden}
        shown = [item for item in batch.items() if item[0] not in hidden]
        share = self.store.objects.share
        return [*share(self.putter.landing, shown), *share(self.putter.ahead, hidden.items())]

    def _forget_old(self) -> None:
        """Remove the names in ``landing/`` and ``ahead/`` of what has had its name in ``objects/`` for long enough."""
        while self._named and self._named[0][0] <= time.monotonic() - self._kept_seconds:
            _, digests = self._named.popleft()
            self._remove(digests, older_than=time.time() - self._kept_seconds)

    def _remove(self, digests: bytes, older_than: float | None = None) -> None:
        for start in range(0, len(digests), _DIGEST):
            digest = digests[start : start + _DIGEST]
            # In this order: ``show`` takes from the first to the second.
            for place in (self.putter.ahead, self.putter.landing):
                path = place.path(digest)
                with suppress(OSError):
                    # A younger one of the same name landed again meanwhile.
                    if older_than is None or os.lstat(path).st_mtime <= older_than:
                        os.unlink(path)

    def _run(self) -> None:
        while True:
            with self._wake:
                while not self._closed and not self._due():
                    self._wake.wait(self._until_due())
                if self._closed:
                    return
            try:
                self.publish()
            except Exception as exc:  # also of a defect: the thread lives as long as the landing
                self.log(f"objects that were fetched get no names yet: {_words(exc)}")

    def _due(self) -> bool:
        if self._pending and (self._pending_bytes >= PUBLISH_BYTES or self._until_due() == 0):
            return True
        return bool(self._named) and self._named[0][0] + self._kept_seconds <= time.monotonic()

    def _until_due(self) -> float | None:
        """Seconds until there is something to do; None where nothing is known that will be."""
        now, times = time.monotonic(), []
        if self._pending:
            times.append(self._pending_since + self._publish_seconds)
        if self._named:
            times.append(self._named[0][0] + self._kept_seconds)
        return max(0.0, min(times) - now) if times else None

    def _wipe(self) -> None:
        """Delete what a dead worker left, but for parts of large objects, which are verified before they are used."""
        for entry in (*os.scandir(self.path), *os.scandir(self.store.layout.ahead)):
            if entry.name in (OWNER, PARTS):
                continue
            if not entry.is_dir(follow_symlinks=False):
                os.unlink(entry.path)
                continue
            for inner in list(os.scandir(entry.path)):
                if inner.is_dir(follow_symlinks=False):
                    shutil.rmtree(inner.path)
                else:
                    os.unlink(inner.path)


class Arriving:
    """An object that arrives in pieces: ``write`` each, then ``done``, or ``drop`` it."""

    def __init__(self, path: str, digest: bytes, size: int, take: Callable[[str, bytes, int], None]) -> None:
        self._path, self._digest, self._size, self._take = path, digest, size, take
        self._hasher = VerityHasher()
        self._written = 0
        self._fd = self._writing(partial(os.open, path, NEW_FILE, OBJECT_MODE))

    def write(self, piece: Buffer) -> None:
        """Add a piece. ``StratumError`` where it cannot be written."""
        self._hasher.update(piece)
        self._written += len(piece)
        self._writing(partial(write_all, self._fd, memoryview(piece)))

    def done(self) -> None:
        """Have it land. ``DamagedError`` where it is not what its digest says."""
        if self._written != self._size or self._hasher.digest() != self._digest:
            self.drop()
            raise differs(self._digest)
        os.close(self._fd)
        self._fd = -1
        self._writing(partial(self._take, self._path, self._digest, self._size))

    def drop(self) -> None:
        """Forget it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        with suppress(OSError):
            os.unlink(self._path)

    def _writing(self, call: Callable[[], int | None]) -> int:
        try:
            return call() or 0
        except OSError as exc:
            self.drop()
            raise storage_error(exc, f"write object {self._digest.hex()}") from None


def _words(exc: Exception) -> str:
    if isinstance(exc, StratumError):
        return exc.told
    return os_error_text(exc) if isinstance(exc, OSError) else f"{type(exc).__name__}: {exc}"


def _drop(_line: str) -> None:
    return
