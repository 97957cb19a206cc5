"""Work that may take longer than a caller waits: it goes on in the background, and the retried call joins it.

The kubelet gives up after two minutes and calls again with the same arguments. A job is known by its key, so that call
waits for the work that is under way instead of starting it anew. Whoever is waiting when it ends gets its result or
its error; when nobody is, the next call with its key does, if it comes soon. Jobs die with the driver: what they do is
safe to cut short anywhere, and is taken up again by the next call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from stratum.csi.errors import aborted

T = TypeVar("T")

LONGEST_WAIT = 110.0
"""Seconds that a call without a deadline waits."""

RESULT_LIFE = 60.0
"""Seconds for which the result of a job that nobody waited for is kept: the registry's tag may move."""

_MARGIN = 0.1
_POLL = 0.2


class Caller(Protocol):
    """Who waits: what ``grpc.ServicerContext`` tells of a call."""

    def is_active(self) -> bool:
        """Whether the client still waits."""

    def time_remaining(self) -> float | None:
        """Seconds until the client stops waiting; None without a deadline."""


@dataclass(slots=True)
class _Job:
    future: Future[Any] = field(default_factory=Future)
    ended: float | None = None

    @property
    def stale(self) -> bool:
        return self.ended is not None and time.monotonic() - self.ended > RESULT_LIFE


class Jobs:
    """The jobs of one driver."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._jobs: dict[tuple[str, ...], _Job] = {}

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        with self._lock:
            return sum(job.ended is None for job in self._jobs.values())

    def run(self, key: tuple[str, ...], work: Callable[[], T], caller: Caller) -> T:
        """The result of ``work``, or what it raised. ABORTED where the caller's time is over first; the job goes on."""
        job = self._join(key, work)
        if not _wait(job, caller, LONGEST_WAIT):
            raise aborted(f"{key[0]} of {', '.join(key[1:])}: still at work; call again")
        return cast(T, self._take(key, job))

    def look(self, key: tuple[str, ...], work: Callable[[], T], caller: Caller, patience: float) -> T | None:
        """As ``run``, but None where the job is not over within ``patience`` seconds."""
        job = self._join(key, work)
        return cast(T, self._take(key, job)) if _wait(job, caller, patience) else None

    def _join(self, key: tuple[str, ...], work: Callable[[], Any]) -> _Job:
        with self._lock:
            self._jobs = {known: job for known, job in self._jobs.items() if not job.stale}
            job = self._jobs.get(key)
            if job is None:
                job = self._jobs[key] = _Job()
                threading.Thread(target=_work, args=(job, work), daemon=True, name=f"job {key[0]}").start()
            return job

    def _take(self, key: tuple[str, ...], job: _Job) -> Any:
        with self._lock:
            if self._jobs.get(key) is job:
                del self._jobs[key]
        return job.future.result()


def _wait(job: _Job, caller: Caller, patience: float) -> bool:
    """Whether the job ended before the caller's time, or ``patience`` seconds, were over."""
    remaining = caller.time_remaining()
    if remaining is not None:
        patience = min(patience, remaining * (1 - _MARGIN))
    deadline = time.monotonic() + patience
    while caller.is_active():
        rest = deadline - time.monotonic()
        try:
            job.future.exception(timeout=max(0.0, min(_POLL, rest)))
        except FutureTimeoutError:
            if rest <= 0:
                break
        else:
            return True
    return job.future.done()


def _work(job: _Job, work: Callable[[], Any]) -> None:
    try:
        job.future.set_result(work())
    except BaseException as exc:
        # Handed to whoever waits, in whose thread it is raised.
        job.future.set_exception(exc)
    finally:
        job.ended = time.monotonic()
