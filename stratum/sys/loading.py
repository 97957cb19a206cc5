"""Loading modules of the standard library without what of theirs hardly anybody needs."""

from __future__ import annotations

import sys
from types import ModuleType


def load_pathlib() -> None:
    """Load ``pathlib`` without ``urllib.parse``, which takes longer to load, and which it wants for the URLs of paths
    (before Python 3.13). Where such a URL is asked for, or the module by anybody else, it is loaded then."""
    name = "urllib.parse"
    if sys.version_info >= (3, 13) or name in sys.modules:
        return

    def quote_from_bytes(*args: bytes) -> str:
        from urllib.parse import quote_from_bytes as quote

        return quote(*args)

    stand_in = ModuleType(name)
    vars(stand_in)["quote_from_bytes"] = quote_from_bytes
    sys.modules[name] = stand_in
    try:
        import pathlib  # noqa: F401  # all others find it there
    finally:
        del sys.modules[name]
