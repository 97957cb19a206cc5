"""Work that may take longer than a caller waits: it goes on in the background, and the retried call joins it.

A call waits for a moment (``SOON``), so that quick work is over in the first one, and is answered ABORTED then: the
kubelet and the sidecars call again with the same arguments, and that call joins the job that is under way instead of
starting it anew. Whoever is waiting when a job ends gets its result or its error; when nobody is, the next call of the
same ``Task`` does, if it comes soon enough. Jobs die with the driver: what they do is safe to cut short anywhere, and
the next call takes it up again.

Nobody can have it all. Jobs of one ``Lane`` run in so many threads at most, those of one owner (a namespace) in fewer,
and only so many calls of one owner wait at the same time; the others are told to come again at once. A job that is
refused a place leaves nothing behind: there is no queue but the callers who call again.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar, cast

from stratum.csi.errors import aborted
from stratum.errors import StratumError

T = TypeVar("T")

SOON = 5.0
"""Seconds that a call waits for a job."""

RESULT_LIFE = 150.0
"""Seconds for which the result of a job that nobody waited for is kept; the kubelet calls again within 122."""

WAITING_MAX = 32
WAITING_EACH = 8
"""Calls that wait at the same time, and those of one owner among them."""

UNWANTED = 600.0
"""Seconds without a call after which a job that asks (``Jobs.check_wanted``) is stopped: the pod is gone."""

_MARGIN = 0.1
_POLL = 0.2


@dataclass(frozen=True, slots=True)
class Lane:
    """A kind of work: at most ``total`` jobs of it at once, and ``each`` of one owner."""

    name: str
    total: int
    each: int


INLINE = Lane("pulls for inline volumes", 8, 3)
PROVISIONING = Lane("pulls and lookups", 6, 4)
PUSHING = Lane("pushes", 4, 2)
LOCAL = Lane("commits", 12, 8)
SNAPSHOTS = Lane("snapshots", 16, 4)
"""These may wait for commands in pods."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a job does. Tasks are the same whose ``what`` (words for messages) and ``key`` (never shown) are."""

    what: str
    key: tuple[str, ...] = ()
    lane: Lane = field(default=LOCAL, compare=False)
    owner: str = field(default="", compare=False)


class Caller(Protocol):
    """Who waits: what ``grpc.ServicerContext`` tells of a call."""

    def is_active(self) -> bool:
        """Whether the client still waits."""

    def time_remaining(self) -> float | None:
        """Seconds until the client stops waiting; None without a deadline."""


@dataclass(slots=True)
class _Job:
    task: Task
    result: Any = None
    error: BaseException | None = None
    ended: float | None = None
    wanted: float = field(default_factory=time.monotonic)

    @property
    def stale(self) -> bool:
        return self.ended is not None and time.monotonic() - self.ended > RESULT_LIFE


class Jobs:
    """The jobs of one driver."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._jobs: dict[Task, _Job] = {}
        self._waiting: Counter[str] = Counter()

    @property
    def running(self) -> int:
        """How many jobs are under way."""
        with self._changed:
            return sum(job.ended is None for job in self._jobs.values())

    @property
    def kept(self) -> int:
        """How many jobs are over, with a result that nobody has got yet."""
        with self._changed:
            return sum(job.ended is not None for job in self._jobs.values())

    @property
    def waiting(self) -> int:
        """How many calls wait."""
        with self._changed:
            return sum(self._waiting.values())

    def run(self, task: Task, work: Callable[[], T], caller: Caller) -> T:
        """The result of ``work``, or what it raised. ABORTED where that is not to be had soon: a job that has begun
        goes on."""
        job = self._wait(task, work, caller, SOON)
        if job is None:
            whose = f" of namespace {task.owner}" if task.owner else ""
            raise aborted(f"{task.what}: waits while other {task.lane.name}{whose} are under way; call again")
        if job.ended is None:
            raise aborted(f"{task.what}: still at work; call again")
        return cast(T, self._take(job))

    def look(self, task: Task, work: Callable[[], T], caller: Caller, patience: float) -> T | None:
        """As ``run``, but None where the job is not over within ``patience`` seconds."""
        job = self._wait(task, work, caller, patience)
        return cast(T, self._take(job)) if job is not None and job.ended is not None else None

    def check_wanted(self, task: Task) -> None:
        """For the job itself to call now and then: raises ``StratumError`` where nobody has asked for it for long."""
        with self._changed:
            job = self._jobs.get(task)
            if job is not None and time.monotonic() - job.wanted > UNWANTED:
                raise StratumError(f"{task.what}: stopped, as nobody asks for it any more")

    def _wait(self, task: Task, work: Callable[[], Any], caller: Caller, patience: float) -> _Job | None:
        """The job, begun where it is not under way, when it has ended or the time is over. None without a place."""
        remaining = caller.time_remaining()
        if remaining is not None:
            patience = min(patience, remaining * (1 - _MARGIN))
        with self._changed:
            if sum(self._waiting.values()) >= WAITING_MAX or self._waiting[task.owner] >= WAITING_EACH:
                patience = 0.0
            deadline, job = time.monotonic() + patience, None
            self._waiting[task.owner] += 1
            try:
                while True:
                    job = job or self._join(task, work)
                    rest = deadline - time.monotonic()
                    if (job is not None and job.ended is not None) or rest <= 0 or not caller.is_active():
                        return job
                    self._changed.wait(min(_POLL, rest))
            finally:
                self._waiting[task.owner] -= 1
                self._waiting += Counter()  # without those of which nobody waits

    def _join(self, task: Task, work: Callable[[], Any]) -> _Job | None:
        self._jobs = {known: job for known, job in self._jobs.items() if not job.stale}
        job = self._jobs.get(task)
        if job is not None:
            job.wanted = time.monotonic()
        elif self._has_place(task):
            job = _Job(task)
            threading.Thread(target=self._work, args=(job, work), daemon=True, name=f"job {task.lane.name}").start()
            self._jobs[task] = job
        return job

    def _has_place(self, task: Task) -> bool:
        beside = [job.task for job in self._jobs.values() if job.ended is None and job.task.lane == task.lane]
        return len(beside) < task.lane.total and sum(each.owner == task.owner for each in beside) < task.lane.each

    def _take(self, job: _Job) -> Any:
        with self._changed:
            if self._jobs.get(job.task) is job:
                del self._jobs[job.task]
        if job.error is not None:
            raise job.error
        return job.result

    def _work(self, job: _Job, work: Callable[[], Any]) -> None:
        try:
            job.result = work()
        except StratumError as exc:
            # Without its frames: they have secrets in them, and a job's error may be kept for a while.
            exc.__traceback__ = exc.__context__ = None
            job.error = exc
        except BaseException as exc:
            # Handed to whoever waits, in whose thread it is raised.
            job.error = exc
        with self._changed:
            job.ended = time.monotonic()
            self._changed.notify_all()
