"""Moments as people write them. Pure.

::

    2026-11-29T14:05:11.271Z   RFC 3339, a space for the T, also without a zone (local time), seconds or fraction
    2026-11-29                 the beginning of that day
    14:05  14:05:11            the last time that it was so late, today or yesterday
    today  yesterday           the beginning of the day; with a time behind it, that time: yesterday 14:05
    tuesday  last tuesday      the last day of that name before today, likewise: tuesday 18:00
    now
    10 minutes ago  2h  1d12h  that long before now; 'ago' can be left out, a dot can stand for a space

Months and years are those of the calendar. Case does not matter.
"""

from __future__ import annotations

import calendar
import re
from collections.abc import Callable
from datetime import datetime, timedelta

from stratum.errors import UsageError, quoted

Local = Callable[[datetime], datetime]
"""A moment without a zone, as local clocks show it -> the same with the zone: ``datetime.astimezone``."""

_TEXT_MAX = 100
_TIME = r"([0-9]{1,2}):([0-9]{2})(?::([0-9]{2})(?:[.,]([0-9]{1,9}))?)?"
_CLOCK = re.compile(_TIME)
_DATE = re.compile(r"([0-9]{4})-([0-9]{2})-([0-9]{2})(?:[T ]+" + _TIME + r"\s*(Z|[+-][0-9]{2}:?[0-9]{2})?)?", re.I)
_UNITS = {
    "s": "seconds", "sec": "seconds", "second": "seconds",
    "m": "minutes", "min": "minutes", "minute": "minutes",
    "h": "hours", "hour": "hours", "hr": "hours",
    "d": "days", "day": "days",
    "w": "weeks", "week": "weeks",
    "month": "months", "mo": "months",
    "y": "years", "year": "years", "yr": "years",
}  # fmt: skip
_SPAN = re.compile(r"(an?|[0-9]{1,9}) ?([a-z]+?)s?(?: |$|(?=[0-9]))")
_DAYS = {"today": 0, "yesterday": 1}
_WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")


def parse_when(text: str, now: datetime, local: Local) -> datetime:
    """The moment that ``text`` means, with a zone; ``now`` has the local one. ``UsageError`` where it means none."""
    words = " ".join(text.split()).lower()
    if len(text) <= _TEXT_MAX:
        try:
            for form in _date, _clock, _day, _ago:
                found = form(words, now, local)
                if found is not None:
                    return found
        except (ValueError, OverflowError):  # no such day or hour, or one that no calendar has
            pass
    raise UsageError(
        f"{quoted(text)} is no time",
        hint="write 14:05, 'yesterday 14:05', tuesday, '10 minutes ago', 2h, 2026-11-29 or 2026-11-29T14:05:11Z",
    )


def _date(words: str, now: datetime, local: Local) -> datetime | None:
    found = _DATE.fullmatch(words)
    if found is None:
        return None
    year, month, day, *clock, zone = found.groups()
    moment = datetime(int(year), int(month), int(day)) + (_since_midnight(clock) if clock[0] else timedelta())
    if zone is None:
        return local(moment)
    if zone == "z":
        zone = "+00:00"
    return datetime.fromisoformat(f"{moment.isoformat()}{zone[:3]}:{zone[-2:]}")


def _clock(words: str, now: datetime, local: Local) -> datetime | None:
    found = _CLOCK.fullmatch(words)
    if found is None:
        return None
    midnight = datetime(now.year, now.month, now.day)
    for day in (0, 1):
        moment = local(midnight - timedelta(days=day) + _since_midnight(found.groups()))
        if moment <= now:
            break
    return moment


def _day(words: str, now: datetime, local: Local) -> datetime | None:
    day, _, clock = words.removeprefix("last ").partition(" ")
    if words == "now":
        return now
    if day in _WEEKDAYS:
        before = (now.weekday() - _WEEKDAYS.index(day) - 1) % 7 + 1
    elif day in _DAYS and words.startswith(day):
        before = _DAYS[day]
    else:
        return None
    found = _CLOCK.fullmatch(clock.removeprefix("at "))
    if clock and found is None:
        return None
    midnight = datetime(now.year, now.month, now.day) - timedelta(days=before)
    return local(midnight + (_since_midnight(found.groups()) if found is not None else timedelta()))


def _ago(words: str, now: datetime, local: Local) -> datetime | None:
    rest = words.replace(".", " ").removesuffix(" ago")
    if not rest:
        return None
    spans: dict[str, int] = {}
    while rest:
        found = _SPAN.match(rest)
        unit = _UNITS.get(found[2]) if found is not None else None
        if found is None or unit is None:
            return None
        spans[unit] = spans.get(unit, 0) + (1 if found[1].startswith("a") else int(found[1]))
        rest = rest[found.end() :]
    months = 12 * spans.pop("years", 0) + spans.pop("months", 0)
    # What has the length of a day can have 23 or 25 hours, where clocks are set: the time of day stays.
    days = 7 * spans.pop("weeks", 0) + spans.pop("days", 0)
    moment = now
    if months or days:
        naive = _months_before(now.replace(tzinfo=None), months) - timedelta(days=days)
        moment = local(naive)
    return moment - timedelta(**spans)


def _months_before(moment: datetime, months: int) -> datetime:
    total = moment.year * 12 + moment.month - 1 - months
    year, month = total // 12, total % 12 + 1
    if year < 1:
        raise ValueError("before all calendars")
    return moment.replace(year=year, month=month, day=min(moment.day, calendar.monthrange(year, month)[1]))


def _since_midnight(clock: tuple[str | None, ...] | list[str | None]) -> timedelta:
    """Of the groups of ``_TIME``. ``ValueError`` where no clock shows that."""
    hour, minute, second, fraction = clock
    assert hour is not None
    assert minute is not None
    found = int(hour), int(minute), int(second or 0)
    if found[0] > 23 or found[1] > 59 or found[2] > 59:
        raise ValueError("no time of day")
    return timedelta(
        hours=found[0], minutes=found[1], seconds=found[2], microseconds=int((fraction or "").ljust(6, "0")[:6])
    )
