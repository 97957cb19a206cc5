"""Every content store holds to the contract: in memory, in a directory, and near ones before far ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.c4.ids import C4Id
from stratum.content import CachedStore, ContentStore, LocalStore, MemoryStore, TreeStore
from stratum.content.trie import SPLIT
from tests.contracts.content import ContentContract, Pantry


class MemoryPantry(Pantry):
    lasts = False

    def __init__(self) -> None:
        self.store = MemoryStore()

    def open(self) -> ContentStore[C4Id]:
        return self.store

    def spoil(self, c4id: C4Id, data: bytes) -> None:
        self.store._held[c4id].data = data


class TestMemoryStore(ContentContract):
    @pytest.fixture
    def pantry(self) -> Pantry:
        return MemoryPantry()


class DirectoryPantry(Pantry):
    def __init__(self, root: Path, kind: type[TreeStore] = TreeStore, split: int = SPLIT) -> None:
        self.root, self.kind, self.split = root, kind, split

    def open(self) -> ContentStore[C4Id]:
        return self.kind(self.root, split=self.split)

    def spoil(self, c4id: C4Id, data: bytes) -> None:
        (path,) = (path for path in self.root.rglob(c4id) if ".counts" not in path.parts)
        path.write_bytes(data)


class TestLocalStore(ContentContract):
    @pytest.fixture
    def pantry(self, tmp_path: Path) -> Pantry:
        return DirectoryPantry(tmp_path / "store", LocalStore)


class TestTreeStore(ContentContract):
    @pytest.fixture
    def pantry(self, tmp_path: Path) -> Pantry:
        return DirectoryPantry(tmp_path / "store")


class TestSplitTreeStore(ContentContract):
    """One whose directories split all the time."""

    @pytest.fixture
    def pantry(self, tmp_path: Path) -> Pantry:
        return DirectoryPantry(tmp_path / "store", split=1)


class CachedPantry(Pantry):
    """The far store is the one that is spoilt, and the near one has no copy of what is."""

    lasts = False

    def __init__(self, root: Path, limit: int | None) -> None:
        self.near = LocalStore(root / "near", durable=False)
        self.far = DirectoryPantry(root / "far", LocalStore)
        self.store = CachedStore(self.near, self.far.open(), limit=limit)

    def open(self) -> ContentStore[C4Id]:
        return self.store

    def spoil(self, c4id: C4Id, data: bytes) -> None:
        self.near.discard(c4id)
        self.far.spoil(c4id, data)


class TestCachedStore(ContentContract):
    @pytest.fixture
    def pantry(self, tmp_path: Path) -> Pantry:
        return CachedPantry(tmp_path, None)


class TestSmallCachedStore(ContentContract):
    """One that has room for little of what is read from it."""

    @pytest.fixture
    def pantry(self, tmp_path: Path) -> Pantry:
        return CachedPantry(tmp_path, 64)
