"""What is brought ahead: more for who reads on, nothing for who jumps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.hydrate.readahead import JUMPS, LARGEST, SMALLEST, ReadAhead
from tests.support.effort import examples


def test_who_reads_on_gets_more_each_time() -> None:
    ahead, brought = ReadAhead(), set[int]()
    for frame in range(200):
        brought.add(frame)
        brought.update(range(*ahead.asked(frame, frame + 1, 1000)))
        assert set(range(frame, min(frame + SMALLEST, 1000))) <= brought
    assert ahead.size == LARGEST
    assert set(range(200 + LARGEST // 2)) <= brought
    assert max(brought) <= 200 + LARGEST


def test_two_readers_are_told_apart() -> None:
    ahead = ReadAhead()
    for step in range(100):
        ahead.asked(step, step + 1, 10_000)
        ahead.asked(5_000 + step, 5_001 + step, 10_000)
    assert ahead.size == LARGEST


def test_who_jumps_for_long_gets_nothing_more() -> None:
    ahead = ReadAhead()
    brought = [range(*ahead.asked(number * 97 % 10_000, number * 97 % 10_000 + 1, 10_000)) for number in range(50)]
    assert all(len(each) == SMALLEST for each in brought[:JUMPS])
    assert not any(len(each) for each in brought[JUMPS:])


@settings(max_examples=examples(200), deadline=None)
@given(st.lists(st.tuples(st.integers(0, 99), st.integers(1, 3)), max_size=80))
def test_nothing_is_brought_that_is_behind_the_end_or_was_asked_for(asks: list[tuple[int, int]]) -> None:
    ahead = ReadAhead()
    for first, count in asks:
        last = min(first + count, 100)
        start, stop = ahead.asked(first, last, 100)
        assert last <= start <= stop <= 100
        assert stop - start <= 2 * LARGEST
