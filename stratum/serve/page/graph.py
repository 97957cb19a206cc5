"""Lines of descent, drawn: for each commit of a list, which lanes pass it, begin and end there. Pure.

A row has its dot ``NODE`` pixels below its upper edge; whatever bends does so above the dot, so that a row can be as
high as its text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

NODE = 22
LANE = 16
_LANES_MAX = 10
_COLOURS = 6


@dataclass(frozen=True, slots=True)
class Line:
    """A line: ``path`` ends at the dot's height, and None is one straight down from there. ``colour`` is a number,
    ``loose`` tells that commits on it are left out."""

    x: int
    path: str | None
    colour: int
    loose: bool = False


@dataclass(frozen=True, slots=True)
class Drawn:
    """What is drawn beside a commit: the dot's place and colour, the lines, and how many lanes there are."""

    x: int
    colour: int
    lines: tuple[Line, ...]
    lanes: int


class Lanes:
    """The lanes between the rows that were drawn and those to come: each waits for a commit."""

    def __init__(self) -> None:
        self._waiting: list[str | None] = []
        self._loose: set[int] = set()
        self._drawn: set[str] = set()

    def draw(self, commit: str, parent: str | None, *, loose: bool = False) -> Drawn:
        """The next row: a commit whose next ancestor is ``parent``; ``loose``: commits are left out between them."""
        waiting = self._waiting
        coming = [number for number, expected in enumerate(waiting) if expected == commit]
        lane = coming[0] if coming else self._free()
        lines = []
        for number, expected in enumerate(waiting):
            if expected is not None:
                end = lane if expected == commit else number
                lines.append(Line(_x(number), _bend(number, end), number % _COLOURS, number in self._loose))
        for number in coming:
            waiting[number] = None
            self._loose.discard(number)
        self._drawn.add(commit)
        if parent is not None and parent not in self._drawn:
            waiting[lane] = parent
            if loose:
                self._loose.add(lane)
        for number, expected in enumerate(waiting):
            if expected is not None:
                lines.append(Line(_x(number), None, number % _COLOURS, number in self._loose))
        while waiting and waiting[-1] is None:
            waiting.pop()
        widest = max([_x(lane), *(line.x for line in lines)])
        return Drawn(_x(lane), lane % _COLOURS, tuple(_once(lines)), widest // LANE + 1)

    def _free(self) -> int:
        for number, expected in enumerate(self._waiting):
            if expected is None:
                return number
        self._waiting.append(None)
        return len(self._waiting) - 1


def _x(lane: int) -> int:
    """Where a lane is; those that have no room are on one another."""
    return LANE // 2 + LANE * min(lane, _LANES_MAX - 1)


def _bend(start: int, end: int) -> str:
    left, right = _x(start), _x(end)
    if left == right:
        return f"M{left} 0V{NODE}"
    half = NODE // 2
    return f"M{left} 0C{left} {half} {right} {half} {right} {NODE}"


def _once(lines: Sequence[Line]) -> Sequence[Line]:
    seen: dict[tuple[int, str | None], Line] = {}
    for line in lines:
        seen.setdefault((line.x, line.path), line)
    return list(seen.values())
