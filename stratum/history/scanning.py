"""Watching without events: on kernels before Linux 6.5, or where there is no fanotify, upperdirs are looked through.

A scan costs 5 us an entry, so there is a pause after each that is ``PAUSES`` times as long: a twentieth of a processor
at most, however many entries there are. What was written and replaced between two scans is not seen.
"""

from __future__ import annotations

import time

PAUSES = 20
PAUSE_MIN = 0.5
"""Seconds."""


class Pace:
    """When a worktree is to be looked through next."""

    def __init__(self) -> None:
        self.next = time.monotonic()

    def took(self, seconds: float) -> None:
        """A scan is over, which took so long."""
        self.next = time.monotonic() + max(PAUSE_MIN, PAUSES * seconds)
