"""Profiles: recorded in order, merged, and read as what a stranger wrote."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.hydrate.profile import ENTRIES_MAX, Entry, Recording, merged, read_profile, write_profile
from stratum.store.profiles import PROFILE_MAX
from tests.support.effort import examples

entries = st.lists(
    st.builds(Entry, st.binary(min_size=32, max_size=32), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1)),
    max_size=20,
)


def digest(number: int) -> bytes:
    return number.to_bytes(32, "big")


@settings(max_examples=examples(100), deadline=None)
@given(entries)
def test_what_is_written_is_read(listed: list[Entry]) -> None:
    assert read_profile(write_profile(listed)) == listed


@settings(max_examples=examples(100), deadline=None)
@given(entries, entries)
def test_the_new_order_wins_and_what_only_the_old_had_follows(new: list[Entry], old: list[Entry]) -> None:
    both = list(merged(new, old))
    assert both[: len(dict.fromkeys(new))] == list(dict.fromkeys(new))
    assert set(both) == {*new, *old}
    assert len(both) == len(set(both))


def test_objects_are_recorded_once_and_chunks_of_large_ones_together() -> None:
    recording = Recording(10)
    for number in (3, 1, 3, 1, 7):
        recording.asked(number)
    recording.asked_range(4, 10, 12, 100)
    recording.asked_range(4, 11, 14, 100)
    recording.asked(2)
    recording.asked_range(4, 14, 15, 100)
    recording.asked_range(4, 0, 1, 100)
    assert list(recording.entries(digest)) == [
        Entry(digest(3)),
        Entry(digest(1)),
        Entry(digest(7)),
        Entry(digest(4), 10, 4),
        Entry(digest(2)),
        Entry(digest(4), 14, 1),
        Entry(digest(4), 0, 1),
    ]


def test_a_profile_has_a_size() -> None:
    recording = Recording(ENTRIES_MAX + 10)
    for number in range(ENTRIES_MAX + 10):
        recording.asked(number)
    recording.asked_range(0, 0, 10, 10)
    data = write_profile(recording.entries(digest))
    assert PROFILE_MAX - 40 < len(data) <= PROFILE_MAX
    assert len(read_profile(data)) == ENTRIES_MAX


@pytest.mark.parametrize("change", ["cut", "flip", "more", "version", "empty"])
def test_a_damaged_profile_is_none(change: str) -> None:
    from blake3 import blake3

    data = bytearray(write_profile([Entry(digest(1)), Entry(digest(2), 3, 4)]))
    if change == "cut":
        del data[40:]
    elif change == "flip":
        data[30] ^= 1
    elif change == "more":
        data += b"x"
    elif change == "version":
        data[8] = 2
        data[-32:] = blake3(data[:-32]).digest()
    else:
        data.clear()
    with pytest.raises(DamagedError):
        read_profile(bytes(data))
