"""TOML as Stratum uses it: the standard library's reader (tomli on Python 3.10) and tomli-w's writer, loaded late."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from itertools import starmap
from typing import Any

# Strings, also unfinished ones, and comments: what is between them are keys, numbers and punctuation.
_OPAQUE = r'''"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|\#[^\n]*'''
_LONG_KEY = r"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){64}"
# A line as the store's own files have almost only: a table's head, or a key with a string that needs no escapes, a
# number, a truth.
_LINE = re.compile(
    r"""\[([A-Za-z0-9_-]+)\]\n"""
    r"""|([A-Za-z0-9_-]+)\ =\ (?:"([^"\\\x00-\x1f\x7f]*)"|(0|[1-9][0-9]{0,17})|(true|false))\n"""
    r"""|\n""",
    re.VERBOSE,
)


def loads(text: str) -> dict[str, Any]:
    """Parse a TOML document; ``ValueError`` says where it is malformed.

    What would take the parser a time that grows with the square of the length, or the whole stack, is refused.
    """
    plain = _plain(text)
    if plain is not None:
        return plain
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if text.count(".") >= 64 and re.search(_LONG_KEY, re.sub(_OPAQUE, "s", text, flags=re.DOTALL)):
        raise ValueError("a key has too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _plain(text: str) -> dict[str, Any] | None:
    """What a document of plain lines says, None of any other.

    A tenth of the time that the parser takes, which counts where ten thousand files are read; and nothing is loaded.
    """
    document: dict[str, Any] = {}
    table, end = document, 0
    while end < len(text):
        line = _LINE.match(text, end)
        if line is None:
            return None
        end = line.end()
        head, key, string, number, truth = line.groups()
        if head is not None:
            if head in document:
                return None
            table = document[head] = {}
        elif key is not None:
            if key in table:
                return None
            table[key] = string if string is not None else int(number) if number is not None else truth == "true"
    return document


def dumps(table: Mapping[str, Any]) -> str:
    """Write a TOML document; keys keep their order, so equal tables have equal text."""
    try:
        return _plain_text(table)
    except _NotPlainError:
        import tomli_w

        return tomli_w.dumps(table)


class _NotPlainError(Exception):
    """A document has more than plain lines."""


def _plain_text(document: Mapping[str, Any]) -> str:
    """What tomli-w writes of a document of plain lines, without loading it. ``_NotPlainError`` for any other."""
    parts = ["".join([_plain_line(key, value) for key, value in document.items() if not isinstance(value, dict)])]
    for name, table in document.items():
        if isinstance(table, dict):
            _plain_line(name, True)  # for the sake of the name
            parts.append("".join([name, "]\n", *starmap(_plain_line, table.items())]))
    return "\n[".join(parts).removeprefix("\n")


def _plain_line(key: str, value: object) -> str:
    kind = type(value)
    text = f'"{value}"' if kind is str else str(value) if kind is int else "true" if value is True else "false"
    line = f"{key} = {text}\n"
    if kind not in (str, int, bool) or _LINE.fullmatch(line) is None:
        raise _NotPlainError
    return line
