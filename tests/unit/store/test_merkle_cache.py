"""The cache of Merkle nodes never decides what a commit's Merkle root is: it is the same without, with and with a
damaged one."""

from __future__ import annotations

import random
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.gc import collect
from stratum.store.merklecache import KEPT, WORTH_KEEPING, MerkleCache
from stratum.store.metadata import CommitMeta
from stratum.store.retention import Retention
from stratum.tree.digest import merkle_summary, metadata_hash
from stratum.tree.merkle import MerkleNodes
from stratum.tree.model import Directory, File
from tests.support.stores import leftovers, snapshot

DIRECTORIES = 20
FILES = 850


def some_tree() -> Directory:
    rng = random.Random(1)
    root = Directory(0o40755, 0, 0, 0)
    for number in range(DIRECTORIES):
        children = {
            b"%d" % name: File(0o100644, 0, 0, rng.randrange(1 << 60), size=60, content=rng.randbytes(60))
            for name in range(FILES)
        }
        root.children[b"dir%d" % number] = Directory(0o40755, 0, 0, number, children=children)
    return root


@pytest.fixture(scope="module")
def tree() -> Directory:
    return some_tree()


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def write(store: Store, root: Directory, known: Directory | None = None) -> CommitMeta:
    """Make a commit and see that all that it says of itself is so."""
    with store.begin("a test") as tx:
        meta = store.commits.write(tx, root, known=known)
    dump = store.commits.dump(meta.metadata_hash)
    summary = merkle_summary(dump)
    assert metadata_hash(dump) == meta.metadata_hash
    assert (summary.root, summary.leaf_count) == (meta.merkle_root, meta.leaf_count)
    assert summary.tree_depth == meta.tree_depth
    assert not leftovers(store)
    return meta


def edited(root: Directory, number: int) -> Directory:
    """The tree with a file added in one directory, and one changed and one deleted in others."""
    children = dict(root.children)
    for place, name, inode in (
        (b"dir7", b"new%d" % number, File(0o100644, 0, 0, number)),
        (b"dir10", b"5", File(0o100644, 0, 0, number)),
        (b"dir13", b"5", None),
    ):
        directory = children[place]
        assert isinstance(directory, Directory)
        inside = dict(directory.children)
        inside.pop(name, None)
        if inode is not None:
            inside[name] = inode
        children[place] = directory.with_children(inside)
    return root.with_children(children)


def cut(data: bytes) -> bytes:
    return data[:-32]


def flip(place: int) -> Callable[[bytes], bytes]:
    return lambda data: data[:place] + bytes((data[place] ^ 4,)) + data[place + 1 :]


@pytest.mark.parametrize(
    "damage",
    [cut, flip(0), flip(30), flip(60), flip(90), flip(100_000), flip(-1), lambda data: b""],
)
def test_a_damaged_cache_is_made_anew(store: Store, damage: Callable[[bytes], bytes]) -> None:
    """Of the file itself, with nodes that need no store's worth of commits."""
    count = WORTH_KEEPING + 77
    dump = b"".join(b"/%d\n" % number for number in range(count))
    summary, commit = merkle_summary(dump), metadata_hash(dump)
    meta = CommitMeta(commit, summary.root, "2026-01-01T00:00:00Z", 0, 0, count, 15)
    cache, nodes = MerkleCache(store.layout), MerkleNodes.of([dump])
    assert cache.load(meta) is None
    cache.save(commit, nodes)
    found = cache.load(meta)
    assert found is not None
    assert (found.leaves, found.blocks, found.starts) == (nodes.leaves, nodes.blocks, nodes.starts)
    path = store.layout.merkle_cache / commit
    good = path.read_bytes()
    path.write_bytes(damage(good))
    assert cache.load(meta) is None
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")
    assert cache.load(meta) is None
    cache.save(commit, nodes)
    assert path.read_bytes() == good


def test_a_cache_with_another_root_is_made_anew(store: Store) -> None:
    """One whose check fits what it says: it is the commit's metadata that tells."""
    count = WORTH_KEEPING + 77
    dump = b"".join(b"/%d\n" % number for number in range(count))
    commit, nodes = metadata_hash(dump), MerkleNodes.of([dump])
    meta = CommitMeta(commit, merkle_summary(dump).root, "2026-01-01T00:00:00Z", 0, 0, count, 15)
    cache = MerkleCache(store.layout)
    cache.save(commit, MerkleNodes(nodes.leaves, nodes.blocks[32:] + nodes.blocks[:32], nodes.starts))
    assert cache.load(meta) is None
    cache.save("f" * 64, nodes)
    (store.layout.merkle_cache / ("f" * 64)).rename(store.layout.merkle_cache / commit)
    assert cache.load(meta) is None
    cache.save(commit, nodes)
    assert cache.load(meta) is not None


def test_commits_are_the_same_whatever_the_cache(store: Store, tree: Directory) -> None:
    base = write(store, tree).metadata_hash
    cached = store.layout.merkle_cache / base
    good = cached.read_bytes()
    nodes = MerkleCache(store.layout).load(store.commits.meta(base))
    for number, content in enumerate((good, None, flip(5000)(good), None)):
        if content is None:
            cached.unlink()
        else:
            cached.write_bytes(content)
        for more in (0, 10):  # the second one with the groups that the first one made
            opened = store.commits.open_tree(base)
            changed = write(store, edited(opened, number + more), opened)
        found = MerkleCache(store.layout).load(store.commits.meta(base))
        assert nodes is not None
        assert found is not None
        assert (found.leaves, found.blocks, found.starts) == (nodes.leaves, nodes.blocks, nodes.starts)
        assert found.groups
    for number in range(100, 103):  # and of those on one another
        opened = store.commits.open_tree(changed.metadata_hash)
        changed = write(store, edited(opened, number), opened)
    assert [path.name for path in store.layout.merkle_cache.iterdir()] == [base]


def test_a_store_that_cannot_cache_commits_all_the_same(store: Store, tree: Directory) -> None:
    (store.root / "cache").write_bytes(b"in the way")
    base = write(store, tree).metadata_hash
    opened = store.commits.open_tree(base)
    write(store, edited(opened, 1), opened)


def test_few_files_are_kept_and_those_of_commits_that_went_go(store: Store) -> None:
    cache, nodes = MerkleCache(store.layout), MerkleNodes.of([b"/\n" * WORTH_KEEPING])
    for number in range(KEPT + 3):
        cache.save(f"{number:064x}", nodes)
    kept = {path.name for path in store.layout.merkle_cache.iterdir()}
    assert len(kept) == KEPT
    assert f"{KEPT + 2:064x}" in kept
    (store.layout.merkle_cache / ".tmp-0011").write_bytes(b"half of one")
    before = snapshot(store.root)
    with store.locks.store(exclusive=True):
        assert len(collect(store, Retention(timedelta()), {}, dry_run=True).others) == KEPT + 1
        assert snapshot(store.root) == before
        collect(store, Retention(timedelta()), {})
    assert not list(store.layout.merkle_cache.iterdir())
