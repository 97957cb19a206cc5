"""TOML as Stratum uses it: the standard library's reader (tomli on Python 3.10) and tomli-w's writer, loaded late."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


def loads(text: str) -> dict[str, Any]:
    """Parse a TOML document; ``ValueError`` says where it is malformed."""
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def dumps(table: Mapping[str, Any]) -> str:
    """Write a TOML document; keys keep their order, so equal tables have equal text."""
    import tomli_w

    return tomli_w.dumps(table)
