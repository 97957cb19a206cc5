"""A store whose commits are stored on each other in every way: whole in frames, on a ground, on one that is itself on
one, on one that was collected, and sharing frames."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta

import pytest

from stratum.store import Store, gc
from stratum.store.retention import Retention
from stratum.tree.model import Directory
from tests.support.stores import directory, file

NAMES = 1500


@contextmanager
def small_trees_on_each_other() -> Iterator[None]:
    """Have this process store the trees of new commits as if small ones were large, for the block: in frames, on each
    other, and whole again after a few changes."""
    from stratum.store import treewriter

    with pytest.MonkeyPatch.context() as patch:
        for constant, value in {"WHOLE_SMALL": 0, "SMALL_MIN": 400, "BLOCK": 400, "CAP_MIN": 2000}.items():
            patch.setattr(treewriter, constant, value)
        yield


def name(number: int) -> bytes:
    return b"d%02d/a name that makes its line longer %05d" % (number % 20, number)


def grown(store: Store, content: Mapping[bytes, bytes], *, on: str | None = None) -> str:
    """The commit of a tree with ``content`` by path, made on the commit ``on`` where one is given: of that tree only
    what differs is touched."""
    with store.begin("a test") as tx:
        known = store.commits.open_tree(on) if on is not None else None
        root = known if known is not None else directory({b"d%02d" % n: directory({}) for n in range(20)})
        below: dict[bytes, dict[bytes, bytes]] = {}
        for path, data in content.items():
            top, _, rest = path.partition(b"/")
            below.setdefault(top, {})[rest] = data
        for top, files in below.items():
            inner = root.children[top]
            assert isinstance(inner, Directory)
            made = inner.with_children({**inner.children, **{path: file(tx, data) for path, data in files.items()}})
            root = root.with_children({**root.children, top: made})
        return store.commits.write(tx, root, parent=on, known=known).metadata_hash


def many(seed: int, count: int, first: int = 0) -> dict[bytes, bytes]:
    """``count`` files with short contents that no others have."""
    noise = random.Random(seed)
    return {name(first + number): noise.randbytes(noise.randrange(20, 64)) for number in range(count)}


class Stack:
    """``commits`` by their tags in the stratum ``stack``: ``whole`` in frames; ``first`` on it, with much of its own;
    ``second`` on that, and ``third`` on that; ``shared``, whole, with most frames of ``whole``; ``orphan``, on
    ``gone``, which was collected."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.commits: dict[str, str] = {}
        self._add("whole", many(1, NAMES), None)
        self._add("first", many(2, 120, 100), "whole")
        self._add("second", many(3, 90, 400), "first")
        self._add("third", {name(7): b"t" * 900}, "second")
        self._add("shared", {path: data for path, data in many(4, 2600).items() if path >= b"d12"}, "whole")
        self._add("gone", many(5, 90, 10), "whole")
        self._add("orphan", {name(9): b"o" * 700}, "gone")
        self.gone = self.commits.pop("gone")
        store.tags.remove("stack", "gone")
        collect(store)

    def _add(self, label: str, content: dict[bytes, bytes], on: str | None) -> None:
        made = grown(self.store, content, on=self.commits[on] if on is not None else None)
        self.commits[label] = made
        self.store.tags.set("stack", label, made)


def collect(store: Store) -> gc.Collected:
    """Remove all that no tag names."""
    with store.locks.store(exclusive=True):
        return gc.collect(store, Retention(timedelta(), history=timedelta()), {})


def check_kept(store: Store) -> None:
    """Of records and frames there is what commits need, and nothing else; ``gc`` has just been."""
    commits, grounds, frames = set(store.commits.list()), set(store.trees.grounds()), set(store.trees.frames())
    chains = [store.trees.chain(commit) for commit in commits]
    assert {name for chain in chains for name, _ in chain} == commits | grounds
    assert not commits & grounds
    assert {ref.sha256 for chain in chains for ref in chain[-1][1].frames} == frames
    beside = {path.name.partition(".")[0] for path in store.layout.commits.iterdir()}
    assert beside == commits
