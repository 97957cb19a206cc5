"""``log``: all commits of a line, or those that changed a path, and what names and made them."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from stratum.store import Store
from tests.support.command import Command
from tests.support.stores import directory, file

TREES = [
    ({b"app.conf": b"1", b"other": b"1"}, b"1"),
    ({b"app.conf": b"1", b"other": b"2"}, b"1"),
    ({b"other": b"2"}, b"1"),
    ({b"app.conf": b"2", b"other": b"2"}, b"1"),
    ({b"app.conf": b"2", b"other": b"2"}, b"2"),
]
"""What is in /etc, and in the file /top."""


@pytest.fixture
def line(cli: Command) -> list[str]:
    """The commits of ``TREES``, each a day after its parent. The last is ``app:latest``, the first ``app:v1``."""
    store, made, when = Store.create(cli.store), list[str](), datetime(2001, 9, 9, 2, tzinfo=timezone.utc)
    for number, (etc, top) in enumerate(TREES):
        with store.begin("a test") as tx:
            inner = directory({name: file(tx, data) for name, data in etc.items()})
            root = directory({b"etc": inner, b"top": file(tx, top)})
            meta = store.commits.write(
                tx,
                root,
                parent=made[-1] if made else None,
                message=f"number {number}",
                timestamp=when + timedelta(days=number),
            )
        made.append(meta.metadata_hash)
        store.tags.set("app", "latest", made[-1], force=True, why="import /srv/app")
    store.tags.set("app", "v1", made[0])
    return made


def of(cli: Command, line: list[str], *words: str) -> list[tuple[int, str | None]]:
    """(the number of a commit, what it did) of each that is listed."""
    return [(line.index(entry["commit"]["metadata_hash"]), entry["change"]) for entry in cli.json("log", *words)]


def test_what_changed_a_path(cli: Command, line: list[str]) -> None:
    conf = [(3, "added"), (2, "deleted"), (0, "added")]
    assert of(cli, line, "app", "/etc/app.conf") == conf
    assert of(cli, line, "app:latest:/etc/app.conf") == conf
    assert of(cli, line, "app:latest:etc/app.conf", "-n", "2") == conf[:2]
    assert of(cli, line, "app~2", "etc") == [(2, "modified"), (1, "modified"), (0, "added")]
    assert of(cli, line, "app", "etc/other", "top") == [(4, "modified"), (1, "modified"), (0, "added")]
    assert of(cli, line, "app", "/") == [(number, None) for number in (4, 3, 2, 1, 0)]
    letters = [words.split("  ")[2] for words in cli.ok("log", "app", "etc/app.conf").splitlines()]
    assert letters == ["A", "D", "A"]


def test_of_what_time(cli: Command, line: list[str]) -> None:
    assert of(cli, line, "app", "--since", "2001-09-10T02:00:00Z", "--until", "2001-09-12T00:00:00Z") == [
        (2, None),
        (1, None),
    ]
    assert of(cli, line, "app", "top", "--until", "2001-09-12") == [(0, "added")]
    assert of(cli, line, "app", "top", "--since", "2001-09-14") == []


def test_a_path_that_was_never_there(cli: Command, line: list[str]) -> None:
    result = cli("log", "app", "etc/app.cnf")
    assert result.code == 3
    assert "did you mean /etc/app.conf?" in result.stderr
    assert cli("log", "app:v1:/top", "top").code == 2


def test_what_names_them(cli: Command, line: list[str]) -> None:
    store = Store.open(cli.store)
    store.worktrees.create("app", "dev", line[1])
    store.worktrees.set_head("app", "dev", line[2])
    shown = cli.ok("log", "app", "--oneline").splitlines()
    assert shown[0] == f"{line[4][:12]}  (app:latest)  number 4"
    assert shown[2] == f"{line[2][:12]}  (app+dev)  number 2"
    assert shown[4] == f"{line[0][:12]}  (app:v1)  number 0"
    entries = cli.json("log", "app", "-n", "3")
    assert {entry["why"] for entry in entries} == {None}
    assert [(entry["tags"], entry["worktrees"]) for entry in entries] == [
        (["app:latest"], []),
        ([], []),
        ([], ["app+dev"]),
    ]


def test_what_made_a_commit(cli: Command, line: list[str], tmp_path: Path) -> None:
    """Said by the reflog, as a container's stop says it."""
    store = Store.open(cli.store)
    store.worktrees.create("app", "dev", line[1])
    with store.begin("a test") as tx:
        tree = store.commits.open_tree(line[1]).with_children({})
        made = store.commits.write(tx, tree, parent=line[1]).metadata_hash
    store.worktrees.set_head("app", "dev", made, why="container 0123456789ab stopped")
    for entry in (cli.json("log", "app+dev")[0], cli.json("show", "app+dev")):
        assert entry["why"] == "container 0123456789ab stopped"
    assert "made as     container 0123456789ab stopped" in cli.ok("show", "app+dev")
    assert cli.ok("log", "app+dev", "-n1", "--oneline") == f"{made[:12]}  (app+dev)  [container 0123456789ab stopped]"


def test_where_commits_are_missing(cli: Command, line: list[str]) -> None:
    store = Store.open(cli.store)
    store.commits.remove([line[2]])
    entries = cli.json("log", "app", "etc/app.conf")
    assert [entry["commit"]["metadata_hash"] for entry in entries] == [line[3]]
    assert entries[0]["missing"] == [line[2]]
    shown = cli.ok("log", "app", "top").splitlines()
    assert [words[:3] for words in shown] == [line[4][:3], line[3][:3], "..."]
    assert f"older commits, from {line[2][:12]} on, are not in this store" in shown[2]


def test_moves(cli: Command, line: list[str]) -> None:
    moves = json.loads(cli.ok("--format", "json", "log", "app:latest", "--reflog", "-n", "2"))
    assert [(move["old"], move["new"]) for move in moves] == [(line[3], line[4]), (line[2], line[3])]
    assert cli("log", "app", "top", "--reflog").code == 2


def test_without_a_ref(cli: Command, line: list[str], tmp_path: Path) -> None:
    result = cli("log", cwd=tmp_path)
    assert result.code == 2
    assert "nothing of Stratum is mounted at the current directory" in result.stderr
