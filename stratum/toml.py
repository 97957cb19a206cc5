"""TOML as Stratum uses it: the standard library's reader (tomli on Python 3.10) and tomli-w's writer, loaded late."""

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


def dumps(table: Mapping[str, Any]) -> str:
    """Write a TOML document; keys keep their order, so equal tables have equal text."""
    import tomli_w

    return tomli_w.dumps(table)
