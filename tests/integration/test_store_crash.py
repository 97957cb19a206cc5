"""A store whose writer is killed, or whose disk fails, at every call that changes something."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.frozen import replace
from stratum.store import Store
from tests.support import crashing
from tests.support.injection import killed_at
from tests.support.stores import check, commit, directory, file

pytestmark = pytest.mark.root  # strace attaches to a child

OLD = {b"kept": b"k" * 5000, b"old": b"o" * 5000}
NEW = {b"kept": b"k" * 5000, b"new": b"n" * 5000, b"more": b"m" * 9000}


class Scene:
    """A store with a tag and a worktree at one commit, copied afresh for every run, and a change of it."""

    def __init__(self, tmp_path: Path) -> None:
        self.template = tmp_path / "template"
        self.path = tmp_path / "store"
        store = Store.create(self.template)
        self.old = commit(store, OLD)
        store.tags.set("app", "latest", self.old)
        worktree = store.worktrees.create("app", "main", self.old)
        (worktree.upperdir / self.old).write_text("work on the old base")
        with Store.create(tmp_path / "other").begin() as tx:
            root = directory({name: file(tx, data) for name, data in NEW.items()})
            self.new = Store.open(tmp_path / "other").commits.write(tx, root).metadata_hash
        self.fresh()

    def fresh(self) -> Store:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.template, self.path, symlinks=True)
        return Store.open(self.path)

    def import_(self) -> None:
        """What an import does: objects, commit, tag."""
        store = Store.open(self.path)
        with store.begin("importing") as tx:
            root = directory({name: file(tx, data) for name, data in NEW.items()})
            made = store.commits.write(tx, root).metadata_hash
            store.tags.set("app", "latest", made, expected=self.old)

    def advance(self) -> None:
        """What a commit with fast-forward does: commit, worktree on the new base with an empty upperdir."""
        store = Store.open(self.path)
        with store.worktrees.lock("app", "main"), store.begin("committing") as tx:
            root = directory({name: file(tx, data) for name, data in NEW.items()})
            made = store.commits.write(tx, root).metadata_hash
            tree = store.worktrees.get("app", "main")
            store.worktrees.renew(tx, replace(tree, base_commit=made, head=made))

    def add_and_remove(self) -> None:
        """A worktree comes, another goes."""
        store = Store.open(self.path)
        store.worktrees.create("app", "second", self.old)
        store.worktrees.remove("app", "main")

    def remove(self) -> None:
        """A whole stratum goes."""
        Store.open(self.path).remove("app")

    def check(self, store: Store) -> None:
        """The old state or the new one, and nothing else."""
        check(store)
        assert set(store.commits.list()) <= {self.old, self.new}
        if store.names() == ["app"]:
            assert store.tags.get("app", "latest") in (self.old, self.new)
            _, damaged = store.reflog.scan("app")
            assert not damaged
            for worktree in store.worktrees.list("app"):
                self.check_worktree(store, worktree.worktree)
        else:
            assert store.names() == []

    def check_worktree(self, store: Store, name: str) -> None:
        worktree = store.worktrees.get("app", name)
        content = os.listdir(worktree.upperdir)
        if name == "main" and worktree.base_commit == self.old:
            assert content == [self.old]
            assert worktree.head is None
        else:
            assert content == []


CHANGES = [Scene.import_, Scene.advance, Scene.add_and_remove, Scene.remove]


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    return Scene(tmp_path)


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_killed_at_every_call(scene: Scene, change: Callable[[Scene], None]) -> None:
    crashing.killed_at_every_call(scene, lambda: change(scene))


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_failing_at_every_call(scene: Scene, change: Callable[[Scene], None]) -> None:
    crashing.failing_at_every_call(scene, lambda: change(scene))


def test_a_change_that_was_killed_can_be_made_again(scene: Scene) -> None:
    outcome = killed_at(scene.import_, "symlink", 1)
    assert outcome.status == -signal.SIGKILL
    scene.import_()
    store = Store.open(scene.path)
    assert store.tags.get("app", "latest") == scene.new
    crashing.check_next(scene)
