"""Who shares which objects: the same as by reading every dump, however these are stored; from where commits are
reached; and what the parts of a store take."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.footprint import footprint
from stratum.store.reach import ELSE, NAMES, REFLOG, TAG, WORKTREE, Root, reachable
from stratum.store.retention import Retention
from stratum.store.roots import find_roots
from stratum.store.sharing import Amount, Sharing, measure
from stratum.sys.usage import usage_of
from stratum.tree.contents import named_digests, named_objects, objects_of
from tests.support.piled import piled, small_piles
from tests.support.stores import commit, partial_commit, spoil_tree


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def amounts(store: Store, digests: dict[bytes, int]) -> Amount:
    weighed = {digest: store.objects.weigh(digest) for digest in digests}
    here = [found for found in weighed.values() if found is not None]
    missing = [digests[digest] for digest, found in weighed.items() if found is None]
    return Amount(len(here), sum(w.usage for w in here), sum(w.size for w in here), len(missing), sum(missing))


def assert_as_by_reading_all(store: Store, sharing: Sharing) -> None:
    needed = {found: objects_of(store.commits.dump(found)) for found in store.commits.list()}
    everybody = sharing.mask(needed)
    each = sharing.each(needed, everybody)
    for one, objects in needed.items():
        others = {digest for other, found in needed.items() if other != one for digest in found}
        own = {digest: size for digest, size in objects.items() if digest not in others}
        assert each[one] == (amounts(store, objects), amounts(store, own))
        mask = sharing.mask([one])
        assert (sharing.total(mask), sharing.own(mask, everybody & ~mask)) == each[one]
    assert not sharing.damaged


def assert_files_are_of_all_that_are_made_of_them(store: Store, sharing: Sharing) -> None:
    trees, found, made = sharing.trees(footprint(store.layout)), store.commits.list(), dict[str, set[Path]]()
    for one in found:
        chain = store.trees.chain(one)
        made[one] = {store.trees.file(commit)[0] for commit, _ in chain}
        made[one] |= {store.trees.frame_path(ref.sha256) for _, record in chain for ref in record.frames}
    each = trees.each(found, sharing.mask(found))
    for one, files in made.items():
        others = set[Path]().union(*(made[other] for other in found if other != one))
        total, own = (sum(path.lstat().st_blocks * 512 for path in paths) for paths in (files, files - others))
        assert (each[one][0].disk, each[one][1].disk) == (total, own)
    assert trees.unneeded(sharing.mask(found)) == Amount()


def changing_trees(seed: int, count: int) -> Iterator[dict[bytes, bytes]]:
    rng = random.Random(seed)
    files = {b"file-%03d" % number: rng.randbytes(rng.choice((10, 200))) for number in range(60)}
    for _ in range(count):
        for _ in range(rng.choice((1, 3))):
            name = rng.choice([*files, b"file-%03d" % rng.randrange(200)])
            files.pop(name, None) if rng.random() < 0.3 else files.update({name: rng.randbytes(150)})
        yield dict(files)


def test_trees_that_are_stored_on_one_another(store: Store) -> None:
    with small_piles():
        made = piled(store, 5, 24)
        for commit in sorted(made)[::3]:
            store.commits.remove([commit])
        assert {store.trees.record(commit).level for commit in store.commits.list()} == {0, 1, 2, 3}
        assert store.trees.grounds()
    sharing = measure(store, store.commits.list(), {})
    assert_as_by_reading_all(store, sharing)
    assert_files_are_of_all_that_are_made_of_them(store, sharing)


def test_trees_that_are_whole(store: Store) -> None:
    for files in changing_trees(11, 6):
        commit(store, files)
    commit(store, {})
    assert_as_by_reading_all(store, measure(store, store.commits.list(), {}))


def test_what_is_not_here_counts_apart(store: Store) -> None:
    lazy = partial_commit(store, {b"far": b"f" * 5000, b"near": b"n" * 6000})
    with store.begin("a test") as tx:
        near = tx.add_bytes(b"n" * 6000)
        tx.publish_objects()
    sharing = measure(store, [lazy], {"a history": [near, b"\0" * 32]})
    total = sharing.total(sharing.mask([lazy]))
    assert (total.objects, total.size, total.remote_objects, total.remote) == (1, 6000, 1, 5000)
    assert sharing.own(sharing.mask([lazy]), sharing.mask(["a history"])).objects == 0
    assert sharing.users_of(near) == sharing.mask([lazy, "a history"])
    assert sharing.unneeded(sharing.mask([lazy])) == Amount()


def test_what_is_damaged_is_told_of_those_that_need_it_and_the_others_count(store: Store) -> None:
    good, bad, worse = (commit(store, {b"a": letter * 5000}) for letter in (b"a", b"b", b"c"))
    spoil_tree(store, bad)
    store.layout.commit(worse).write_bytes(b"")
    sharing = measure(store, store.commits.list(), {})
    assert set(sharing.damaged) == {bad, worse}
    assert sharing.total(sharing.mask([good])).size == 5000
    assert sharing.unneeded(sharing.mask([good])).size == 10_000
    with small_piles():
        made = piled(store, 5, 20)
    chain = store.trees.chain(next(commit for commit in made if store.trees.record(commit).level == 3))
    above = {commit for commit in made if chain[1][0] in dict(store.trees.chain(commit))}
    with store.trees.file(chain[1][0])[0].open("r+b") as file:
        file.truncate(600)
    assert set(measure(store, store.commits.list(), {}).damaged) == {bad, worse, *above}
    path = store.trees.frame_path(chain[-1][1].frames[0].sha256)
    path.write_bytes(b"x")
    damaged = measure(store, store.commits.list(), {}).damaged
    assert set(damaged) > {bad, worse, *above}
    assert path.name in damaged[chain[-1][0]]


def test_lines_of_a_dump_that_name_objects(store: Store) -> None:
    dump = store.commits.dump(commit(store, {b"with space": b"a" * 500, b"inline": b"b", b"c": b"c" * 600}))
    text = b"".join(dump).decode()
    assert {bytes.fromhex(digest): int(size) for size, digest in named_objects(text)} == objects_of(dump)
    assert set(map(bytes.fromhex, named_digests(text))) == objects_of(dump).keys()
    assert named_objects("no line of a dump\n/a 5 @120000 1 0 0 0 0.0 /b - " + "a" * 64 + "\n") == []


class TestRoots:
    def test_each_commit_is_reached_from_all_that_keep_it(self, store: Store) -> None:
        first, second, third, loose = (commit(store, {b"a": letter * 5000}) for letter in (b"a", b"b", b"c", b"d"))
        store.tags.set("app", "v1", first)
        store.tags.set("app", "v1", second, force=True)
        store.tags.set("other", "v1", first)
        store.worktrees.create("app", "main", third)
        kept = find_roots(store, Retention(), {loose: "mounted at /x"}).kept
        found = reachable(store, Retention(), kept, {("app", "gone"): {second, "0" * 64}}, apart=[("app", "v1")])
        assert found[Root(TAG, "app", "v1")] == {second}
        assert found[Root(NAMES, "other")] == {first}
        assert found[Root(WORKTREE, "app", "main")] == {third}
        assert found[Root(REFLOG, "app")] == {first, second, third}
        assert found[Root(ELSE)] == {loose}
        assert set().union(*found.values()) == set(kept)

    def test_damage_is_told(self, store: Store) -> None:
        store.tags.set("app", "v1", commit(store, {b"a": b"a" * 5000}))
        (store.layout.ref("app") / "pins.toml").write_bytes(b"x")
        with pytest.raises(DamagedError):
            reachable(store, Retention(), [], {})


class TestFootprint:
    def test_the_parts_are_the_whole(self, store: Store) -> None:
        made = commit(store, {b"a": b"a" * 50_000})
        store.tags.set("app", "v1", made)
        store.worktrees.create("app", "main", made)
        (store.worktrees.get("app", "main").upperdir / "written").write_bytes(b"w" * 30_000)
        (store.root / "quarantine").mkdir()
        (store.root / "something").write_bytes(b"x" * 20_000)
        found = footprint(store.layout)
        objects = sum(disk for _, disk, _ in store.objects.weights())
        assert sum(usage.disk for usage in found.parts.values()) + objects == usage_of(store.root).disk
        assert found.worktrees["app", "main"].size >= 30_000
        assert found.records[made] == usage_of(store.layout.commit(made))
        assert found.parts["other"].size >= 20_000

    def test_what_has_the_wrong_kind_is_passed_over(self, store: Store) -> None:
        (store.layout.refs / "app").symlink_to("/etc")
        (store.layout.refs / "file").write_bytes(b"x")
        (store.root / "histories").symlink_to("/etc")
        assert sum(usage.size for usage in footprint(store.layout).parts.values()) < 200_000
