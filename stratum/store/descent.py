"""Whether one commit was made on top of another."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

from stratum.store.ancestry import Ancestry
from stratum.store.lineage import Recorded

if TYPE_CHECKING:
    from stratum.store.store import Store

NOTHING_TOLD: Mapping[str, Collection[str]] = {}


def descends(store: Store, commit: str, ancestor: str, told: Mapping[str, Collection[str]] = NOTHING_TOLD) -> bool:
    """Whether ``ancestor`` is ``commit`` itself or one of its ancestors, as far as is known. Whole hashes.

    ``told`` is what artifacts and archives say of commits that the store does not have: commit -> ancestors of it. Of
    those that it has, it knows itself, so that nobody else makes an old one a descendant. Raises ``DamagedError``.
    """
    return _Told(store, told).descends(commit, ancestor)


class _Told(Ancestry):
    """The ancestors of a store's commits, and what is ``told`` of others."""

    def __init__(self, store: Store, told: Mapping[str, Collection[str]]) -> None:
        super().__init__(store)
        self._told = told

    def has(self, commit: str) -> bool:
        return super().has(commit) or commit in self._told

    def known(self, commit: str) -> Recorded:
        return super().known(commit) if super().has(commit) else Recorded(tuple(self._told[commit]))
