"""oras, loaded without jsonschema: it checks its own files with that, which nobody asks for here.

jsonschema takes longer to load than oras and requests do. In its place stands what loads it when anything of it is
used. That is for commands, which have one thread when they load this: where there are others, which might import
jsonschema meanwhile, all is loaded as ever.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType
from typing import Any

_NAME = "jsonschema"


class _Later(ModuleType):
    """A module that is loaded when something of it is used."""

    def __getattr__(self, name: str) -> Any:
        self.step_aside()
        return getattr(import_module(self.__name__), name)

    def step_aside(self) -> None:
        """Whoever imports the module from now on gets the real one."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]


@contextmanager
def lightly() -> Iterator[None]:
    """A block in which ``stratum.oci.client`` is imported."""
    if _NAME in sys.modules or threading.active_count() > 1:
        yield
        return
    later = sys.modules[_NAME] = _Later(_NAME)
    try:
        yield
    finally:
        later.step_aside()
