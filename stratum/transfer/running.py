"""What the threads of one transfer share: worker processes, counts of what is done, and the wish to end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from stratum.errors import StratumError
from stratum.progress import Progress
from stratum.transfer.workers import Workers


class Running:
    """A transfer while it runs (``running``). ``moved`` counts bytes of blobs and manifests that came or went."""

    def __init__(self, what: str, workers: Workers, progress: Progress | None) -> None:
        self.workers = workers
        self.moved = 0
        self._what = what
        self._progress = progress
        self._lock = threading.Lock()
        self._done = self._total = 0
        self._stopped = False

    def start(self, size: int) -> None:
        """``size`` more bytes of objects are to be worked through. To be called by the thread that began."""
        self._total = self._done + size
        self.workers.start(self._total)

    def advance(self, size: int) -> None:
        """``size`` bytes of objects were worked through."""
        if self._progress is not None and size:
            with self._lock:
                self._done += size
                self._progress(self._done, self._total)

    def move(self, size: int) -> None:
        """``size`` bytes came or went. ``StratumError`` where the transfer is to end."""
        self.check()
        with self._lock:
            self.moved += size

    def check(self) -> None:
        """``StratumError`` where the transfer is to end."""
        if self._stopped:
            raise StratumError(f"{self._what} was stopped")

    def stop(self) -> None:
        """End every thread of the transfer, by an error, and the worker processes."""
        self._stopped = True
        self.workers.stop()


@contextmanager
def running(what: str, jobs: int, progress: Progress | None) -> Iterator[Running]:
    """A transfer with ``jobs`` worker processes at most; ``what`` names it in errors."""
    with Workers(jobs) as workers:
        yield Running(what, workers, progress)
