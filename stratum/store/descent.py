"""Whether one commit was made on top of another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from stratum.store.ancestry import Ancestry

if TYPE_CHECKING:
    from stratum.store.store import Store

NOTHING_TOLD: Mapping[str, Collection[str]] = {}


def descends(store: Store, commit: str, ancestor: str, told: Mapping[str, Collection[str]] = NOTHING_TOLD) -> bool:
    """Whether ``ancestor`` is ``commit`` itself or one of its ancestors, as far as is known. Whole hashes.

    ``told`` is what artifacts and archives say of commits that the store does not have: commit -> ancestors of it. Of
    those that it has, it knows itself, so that nobody else makes an old one a descendant. Raises ``DamagedError``.
    """
    ancestry, seen = Ancestry(store), set[str]()
    waiting = [commit]
    while waiting:
        current = waiting.pop()
        if current == ancestor:
            return True
        if current not in seen:
            seen.add(current)
            waiting += ancestry.known(current).ancestors if ancestry.has(current) else told.get(current, ())
    return False
