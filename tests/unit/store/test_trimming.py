"""Shortening a reflog: old lines go, but not what tells where a ref is, and nothing that is damaged."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stratum.store import Store
from stratum.store.clock import utc_now
from stratum.store.reflog import unknown
from stratum.store.trimming import trim
from tests.support.stores import check, commit, leftovers


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def later() -> datetime:
    return utc_now() + timedelta(hours=1)


def test_worktrees_that_come_and_go_leave_no_lines(store: Store) -> None:
    made = commit(store, {b"x": b"x"})
    store.tags.set("app", "v1", made)
    for number in range(20):
        store.worktrees.create("app", f"w{number}", made)
        store.worktrees.remove("app", f"w{number}")
    assert trim(store, "app", later()) == 40
    assert [(entry.kind, entry.which) for entry in store.reflog.read("app")] == [("tag", "v1")]
    assert trim(store, "app", later()) == 0
    check(store)
    assert not leftovers(store)


def test_what_tells_where_refs_are_stays(store: Store) -> None:
    one, two = commit(store, {b"x": b"1"}), commit(store, {b"x": b"2"})
    store.tags.set("app", "v1", one)
    store.tags.set("app", "v1", two, force=True)
    store.worktrees.create("app", "main", one)
    store.worktrees.set_head("app", "main", two)
    # An entry whose move did not happen, as a crash leaves it.
    store.reflog.append("app", "tag", "v1", two, one, "not done")
    assert trim(store, "app", later()) == 2
    entries = store.reflog.read("app")
    assert unknown(entries, [("tag", "v1", two), ("worktree", "main", two)]) == []
    assert len(entries) == 3
    store.tags.set("app", "v2", one)
    assert store.reflog.scan("app")[1] == [], "the file goes on as it should"


def test_young_and_damaged_lines_stay(store: Store) -> None:
    made = commit(store, {b"x": b"x"})
    store.worktrees.create("app", "w", made)
    store.worktrees.remove("app", "w")
    path = store.layout.reflog("app")
    path.write_bytes(path.read_bytes() + b"half a li")
    before = path.read_bytes()
    assert trim(store, "app", datetime(2000, 1, 1, tzinfo=timezone.utc)) == 0
    assert path.read_bytes() == before
    assert trim(store, "app", later()) == 2
    assert path.read_bytes() == b"half a li"
