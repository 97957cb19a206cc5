"""Content stores: bytes by the ID that follows from them. ``content.base`` has the contract.

What is in ``__all__`` is public, as docs/content-stores.md says, and loaded when it is asked for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stratum.content.base import ContentSource, ContentStore, KeptStore
    from stratum.content.cached import CachedStore
    from stratum.content.memory import MemoryStore
    from stratum.content.objectstore import ObjectStore
    from stratum.content.opening import open_content_store
    from stratum.content.treestore import LocalStore, TreeStore
else:
    _MODULES = {
        "CachedStore": "cached",
        "ContentSource": "base",
        "ContentStore": "base",
        "KeptStore": "base",
        "LocalStore": "treestore",
        "MemoryStore": "memory",
        "ObjectStore": "objectstore",
        "TreeStore": "treestore",
        "open_content_store": "opening",
    }

    def __getattr__(name: str) -> object:
        if name not in _MODULES:
            raise AttributeError(f"stratum.content has no {name}")
        from importlib import import_module

        return getattr(import_module(f"stratum.content.{_MODULES[name]}"), name)


__all__ = [
    "CachedStore",
    "ContentSource",
    "ContentStore",
    "KeptStore",
    "LocalStore",
    "MemoryStore",
    "ObjectStore",
    "TreeStore",
    "open_content_store",
]
