"""Who is to be looked at when: keys with a time, each in the hands of one thread at a time.

What comes while a key is being looked at has it looked at once more. A look that fails comes again later and later.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

FIRST = 1.0
LONGEST = 120.0
"""Seconds until a look that failed comes again: the first time, and at most."""

Key = tuple[str, str]


@dataclass(slots=True)
class Agenda:
    """Keys and their times. For several threads."""

    _due: dict[Key, float] = field(default_factory=dict)
    _working: set[Key] = field(default_factory=set)
    _pauses: dict[Key, float] = field(default_factory=dict)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def note(self, key: Key, after: float = 0.0) -> None:
        """``key`` is to be looked at in ``after`` seconds, or earlier where that is so already."""
        with self._changed:
            when = time.monotonic() + after
            self._due[key] = min(when, self._due.get(key, when))
            self._changed.notify()

    def take(self) -> Key:
        """The key whose time has come; waits for one. It is then the caller's, until ``done`` or ``failed``."""
        with self._changed:
            while True:
                free = [(when, key) for key, when in self._due.items() if key not in self._working]
                when, key = min(free, default=(float("inf"), ("", "")))
                rest = when - time.monotonic()
                if rest <= 0:
                    del self._due[key]
                    self._working.add(key)
                    return key
                self._changed.wait(min(rest, threading.TIMEOUT_MAX))

    def done(self, key: Key, again: float | None) -> None:
        """The look at ``key`` is over; the next one is in ``again`` seconds, if any."""
        with self._changed:
            self._pauses.pop(key, None)
        self._over(key, again)

    def failed(self, key: Key) -> None:
        """The look at ``key`` failed."""
        with self._changed:
            pause = self._pauses.get(key, FIRST)
            self._pauses[key] = min(2 * pause, LONGEST)
        self._over(key, pause)

    def _over(self, key: Key, again: float | None) -> None:
        with self._changed:
            self._working.discard(key)
            self._changed.notify()
        if again is not None:
            self.note(key, again)
