"""Times as C4M writes and reads them: whole seconds since the epoch, in UTC. Pure.

The epoch itself is the null time, ``-``: the format has one value for both.
"""

from __future__ import annotations

import re
from datetime import datetime, timedelta, timezone

EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
FIRST = -62135596800
LAST = 253402300799
"""The first and last second of the years 1 to 9999."""

_CANONICAL = re.compile(r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII)
_PRETTY = re.compile(
    r"(?:(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun) )?"
    r"(Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (\d\d?) (\d\d):(\d\d):(\d\d) "
    r"(?:(\d{4}) ([A-Z]{1,5}|[+-]\d{2}(?:\d{2})?)|([A-Z]{1,5}|[+-]\d{2}(?:\d{2})?) (\d{4}))",
    re.ASCII,
)
_MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
_ZONES = {
    "UTC": 0, "GMT": 0, "WET": 0, "Z": 0, "BST": 60, "WEST": 60, "CET": 60, "CEST": 120, "EET": 120, "EEST": 180,
    "MSK": 180, "IST": 330, "JST": 540, "KST": 540, "AEST": 600, "AEDT": 660, "NZST": 720, "NZDT": 780,
    "EST": -300, "EDT": -240, "CST": -360, "CDT": -300, "MST": -420, "MDT": -360, "PST": -480, "PDT": -420,
    "AKST": -540, "AKDT": -480, "HST": -600,
}  # fmt: skip
"""Abbreviation of a time zone -> minutes east. An abbreviation says no place: these are what they mean most often."""

_DAY_TEXT: dict[int, str] = {}
"""Day since the epoch -> its date, for the days that were written lately."""


def written_time(seconds: int | None) -> str:
    """``2026-11-30T08:00:00Z``, or ``-``. ``seconds`` is None or from ``FIRST`` to ``LAST``."""
    if seconds is None:
        return "-"
    day, rest = divmod(seconds, 86400)
    text = _DAY_TEXT.get(day)
    if text is None:
        if len(_DAY_TEXT) > 10_000:
            _DAY_TEXT.clear()
        text = _DAY_TEXT[day] = (EPOCH + timedelta(days=day)).strftime("%Y-%m-%dT").rjust(11, "0")
    return f"{text}{rest // 3600:02}:{rest // 60 % 60:02}:{rest % 60:02}Z"


def read_time(text: str) -> int | None:
    """Seconds since the epoch, or None for the null time. Raises ValueError for what is no time of any form.

    A fraction of a second is left out. Where a time has a zone's abbreviation, one that is known is taken.
    """
    if text in {"-", "0"}:
        return None
    if (found := _CANONICAL.fullmatch(text)) is not None:
        year, month, day, hour, minute, second = (int(part) for part in found.groups()[:6])
        zone = 0 if found[7] == "Z" else _offset(found[7].replace(":", ""))
    elif (found := _PRETTY.fullmatch(text)) is not None:
        month, day = _MONTHS.index(found[1]) + 1, int(found[2])
        hour, minute, second = int(found[3]), int(found[4]), int(found[5])
        year = int(found[6] or found[9])
        zone = _zone(found[7] or found[8])
    else:
        raise ValueError("it is none of the forms of a time")
    whole = datetime(year, month, day, hour, minute, second, tzinfo=timezone.utc) - EPOCH
    seconds = whole.days * 86400 + whole.seconds - zone * 60
    if not FIRST <= seconds <= LAST:
        raise ValueError("it is outside of the years 1 to 9999")
    return seconds or None


def _zone(text: str) -> int:
    """Minutes east of UTC."""
    if text[0] in "+-":
        return _offset(text)
    if text not in _ZONES:
        raise ValueError(f"the time zone {text} is not known; an offset such as -08:00 is")
    return _ZONES[text]


def _offset(text: str) -> int:
    minutes = int(text[1:3]) * 60 + int(text[3:5] or 0)
    if int(text[1:3]) > 24 or int(text[3:5] or 0) > 59:
        raise ValueError("its offset is none of a time zone")
    return -minutes if text[0] == "-" else minutes


def pretty_time(seconds: int | None) -> str:
    """``Nov 30 08:00:00 2026 UTC``, for reading; the null time is as wide."""
    if seconds is None:
        return "-".ljust(24)
    moment = EPOCH + timedelta(seconds=seconds)
    return f"{_MONTHS[moment.month - 1]} {moment.day:2} {moment:%H:%M:%S} {moment.year:04} UTC"
