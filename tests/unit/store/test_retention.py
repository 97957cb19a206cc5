"""Which commits the reflog keeps from garbage collection."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.api.maintenance import parse_duration, retention
from stratum.errors import UsageError
from stratum.store.clock import rfc3339
from stratum.store.reflog import ReflogEntry
from stratum.store.retention import DEFAULT_AGE, DatedTag, Retention, retained, thin_tags

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


def test_what_was_set_aside_stays_whatever_is_counted() -> None:
    aside = ReflogEntry(rfc3339(NOW - timedelta(days=2)), "worktree", "main", "0", "aside", "kept before reset")
    entries = [*history(*hours(100)), aside, *history(*hours(20, 10))]
    rules = retention(last=1)
    assert set(retained(entries, rules, NOW)) == {"1", "aside"}
    assert set(retained(entries, rules, NOW + timedelta(days=29))) == {"1"}
    assert set(retained(entries, retention(last=1, age="1d"), NOW)) == {"0", "1"}


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


def test_with_counting_rules_the_ages_must_be_asked_for() -> None:
    day = timedelta(days=1)
    assert retention() == Retention(DEFAULT_AGE, history=None)
    assert retention(history="1d") == Retention(DEFAULT_AGE, history=day)
    assert retention(last=1) == Retention(NOTHING, DEFAULT_AGE, last=1, history=NOTHING)
    assert retention(within="1d") == Retention(NOTHING, DEFAULT_AGE, within=day, history=NOTHING)
    assert retention(last=1, age="1d", history="1d") == Retention(day, last=1, history=day)


def test_tags_are_thinned_only_by_a_rule_that_keeps_some() -> None:
    with pytest.raises(UsageError, match="which of the tags are to stay"):
        retention(tags=["stop-*"])
    with pytest.raises(UsageError):
        retention(tags=["stop-*"], age="1d", history="1d", within="0")
    assert retention(tags=["stop-*"], within="1d").thins("stop-1")


def test_other_strata_have_the_rules_without_options() -> None:
    rules = retention(daily=1, tags=["*"], strata=["db", "web"])
    assert rules.of("db") is rules
    assert rules.of("other") == Retention()
    assert retention(daily=1).of("other").daily == 1


def test_one_for_each_month_and_year_and_all_within() -> None:
    entries = history(*hours(24 * 500, 24 * 70, 24 * 40, 24 * 35, 24 * 2, 1))
    assert set(retained(entries, Retention(NOTHING, monthly=2), NOW)) == {"5", "3"}
    assert set(retained(entries, Retention(NOTHING, yearly=9), NOW)) == {"5", "1", "0"}
    assert set(retained(entries, Retention(NOTHING, within=timedelta(hours=47)), NOW)) == {"5", "4"}


def test_within_counts_from_the_newest() -> None:
    entries = history(*hours(2000, 1001, 1000))
    assert set(retained(entries, Retention(NOTHING, within=timedelta(hours=1)), NOW)) == {"1", "2"}


def dated(*ages: timedelta) -> list[DatedTag]:
    """Tags ``s0``, ``s1``, ... of commits that were made this long ago, set in this order."""
    return [DatedTag(f"s{number}", rfc3339(NOW - age), number) for number, age in enumerate(ages)]


def kept(tags: list[DatedTag], rules: Retention) -> set[str]:
    return {tag for tag, rule in thin_tags(tags, rules).items() if rule is not None}


def test_tags_of_one_stratum_are_thinned_together() -> None:
    tags = dated(*hours(60, 50, 49, 2, 1))
    assert kept(tags, Retention(NOTHING, last=2, tags=("s*",))) == {"s3", "s4"}
    assert kept(tags, Retention(NOTHING, daily=2, tags=("s*",))) == {"s4", "s2"}
    assert kept(tags, Retention(NOTHING, last=9, daily=9, tags=("s[01]",))) == {"s0", "s1"}
    assert thin_tags(tags, Retention(NOTHING, last=1, tags=("other",))) == {}


def test_of_two_tags_at_one_time_the_later_set_one_is_the_newer() -> None:
    assert kept(dated(*hours(1, 1, 1)), Retention(NOTHING, last=1, tags=("s*",))) == {"s2"}


def test_a_tag_without_a_time_stays() -> None:
    rules = Retention(NOTHING, last=1, tags=("*",))
    for when in ("", "??", "0001-01-01T00:00:00+23:00"):
        assert kept([DatedTag("odd", when, 0), *dated(*hours(2, 1))], rules) == {"odd", "s1"}


def test_a_tag_that_is_thinned_out_does_not_keep_its_commit_by_its_own_history() -> None:
    entries = [
        ReflogEntry(rfc3339(NOW - age), "tag", f"s{n}", None, str(n), "") for n, age in enumerate(hours(9, 8, 7))
    ]
    entries.append(ReflogEntry(rfc3339(NOW), "tag", "other", None, "mine", ""))
    assert set(retained(entries, Retention(NOTHING, last=1), NOW)) == {"0", "1", "2", "mine"}
    assert set(retained(entries, Retention(NOTHING, last=1, tags=("s*",)), NOW)) == {"mine"}


@given(
    st.lists(st.integers(0, 4000), max_size=40),
    st.builds(
        Retention,
        age=st.just(NOTHING),
        last=st.integers(0, 5),
        hourly=st.integers(0, 5),
        daily=st.integers(0, 5),
        weekly=st.integers(0, 5),
        monthly=st.integers(0, 5),
        yearly=st.integers(0, 5),
        within=st.integers(0, 100).map(lambda number: timedelta(hours=number)),
        tags=st.just(("*",)),
    ),
)
def test_what_rules_keep_of_any_tags(ages: list[int], rules: Retention) -> None:
    tags = dated(*hours(*ages))
    found = kept(tags, rules)
    if not rules.counts:
        assert found == set()
        return
    newest = sorted(tags, key=lambda tag: (tag.when, tag.order))[::-1]
    assert {tag.tag for tag in newest[: rules.last]} <= found
    assert not tags or newest[0].tag in found
    bound = rules.last + rules.hourly + rules.daily + rules.weekly + rules.monthly + rules.yearly
    assert rules.within or len(found) <= bound
    assert found == kept([tag for tag in tags if tag.tag in found], rules), "what stayed once stays"
    more = replace(rules, last=rules.last + 1, monthly=rules.monthly + 1)
    assert found <= kept(tags, more), "another rule only keeps more"
