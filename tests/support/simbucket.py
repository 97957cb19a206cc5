"""An object store that is simulated, with a clock that is, and actors that take turns request by request.

Each actor is a thread that stands still before every request of its own until the schedule gives it a turn, so a
schedule (a list of numbers) is one interleaving, the same each time. Requests are as in S3: each is done at once, or
not at all, and is seen by all later ones. A listing is several requests. An actor can be killed at a request: before
it is done, or when it is, and the answer is not heard.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from hashlib import md5
from threading import Semaphore, Thread

from stratum.errors import ChangedError, NotFoundError
from stratum.oci.bucketname import Bucket
from stratum.oci.bucketstore import ALWAYS, Absent, BucketStore, Entry, Match, When
from stratum.oci.guard import Machine
from stratum.oci.sweeprecord import LIMITS, Limits, Who

PAGE = 4
"""Objects in a page of a listing."""


class KilledError(BaseException):
    """The process is gone."""


class World:
    """The objects, the clock, and the actors. ``check`` is called after each request that deletes or names something.

    ``grace``: how long an actor may stand still between its last look at a clock and a request whose safety depends on
    that.
    """

    grace = 300.0

    def __init__(self, check: Callable[[World], None] = lambda world: None, limits: Limits = LIMITS) -> None:
        self.limits = limits
        self.objects: dict[str, tuple[bytes, float, str]] = {}
        self.clock = 1_000_000.0
        self.check = check
        self.actors: list[Actor] = []
        self.dead: set[int] = set()
        self.requests = 0

    # Requests, done at once

    def entry(self, key: str) -> Entry | None:
        if key not in self.objects:
            return None
        data, modified, version = self.objects[key]
        return Entry(key, len(data), modified, version)

    def put(self, key: str, data: bytes, when: When) -> str:
        there = self.objects.get(key)
        if isinstance(when, Absent) and there is not None:
            raise ChangedError(f"{key} is there already")
        if isinstance(when, Match) and (there is None or there[2] != when.version):
            raise ChangedError(f"{key} was changed")
        version = md5(data, usedforsecurity=False).hexdigest()
        self.objects[key] = (data, round(self.clock, 3), version)
        if key.startswith(("tags/", "referrers/")):
            self.check(self)
        return version

    def delete(self, keys: list[str]) -> None:
        for key in keys:
            self.objects.pop(key, None)
        self.check(self)

    # Actors

    def start(self, work: Callable[[Actor], None], *, alone: bool = False) -> Actor:
        """A new actor. ``alone``: it never stands still, and is done when this returns."""
        actor = Actor(self, len(self.actors), alone=alone)
        self.actors.append(actor)
        actor.run(work)
        return actor

    @property
    def waiting(self) -> list[Actor]:
        """Those that are not done."""
        return [actor for actor in self.actors if not actor.done]

    def pass_time(self, seconds: float) -> None:
        """Let the clock go on, but no further than what an actor in the middle of something is trusted to stand."""
        for actor in self.waiting:
            if actor.careful_since is not None:
                seconds = min(seconds, actor.careful_since + self.grace - self.clock)
        self.clock += max(seconds, 0)

    def end(self) -> None:
        """Let all actors finish, taking turns."""
        for number in itertools.count():
            left = self.waiting
            if not left:
                return
            left[number % len(left)].turn()

    def kill_all(self) -> None:
        for actor in self.waiting:
            actor.turn(kill=True)


class Actor:
    """A process. ``error`` is what ended it, if that was an error."""

    def __init__(self, world: World, number: int, *, alone: bool) -> None:
        self.world = world
        self.number = number
        self.alone = alone
        self.done = False
        self.error: BaseException | None = None
        self.careful_since: float | None = None
        self._go, self._stopped = Semaphore(0), Semaphore(0)
        self._kill: bool | None = None

    @property
    def machine(self) -> Machine:
        who = Who("sim", self.number, 1, "", "sim")
        return Machine(
            limits=self.world.limits,
            jobs=1,
            now=lambda: self.world.clock + 1000 * self.number,
            sleep=self._sleep,
            who=lambda: who,
            gone=lambda other: other.pid in self.world.dead,
        )

    def run(self, work: Callable[[Actor], None]) -> None:
        def body() -> None:
            try:
                self.stop()
                work(self)
            except KilledError:
                self.world.dead.add(self.number)
            except BaseException as exc:
                self.error = exc
            finally:
                self.done = True
                self._stopped.release()

        if self.alone:
            body()
            return
        Thread(target=body, daemon=True).start()
        self._stopped.acquire()

    def turn(self, *, kill: bool | None = None) -> None:
        """Let it do its next request. ``kill``: it dies before that (True), or right after it (False)."""
        self._kill = kill
        self._go.release()
        self._stopped.acquire()

    def stop(self, *, careful: bool = False) -> None:
        """Stand still until it is this one's turn."""
        self.world.requests += 1
        self.world.clock += 0.01
        if self.alone:
            return
        self.careful_since = self.world.clock if careful else None
        self._stopped.release()
        self._go.acquire()
        self.careful_since = None
        if self._kill:
            raise KilledError

    def answered(self) -> None:
        if self._kill is False:
            raise KilledError

    def _sleep(self, seconds: float) -> None:
        self.stop()
        self.world.pass_time(seconds)


class SimBucket(BucketStore):
    """The store as an actor has it."""

    bucket = Bucket("memory", "sim")

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self._world = actor.world

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        self._actor.stop()
        if key not in self._world.objects:
            raise NotFoundError(f"there is no object {key}")
        data, _, version = self._world.objects[key]
        assert len(data) <= limit
        return data, version

    def read(self, key: str) -> Iterator[bytes]:
        yield self.get(key, 1 << 30)[0]

    def read_range(self, key: str, start: int, size: int) -> bytes:
        return self.get(key, 1 << 30)[0][start : start + size]

    def head(self, key: str) -> Entry | None:
        self._actor.stop()
        return self._world.entry(key)

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        while True:
            self._actor.stop()
            keys = sorted(key for key in self._world.objects if key.startswith(prefix) and key > after)[:PAGE]
            for entry in [self._world.entry(key) for key in keys]:
                assert entry is not None
                yield entry
            if len(keys) < PAGE:
                return
            after = keys[-1]

    def put(self, key: str, data: bytes, *, when: When = ALWAYS) -> str:
        self._actor.stop(careful=key.startswith(("tags/", "referrers/")))
        version = self._world.put(key, data, when)
        self._actor.answered()
        return version

    def put_stream(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        data = b"".join(pieces)
        assert len(data) == size
        self.put(key, data)

    def delete(self, keys: Iterable[str]) -> None:
        for key in keys:  # one by one: that it is one request is not promised
            self._actor.stop(careful=True)
            self._world.delete([key])
            self._actor.answered()

    def server_time(self) -> float:
        self._actor.stop()
        return self._world.clock
