"""Collections of commits whose trees are stored on one another: just what the others need stays, wherever it is cut
short."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.fsck import check as fsck
from stratum.store.gc import Collected, collect, read_ahead
from stratum.store.needed import Needed
from stratum.store.retention import Retention
from stratum.tree.blocks import lines_of
from stratum.tree.contents import objects_of
from tests.support.crashing import failing_at_every_call, killed_at_every_call
from tests.support.effort import examples
from tests.support.piled import piled, small_piles
from tests.support.stores import check

NOTHING = Retention(timedelta(), history=timedelta())


@pytest.fixture(autouse=True, scope="module")
def small() -> Iterator[None]:
    with small_piles():
        yield


def run(store: Store, kept: set[str], *, dry_run: bool = False, needed: Needed | None = None) -> Collected:
    mounted = dict.fromkeys(kept, "mounted at /x")
    with store.locks.store(exclusive=not dry_run):
        return collect(store, NOTHING, mounted, dry_run=dry_run, needed=needed)


def assert_just(store: Store, made: dict[str, frozenset[bytes]], kept: set[str]) -> None:
    """Only these commits are here, whole, and nothing that none of them needs."""
    assert set(store.commits.list()) == kept
    assert {digest for digest, _ in store.objects.list()} == frozenset().union(*(made[commit] for commit in kept))
    for commit in kept:
        assert frozenset(objects_of(store.commits.dump(commit))) == made[commit]
    beneath = {ground for commit in kept for ground, _ in store.trees.chain(commit)}
    assert set(store.trees.grounds()) == beneath - kept
    frames = {ref.sha256 for commit in beneath for ref in store.trees.record(commit).frames}
    assert set(store.trees.frames()) == frames
    check(store)


@settings(max_examples=examples(16))
@given(st.integers(0, 1 << 32), st.integers(1, 12), st.data())
def test_just_what_is_needed_stays(
    tmp_path_factory: pytest.TempPathFactory, seed: int, count: int, data: st.DataObject
) -> None:
    store = Store.create(tmp_path_factory.mktemp("gc") / "store")
    made = piled(store, seed, count)
    kept = set(made)
    while kept:
        fewer = set(data.draw(st.lists(st.sampled_from(sorted(kept)), unique=True)))
        would = run(store, fewer, dry_run=True)
        assert_same_sums(would)
        before = room(store)
        if len(fewer) % 2:  # what only goes after it was read ahead goes the next time
            run(store, fewer, needed=read_ahead(store, NOTHING, dict.fromkeys(kept, "x")))
            run(store, fewer)
        else:
            done = run(store, fewer)
            assert (done.commits, done.objects, done.bytes_freed) == (would.commits, would.objects, would.bytes_freed)
            assert done.bytes_freed == before - room(store)
        assert_just(store, made, fewer)
        kept = fewer
    assert not fsck(store).damage


def assert_same_sums(would: Collected) -> None:
    assert sum(going.bytes for going in would.by_stratum.values()) == would.bytes_freed
    assert sum(going.objects for going in would.by_stratum.values()) == would.objects


def room(store: Store) -> int:
    """Bytes on disk of the store's files, but for caches."""
    parts = [store.layout.commits, store.layout.grounds, store.layout.frames, store.layout.objects]
    return sum(path.lstat().st_blocks * 512 for part in parts for path in part.rglob("*") if path.is_file())


def test_all_levels_are_there(tmp_path: Path) -> None:
    """Of what the others test."""
    store = Store.create(tmp_path / "store")
    made = piled(store, 5, 40)
    levels = Counter(store.trees.record(commit).level for commit in made)
    assert set(levels) == {0, 1, 2, 3}
    assert len(set(store.trees.frames())) > 5


class Killed:
    """A store in which half of the commits go that were left by an earlier collection, and some of its grounds."""

    def __init__(self, path: Path) -> None:
        self.path = path / "store"
        self._first = path / "first"
        store = Store.create(self._first)
        self.made = piled(store, 5, 30)
        stays = set(sorted(self.made)[::2])
        run(store, stays)
        self.kept = set(sorted(stays)[::2])
        self.fresh()

    def fresh(self) -> None:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self._first, self.path, symlinks=True)

    def check(self, store: Store) -> None:
        for commit in store.commits.list():
            assert frozenset(objects_of(store.commits.dump(commit))) == self.made[commit]
        check(store)
        assert not fsck(store).damage
        assert self.kept <= set(store.commits.list())
        run(store, self.kept)
        assert_just(store, self.made, self.kept)

    def change(self) -> None:
        run(Store.open(self.path), self.kept)


def test_it_may_be_killed_or_fail_anywhere(tmp_path: Path) -> None:
    scene = Killed(tmp_path)
    store = Store.open(scene.path)
    grounds = {ground for commit in scene.kept for ground, _ in store.trees.chain(commit)}
    assert grounds.intersection(store.commits.list()) - scene.kept, "some become grounds"
    assert set(store.trees.grounds()) - grounds, "some are grounds no more"
    killed_at_every_call(scene, scene.change)
    failing_at_every_call(scene, scene.change)


@pytest.mark.parametrize("what", ["record", "ground", "frame", "lost ground", "lost frame"])
def test_damage_beneath_what_stays_removes_nothing(tmp_path: Path, what: str) -> None:
    store = Store.create(tmp_path / "store")
    made = piled(store, 5, 20)
    kept = next(commit for commit in made if store.trees.record(commit).level == 3)
    chain = store.trees.chain(kept)
    run(store, {kept})
    assert store.trees.grounds()
    lines = set(lines_of(store.commits.dump(kept)))
    frame = next(ref for ref in chain[-1][1].frames if not lines.isdisjoint(lines_of(store.trees.frame(ref))))
    path = {
        "record": store.layout.commits / kept,
        "ground": store.layout.grounds / chain[2][0],
        "frame": store.trees.frame_path(frame.sha256),
    }[what.removeprefix("lost ")]
    before = store.layout.names_in(store.layout.objects)
    data = path.read_bytes()
    path.chmod(0o644)
    path.unlink() if what.startswith("lost") else path.write_bytes(data[:-3] + bytes((data[-3] ^ 1,)) + data[-2:])
    with pytest.raises(DamagedError, match="not known which objects mounted at /x needs") as error:
        run(store, {kept})
    assert path.name[:20] in error.value.message
    assert store.layout.names_in(store.layout.objects) == before
    path.write_bytes(data)
    run(store, {kept})
    assert_just(store, made, {kept})
