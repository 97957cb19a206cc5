"""Lanes: a few threads that do what is most urgent first.

What a reader waits for (``DEMAND``) begins before all else. What is likely to be asked for next (``AHEAD``) leaves one
lane free for that. What is fetched without being asked for (``background``) is pulled by lanes that would be idle, and
not while a demand is waiting or being answered: so it never has a queue, and costs no memory however much it is.

Threads start when there is work, and end when there was none for a while.
"""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable
from typing import Protocol

LANES = 8
IDLE_SECONDS = 10.0
DEMAND, AHEAD, BACKGROUND = range(3)


class Job(Protocol):
    """Something to do. ``rank`` may become lower (more urgent) while it waits; then it is put in again."""

    rank: int

    def run(self) -> None:
        """Do it, once, however often it is called. Raises nothing."""


class Lanes:
    """At most ``count`` threads; ``background`` gives the next job that nobody asked for, or None."""

    def __init__(self, name: str, background: Callable[[], Job | None], count: int = LANES) -> None:
        self._name = name
        self._background = background
        self._count = count
        self._changed = threading.Condition()
        self._waiting: list[tuple[float, int, int, Job]] = []
        self._later: list[tuple[float, int, Job]] = []
        self._number = itertools.count()
        self._threads = 0
        self._idle = 0
        self._running = [0, 0, 0]
        self._more = False
        self._pulling = False
        self._closed = False

    def put(self, job: Job, delay: float = 0.0) -> None:
        """Have it done, or begun no sooner than in ``delay`` seconds. Nothing, once they are closed."""
        with self._changed:
            if self._closed:
                return
            if delay:
                heapq.heappush(self._later, (time.monotonic() + delay, next(self._number), job))
            else:
                heapq.heappush(self._waiting, (job.rank, next(self._number), id(job), job))
            self._wake()

    def stir(self) -> None:
        """There may be something in the background again."""
        with self._changed:
            self._more = True
            self._wake()

    def close(self) -> None:
        """End when what is being done is done; what waits is not begun. Does not wait."""
        with self._changed:
            self._closed = True
            self._waiting.clear()
            self._later.clear()
            self._changed.notify_all()

    def join(self, seconds: float) -> bool:
        """After ``close``: whether all threads ended within so many seconds."""
        until = time.monotonic() + seconds
        with self._changed:
            while self._threads and time.monotonic() < until:
                self._changed.wait(until - time.monotonic())
            return not self._threads

    def _wake(self) -> None:
        if self._idle:
            self._changed.notify()
        elif self._threads < self._count and not self._closed:
            self._threads += 1
            threading.Thread(target=self._run, name=self._name, daemon=True).start()

    def _run(self) -> None:
        while (taken := self._take()) is not None:
            rank, job = taken
            try:
                job.run()
            finally:
                with self._changed:
                    self._running[rank] -= 1
                    if self._idle and (self._waiting or self._more):
                        self._changed.notify()

    def _take(self) -> tuple[int, Job] | None:
        """The next job with the rank that it is counted by; None where this thread is to end."""
        until = time.monotonic() + IDLE_SECONDS
        with self._changed:
            while not self._closed:
                self._ripen()
                if self._waiting and self._may(self._waiting[0][3].rank):
                    job = heapq.heappop(self._waiting)[3]
                    rank = job.rank
                    self._running[rank] += 1
                    return rank, job
                if self._more and not self._pulling and self._may(BACKGROUND):
                    found = self._pull()
                    if found is not None:
                        return BACKGROUND, found
                    continue
                left = until - time.monotonic()
                if left <= 0 and not self._later:
                    break
                self._idle += 1
                self._changed.wait(min(max(left, 0.01), self._later[0][0] - time.monotonic() if self._later else left))
                self._idle -= 1
            self._threads -= 1
            self._changed.notify_all()
            return None

    def _pull(self) -> Job | None:
        """The next job of the background, which is looked for without the lock."""
        self._pulling, self._more = True, False
        self._running[BACKGROUND] += 1
        self._changed.release()
        job = None
        try:
            job = self._background()
        finally:
            self._changed.acquire()
            self._pulling = False
            if job is None:
                self._running[BACKGROUND] -= 1
            else:
                self._more = True
                self._wake()
        return job

    def _may(self, rank: int) -> bool:
        running = sum(self._running)
        if rank == DEMAND:
            return running < self._count
        if rank == AHEAD:
            return running < self._count - 1
        demand = self._running[DEMAND] or any(entry[3].rank == DEMAND for entry in self._waiting[:1])
        return running < self._count - 1 and not demand

    def _ripen(self) -> None:
        """Move what was to wait and has, to what may begin."""
        while self._later and self._later[0][0] <= time.monotonic():
            _, number, job = heapq.heappop(self._later)
            heapq.heappush(self._waiting, (job.rank, number, id(job), job))
