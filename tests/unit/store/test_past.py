"""Commits that are found from others: REF@{WHEN} by the reflog, and REF~N by descent."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stratum.errors import NotFoundError, StratumError, UsageError
from stratum.refs import parse_ref
from stratum.store import Store
from stratum.store.resolve import ResolvedCommit
from tests.support.stores import directory, file

Move = tuple[str, str, str, str | None]
DAY = "2026-11-"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


@pytest.fixture
def line(store: Store) -> list[str]:
    """Four commits, each the parent of the next."""
    made: list[str] = []
    for number in range(4):
        with store.begin("a test") as tx:
            root = directory({b"n": file(tx, b"%d" % number)})
            meta = store.commits.write(tx, root, parent=made[-1] if made else None)
            made.append(meta.metadata_hash)
    store.tags.set("app", "v1", made[3])
    return made


def moved(store: Store, *moves: Move) -> None:
    """Have the reflog of ``app`` tell just these moves: (when, kind, which, new)."""
    lines, at = [], dict[tuple[str, str], str | None]()
    for when, kind, which, new in moves:
        old = at.get((kind, which))
        lines.append({"when": when, "kind": kind, "which": which, "old": old, "new": new, "why": "a test"})
        at[kind, which] = new
    store.layout.reflog("app").write_text("".join(json.dumps(line) + "\n" for line in lines))


def named(store: Store, text: str) -> str:
    return store.resolve_commit(parse_ref(text))


def test_generations(store: Store, line: list[str]) -> None:
    store.worktrees.create("app", "dev", line[2])
    assert store.resolve(parse_ref("app:v1~1")) == ResolvedCommit(line[2], "app")
    assert named(store, "app:v1^^") == line[1]
    assert named(store, "app:v1~3") == line[0]
    assert named(store, "app+dev~2") == line[0]
    assert named(store, f"app:{line[1]}~") == line[0]
    assert store.resolve(parse_ref(f"{line[3][:12]}~1")) == ResolvedCommit(line[2])
    assert store.resolve_mountable(parse_ref("app+dev~1")) == ResolvedCommit(line[1], "app")
    with pytest.raises(UsageError, match="a worktree is needed"):
        store.resolve_worktree(parse_ref("app+dev~1"))


@pytest.mark.parametrize(
    ("text", "told"), [("app:v1~4", "there are 3 commits"), ("app:v1~1~2^", "there are 3 commits")]
)
def test_more_generations_than_there_are(store: Store, line: list[str], text: str, told: str) -> None:
    with pytest.raises(NotFoundError, match=told) as caught:
        named(store, text)
    assert "stratum log app:v1" in caught.value.hint


def test_a_commit_without_a_parent(store: Store, line: list[str]) -> None:
    with pytest.raises(NotFoundError, match="there is no commit"):
        named(store, f"{line[0]}~1")
    with pytest.raises(NotFoundError, match=r"there is 1 commit$"):
        named(store, f"{line[1]}~2")


def test_generations_that_are_not_here(store: Store, line: list[str]) -> None:
    from stratum.store.ancestry import Ancestry
    from stratum.store.lineage import Recorded

    with store.begin("a test") as tx:
        Ancestry(store).replace(tx, line[3], Recorded((line[2], line[1], line[0]), True))
    store.commits.remove([line[2]])
    assert named(store, "app:v1~2") == line[1]
    assert named(store, "app:v1~3") == line[0]
    with pytest.raises(NotFoundError, match="is not in this store") as caught:
        named(store, "app:v1~1")
    assert line[2] in caught.value.message
    store.commits.remove([line[0]])
    for text in ("app:v1~3", "app:v1~4"):
        with pytest.raises(NotFoundError, match="is not in this store") as caught:
            named(store, text)
        assert line[0] in caught.value.message


def test_what_was_named_then(store: Store, line: list[str]) -> None:
    moved(
        store,
        (f"{DAY}10T10:00:00Z", "tag", "latest", line[0]),
        (f"{DAY}11T10:00:00Z", "worktree", "main", line[1]),
        (f"{DAY}12T10:00:00Z", "tag", "v1", line[1]),
        (f"{DAY}13T10:00:00.250Z", "tag", "v1", line[2]),
        (f"{DAY}14T10:00:00Z", "worktree", "main", None),
        (f"{DAY}15T10:00:00Z", "tag", "v1", None),
        (f"{DAY}16T10:00:00Z", "tag", "v1", line[3]),
    )
    assert named(store, f"app:v1@{{{DAY}12T10:00:00Z}}") == line[1]
    assert named(store, f"app:v1@{{{DAY}13T09:59:59Z}}") == line[1]
    assert named(store, f"app:v1@{{{DAY}13 10:00:00Z}}") == line[2]
    assert named(store, f"app:v1@{{{DAY}13 10:00:00Z}}~2") == line[0]
    assert store.resolve(parse_ref("app:v1@{now}")) == ResolvedCommit(line[3], "app")
    assert named(store, f"app+main@{{{DAY}12}}") == line[1]
    assert named(store, f"app@{{{DAY}10 12:00Z}}") == line[0]
    assert named(store, f"app@{{{DAY}12 12:00Z}}") == line[1]
    assert named(store, f"app@{{{DAY}15 12:00Z}}") == line[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (f"app:v1@{{{DAY}12T09:59:59Z}}", r"named nothing at .*its reflog begins at 2026-11-12T10:00:00Z"),
        (f"app:v1@{{{DAY}15T10:00:00Z}}", "it was removed at 2026-11-15T10:00:00Z"),
        (f"app@{{{DAY}01}}", "its reflog begins"),
        ("app:nope@{now}", "there is no tag app:nope"),
        ("nope@{now}", "there is no stratum nope"),
        ("app+nope@{now}", r"no worktree app\+nope"),
    ],
)
def test_what_named_nothing_then(store: Store, line: list[str], text: str, told: str) -> None:
    moved(
        store,
        (f"{DAY}12T10:00:00Z", "tag", "v1", line[1]),
        (f"{DAY}15T10:00:00Z", "tag", "v1", None),
        (f"{DAY}16T10:00:00Z", "tag", "latest", line[3]),
    )
    with pytest.raises(NotFoundError, match=told):
        named(store, text)


def test_what_was_named_then_and_is_gone(store: Store, line: list[str]) -> None:
    moved(store, (f"{DAY}12T10:00:00Z", "tag", "v1", "0" * 64))
    with pytest.raises(NotFoundError, match="0000 then, which is not in this store any more"):
        named(store, "app:v1@{now}")


@pytest.mark.parametrize("whose", ["app:{}", "{}"])
def test_a_hash_is_the_same_at_any_time(store: Store, line: list[str], whose: str) -> None:
    with pytest.raises(UsageError, match="at any time"):
        named(store, whose.format(line[1][:12]) + "@{yesterday}")


def test_no_moment(store: Store, line: list[str]) -> None:
    with pytest.raises(UsageError, match="is no time"):
        named(store, "app:v1@{sometime}")


def test_lines_of_the_reflog_that_are_none(store: Store, line: list[str]) -> None:
    moved(store, ("once", "tag", "v1", line[0]), (f"{DAY}12T10:00:00", "tag", "v1", line[1]))
    assert named(store, f"app:v1@{{{DAY}12}}") == line[0]
    assert named(store, "app:v1@{now}") == line[1]


@pytest.mark.parametrize("text", ["app+dev~1", "app@{now}", "app:v1~1"])
def test_nothing_else_than_a_commit(store: Store, line: list[str], text: str) -> None:
    with pytest.raises(StratumError, match="a worktree is needed"):
        store.changes.worktree_of(parse_ref(text))
