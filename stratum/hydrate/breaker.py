"""A breaker: a place that failed a few times in a row is left alone for a while, so that nobody waits for it in vain.
Pure.

Closed, everything is let through. After ``LIMIT`` failures in a row it opens: nothing is let through for ``PAUSE``
seconds. Then one trial is: where that works the breaker closes, else it is open for as long again. Times are seconds of
one clock that only goes forward. For one thread at a time.
"""

from __future__ import annotations

LIMIT = 3
PAUSE = 5.0


class Breaker:
    """The breaker of one place, closed."""

    def __init__(self, limit: int = LIMIT, pause: float = PAUSE) -> None:
        self._limit = limit
        self._pause = pause
        self._failures = 0
        self._until: float | None = None
        self._trial: float | None = None

    @property
    def open(self) -> bool:
        """Whether the place is taken for away; a trial may be due or on its way."""
        return self._until is not None

    def allows(self, now: float) -> bool:
        """Whether somebody who asks now may try. Whoever is let through tells how that ended.

        A trial that nobody tells the end of does not keep others out for longer than a pause.
        """
        if self._until is None:
            return True
        if now < self._until or (self._trial is not None and now < self._trial + self._pause):
            return False
        self._trial = now
        return True

    def would_allow(self, now: float) -> bool:
        """The same, asked by somebody who does not try."""
        if self._until is None:
            return True
        return now >= self._until and (self._trial is None or now >= self._trial + self._pause)

    def succeeded(self) -> None:
        """The place answered."""
        self._failures = 0
        self._until = self._trial = None

    def failed(self, now: float) -> None:
        """The place did not."""
        self._failures += 1
        self._trial = None
        if self._until is not None or self._failures >= self._limit:
            self._until = now + self._pause
