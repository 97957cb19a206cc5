"""The headers ``Range`` and ``Content-Range``, and page sizes, as clients send them. Pure."""

from __future__ import annotations

import re

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
_CHUNK = re.compile(r"([0-9]{1,18})-([0-9]{1,18})")
_COUNT = re.compile(r"[0-9]{1,9}")


class UnsatisfiableError(ValueError):
    """No byte of what there is lies in the range."""


def parse_range(text: str | None, size: int) -> tuple[int, int] | None:
    """The bytes (first, after the last) of ``size`` that a ``Range`` asks for. None for all of them: where there is no
    such header, several ranges, or a form that is not known, which servers ignore. ``UnsatisfiableError``."""
    found = _RANGE.fullmatch(text.replace(" ", "")) if text else None
    if found is None or found[1] == found[2] == "":
        return None
    if not found[1]:
        start, stop = max(0, size - int(found[2])), size
    else:
        start, stop = int(found[1]), min(int(found[2]) + 1, size) if found[2] else size
    if start >= stop:
        raise UnsatisfiableError(f"there are {size} bytes")
    return start, stop


def parse_chunk(text: str) -> tuple[int, int] | None:
    """The bytes (first, after the last) of a ``Content-Range`` of an upload's chunk, ``FIRST-LAST``; None for another
    form."""
    found = _CHUNK.fullmatch(text)
    if found is None or int(found[2]) < int(found[1]):
        return None
    return int(found[1]), int(found[2]) + 1


def parse_count(text: str | None, most: int) -> int | None:
    """How many names a page is to have, at most ``most``, which is the default; None for no such number."""
    if text is None:
        return most
    return min(int(text), most) if _COUNT.fullmatch(text) else None
