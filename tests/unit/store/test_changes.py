"""What a worktree showed after each operation of its history."""

from __future__ import annotations

from pathlib import Path

import pytest

from stratum.errors import DamagedError, NotFoundError
from stratum.refs import parse_ref
from stratum.store import Store
from stratum.store.resolve import ResolvedCommit
from stratum.tree.model import Directory, File, lookup
from stratum.tree.oplog import entry_of
from tests.support.logbook import Logbook
from tests.support.stores import commit

BIG = b"b" * 200


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


@pytest.fixture
def book(store: Store) -> Logbook:
    """``app+dev`` over a commit with ``a`` and ``big``."""
    store.worktrees.create("app", "dev", commit(store, {b"a": b"1", b"big": BIG}))
    return Logbook(store)


def files(tree: Directory) -> dict[bytes, bytes | int | None]:
    """Name -> content; for files with a digest or without known content, the size."""
    return {
        name: inode.size if inode.content is None else inode.content
        for name, inode in tree.children.items()
        if isinstance(inode, File)
    }


def state(book: Logbook, n: int) -> Directory:
    return book.store.changes.state(parse_ref(f"app+dev@{n}")).tree


def test_each_state_is_the_base_with_what_was_done_by_then(book: Logbook) -> None:
    wrote, made = book.write("/a", b"2"), book.create("/c", BIG + b"c")
    moved, gone = book.rename("/c", "/d"), book.delete("/a")
    assert files(state(book, 1)) == {b"a": b"1", b"big": 200}
    assert files(state(book, wrote)) == {b"a": b"2", b"big": 200}
    assert files(state(book, made)) == {b"a": b"2", b"big": 200, b"c": 201}
    assert files(state(book, moved)) == {b"a": b"2", b"big": 200, b"d": 201}
    assert files(state(book, gone)) == {b"big": 200, b"d": 201}
    assert files(state(book, wrote)) == {b"a": b"2", b"big": 200}


def test_an_epoch_begins_with_its_own_base(book: Logbook) -> None:
    wrote = book.write("/a", b"2")
    begun = book.begin(commit(book.store, {b"x": b"x"}), "reset to x")
    after = book.create("/y", b"y")
    assert files(state(book, wrote)) == {b"a": b"2", b"big": 200}
    assert files(state(book, begun)) == {b"x": b"x"}
    assert files(state(book, after)) == {b"x": b"x", b"y": b"y"}


def test_a_version_between_two_looks_is_what_its_change_shows(book: Logbook) -> None:
    between = book.write("/a", b"between", "version")
    replaced = book.write("/a", b"after")
    short = book.write("/short", b"lived", "version")
    lost = book.write("/gone/with/it", b"its directory", "version")
    assert files(state(book, between))[b"a"] == b"between"
    assert files(state(book, replaced))[b"a"] == b"after"
    assert files(state(book, short))[b"short"] == b"lived"
    assert files(state(book, lost)) == {b"a": b"after", b"big": 200}


def test_one_path_is_told_without_all_others(book: Logbook) -> None:
    book.write("/a", b"2")
    book.mkdir("/d")
    book.create("/d/f", BIG + b"f")
    book.write("/a", b"between", "version")
    book.rename("/d", "/e")
    book.add("gap", None, why="nobody watched")
    book.delete("/a")
    book.begin(commit(book.store, {b"a": b"new"}), "reset")
    book.add("link", "/l", link=b"/a")
    told = 0
    for n in range(1, book.n + 1):
        tree = state(book, n)
        for path in (b"/a", b"/d", b"/d/f", b"/e/f", b"/big", b"/l", b"/never", b"/"):
            found = book.store.changes.traced(parse_ref(f"app+dev@{n}"), path)
            if found is not None:
                there = lookup(tree, path)
                assert there is not None
                assert entry_of(found[0]) == entry_of(there)
                told += 1
    assert told > 20
    newest = book.store.changes.traced(parse_ref(f"app+dev@{book.n}"), b"/l")
    assert newest is not None
    assert newest[1] != book.store.worktrees.get("app", "dev").base_commit


