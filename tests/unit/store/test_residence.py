"""What an object's state means for the commits that need it, and who acts on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError, NotFoundError
from stratum.frozen import replace
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.store.fsck import check as fsck
from stratum.store.residence import Condition, ResidenceCounts
from stratum.store.sources import SOURCES
from stratum.transfer.push import push
from stratum.tree.model import Directory, File
from tests.support.stores import catalog, check, commit, file, partial_commit, source


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


def commit_of(store: Store, *contents: bytes) -> tuple[str, list[bytes]]:
    """A commit with a file for each of ``contents``; the commit and the files' digests."""
    root = Directory(0o40755, 0, 0, 0)
    with store.begin("a test") as tx:
        digests = [tx.add_bytes(data) for data in contents]
        for number, (data, digest) in enumerate(zip(contents, digests, strict=True)):
            root.children[b"f%d" % number] = File(0o100644, 0, 0, number, size=len(data), digest=digest)
        return store.commits.write(tx, root).metadata_hash, digests


def test_a_commit_without_an_object_is_not_real_for_anybody(store: Store, tmp_path: Path) -> None:
    commit, (one, two) = commit_of(store, b"1" * 100, b"2" * 100)
    needed = {one: 100, two: 100}
    assert not dict(store.residence.lacking(needed.items()))
    assert store.residence.has_all(needed.items())
    store.objects.path(two).unlink()
    assert dict(store.residence.lacking(needed.items())) == {two: 100}
    assert dict(store.residence.lacking({one: 99}.items())) == {one: 99}
    assert not store.residence.has_all(needed.items())
    assert store.residence.verify(one, 100) == 100
    with pytest.raises(DamagedError, match="missing from the store"):
        store.residence.verify(two, 100)
    assert [(found.digest, found.problem) for found in fsck(store).damage] == [(two, "it is missing")]
    with store.begin("a test") as tx, pytest.raises(DamagedError, match="needed by the commit but not in the store"):
        store.commits.write(
            tx, store.commits.tree(commit).with_children({b"f": File(0o100644, 0, 0, 1, size=100, digest=two)})
        )
    with pytest.raises(NotFoundError, match="missing from the store"):
        push(store, commit, parse_target(f"oci:{tmp_path}/layout:v1"), Access())
    assert not [path for path in (tmp_path / "layout").rglob("blobs/*/*") if path.is_file()], "nothing was sent"


FILES = {b"a": b"a" * 100, b"b": b"b" * 200, b"small": b"x"}
A, B = verity_digest(FILES[b"a"]), verity_digest(FILES[b"b"])


def bring(store: Store, data: bytes) -> None:
    """Have the object of ``data`` here, as something else needs it."""
    with store.begin("a test") as tx:
        tx.add_bytes(data)
        tx.publish_objects()


def test_what_is_missing_is_unreal_or_lost(store: Store) -> None:
    there = partial_commit(store, FILES)
    assert store.residence.counts(there) == ResidenceCounts(unreal=2, unreal_bytes=300)
    bring(store, FILES[b"a"])
    assert store.residence.counts(there) == ResidenceCounts(1, 100, 1, 200)
    assert store.residence.condition(there, A, 100) is Condition.REAL
    assert store.residence.condition(there, B, 200) is Condition.UNREAL
    assert store.residence.condition(there, B, 201) is Condition.LOST, "no source has one of that size"
    assert store.residence.sources_of(B) == [source(FILES)]
    assert store.residence.sources_of(B, []) == []
    assert store.residence.sources_of(bytes(32)) == []
    with store.begin("a test") as tx:
        store.sources.seen(tx, there, source(FILES).reference, "2026-02-02T00:00:00Z", gone=True)
    assert store.residence.condition(there, B, 200) is Condition.LOST
    assert store.residence.counts(there) == ResidenceCounts(1, 100, lost=1, lost_bytes=200)
    assert [found.gone is not None for found in store.residence.sources_of(B)] == [True]
    with store.begin("a test") as tx:
        store.sources.seen(tx, there, source(FILES).reference, "2026-02-02T00:00:00Z")
        store.sources.record(tx, there, source(FILES, "oci:/dir"), catalog(FILES))
        store.sources.seen(tx, there, source(FILES).reference, "2026-02-02T00:00:00Z", gone=True)
    assert store.residence.condition(there, B, 200) is Condition.UNREAL, "the other place has it"
    assert [found.place for found in store.residence.sources_of(B)] == ["oci:/dir", "reg.example/app"]


