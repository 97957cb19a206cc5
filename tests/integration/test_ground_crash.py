"""Commits that are stored on each other, when their writer or a garbage collection is killed, or the disk fails, at
every call that changes something: each commit that there is can be read, and what nothing needs goes with the next
collection."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store import fsck as checking
from tests.support import crashing
from tests.support.grounds import Stack, check_kept, collect, grown, many, name

pytestmark = [pytest.mark.root, pytest.mark.timeout(3000)]  # strace attaches to a child


class Scene:
    """The stack of ``tests.support.grounds``, copied afresh for every run."""

    def __init__(self, tmp_path: Path) -> None:
        self.template = tmp_path / "template"
        self.path = tmp_path / "store"
        stack = Stack(Store.create(self.template))
        self.commits = stack.commits
        self.gone: set[str] = set()
        self.fresh()

    def fresh(self) -> Store:
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.copytree(self.template, self.path, symlinks=True)
        store = Store.open(self.path)
        for tag in self.gone:
            store.tags.remove("stack", tag)
        return store

    def commit(self) -> None:
        """A small change, on the deepest of all; so large a change that the tree is stored whole, with frames that are
        there and new ones; and what was collected, and is a ground."""
        store = Store.open(self.path)
        small = grown(store, {name(3): b"n" * 900}, on=self.commits["third"])
        store.tags.set("stack", "small", small)
        store.tags.set("stack", "large", grown(store, many(9, 900), on=small))
        store.tags.set("stack", "again", grown(store, many(5, 90, 10), on=self.commits["whole"]))

    def collect(self) -> None:
        """Some go that others are stored on, some that nothing is stored on."""
        collect(Store.open(self.path))

    def check(self, store: Store) -> None:
        there = set(store.commits.list())
        assert {commit for tag, commit in self.commits.items() if tag not in self.gone} <= there
        for commit in there:
            store.commits.dump(commit)
        assert not [finding for finding in checking.check(store).findings if not finding.harmless]
        collect(store)
        check_kept(store)


CHANGES: dict[str, tuple[Callable[[Scene], None], set[str]]] = {
    "commit": (Scene.commit, set()),
    "collect": (Scene.collect, {"first", "whole", "shared"}),
}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    return Scene(tmp_path_factory.mktemp("grounds"))


@pytest.mark.parametrize("name", CHANGES)
def test_killed_at_every_call(scene: Scene, name: str) -> None:
    change, scene.gone = CHANGES[name]
    scene.fresh()
    crashing.killed_at_every_call(scene, lambda: change(scene))


@pytest.mark.parametrize("name", CHANGES)
def test_failing_at_every_call(scene: Scene, name: str) -> None:
    change, scene.gone = CHANGES[name]
    scene.fresh()
    crashing.failing_at_every_call(scene, lambda: change(scene))
