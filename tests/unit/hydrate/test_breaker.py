"""A breaker opens after failures in a row, and closes again."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.hydrate.breaker import LIMIT, PAUSE, Breaker
from tests.support.effort import examples


def test_three_failures_open_it_and_a_success_closes_it() -> None:
    breaker = Breaker()
    for _ in range(LIMIT):
        assert breaker.allows(100.0)
        breaker.failed(100.0)
    assert breaker.open
    assert not breaker.allows(100.0 + PAUSE - 0.1)
    assert breaker.allows(100.0 + PAUSE)
    assert not breaker.allows(100.0 + PAUSE), "one trial at a time"
    breaker.failed(100.0 + PAUSE)
    assert not breaker.allows(100.0 + 2 * PAUSE - 0.1)
    assert breaker.would_allow(100.0 + 2 * PAUSE)
    assert breaker.allows(100.0 + 2 * PAUSE)
    breaker.succeeded()
    assert not breaker.open
    assert breaker.allows(100.0 + 2 * PAUSE)


def test_failures_that_are_not_in_a_row_do_not_open_it() -> None:
    breaker = Breaker()
    for _ in range(5 * LIMIT):
        breaker.failed(1.0)
        breaker.failed(1.0)
        breaker.succeeded()
    assert not breaker.open


def test_a_trial_that_nobody_ended_keeps_nobody_out() -> None:
    breaker = Breaker(limit=1)
    breaker.failed(0.0)
    assert breaker.allows(PAUSE)
    assert not breaker.allows(PAUSE + 1)
    assert breaker.allows(2 * PAUSE)


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["ask", "fail", "work"]), st.floats(0, 3)), max_size=60))
def test_nobody_is_kept_out_for_longer_than_two_pauses(steps: list[tuple[str, float]]) -> None:
    breaker, now, failures = Breaker(), 0.0, 0
    for what, wait in steps:
        now += wait
        if what == "ask":
            asked = breaker.would_allow(now)
            assert asked == breaker.allows(now)
            assert asked or failures >= LIMIT
        elif what == "fail":
            breaker.failed(now)
            failures += 1
        else:
            breaker.succeeded()
            failures = 0
    assert breaker.allows(now + 2 * PAUSE)
