"""TOML as Stratum uses it: the standard library's reader (tomli on Python 3.10) and tomli-w's writer, loaded late.

The small files of a store, which every command reads, are in a form so simple that they are read without either.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from typing import Any

# Strings, also unfinished ones, and comments: what is between them are keys, numbers and punctuation.
_OPAQUE = r'''"""(?:[^\\]|\\.)*?(?:"""|\Z)|\'\'\'.*?(?:\'\'\'|\Z)|"(?:[^"\\\n]|\\.)*"?|\'[^\'\n]*\'?|\#[^\n]*'''
_LONG_KEY = r"(?<![A-Za-z0-9_-])(?:[A-Za-z0-9_-]+[ \t]*\.[ \t]*){64}"


def loads(text: str) -> dict[str, Any]:
    """Parse a TOML document; ``ValueError`` says where it is malformed.

    What would take the parser a time that grows with the square of the length, or the whole stack, is refused.
    """
    plain = _read_plain(text)
    if plain is not None:
        return plain
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    if re.search(_LONG_KEY, re.sub(_OPAQUE, "s", text, flags=re.DOTALL)):
        raise ValueError("a key has too many parts")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _read_plain(text: str) -> dict[str, Any] | None:
    """The document where each line is ``[table]`` or ``key = value`` with a plain value, as ``dumps`` lays them out,
    and nothing is given twice; None where it has anything else in it, wrong or not."""
    document: dict[str, Any] = {}
    table = document
    for line in text.split("\n"):
        if not line:
            continue
        if line[0] == "[" and line[-1] == "]":
            name = line[1:-1]
            if not _is_bare_key(name) or name in document:
                return None
            table = document[name] = {}
            continue
        key, _, written = line.partition(" = ")
        value = _plain_value(written)
        if value is None or not _is_bare_key(key) or key in table:
            return None
        table[key] = value
    return document


def _is_bare_key(text: str) -> bool:
    return text.isascii() and text.replace("-", "_").replace("_", "0").isalnum()


def _plain_value(text: str) -> str | int | bool | None:
    """A string without escapes, a count or a truth value; None for anything else."""
    if len(text) >= 2 and text[0] == text[-1] == '"':
        inner = text[1:-1]
        return inner if inner.isprintable() and '"' not in inner and "\\" not in inner else None
    if text in ("true", "false"):
        return text == "true"
    if text.isascii() and text.isdecimal() and len(text) <= 18 and (text == "0" or text[0] != "0"):
        return int(text)
    return None


def dumps(table: Mapping[str, Any]) -> str:
    """Write a TOML document; keys keep their order, so equal tables have equal text."""
    import tomli_w

    return tomli_w.dumps(table)
