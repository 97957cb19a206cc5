"""What is fetched though nobody asked for it yet: what earlier runs read, in their order, or all there is.

It is pulled by lanes that have nothing else to do (``hydrate.lanes``), a piece at a time. So nothing is remembered but
how far it came, and whoever waits for something is never behind it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from stratum.errors import UsageError
from stratum.hydrate.lanes import Job


class Progress:
    """How far it came: ``done`` of ``total``."""

    def __init__(self) -> None:
        self.done = self.total = 0


Maker = Callable[[Progress], Iterator[Job]]
"""Gives jobs, one after the other, and says how far that is."""


class Prefetch:
    """What is to be fetched of what ``makers`` know by name, in the order in which it is asked for; ``ended`` is called
    whenever there is nothing left."""

    def __init__(self, makers: Mapping[str, Maker], ended: Callable[[], None]) -> None:
        self._makers, self._ended = makers, ended
        self._lock = threading.Lock()
        self._asked: dict[str, Iterator[Job]] = {}
        self._on_way = 0
        self._ending = False
        self._progress: dict[str, Progress] = {}

    def ask(self, what: str) -> None:
        """Have it fetched too. ``UsageError`` where there is no such thing."""
        if what not in self._makers:
            names = " or ".join(map(repr, self._makers))
            raise UsageError(f"{what!r} cannot be fetched ahead", hint=f"it is {names}")
        with self._lock:
            if what not in self._asked:
                progress = self._progress[what] = Progress()
                self._asked[what] = self._makers[what](progress)

    @property
    def running(self) -> bool:
        """Whether anything is being fetched, or to be; also while ``ended`` is."""
        return bool(self._asked or self._on_way or self._ending)

    def status(self) -> dict[str, Any]:
        """What was asked for, and how far that is, in objects of the profile or in frames."""
        with self._lock:
            asked = [{"what": what, "done": each.done, "of": each.total} for what, each in self._progress.items()]
            return {"running": self.running, "asked": asked}

    def next(self) -> Job | None:
        """The next piece, for one thread at a time; None where there is none."""
        while self._asked:
            what = next(iter(self._asked))
            with self._lock:
                self._on_way += 1
            job = next(self._asked[what], None)
            if job is not None:
                return _Counted(self, job)
            with self._lock:
                del self._asked[what]
            self.over()
        return None

    def over(self) -> None:
        """A piece has been fetched, or not."""
        with self._lock:
            self._on_way -= 1
            ends = self._ending = not self.running
        if not ends:
            return
        try:
            self._ended()
        finally:
            self._ending = False


class _Counted:
    """A job, of which is known when it has ended."""

    def __init__(self, prefetch: Prefetch, job: Job) -> None:
        self._prefetch, self._job = prefetch, job
        self.rank = job.rank

    def run(self) -> None:
        try:
            self._job.run()
        finally:
            self._prefetch.over()
