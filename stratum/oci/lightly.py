"""oras, loaded without what nobody asks for here, and what takes as long to load as oras and requests do.

oras checks its own files with jsonschema, requests guesses the encoding of texts with charset_normalizer, and urllib3
asks importlib.metadata which h2 there is. In the place of each stands what loads it when it is used. That is for
commands, which have one thread when they load this: where there are others, which might import one of these meanwhile,
all is loaded as ever.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any


def _version(distribution: str) -> str:
    if isinstance(later := sys.modules.get("importlib.metadata"), _Later):
        later.step_aside()
    version: str = import_module("importlib.metadata").version(distribution)
    return version


_HAVE: Mapping[str, Mapping[str, Any]] = {
    "jsonschema": {},
    "charset_normalizer": {"__version__": "3.0.0"},  # requests asks, and takes whatever begins with 2 or 3
    "importlib.metadata": {"version": _version},
}
"""What each has without being loaded: what others take from it when they are imported, its path besides."""


class _Later(ModuleType):
    """A module that is loaded when something of it is used, but for what it ``has``."""

    def __init__(self, name: str, has: Mapping[str, Any]) -> None:
        super().__init__(name)
        self._own: Mapping[str, Any] = {}
        if has:
            package = sys.modules.get(name.rpartition(".")[0])
            spec = PathFinder.find_spec(name, package.__path__ if package is not None else None)
            self._own = {**has, "__path__": spec.submodule_search_locations if spec is not None else []}
            self.__dict__.update(self._own)

    def __getattr__(self, name: str) -> Any:
        self.step_aside()
        return getattr(import_module(self.__name__), name)

    def stand_in(self) -> None:
        """Whoever imports the module gets this."""
        sys.modules[self.__name__] = self
        package, _, name = self.__name__.rpartition(".")
        if package:
            setattr(sys.modules[package], name, self)

    def step_aside(self) -> None:
        """Whoever imports the module from now on gets the real one."""
        if sys.modules.get(self.__name__) is not self:
            return
        del sys.modules[self.__name__]
        for name in self._own:
            delattr(self, name)
        package, _, name = self.__name__.rpartition(".")
        if package:
            delattr(sys.modules[package], name)


@contextmanager
def lightly() -> Iterator[None]:
    """A block in which ``stratum.oci.client`` is imported."""
    alone = threading.active_count() == 1
    later = [_Later(name, has) for name, has in _HAVE.items() if alone and name not in sys.modules]
    for module in later:
        module.stand_in()
    try:
        yield
    finally:
        for module in later:
            module.step_aside()
