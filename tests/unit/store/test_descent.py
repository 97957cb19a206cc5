"""Whether one commit was made on top of another, as far as is known."""

from __future__ import annotations

from pathlib import Path

from stratum.store import Store
from stratum.store.descent import descends
from tests.support.stores import directory


def made(store: Store, number: int, parent: str | None) -> str:
    with store.begin("a test") as tx:
        return store.commits.write(tx, directory({}, mtime=number), parent=parent).metadata_hash


def test_descent(store_dir: Path) -> None:
    store = Store.create(store_dir)
    first = made(store, 1, None)
    second = made(store, 2, first)
    third = made(store, 3, second)
    other = made(store, 4, first)
    for commit, ancestor, expected in (
        (first, first, True),
        (third, first, True),
        (third, second, True),
        (first, third, False),
        (third, other, False),
    ):
        assert descends(store, commit, ancestor) == expected


def test_what_is_told_counts_for_commits_that_are_not_here(store_dir: Path) -> None:
    store = Store.create(store_dir)
    first = made(store, 1, None)
    second = made(store, 2, first)
    gone, new = "a" * 64, "b" * 64
    assert not descends(store, new, first)
    assert descends(store, new, first, {new: [gone], gone: [second]})
    assert descends(store, new, gone, {new: [gone]})
    assert descends(store, new, first, {new: [gone, second]})
    assert not descends(store, new, first, {new: [gone], gone: [new]})  # a circle
    assert not descends(store, first, gone, {first: [gone]})  # the store knows better
