"""oras, and requests with it, loaded without what they load only for methods that nobody calls here.

That takes as long to load as half of all that speaks HTTP. In its place stands what loads the module when something of
it is used, which is never: what checks the schemas of oras's own files, what guesses the encodings of texts, and what
finds out the versions of installed packages.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any


class _Later(ModuleType):
    """A module that is loaded when something of it is used, but for what is known of it."""

    def __init__(self, name: str, known: dict[str, Any]) -> None:
        super().__init__(name)
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what the import system asks
            raise AttributeError(name)
        return getattr(import_module(self.__name__), name)


def _version(package: str) -> str:
    """``importlib.metadata.version``, which urllib3 takes into its hand as it loads."""
    found: Callable[[str], str] = import_module("importlib.metadata").version
    return found(package)


_UNUSED: dict[str, dict[str, Any]] = {
    "jsonschema": {},
    "charset_normalizer": {"__version__": "3.0.0"},  # requests wants to know that it is no older than 2
    "importlib.metadata": {"version": _version},
}


@contextmanager
def lightly() -> Iterator[None]:
    """A block in which ``stratum.oci.client`` is imported."""
    mine = [sys.modules.setdefault(name, _Later(name, known)) for name, known in _UNUSED.items()]
    try:
        yield
    finally:
        for module in mine:
            if isinstance(module, _Later):
                del sys.modules[module.__name__]
