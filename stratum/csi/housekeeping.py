"""When the driver collects garbage: every so often, and where the disk gets too full, or a pull had no room.

A run may be cut short anywhere. Where somebody has the store, or where it could not free enough, the next one is put
off for a while.
"""

from __future__ import annotations

import logging
import threading
import time
from datetime import timedelta

from stratum.csi.collecting import Rules, collect
from stratum.csi.driver import Driver
from stratum.csi.relief import relieve
from stratum.errors import BusyError, StratumError

FIRST = timedelta(minutes=10)
"""The first run is this long after the start, or an interval where that is shorter."""

AGAIN = timedelta(minutes=5)
"""So is the next one where the store was busy."""

SHORT = timedelta(minutes=2)
"""The next one after a run that was to make room, and did not free enough."""

SOON = timedelta(seconds=3)
"""The next one after such a run that did, or that found the store busy."""

LOOK = 3.0
"""Seconds between looks at the disk."""

_log = logging.getLogger(__name__)


def start(driver: Driver, interval: timedelta, rules: Rules) -> None:
    """Collect garbage in the background until the process ends: each ``interval``, if that is not 0, and by the marks
    of the disk."""
    threading.Thread(target=_loop, args=(driver, interval, rules), daemon=True, name="gc").start()


def _loop(driver: Driver, interval: timedelta, rules: Rules) -> None:
    never = float("inf")
    due = time.monotonic() + min(interval, FIRST).total_seconds() if interval else never
    not_before = 0.0
    while True:
        driver.room.wait(max(0.0, min(LOOK, due - time.monotonic())))
        now = time.monotonic()
        if now >= not_before and _is_full(driver):
            pause = _run(driver, rules, full=True)
            not_before = time.monotonic() + pause.total_seconds()
        elif now >= due:
            pause = _run(driver, rules, full=False)
            due = time.monotonic() + min(interval, pause).total_seconds()


def _is_full(driver: Driver) -> bool:
    try:
        return bool(driver.room.needed())
    except StratumError:  # the store is away, which every call says
        return False


def _run(driver: Driver, rules: Rules, *, full: bool) -> timedelta:
    """One run; when the next one of its kind may be, at the earliest."""
    try:
        freed = relieve(driver, rules) if full else collect(driver, rules).bytes_freed
    except BusyError as exc:
        _log.info("garbage is not collected now: %s", exc.message)
        driver.metrics.collected("busy", 0)
        return SOON if full else AGAIN
    except StratumError as exc:
        _log.warning("garbage is not collected: %s", exc.message)
        driver.metrics.collected("failed", 0)
        return SHORT if full else timedelta.max
    except Exception:  # the thread has to live: nothing else makes room
        _log.exception("garbage is not collected")
        driver.metrics.collected("failed", 0)
        return SHORT if full else timedelta.max
    driver.metrics.collected("done", freed)
    _log.info("garbage is collected", extra={"fields": {"bytes": freed, "full": full}})
    if not full:
        return timedelta.max
    return SHORT if driver.room.short else SOON