@pytest.mark.parametrize("spoiled", ["sources", "catalog"])
def test_what_cannot_be_read_has_nothing(store: Store, spoiled: str) -> None:
    there = partial_commit(store, FILES)
    path = store.layout.beside(there, SOURCES) if spoiled == "sources" else store.root / "sources"
    if spoiled == "sources":
        path.write_bytes(b"[[source")
    else:
        store.sources.catalog_path(source(FILES).manifest).write_bytes(b"stratcat" * 20)
    assert store.residence.condition(there, A, 100) is Condition.LOST
    assert store.residence.counts(there).lost == 2
    assert store.residence.sources_of(A) == []


def test_a_commit_over_a_partial_one_has_its_sources(store: Store) -> None:
    """Nothing of the base is read or needed for it, and nothing becomes lost."""
    base = partial_commit(store, FILES)
    for known in (store.commits.open_tree(base), store.commits.tree(base)):
        with store.begin("a test") as tx:
            new = file(tx, known.__class__.__name__.encode() + b"%d" % id(known) * 20)
            made = store.commits.write(tx, known.with_children({**known.children, b"new": new}), known=known)
        commit = made.metadata_hash
        assert store.sources.is_partial(commit)
        [inherited] = store.sources.of(commit)
        assert inherited == replace(source(FILES), kind="inherited")
        assert store.residence.counts(commit).lost == 0
        assert store.residence.counts(commit).unreal == 2
    check(store)


def test_a_commit_of_what_others_have_in_part(store: Store) -> None:
    """A merge of two strata, of which one is known whole and the other as objects only."""
    partial_commit(store, FILES)
    other = partial_commit(store, {b"c": b"c" * 300}, "oci:/dir")
    tree = store.commits.tree(other)
    with store.begin("a test") as tx:
        children = {**tree.children, b"a": File(0o100600, 0, 0, 5, size=100, digest=A), b"d": file(tx, b"d" * 400)}
        commit = store.commits.write(tx, tree.with_children(children), known=tree).metadata_hash
    assert {(found.place, found.kind) for found in store.sources.of(commit)} == {
        ("reg.example/app", "inherited"),
        ("oci:/dir", "inherited"),
    }
    assert store.residence.counts(commit) == ResidenceCounts(1, 400, 2, 400)
    lost = File(0o100600, 0, 0, 5, size=101, digest=A)
    with store.begin("a test") as tx, pytest.raises(DamagedError, match="needed by the commit but not in the store"):
        store.commits.write(tx, tree.with_children({b"a": lost}), known=tree)
    check(store)


def test_a_commit_over_a_partial_one_whose_sources_are_damaged_is_no_worse(store: Store) -> None:
    base = partial_commit(store, FILES)
    (store.layout.beside(base, SOURCES)).write_bytes(b"x")
    known = store.commits.open_tree(base)
    with store.begin("a test") as tx:
        tree = known.with_children({**known.children, b"new": file(tx, b"n" * 100)})
        commit = store.commits.write(tx, tree, known=known).metadata_hash
    assert store.sources.is_partial(commit)
    assert store.sources.of(commit) == []


def test_an_import_makes_a_partial_commit_whole(store: Store) -> None:
    there = partial_commit(store, FILES)
    bring(store, FILES[b"a"])
    assert store.sources.is_partial(there)
    assert commit(store, FILES) == there
    assert not store.sources.is_partial(there)
    assert store.residence.counts(there) == ResidenceCounts(2, 300)
    assert store.sources.of(there) == [source(FILES)], "what it could be fetched from stays known"
    # A lazy pull of what is here brings it another source, and takes nothing away.
    assert partial_commit(store, FILES, "oci:/dir") == there
    assert not store.sources.is_partial(there)
    assert len(store.sources.of(there)) == 2
    # And one of a damaged commit lets what is missing be fetched.
    store.objects.path(A).unlink()
    assert partial_commit(store, FILES, "oci:/dir") == there
    assert store.sources.is_partial(there)
    check(store)


def test_a_lazy_pull_whose_artifact_lacks_something_makes_nothing(store: Store) -> None:
    with store.begin("a test") as tx:
        root = store.commits.tree(partial_commit(store, FILES))
        new = root.with_children({**root.children, b"c": File(0o100644, 0, 0, 0, size=300, digest=bytes(32))})
        with pytest.raises(DamagedError, match="needed by the commit but not in the store"):
            store.commits.write(tx, new, sources=[(source(FILES), catalog(FILES))])
    assert len(store.commits.list()) == 1
    check(store)
