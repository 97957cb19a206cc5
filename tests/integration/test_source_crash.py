"""Commits that are here in part, when the writer is killed or the disk fails at every call that changes something: an
object is missing only where its commit says so and a source has it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.composefs.verity import verity_digest
from stratum.store import Store
from stratum.store import fsck as checking
from stratum.store.repair import repair
from tests.support import crashing
from tests.support.injection import killed_at
from tests.support.stores import catalog, check, commit, directory, file, partial_commit, source

pytestmark = pytest.mark.root  # strace attaches to a child

HERE = {b"a": b"a" * 5000, b"b": b"b" * 5000}
FAR = {b"c": b"c" * 5000, b"d": b"d" * 5000}
NEW = {b"e": b"e" * 5000, b"f": b"f" * 5000}
TIME = "2026-05-05T00:00:00Z"


class Scene:
    """A store with a whole commit that has a source and a partial one, copied afresh for every run."""

    def __init__(self, tmp_path: Path) -> None:
        self.template = tmp_path / "template"
        self.path = tmp_path / "store"
        store = Store.create(self.template)
        self.here, self.far = commit(store, HERE), partial_commit(store, FAR, "oci:/far")
        with store.begin("a test") as tx:
            store.sources.record(tx, self.here, source(HERE), catalog(HERE))
        for tag, commit_hash in (("here", self.here), ("far", self.far)):
            store.tags.set("app", tag, commit_hash)
        self.fresh()

    def fresh(self) -> Store:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.template, self.path, symlinks=True)
        return Store.open(self.path)

    def pull_lazily(self) -> None:
        """A commit comes without its objects."""
        store = Store.open(self.path)
        made = partial_commit(store, NEW, "oci:/new")
        store.tags.set("app", "new", made)

    def let_go(self) -> None:
        """What is here whole becomes unreal."""
        store = Store.open(self.path)
        with store.locks.store(exclusive=True), store.begin("letting go") as tx:
            store.sources.set_partial(tx, self.here)
            for data in HERE.values():
                store.objects.remove(verity_digest(data))

    def bring(self) -> None:
        """What was unreal comes here, and the mark goes."""
        commit(Store.open(self.path), FAR)

    def work_on(self) -> None:
        """A commit over a partial one."""
        store = Store.open(self.path)
        base = store.commits.open_tree(self.far)
        with store.begin("committing") as tx:
            made = store.commits.write(
                tx, base.with_children({**base.children, b"new": file(tx, b"n" * 5000)}), known=base
            )
            store.tags.set("app", "work", made.metadata_hash)

    def merge(self) -> None:
        """A commit of what two others have, of which one is partial."""
        store = Store.open(self.path)
        with store.begin("merging") as tx:
            children = {**store.commits.tree(self.here).children, **store.commits.tree(self.far).children}
            store.tags.set("app", "both", store.commits.write(tx, directory(children)).metadata_hash)

    def tell(self) -> None:
        """Sources come, are seen, gone and forgotten."""
        store = Store.open(self.path)
        with store.begin("noting sources") as tx:
            store.sources.record(tx, self.far, source(FAR), catalog(FAR))
            store.sources.seen(tx, self.far, source(FAR).reference, TIME)
            store.sources.seen(tx, self.here, source(HERE).reference, TIME, gone=True)
            store.sources.forget(tx, self.far, source(FAR, "oci:/far").reference)

    def check(self, store: Store) -> None:
        check(store)
        assert {"here", "far"} <= set(store.tags.list("app"))
        found = checking.check(store).findings
        assert not [finding for finding in found if not finding.harmless], found


CHANGES = [Scene.pull_lazily, Scene.let_go, Scene.bring, Scene.work_on, Scene.merge, Scene.tell]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_killed_at_every_call(scene: Scene, change: Callable[[Scene], None]) -> None:
    crashing.killed_at_every_call(scene, lambda: change(scene))
    scene.fresh()
    change(scene)
    crashing.check_next(scene)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_failing_at_every_call(scene: Scene, change: Callable[[Scene], None]) -> None:
    crashing.failing_at_every_call(scene, lambda: change(scene))


def test_a_repair_that_is_killed_loses_nothing_that_a_source_has(scene: Scene) -> None:
    """A damaged object goes into quarantine when every commit that needs it says that it may be missing."""
    digest = verity_digest(HERE[b"a"])

    def damaged() -> Store:
        store = scene.fresh()
        path = store.objects.path(digest)
        path.chmod(0o600)
        path.write_bytes(b"x" * 5000)
        path.chmod(0o444)
        return store

    def mend() -> None:
        store = Store.open(scene.path)
        with store.locks.store(exclusive=True):
            repair(store, checking.check(store).findings)

    damaged()
    for call, number in crashing.points(mend):
        damaged()
        killed_at(mend, call, number)
        store = Store.open(scene.path)
        if not store.objects.has(digest):
            assert store.sources.is_partial(scene.here), (call, number)
        mend()
        assert not store.objects.has(digest)
        crashing.check_next(scene)
