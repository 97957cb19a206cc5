"""The store: objects, commits, tags, worktrees and history, changed in transactions. ``store.layout`` has the map.

``Store`` is loaded when it is asked for: worker processes need the objects only, and start often.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stratum.store.store import Store
else:

    def __getattr__(name: str) -> object:
        if name != "Store":
            raise AttributeError(f"stratum.store has no {name}")
        from stratum.store.store import Store

        return Store


__all__ = ["Store"]
