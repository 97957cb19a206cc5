"""Lanes: what is waited for first, what nobody waits for only where nothing else is to be done."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from stratum.hydrate.lanes import AHEAD, BACKGROUND, DEMAND, Job, Lanes
from tests.support.fetching import until


class Noted:
    """A job that notes when it is done, and may wait first."""

    def __init__(self, name: str, rank: int, done: list[str], wait: threading.Event | None = None) -> None:
        self.name, self.rank, self._done, self._wait = name, rank, done, wait

    def run(self) -> None:
        if self._wait is not None:
            self._wait.wait(30)
        self._done.append(self.name)


def nothing() -> None:
    return None


def test_what_is_waited_for_goes_first() -> None:
    done: list[str] = []
    gate = threading.Event()
    lanes = Lanes("test", nothing, count=1)
    lanes.put(Noted("first", DEMAND, done, gate))
    time.sleep(0.05)
    for name, rank in (("b1", BACKGROUND), ("a1", DEMAND), ("b2", BACKGROUND), ("a2", DEMAND)):
        lanes.put(Noted(name, rank, done))
    gate.set()
    until(lambda: len(done) >= 3)
    assert done[:3] == ["first", "a1", "a2"]
    lanes.close()
    assert lanes.join(5)


def test_one_lane_is_left_for_who_waits() -> None:
    done: list[str] = []
    gate = threading.Event()
    lanes = Lanes("test", nothing, count=3)
    for number in range(6):
        lanes.put(Noted(f"ahead {number}", AHEAD, done, gate))
    lanes.put(Noted("wanted", DEMAND, done))
    until(lambda: done == ["wanted"])
    gate.set()
    until(lambda: len(done) == 7)
    lanes.close()


def test_the_background_pauses_while_somebody_waits() -> None:
    done: list[str] = []
    left = [5]
    gate = threading.Event()

    def background() -> Job | None:
        if not left[0]:
            return None
        left[0] -= 1
        return Noted("background", BACKGROUND, done)

    lanes = Lanes("test", background, count=4)
    lanes.put(Noted("wanted", DEMAND, done, gate))
    lanes.stir()
    time.sleep(0.1)
    assert not done
    gate.set()
    until(lambda: done == ["wanted", *["background"] * 5])
    lanes.close()
    assert lanes.join(5)


def test_what_is_to_wait_waits_and_the_end_forgets_it() -> None:
    done: list[str] = []
    lanes = Lanes("test", nothing)
    begun = time.monotonic()
    lanes.put(Noted("later", DEMAND, done), delay=0.2)
    lanes.put(Noted("never", DEMAND, done), delay=60)
    until(lambda: done == ["later"])
    assert time.monotonic() - begun >= 0.2
    lanes.close()
    assert lanes.join(5)
    lanes.put(Noted("too late", DEMAND, done))
    assert done == ["later"]


def test_a_job_that_becomes_urgent_overtakes() -> None:
    done: list[str] = []
    gate = threading.Event()
    lanes = Lanes("test", nothing, count=2)
    lanes.put(Noted("first", DEMAND, done, gate))
    lanes.put(Noted("second", DEMAND, done, gate))
    ahead: list[Noted] = [Noted(f"ahead {number}", AHEAD, done) for number in range(3)]
    for job in ahead:
        lanes.put(job)
    ahead[2].rank = DEMAND
    lanes.put(ahead[2])
    gate.set()
    until(lambda: len(done) >= 3)
    assert "ahead 2" in done[:3]
    lanes.close()


def counted(call: Callable[[], None]) -> int:
    before = threading.active_count()
    call()
    return threading.active_count() - before


def test_threads_start_when_there_is_work() -> None:
    done: list[str] = []
    lanes = Lanes("test", nothing)
    assert counted(lambda: None) == 0
    assert counted(lambda: lanes.put(Noted("one", DEMAND, done))) <= 1
    lanes.close()
    assert lanes.join(5)
