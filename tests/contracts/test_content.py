"""Every content store holds to the contract: in memory, in a directory, and near ones before far ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path

import pytest

from stratum.c4.ids import C4Id
from stratum.content import CachedStore, ContentStore, LocalStore, MemoryStore, ObjectStore, TreeStore
from stratum.content.trie import SPLIT
from stratum.oci.access import Access
from stratum.oci.bucket import BucketStore, open_bucket
from stratum.oci.target import parse_target
from tests.contracts.content import ContentContract, Pantry
from tests.support.s3server import S3Server


def name_of(request: pytest.FixtureRequest) -> str:
    """A prefix that no other test has."""
    return f"{request.cls.__name__}/{request.node.name}".replace("_", "-")


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


class BucketPantry(Pantry):
    """A bucket below a prefix; another connection each time."""

    def __init__(self, reference: str, *, tree: bool = False, environment: Mapping[str, str] | None = None) -> None:
        self.access = Access(connect_timeout=5, read_timeout=20, environment=environment or {})
        target = parse_target(reference)
        assert target.bucket is not None
        self.bucket, self.tree = target.bucket, tree
        self.opened = ExitStack()

    def door(self) -> BucketStore:
        return self.opened.enter_context(open_bucket(self.bucket, self.access))

    def open(self) -> ContentStore[C4Id]:
        return ObjectStore(self.door(), tree=self.tree)

    def spoil(self, c4id: C4Id, data: bytes) -> None:
        self.door().put(f"c4/{c4id[2:4]}/{c4id}" if self.tree else c4id, data)


class TestObjectStoreInMemory(ContentContract):
    @pytest.fixture
    def pantry(self, request: pytest.FixtureRequest) -> Iterator[Pantry]:
        pantry = BucketPantry(f"memory://content/{name_of(request)}")
        with pantry.opened:
            yield pantry


class TestTreeInABucket(ContentContract):
    @pytest.fixture
    def pantry(self, tmp_path: Path) -> Iterator[Pantry]:
        pantry = BucketPantry(f"file://{tmp_path}/bucket", tree=True)
        with pantry.opened:
            yield pantry


class TestObjectStoreInS3(ContentContract):
    @pytest.fixture
    def pantry(self, s3_server: S3Server, request: pytest.FixtureRequest) -> Iterator[Pantry]:
        reference = s3_server.reference("content", name_of(request))
        pantry = BucketPantry(reference, environment=s3_server.environment)
        with pantry.opened:
            yield pantry


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
