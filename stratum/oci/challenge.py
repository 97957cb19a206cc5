"""Reading ``WWW-Authenticate`` headers (RFC 9110 11.6.1), in a time that grows with their length and no faster."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

HEADER_MAX = 4 << 10
"""A longer header is not looked at."""
HEADERS_MAX = 4
"""Nor are more headers than these."""

_TOKEN = frozenset("!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
_BLANK = " \t"


class Challenge(NamedTuple):
    """One way to authenticate: the scheme, and its parameters by name, both in lower case."""

    scheme: str
    parameters: dict[str, str]


def read_challenges(headers: Iterable[str]) -> list[Challenge]:
    """The challenges of an answer's headers, in order. What is malformed ends the header that it is in."""
    found: list[Challenge] = []
    for number, header in enumerate(headers):
        if number < HEADERS_MAX and len(header) <= HEADER_MAX:
            found += _challenges(header)
    return found


def _challenges(header: str) -> Iterator[Challenge]:
    current: Challenge | None = None
    position = 0
    while position < len(header):
        position = _skip(header, position, _BLANK + ",")
        word, position = _token(header, position)
        if not word:
            break
        after = _skip(header, position, _BLANK)
        if header[after : after + 1] == "=" and current is not None:
            value, position = _value(header, _skip(header, after + 1, _BLANK))
            if value is None:
                break
            current.parameters.setdefault(word.lower(), value)
        else:
            if current is not None:
                yield current
            current = Challenge(word.lower(), {})
    if current is not None:
        yield current


def _skip(text: str, position: int, characters: str) -> int:
    while position < len(text) and text[position] in characters:
        position += 1
    return position


def _token(text: str, position: int) -> tuple[str, int]:
    end = position
    while end < len(text) and text[end] in _TOKEN:
        end += 1
    return text[position:end], end


def _value(text: str, position: int) -> tuple[str | None, int]:
    """A parameter's value, a token or a quoted string, which begins at ``position``; None where it does not end."""
    if text[position : position + 1] != '"':
        return _token(text, position)
    characters = []
    position += 1
    while position < len(text) and text[position] != '"':
        position += text[position] == "\\"
        characters.append(text[position : position + 1])
        position += 1
    return ("".join(characters), position + 1) if position < len(text) else (None, position)
