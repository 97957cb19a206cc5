"""How names, sizes and times are written on a page, and the addresses of its parts. Pure."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from datetime import datetime, timezone
from itertools import groupby
from unicodedata import category
from urllib.parse import quote, unquote_to_bytes

from markupsafe import Markup, escape

from stratum.errors import NotFoundError, escaped

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEPS = ((60, 60, "second"), (60, 60, "minute"), (48, 24, "hour"), (61, 30.44, "day"), (24, 12, "month"))
"""Up to how many of a unit are told, and how many are one of the next."""
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_ESCAPE = Markup('<span class="esc">{}</span>')
_MARKS = ("Mn", "Me")
_MARKS_MAX = 4
"""Marks on one letter; more of them are drawn over the lines above and below."""
SHORT = 12
"""Digits of a commit that are shown where there is little room."""


def name_text(name: bytes | str) -> str:
    """A name for an attribute or a title: what cannot be printed as an escape, and a backslash doubled."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    if text.isprintable() and "\\" not in text:
        return text
    return "".join("\\\\" if char == "\\" else escaped(char) for char in text)


def name_html(name: bytes | str) -> Markup:
    """A name as HTML, apart from the direction of the text around it, with escapes that can be told from letters."""
    text = name.decode("utf-8", "surrogateescape") if isinstance(name, bytes) else name
    return Markup("<bdi>{}</bdi>").format(_with_escapes(text, ""))


def line_html(text: str) -> Markup:
    """A line of a file as HTML: what would not be seen, or would turn what is seen around, is an escape."""
    return _with_escapes(text, "\t")


def _with_escapes(text: str, kept: str) -> Markup:
    """``kept`` are characters that are no letters and stay; with any, a backslash is nothing special either."""
    if text.isascii() and text.isprintable() and (kept or "\\" not in text):
        return escape(text)
    marks = 0

    def is_letter(char: str) -> bool:
        nonlocal marks
        marks = marks + 1 if char > "\x7f" and category(char) in _MARKS else 0
        return char in kept or (char.isprintable() and marks <= _MARKS_MAX and (bool(kept) or char != "\\"))

    return Markup("").join(
        escape("".join(chars)) if plain else _ESCAPE.format("".join(map(_code, chars)))
        for plain, chars in groupby(text, is_letter)
    )


def _code(char: str) -> str:
    """A character by its number, also one that could be printed."""
    if char == "\\":
        return "\\\\"
    return escaped(char) if not char.isprintable() else f"\\u{ord(char):04x}"


def said_html(message: str | None, instead: str = "") -> Markup:
    """The first line of what somebody said, as far as there is room for it; ``instead`` where nothing was said."""
    return name_html(cut_text((message or "").strip().split("\n", 1)[0]) or instead)


def cut_text(text: str, most: int = 200) -> str:
    """A text that may be longer than anybody reads."""
    return text if len(text) <= most else f"{text[:most]}…"


def size_text(size: int) -> str:
    """Bytes in the largest unit that leaves a whole number, with one digit after the point where it is small."""
    amount = float(abs(size))
    sign = "-" if size < 0 else ""
    for unit in _UNITS:
        if amount < 1024 or unit == _UNITS[-1]:
            break
        amount /= 1024
    digits = 0 if unit == "B" or amount >= 100 else 1
    return f"{sign}{amount:.{digits}f} {unit}"


def count_text(count: int, what: str, many: str | None = None) -> str:
    """``1 file``, ``2 files``, ``54,000 files``."""
    return f"{count:,} {what if count == 1 else many or what + 's'}"


def moment(timestamp: str) -> datetime | None:
    """The moment that RFC 3339 says; None for what is none."""
    try:
        found = datetime.fromisoformat(timestamp.replace("Z", "+00:00"))
        return (found if found.tzinfo is not None else found.replace(tzinfo=timezone.utc)).astimezone(timezone.utc)
    except (ValueError, OverflowError):
        return None


def of_nanoseconds(mtime: int) -> datetime | None:
    """The moment of a file's time; None where a calendar has none."""
    try:
        return datetime.fromtimestamp(mtime // 10**9, timezone.utc)
    except (ValueError, OverflowError, OSError):
        return None


def date_text(when: datetime | None) -> str:
    """``22 Nov 2026, 10:13``, in UTC."""
    if when is None:
        return "unknown"
    return f"{when.day} {_MONTHS[when.month - 1]} {when.year}, {when:%H:%M}"


def time_html(when: datetime | None, now: datetime, *, ago: bool = False) -> Markup:
    """A ``time`` element: the date, or how long ago with the date as its title."""
    if when is None:
        return Markup("unknown")
    date, machine = date_text(when), f"{when:%Y-%m-%dT%H:%M:%SZ}"
    if ago:
        return Markup('<time datetime="{}" title="{} UTC">{}</time>').format(machine, date, ago_text(when, now))
    return Markup('<time datetime="{}">{}</time>').format(machine, date)


def ago_text(when: datetime, now: datetime) -> str:
    """How long ago, in the largest unit of which it is at least one."""
    left = (now - when).total_seconds()
    if left < 0:
        return "in the future"
    for most, step, unit in _STEPS:
        if left < most:
            return "just now" if unit == "second" else f"{count_text(int(left), unit)} ago"
        left /= step
    return f"{count_text(int(left), 'year')} ago"


def mode_text(mode: int) -> str:
    """Type and permissions as ls(1) shows them."""
    return stat.filemode(mode)


def address(*parts: str | bytes, **query: str | int | None) -> str:
    """An address of the page: its parts, in each of which a slash is a slash, and what of ``query`` is not None."""
    path = "/" + "/".join(quote(part, safe="/" if isinstance(part, bytes) else "") for part in parts if part)
    said = "&".join(f"{key}={quote(str(value), safe='')}" for key, value in query.items() if value is not None)
    return f"{path}?{said}" if said else path


def in_stratum(what: str, name: str, commit: str, path: bytes = b"", **query: str | int | None) -> str:
    """The address of ``what`` (a letter or word) there is to see of ``path`` in a commit of a stratum."""
    return address("s", name, what, commit, path.strip(b"/"), **query)


def tail(raw_path: bytes, skip: int) -> bytes:
    """The path in a tree that an address ends with, behind ``skip`` parts. ``NotFoundError`` for what is no path."""
    names = [unquote_to_bytes(part) for part in raw_path.split(b"/")[skip + 1 :]]
    names = [name for name in names if name]
    if any(name in (b".", b"..") or b"/" in name or b"\0" in name for name in names):
        raise NotFoundError("no tree has such a path")
    return b"/" + b"/".join(names)


def inner(path: bytes) -> bytes:
    """A path as a part of an address."""
    return path.strip(b"/")


def above(path: bytes) -> bytes:
    """The directory that a path is in."""
    return path.rpartition(b"/")[0] or b"/"


def below(path: bytes, name: bytes) -> bytes:
    """What has this name in the directory at a path."""
    return path.rstrip(b"/") + b"/" + name


def crumbs(path: bytes) -> Sequence[tuple[bytes, bytes]]:
    """(name, path) of each directory on the way, and of what is at the end."""
    names = [name for name in path.split(b"/") if name]
    return [(name, b"/" + b"/".join(names[: number + 1])) for number, name in enumerate(names)]
