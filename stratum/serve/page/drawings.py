"""Amounts as pictures: bars of shares, and how many commits there were when. Pure: numbers for SVG."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from math import log2

_BINS = 72
_HEIGHT = 40
_LOW = 3.0
"""What is a high column has more than a few commits."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a bar: its place and width in hundredths of a percent of ``whole``, and which colour it has."""

    name: str
    amount: int
    x: float
    width: float
    colour: int


def bar(parts: Iterable[tuple[str, int]], whole: int) -> list[Piece]:
    """Parts of a whole, side by side; those of nothing are left out, and colours are the same whatever is left out."""
    pieces, at = [], 0.0
    for colour, (name, amount) in enumerate(parts):
        if amount > 0 and whole > 0:
            width = round(100 * amount / whole, 2)
            pieces.append(Piece(name, amount, round(at, 2), width, colour))
            at += 100 * amount / whole
    return pieces


@dataclass(frozen=True, slots=True)
class Column:
    """Commits of a stretch of time: place and height in a picture of 720 x 40."""

    x: int
    height: int
    count: int


@dataclass(frozen=True, slots=True)
class Activity:
    """How many commits there were from ``first`` to ``last``."""

    columns: list[Column]
    first: datetime
    last: datetime
    total: int


def activity(times: Sequence[datetime]) -> Activity | None:
    """Commits over the time from the first to the last; None where there is no time between them."""
    if not times or min(times) == max(times):
        return None
    first, last = min(times), max(times)
    span = (last - first).total_seconds()
    counts = [0] * _BINS
    for time in times:
        counts[min(_BINS - 1, int((time - first).total_seconds() / span * _BINS))] += 1
    most = max(log2(max(counts) + 1), _LOW)
    columns = [
        Column(number * 10, max(3, round(_HEIGHT * log2(count + 1) / most)), count)
        for number, count in enumerate(counts)
        if count
    ]
    return Activity(columns, first, last, len(times))
