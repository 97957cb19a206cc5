"""Two texts, line by line, in the unified format of patch(1). Pure.

What ``difflib`` does takes minutes for small files that somebody made for that, or that have few different lines; here
the effort has a limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import Match, SequenceMatcher

EFFORT_MAX = 50_000_000
"""Pairs of lines that may be compared; some seconds."""
_CONTEXT = 3


class TooMuchError(Exception):
    """To compare them takes more than ``EFFORT_MAX``."""


class _Matcher(SequenceMatcher[str]):
    def __init__(self, old: list[str], new: list[str], effort: int) -> None:
        self._old = old
        self._left = effort
        super().__init__(None, old, new)

    def find_longest_match(self, alo: int = 0, ahi: int | None = None, blo: int = 0, bhi: int | None = None) -> Match:
        some = self._old[alo:ahi]
        self._left -= len(some) + sum(map(self._often, some))
        if self._left < 0:
            raise TooMuchError
        return super().find_longest_match(alo, ahi, blo, bhi)

    def _often(self, line: str) -> int:
        """How many lines of the other text it is compared with."""
        places: dict[str, list[int]] = self.b2j  # type: ignore[attr-defined]  # documented, and without a type
        return len(places.get(line, ()))


def unified(old: list[str], new: list[str], old_name: str, new_name: str, *, effort: int = EFFORT_MAX) -> Iterator[str]:
    """The lines of a patch that makes ``new`` of ``old``, nothing where they are equal. Lines have their line breaks,
    also those of the patch, but for the last one of a text that has none there. Raises ``TooMuchError``."""
    is_first = True
    for group in _Matcher(old, new, effort).get_grouped_opcodes(_CONTEXT):
        if is_first:
            yield f"--- {old_name}\n"
            yield f"+++ {new_name}\n"
            is_first = False
        ranges = _range(group[0][1], group[-1][2]), _range(group[0][3], group[-1][4])
        yield f"@@ -{ranges[0]} +{ranges[1]} @@\n"
        for kind, start, end, new_start, new_end in group:
            if kind == "equal":
                yield from (f" {line}" for line in old[start:end])
                continue
            yield from (f"-{line}" for line in old[start:end])
            yield from (f"+{line}" for line in new[new_start:new_end])


def _range(start: int, end: int) -> str:
    """Which lines: the first one, and how many where that is not one."""
    count = end - start
    return str(start + 1) if count == 1 else f"{start + (count > 0)},{count}"
