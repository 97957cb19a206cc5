"""Directories that come in a flood are left alone for a moment."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from stratum.history import newdirs
from stratum.history.newdirs import ALONE, FLOOD, FLOOD_RATE, Arrival, Arrivals

if TYPE_CHECKING:
    from stratum.history.epoch import Epoch

NOBODYS = cast("Epoch", object())


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(newdirs, "time", made)
    return made


def arrival(number: int) -> Arrival:
    directory: Any = None
    return Arrival(NOBODYS, directory, b"d%d" % number, b"h%d" % number)


def test_only_those_of_a_flood_wait_and_in_their_order(clock: Clock) -> None:
    arrivals = Arrivals()
    waited = [number for number in range(FLOOD + 5) if arrivals.wait(arrival(number))]
    assert waited == list(range(FLOOD, FLOOD + 5))
    assert arrivals.next_due == clock.now + ALONE
    assert arrivals.due() == []
    clock.now += ALONE
    assert arrivals.due() == [arrival(number) for number in waited]
    assert arrivals.next_due is None


def test_a_directory_now_and_then_never_waits(clock: Clock) -> None:
    arrivals = Arrivals()
    for number in range(10 * FLOOD):
        assert not arrivals.wait(arrival(number))
        clock.now += 1 / FLOOD_RATE + 1e-6


def test_after_a_flood_none_waits(clock: Clock) -> None:
    arrivals = Arrivals()
    for number in range(10 * FLOOD):
        arrivals.wait(arrival(number))
    clock.now += FLOOD / FLOOD_RATE + 1e-6
    assert not any(arrivals.wait(arrival(number)) for number in range(FLOOD))
    assert arrivals.wait(arrival(FLOOD))
