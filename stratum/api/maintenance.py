"""Keeping a store in order: garbage collection."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.errors import UsageError

if TYPE_CHECKING:
    from stratum.store.gc import Collected
    from stratum.store.retention import Retention

_DURATION = re.compile(r"(?:\d{1,9}[smhdwy])+")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}
_LONGEST = timedelta(days=36500)


def parse_duration(text: str) -> timedelta:
    """A duration as people write it: numbers with a unit (s, m, h, d, w or y), such as ``30d`` or ``1w12h``; ``0`` too.

    ``UsageError`` for anything else, and for more than 100 years.
    """
    if text == "0":
        return timedelta()
    if not _DURATION.fullmatch(text):
        raise UsageError(
            f"{text[:100]!a} is not a duration", hint="write numbers with a unit: 12h, 30d, 2w, 1y; or 0 for none"
        )
    found = timedelta(seconds=sum(int(part[:-1]) * _UNITS[part[-1]] for part in re.findall(r"\d+[a-z]", text)))
    if found > _LONGEST:
        raise UsageError(f"{text} is longer than 100 years")
    return found


def retention(*, age: str | None = None, last: int = 0, hourly: int = 0, daily: int = 0, weekly: int = 0) -> Retention:
    """The rules that the options of ``gc`` mean: with any ``keep`` rule, the age counts only where it is given too."""
    from stratum.store.retention import DEFAULT_AGE, Retention

    counted = any((last, hourly, daily, weekly))
    default = timedelta() if counted else DEFAULT_AGE
    return Retention(
        age=default if age is None else parse_duration(age), last=last, hourly=hourly, daily=daily, weekly=weekly
    )


def gc(session: Session, rules: Retention, *, dry_run: bool = False) -> Collected:
    """Remove what nothing needs (``store.gc``). ``BusyError`` names who holds the store, after a bounded wait."""
    from stratum.mount.state import store_key
    from stratum.store.gc import collect

    store = session.store
    with store.locks.store(exclusive=not dry_run):
        key = store_key(store.root)
        mounted = {
            record.commit: f"mounted at {record.mountpoint}"
            for record in session.state.records()
            if record.store_key == key
        }
        return collect(store, rules, mounted, dry_run=dry_run)
