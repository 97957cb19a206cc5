"""A difference in the unified format (``api.patches``) as rows of two sides. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from markupsafe import Markup

from stratum.serve.page.contents import LINE_MAX, cut_line
from stratum.serve.page.words import line_html

ROWS_MAX = 4000
"""Rows that are shown of one file."""
_GONE, _NEW = Markup("<del>{}</del>"), Markup("<ins>{}</ins>")
_HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


@dataclass(frozen=True, slots=True)
class Row:
    """One row: a line on each side with its number, None where a side has none. ``kind`` is ``same``, ``changed``,
    ``gone``, ``new``; or ``skip`` between stretches, which has nothing else."""

    kind: str
    old_number: int | None = None
    old: Markup | None = None
    new_number: int | None = None
    new: Markup | None = None


def rows_of(patch: str) -> Iterator[Row]:
    """The rows of a patch; its lines are what ``api.patches`` writes."""
    old = new = 0
    gone: list[str] = []
    came: list[str] = []
    for line in patch.split("\n"):
        sign, text = line[:1], line[1:]
        if sign == "-" and not (old == 0 and line.startswith("--- ")):
            gone.append(text)
            continue
        if sign == "+" and not (new == 0 and line.startswith("+++ ")):
            came.append(text)
            continue
        if sign == "\\":
            continue
        yield from _changed(gone, came, old, new)
        old, new = old + len(gone), new + len(came)
        gone, came = [], []
        if sign == " ":
            shown = cut_line(text)
            yield Row("same", old, shown, new, shown)
            old, new = old + 1, new + 1
        elif found := _HUNK.match(line):
            if old or new:
                yield Row("skip")
            old, new = (int(number) + (count == "0") for number, count in (found.groups()[:2], found.groups()[2:]))
    yield from _changed(gone, came, old, new)


def _changed(gone: list[str], came: list[str], old: int, new: int) -> Iterator[Row]:
    for number in range(max(len(gone), len(came))):
        if number >= len(came):
            yield Row("gone", old + number, cut_line(gone[number]))
        elif number >= len(gone):
            yield Row("new", None, None, new + number, cut_line(came[number]))
        else:
            left, right = marked(gone[number], came[number])
            yield Row("changed", old + number, left, new + number, right)


def marked(old: str, new: str) -> tuple[Markup, Markup]:
    """Two lines, with what differs between their common beginning and end marked, unless that is nearly all."""
    old, new = old.removesuffix("\r"), new.removesuffix("\r")
    if max(len(old), len(new)) > LINE_MAX:
        return cut_line(old), cut_line(new)
    most = min(len(old), len(new))
    start = next((at for at in range(most) if old[at] != new[at]), most)
    end = next((at for at in range(most - start) if old[-1 - at] != new[-1 - at]), most - start)
    if (start + end) * 3 < max(len(old), len(new)):
        return line_html(old), line_html(new)
    return _mark(_GONE, old, start, end), _mark(_NEW, new, start, end)


def _mark(form: Markup, line: str, start: int, end: int) -> Markup:
    stop = len(line) - end
    inner = form.format(line_html(line[start:stop])) if stop > start else ""
    return Markup("{}{}{}").format(line_html(line[:start]), inner, line_html(line[stop:]))