def test_of_a_log_with_damage_nothing_is_told_by_parts(book: Logbook) -> None:
    for data in (b"2", b"3", b"4"):
        book.write("/a", data)
    (log,) = (book.store.root / "refs/app/history/dev").glob("*.jsonl")
    log.write_bytes(log.read_bytes().replace(b" 3 - 3 ", b" 3 - 4 ").replace(b"- 3 -", b"- 5 -"))
    assert book.store.changes.traced(parse_ref("app+dev@2"), b"/big") is not None
    assert book.store.changes.traced(parse_ref("app+dev@4"), b"/big") is None
    with pytest.raises(DamagedError):
        state(book, 4)
    assert book.store.changes.traced(parse_ref("app+dev@99"), b"/big") is None


def test_before_is_the_state_without_the_operation(book: Logbook) -> None:
    book.write("/a", b"2")
    wrote = book.write("/a", b"3")
    assert files(book.store.changes.state(parse_ref(f"app+dev@{wrote}")).before())[b"a"] == b"2"


def test_a_state_is_a_commit_wherever_one_is_meant(book: Logbook) -> None:
    store = book.store
    wrote = book.create("/c", BIG + b"c")
    found = store.resolve(parse_ref(f"app+dev@{wrote}"))
    assert isinstance(found, ResolvedCommit)
    assert found.name == "app"
    meta = store.commits.meta(found.commit)
    assert meta.origin == {"kind": "history", "worktree": "app+dev", "change": wrote}
    assert meta.parent_commit == store.worktrees.get("app", "dev").base_commit
    assert meta.timestamp == "2026-11-21T14:00:02Z"
    assert files(store.commits.tree(found.commit)) == {b"a": b"1", b"big": 200, b"c": 201}
    assert store.resolve_commit(parse_ref(f"app+dev@{wrote}")) == found.commit
    assert store.resolve_commit(parse_ref("app+dev@1")) == meta.parent_commit


def test_a_commit_has_no_files_whose_content_nobody_knows(book: Logbook) -> None:
    book.mkdir("/d")
    book.unknown("/d/open", "open", "create")
    last = book.unknown("/a", "large")
    found = book.store.changes.state(parse_ref(f"app+dev@{last}"))
    assert found.whole()[1] == [b"/a", b"/d/open"]
    assert lookup(found.tree, b"/d/open") is not None
    made = book.store.resolve_commit(parse_ref(f"app+dev@{last}"))
    tree = book.store.commits.tree(made)
    assert sorted(tree.children) == [b"big", b"d"]
    assert lookup(tree, b"/d/open") is None
    origin = book.store.commits.meta(made).origin
    assert origin is not None
    assert origin["left_out"] == 2


def test_a_history_outlives_its_worktree(book: Logbook) -> None:
    wrote = book.write("/a", b"2")
    book.store.worktrees.remove("app", "dev")
    assert files(state(book, wrote))[b"a"] == b"2"


def test_main_is_meant_where_none_is_named(store: Store) -> None:
    store.worktrees.create("app", "main", commit(store, {b"a": b"1"}))
    wrote = Logbook(store, worktree="main").write("/a", b"2")
    assert store.changes.state(parse_ref(f"app@{wrote}")).tree.children.keys() == {b"a"}


@pytest.mark.parametrize("n", [3, 10**15 - 1])
def test_no_such_change(book: Logbook, n: int) -> None:
    book.write("/a", b"2")
    with pytest.raises(NotFoundError, match=f"no CHANGE {n} of app\\+dev") as caught:
        book.store.resolve(parse_ref(f"app+dev@{n}"))
    assert "1 to 2" in caught.value.hint


def test_records_that_do_not_fit_their_base_are_damage(book: Logbook) -> None:
    n = book.delete("/never-there")
    with pytest.raises(DamagedError, match="never-there"):
        book.store.resolve(parse_ref(f"app+dev@{n}"))


def test_a_base_that_was_lost_is_damage(book: Logbook) -> None:
    n = book.begin("ab" * 32)
    with pytest.raises(DamagedError, match="its base"):
        book.store.resolve(parse_ref(f"app+dev@{n}"))
