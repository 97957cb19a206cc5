"""A change of a store that is killed, or fails, at every call that changes something.

By default a few calls of each kind are taken, the first and some that are others in every run but in CI; with
``STRATUM_TEST_KILLS=all`` it is every call.
"""

from __future__ import annotations

import errno
import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from stratum.store import Store
from tests.support.injection import DONE, REFUSED, calls_of, failed_at, killed_at
from tests.support.stores import leftovers

EVERY = os.environ.get("STRATUM_TEST_KILLS") == "all"
SAMPLE = 2


class Scene(Protocol):
    """A store at ``path``, which ``fresh`` puts back to what it was at first; ``check`` is what must hold of it after a
    failure: the old state or the new."""

    path: Path

    def fresh(self) -> object: ...

    def check(self, store: Store) -> None: ...


def check_next(scene: Scene) -> None:
    """What must hold after a failure, and no leftovers after the next transaction."""
    store = Store.open(scene.path)
    scene.check(store)
    with store.begin("the next"):
        pass
    assert not leftovers(store)


def points(change: Callable[[], None]) -> Iterator[tuple[str, int]]:
    """Where to interrupt ``change``, as (call, number)."""
    for call, count in calls_of(change).items():
        numbers = range(1, count + 1)
        for number in numbers if EVERY else sorted({1, *random.sample(numbers, min(SAMPLE, count))}):
            yield call, number


def killed_at_every_call(scene: Scene, change: Callable[[], None]) -> None:
    """Kill ``change`` at each of its calls."""
    for call, number in points(change):
        scene.fresh()
        outcome = killed_at(change, call, number)
        print(f"killed at {call} {number}")
        assert outcome.status == -signal.SIGKILL, (call, number, outcome)
        check_next(scene)


def failing_at_every_call(scene: Scene, change: Callable[[], None]) -> None:
    """Have each of its calls fail, a sync as on a broken disk, others as on a full one."""
    refused = 0
    for call, number in points(change):
        error = errno.EIO if "sync" in call else errno.ENOSPC
        scene.fresh()
        outcome = failed_at(change, call, number, errno.errorcode[error])
        print(f"{errno.errorcode[error]} at {call} {number}: {outcome}")
        assert outcome.status in (DONE, REFUSED), (call, number, outcome)
        if outcome.status == REFUSED:
            refused += 1
            assert os.strerror(error) in outcome.message, (call, number, outcome)
        check_next(scene)
    assert refused >= 2
