"""Which commits the reflog keeps from garbage collection."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest

from stratum.api.maintenance import parse_duration, retention
from stratum.errors import UsageError
from stratum.store.clock import rfc3339
from stratum.store.reflog import ReflogEntry
from stratum.store.retention import DEFAULT_AGE, Retention, retained

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=timezone.utc)
NOTHING = timedelta()


def history(*ages: timedelta, which: str = "main") -> list[ReflogEntry]:
    """Entries in which a worktree moves to commit 0, 1, ... this long ago."""
    entries = []
    old = None
    for number, age in enumerate(ages):
        entries.append(ReflogEntry(rfc3339(NOW - age), "worktree", which, old, str(number), "commit"))
        old = str(number)
    return entries


def hours(*numbers: float) -> list[timedelta]:
    return [timedelta(hours=number) for number in numbers]


def test_the_age_counts_from_the_last_mention() -> None:
    entries = history(*hours(100, 50, 10))
    assert set(retained(entries, Retention(age=timedelta(hours=60)), NOW)) == {"0", "1", "2"}  # 0 was left 50 hours ago
    assert set(retained(entries, Retention(age=timedelta(hours=20)), NOW)) == {"1", "2"}
    assert retained(entries, Retention(age=NOTHING), NOW) == {}


def test_the_last_of_every_ref() -> None:
    entries = [*history(*hours(3, 2, 1)), ReflogEntry(rfc3339(NOW), "tag", "v1", None, "other", "tag")]
    assert set(retained(entries, Retention(NOTHING, last=2), NOW)) == {"1", "2", "other"}


def test_within_one_second_the_later_entry_is_the_newer() -> None:
    assert set(retained(history(*hours(1, 1, 1)), Retention(NOTHING, last=1), NOW)) == {"2"}


def test_a_commit_that_a_ref_came_back_to_is_new_again() -> None:
    entries = history(*hours(5, 4))
    entries.append(ReflogEntry(rfc3339(NOW), "worktree", "main", "1", "0", "reset"))
    assert set(retained(entries, Retention(NOTHING, last=1), NOW)) == {"0"}


def test_one_for_each_hour_day_and_week() -> None:
    entries = history(*hours(24 * 15, 24 * 8, 25, 24.5, 2.5, 1.2, 1.1, 0.1))
    assert set(retained(entries, Retention(NOTHING, hourly=3), NOW)) == {"7", "6", "4"}
    assert set(retained(entries, Retention(NOTHING, daily=2), NOW)) == {"7", "3"}
    assert set(retained(entries, Retention(NOTHING, weekly=9), NOW)) == {"7", "1", "0"}
    both = retained(entries, Retention(NOTHING, last=1, weekly=2), NOW)
    assert both == {"7": "keep-last", "1": "keep-weekly"}


def test_what_only_stands_on_the_left_side_counts_too() -> None:
    noted = [ReflogEntry(rfc3339(NOW), "worktree", "main", "kept", "head", "kept from an interrupted switch")]
    assert set(retained(noted, Retention(NOTHING, last=2), NOW)) == {"kept", "head"}


def test_a_time_that_cannot_be_read_keeps() -> None:
    assert set(retained([ReflogEntry("??", "tag", "v1", "a", "b", "")], Retention(NOTHING), NOW)) == {"a", "b"}


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("90s", 90), ("2h30m", 9000), ("30d", 2592000), ("1y", 31536000), ("1w", 604800)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "d", "30", "-1d", "1.5h", "1d ", "1e3s", "9" * 40 + "s", "101y", "1D", "\x1b[1m"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_duration(text)
    assert "\x1b" not in caught.value.message


def test_with_counting_rules_the_age_must_be_asked_for() -> None:
    assert retention() == Retention(DEFAULT_AGE)
    assert retention(last=1) == Retention(NOTHING, last=1)
    assert retention(last=1, age="2d") == Retention(timedelta(days=2), last=1)
