"""What an object's state means for the commits that need it, and who acts on it."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.store.fsck import check
from stratum.store.residence import Needed
from stratum.transfer.push import push
from stratum.tree.model import Directory, File


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
    assert [(found.digest, found.problem) for found in check(store).damage] == [(two, "it is missing")]
    with store.begin("a test") as tx, pytest.raises(DamagedError, match="needed by the commit but not in the store"):
        store.commits.write(
            tx, store.commits.tree(commit).with_children({b"f": File(0o100644, 0, 0, 1, size=100, digest=two)})
        )
    with pytest.raises(NotFoundError, match="missing from the store"):
        push(store, commit, parse_target(f"oci:{tmp_path}/layout:v1"), Access())
    assert not [path for path in (tmp_path / "layout").rglob("blobs/*/*") if path.is_file()], "nothing was sent"


def test_commits_that_share_frames_need_what_both_need(store: Store) -> None:
    """Of a large dump only lines of frames that no commit before had are looked at."""
    needed, all_needed = Needed(), set[bytes]()
    for last in (b"x", b"y"):
        commit, digests = commit_of(store, *(b"%03d" % number * 50 for number in range(100)), last * 70)
        all_needed.update(digests)
        needed.add(commit, *store.commits.read_dump(commit))
    assert needed.objects == all_needed
    assert len(needed.commits) == 2
