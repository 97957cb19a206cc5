"""Large files are taken by a thread, so that the closes of others do not wait until they are copied and hashed."""

from __future__ import annotations

import os
import queue
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

from stratum.errors import StratumError
from stratum.history.versions import Closed, Key
from stratum.sys.handles import identity

if TYPE_CHECKING:
    from stratum.history.capture import Captured, Capturer

AT_ONCE = 64
"""So many may wait, each of which is open; who has more takes them himself."""


class Owner(Protocol):
    """Whose file it is."""

    def arrived(self, closed: Closed, captured: Captured | None, when: int) -> None:
        """The file, closed at ``when`` (ns), was captured, or could not be; its descriptor is the owner's again."""


class _Job(NamedTuple):
    owner: Owner
    closed: Closed
    max_file: int
    when: int


class LargeFiles:
    """Files that are taken aside. ``wake`` is called, in the thread, when one is. Else for one thread."""

    def __init__(self, capturer: Capturer, wake: Callable[[], None]) -> None:
        self._capturer = capturer
        self._wake = wake
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[_Job, Captured | None]] = queue.SimpleQueue()
        self._keys: Counter[Key] = Counter()
        self._owners: Counter[int] = Counter()
        self._thread: threading.Thread | None = None

    def put(self, owner: Owner, closed: Closed, max_file: int) -> bool:
        """Have the file taken, whose descriptor is not the caller's then; False where too many wait."""
        if self._keys.total() >= AT_ONCE:
            return False
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="large files", daemon=True)
            self._thread.start()
        self._keys[identity(closed.info)] += 1
        self._owners[id(owner)] += 1
        self._jobs.put(_Job(owner, closed, max_file, time.time_ns()))
        return True

    def waits(self, key: Key) -> bool:
        """Whether the file with this device and inode number is being taken."""
        return self._keys[key] > 0

    @property
    def is_busy(self) -> bool:
        """Whether anything is being taken, or was not delivered."""
        return bool(self._keys)

    def pending(self, owner: Owner) -> int:
        """How many files of an owner did not arrive yet."""
        return self._owners[id(owner)]

    def deliver(self) -> None:
        """Give their owners what was taken."""
        while self._keys:
            try:
                job, captured = self._done.get_nowait()
            except queue.Empty:
                return
            self._keys -= Counter([identity(job.closed.info)])
            self._owners -= Counter([id(job.owner)])
            job.owner.arrived(job.closed, captured, job.when)

    def close(self) -> None:
        """Wait for what is being taken, and deliver it."""
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None
        self.deliver()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            captured = None
            try:
                captured = self._capturer.capture(job.closed.fd, os.fstat(job.closed.fd), max_file=job.max_file)
            except (OSError, StratumError):
                captured = None  # it is read again by the next batch, which tells what is wrong
            finally:
                self._done.put((job, captured))
                self._wake()
