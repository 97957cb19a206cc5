from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta, timezone, tzinfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stratum.errors import UsageError
from stratum.tree.timewords import parse_when

ZONE = timezone(timedelta(hours=1))
NOW = datetime(2026, 3, 31, 14, 30, 15, 250_000, ZONE)


def local(moment: datetime) -> datetime:
    return moment.replace(tzinfo=ZONE)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("2026-03-29T14:05:11Z", "2026-03-29T15:05:11+01:00"),
        ("2026-03-29t14:05:11.271z", "2026-03-29T15:05:11.271000+01:00"),
        ("2026-03-29T14:05:11.123456789+02:00", "2026-03-29T13:05:11.123456+01:00"),
        ("2026-03-29T14:05:11-0130", "2026-03-29T16:35:11+01:00"),
        ("2026-03-29 14:05:11", "2026-03-29T14:05:11+01:00"),
        ("2026-03-29 14:05", "2026-03-29T14:05:00+01:00"),
        ("2026-03-29", "2026-03-29T00:00:00+01:00"),
        ("14:30", "2026-03-31T14:30:00+01:00"),
        ("14:30:15.2", "2026-03-31T14:30:15.200000+01:00"),
        ("14:31", "2026-03-30T14:31:00+01:00"),
        ("0:00", "2026-03-31T00:00:00+01:00"),
        ("today", "2026-03-31T00:00:00+01:00"),
        ("today 14:05:11", "2026-03-31T14:05:11+01:00"),
        ("Yesterday", "2026-03-30T00:00:00+01:00"),
        ("yesterday at 23:59", "2026-03-30T23:59:00+01:00"),
        ("monday", "2026-03-30T00:00:00+01:00"),
        ("Last Wednesday at 18:00", "2026-03-25T18:00:00+01:00"),
        ("tuesday 18:00", "2026-03-24T18:00:00+01:00"),
        ("now", NOW.isoformat()),
        ("10 minutes ago", "2026-03-31T14:20:15.250000+01:00"),
        ("  10   Minutes  AGO ", "2026-03-31T14:20:15.250000+01:00"),
        ("10.minutes.ago", "2026-03-31T14:20:15.250000+01:00"),
        ("10 min", "2026-03-31T14:20:15.250000+01:00"),
        ("an hour ago", "2026-03-31T13:30:15.250000+01:00"),
        ("a day ago", "2026-03-30T14:30:15.250000+01:00"),
        ("2h", "2026-03-31T12:30:15.250000+01:00"),
        ("1d12h", "2026-03-30T02:30:15.250000+01:00"),
        ("1 day 12 hours ago", "2026-03-30T02:30:15.250000+01:00"),
        ("90s", "2026-03-31T14:28:45.250000+01:00"),
        ("2 weeks ago", "2026-03-17T14:30:15.250000+01:00"),
        ("1 month ago", "2026-02-28T14:30:15.250000+01:00"),
        ("2 years ago", "2024-03-31T14:30:15.250000+01:00"),
        ("0s", NOW.isoformat()),
    ],
)
def test_moments(text: str, meant: str) -> None:
    found = parse_when(text, NOW, local)
    assert found.tzinfo is not None
    assert found.astimezone(ZONE).isoformat() == meant


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "ago", "tomorrow", "2026-02-30", "2026-13-01", "24:00", "14:60", "14", "14:5", "yesterday noon"),
        *("last", "last yesterday", "last now", "last tuesday 25:00", "tues", "next monday"),
        *("2 fortnights ago", "h", "2", "-2h", "2h ago ago", "999999999 years ago", "999999999d", "0000-01-01"),
        *("\u0661h", "14:05\x00", "x" * 1000, "2026-03-29T14:05:11+25:00", "1h " * 60),
    ],
)
def test_what_is_no_moment(text: str) -> None:
    with pytest.raises(UsageError, match="no time") as caught:
        parse_when(text, NOW, local)
    assert "ago" in caught.value.hint
    assert len(caught.value.message) < 200


class _Set(tzinfo):
    """Clocks that are set from 2:00 to 3:00 on 2026-03-29."""

    def utcoffset(self, moment: datetime | None) -> timedelta:
        assert moment is not None
        return timedelta(hours=2 if moment.replace(tzinfo=None) >= datetime(2026, 3, 29, 3) else 1)

    def dst(self, moment: datetime | None) -> timedelta:
        return self.utcoffset(moment) - timedelta(hours=1)

    def tzname(self, moment: datetime | None) -> str:
        return "x"


def test_days_keep_the_time_of_day_where_clocks_are_set() -> None:
    now = datetime(2026, 3, 29, 12, 0, tzinfo=_Set())
    before = parse_when("1 day ago", now, lambda moment: moment.replace(tzinfo=_Set()))
    assert before.isoformat() == "2026-03-28T12:00:00+01:00"
    assert parse_when("24h", now, lambda moment: moment.replace(tzinfo=_Set())) == now - timedelta(hours=24)


@given(st.text(max_size=120))
def test_any_text_is_a_moment_or_a_usage_error(text: str) -> None:
    with suppress(UsageError):
        assert parse_when(text, NOW, local).tzinfo is not None
