"""Stores that sync, killed or failing at every call that changes one: nothing is lost, the next sync goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.fsck import check
from tests.support import crashing
from tests.support.syncing import NAME, TAG, Host

pytestmark = pytest.mark.root  # strace attaches to a child


class Scene:
    """Two stores with histories that parted, a path in conflict, and a tag that was removed on one side."""

    def __init__(self, tmp_path: Path) -> None:
        self.template, self._work = tmp_path / "template", tmp_path / "work"
        ann, bob = (Host(self.template, name) for name in ("ann", "bob"))
        ann.knows(bob)
        bob.knows(ann)
        first = ann.commit({b"a": b"1", b"b": b"1"})
        ann.put(first, "old")
        bob.sync(ann)
        ann.store.tags.remove(NAME, "old")
        self.heads = (ann.commit({b"a": b"ann", b"b": b"2"}), bob.commit({b"a": b"bob", b"b": b"1", b"c": b"3"}))
        self.path = self._work / "ann"
        self.fresh()
        self.sync()
        self.tags = self._hosts()[0].tags()

    def _hosts(self) -> tuple[Host, Host]:
        return Host(self._work, "ann"), Host(self._work, "bob")

    def fresh(self) -> None:
        shutil.rmtree(self._work, ignore_errors=True)
        shutil.copytree(self.template, self._work, symlinks=True)

    def sync(self) -> None:
        ann, bob = self._hosts()
        error = ann.sync(bob).error
        if error is not None:
            raise error

    def check(self, store: Store) -> None:
        """Each tag is where it was or where it goes to, and another sync brings it there."""
        for host, head in zip(self._hosts(), self.heads, strict=True):
            assert host.store.commits.exists(head)
            assert host.tags().get(TAG) in (head, self.tags[TAG])
            assert not [found for found in check(host.store).damage if found.kind != "moves"]
        self.sync()
        ann, bob = self._hosts()
        assert ann.tags() == bob.tags() == self.tags
        assert ann.files() == {b"a": b"bob", b"b": b"2", b"c": b"3"}
        assert (
            [conflict.path for conflict in ann.conflicts()]
            == [conflict.path for conflict in bob.conflicts()]
            == [b"/a"]
        )


def test_killed(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    crashing.killed_at_every_call(scene, scene.sync)


def test_failing(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    crashing.failing_at_every_call(scene, scene.sync)
