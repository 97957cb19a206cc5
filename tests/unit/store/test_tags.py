from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stratum.errors import ConflictError, DamagedError, ExistsError, NotFoundError, UsageError
from stratum.store import Store
from stratum.store.reflog import ReflogEntry, parse_entry
from stratum.store.retention import parse_time
from tests.support.effort import examples
from tests.support.stores import check, commit, leftovers


@pytest.fixture
def store(store_dir: Path) -> Store:
    return Store.create(store_dir)


@pytest.fixture
def commits(store: Store) -> list[str]:
    return [commit(store, {b"%d" % number: b""}) for number in range(3)]


def history(store: Store, name: str) -> list[tuple[str, str | None, str | None, str]]:
    return [(entry.which, entry.old, entry.new, entry.why) for entry in store.reflog.read(name)]


def test_a_tag_is_a_relative_link_to_a_commit(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "latest", commits[0], why="import")
    path = store.root / "refs" / "app" / "tags" / "latest"
    assert os.readlink(path) == f"../../../commits/{commits[0]}"
    assert path.resolve() == store.root / "commits" / commits[0]
    assert store.tags.get("app", "latest") == commits[0]
    assert store.names() == ["app"]
    assert store.tags.list("app") == {"latest": commits[0]}
    assert not leftovers(store)
    check(store)


def test_an_existing_tag_moves_only_by_force(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0], why="one")
    store.tags.set("app", "v1", commits[0], why="again")
    with pytest.raises(ExistsError, match="app:v1"):
        store.tags.set("app", "v1", commits[1])
    assert store.tags.get("app", "v1") == commits[0]
    store.tags.set("app", "v1", commits[1], force=True, why="two")
    assert store.tags.get("app", "v1") == commits[1]
    assert store.tags.remove("app", "v1", why="three") == commits[1]
    assert store.tags.find("app", "v1") is None
    assert history(store, "app") == [
        ("v1", None, commits[0], "one"),
        ("v1", commits[0], commits[1], "two"),
        ("v1", commits[1], None, "three"),
    ]
    assert store.names() == ["app"]


def test_compare_and_swap(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0], expected=None)
    store.tags.set("app", "v1", commits[1], expected=commits[0])
    for expected in (None, commits[0], commits[2]):
        with pytest.raises(ConflictError, match="meanwhile"):
            store.tags.set("app", "v1", commits[2], expected=expected, force=True)
        with pytest.raises(ConflictError, match="meanwhile"):
            store.tags.remove("app", "v1", expected=expected)
    store.tags.set("app", "v1", commits[1], expected=commits[0])  # both wanted the same
    assert store.tags.get("app", "v1") == commits[1]
    store.tags.remove("app", "v1", expected=commits[1])
    with pytest.raises(ConflictError, match="removed"):
        store.tags.set("app", "v1", commits[2], expected=commits[1])


def test_of_many_writers_one_wins_and_the_others_are_told(store: Store) -> None:
    mine = [commit(store, {b"%d" % number: b""}) for number in range(8)]
    won, told = [], []
    start = threading.Barrier(len(mine))

    def write(commit_hash: str) -> None:
        own = Store.open(store.root)
        start.wait()
        try:
            own.tags.set("app", "v1", commit_hash, expected=None)
            won.append(commit_hash)
        except ConflictError as exc:
            told.append(exc.message)

    threads = [threading.Thread(target=write, args=(commit_hash,)) for commit_hash in mine]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert len(told) == len(mine) - 1
    assert all(won[0] in message for message in told)
    assert store.tags.get("app", "v1") == won[0]
    assert [entry.new for entry in store.reflog.read("app")] == won


def test_bad_input_leaves_nothing(store: Store, commits: list[str]) -> None:
    before = sorted(store.root.rglob("*"))
    with pytest.raises(NotFoundError):
        store.tags.set("app", "v1", "0" * 64)
    for name, tag in (("..", "v1"), ("app", "../x"), ("a/b", "v1"), ("app", "x.lock"), ("app", commits[0])):
        with pytest.raises(UsageError):
            store.tags.set(name, tag, commits[0])
        with pytest.raises(UsageError):
            store.tags.find(name, tag)
    for call in (store.tags.get, store.tags.remove):
        with pytest.raises(NotFoundError, match="no stratum app"):
            call("app", "v1")
    with pytest.raises(NotFoundError):
        store.remove("app")
    assert sorted(store.root.rglob("*")) == before


def test_similar_names_are_hinted(store: Store, commits: list[str]) -> None:
    store.tags.set("myapp", "release", commits[0])
    with pytest.raises(NotFoundError) as caught:
        store.tags.get("myapp", "relaese")
    assert caught.value.hint == "did you mean release?"
    with pytest.raises(NotFoundError) as caught:
        store.tags.get("myap", "release")
    assert caught.value.hint == "did you mean myapp?"


@pytest.mark.parametrize(
    "target",
    [
        "/etc/passwd",
        "../../../commits/" + "0" * 63,
        "../../../commits/../refs",
        "../../../commits/" + "A" * 64,
        "../../../commits/" + "0" * 64 + "/commit.cfs",
        "../../../commits/" + "0" * 64 + "\n",
        "../../commits/" + "0" * 64,
    ],
)
def test_a_tag_that_points_elsewhere_is_damage(store: Store, commits: list[str], target: str) -> None:
    store.tags.set("app", "v1", commits[0])
    path = store.root / "refs" / "app" / "tags" / "v1"
    path.unlink()
    path.symlink_to(target)
    for call in (lambda: store.tags.get("app", "v1"), lambda: store.tags.set("app", "v1", commits[1])):
        with pytest.raises(DamagedError, match="app:v1"):
            call()
    store.tags.set("app", "v1", commits[1], force=True)
    assert store.tags.get("app", "v1") == commits[1]


def test_a_file_in_place_of_a_tag_is_damage_and_can_be_removed(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0])
    path = store.root / "refs" / "app" / "tags" / "v1"
    path.unlink()
    path.write_text("x")
    with pytest.raises(DamagedError, match="not a symbolic link"):
        store.tags.get("app", "v1")
    assert store.tags.remove("app", "v1") is None
    assert store.tags.list("app") == {}


def test_foreign_files_among_tags_and_strata_are_not_listed(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0])
    for path in (store.root / "refs" / ".hidden", store.root / "refs" / "app" / "tags" / ".tmp-1"):
        path.write_text("x")
    assert store.names() == ["app"]
    assert store.tags.names("app") == ["v1"]


def test_a_stratum_is_removed_whole(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0])
    store.tags.set("other", "v1", commits[0])
    store.worktrees.create("app", "main", commits[0])
    store.remove("app")
    assert store.names() == ["other"]
    assert not (store.root / "refs" / "app").exists()
    assert store.commits.exists(commits[0])
    assert not leftovers(store)
    store.tags.set("app", "v2", commits[1])
    assert store.tags.list("app") == {"v2": commits[1]}
    assert len(store.reflog.read("app")) == 1


def test_a_planted_stratum_is_damage(store: Store, commits: list[str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere" / "tags").mkdir(parents=True)
    (store.root / "refs" / "app").symlink_to(tmp_path / "elsewhere")
    for call in (
        lambda: store.tags.set("app", "v1", commits[0]),
        lambda: store.tags.find("app", "v1"),
        lambda: store.tags.list("app"),
        lambda: store.worktrees.create("app", "main", commits[0]),
        lambda: store.reflog.read("app"),
        lambda: store.remove("app"),
    ):
        with pytest.raises(DamagedError):
            call()
    assert os.listdir(tmp_path / "elsewhere") == ["tags"]
    assert os.listdir(tmp_path / "elsewhere" / "tags") == []


def test_users_of_a_commit(store: Store, commits: list[str]) -> None:
    store.tags.set("b", "v1", commits[0])
    store.tags.set("a", "v1", commits[0])
    store.tags.set("a", "v2", commits[1])
    store.worktrees.create("a", "main", commits[0])
    store.worktrees.set_head("a", "main", commits[1])
    assert store.users_of(commits[0]) == ["a+main", "a:v1", "b:v1"]
    assert store.users_of(commits[1]) == ["a+main", "a:v2"]
    assert store.users_of(commits[2]) == []


# The reflog


def test_the_reflog_is_lines_of_json(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0], why='say "hi"\n')
    lines = (store.root / "refs" / "app" / "log.jsonl").read_bytes().splitlines()
    assert [json.loads(line) for line in lines] == [
        {
            "when": store.reflog.read("app")[0].when,
            "kind": "tag",
            "which": "v1",
            "old": None,
            "new": commits[0],
            "why": 'say "hi"\n',
            "check": hashlib.blake2b(lines[0].split(b', "check"')[0], digest_size=8).hexdigest(),
        }
    ]


def test_the_reflog_tells_milliseconds(store: Store, commits: list[str]) -> None:
    before = time.time_ns() // 1_000_000
    store.tags.set("app", "v1", commits[0])
    (entry,) = store.reflog.read("app")
    assert entry.when[-5] == "."
    told = parse_time(entry.when)
    assert told is not None
    assert before <= round(told.timestamp() * 1000) <= time.time_ns() // 1_000_000


def test_every_changed_bit_of_a_line_is_seen_or_changes_nothing(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0], why='", "check": "')
    line = (store.root / "refs" / "app" / "log.jsonl").read_bytes().splitlines()[0]
    entry = parse_entry(line)
    assert entry is not None
    unseen = set()
    for place in range(len(line)):
        for bit in range(8):
            changed = line[:place] + bytes((line[place] ^ 1 << bit,)) + line[place + 1 :]
            if parse_entry(changed) is not None:
                assert parse_entry(changed) == entry
                unseen.add(place)
    name = line.rindex(b'"check"')
    assert unseen <= set(range(name, name + len(b'"check"')))


def test_lines_of_the_first_versions_have_no_check(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0])
    path = store.root / "refs" / "app" / "log.jsonl"
    entries = store.reflog.read("app")
    table = json.loads(path.read_bytes())
    del table["check"]
    path.write_text(json.dumps(table) + "\n")
    assert store.reflog.scan("app") == (entries, [])


@settings(max_examples=examples(30))
@given(cut=st.integers(1, 200), why=st.text())
def test_a_torn_line_is_skipped_reported_and_closed(
    tmp_path_factory: pytest.TempPathFactory, cut: int, why: str
) -> None:
    store = Store.create(tmp_path_factory.mktemp("reflog") / "store")
    made = [commit(store, {b"%d" % number: b""}) for number in range(2)]
    store.tags.set("app", "v1", made[0], why="one")
    store.tags.set("app", "v1", made[1], force=True, why="torn")
    path = store.root / "refs" / "app" / "log.jsonl"
    data = path.read_bytes()
    last = len(data.splitlines(keepends=True)[1])
    cut = min(cut, last)
    path.write_bytes(data[:-cut])
    torn = 1 < cut < last
    assert len(store.reflog.read("app")) == (2 if cut == 1 else 1)
    assert store.reflog.scan("app")[1] == ([2] if torn else [])
    store.tags.set("app", "v2", made[1], why=why)
    entries, damaged = store.reflog.scan("app")
    assert [entry.why for entry in entries] == ["one", *(["torn"] if cut == 1 else []), why]
    assert damaged == ([2] if torn else [])


@pytest.mark.parametrize(
    "line",
    [
        b"x",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"when": 1, "kind": "tag", "which": "a", "old": null, "new": null, "why": ""}',
        b'{"when": "", "kind": "tug", "which": "a", "old": null, "new": null, "why": ""}',
        b'{"when": "", "kind": "tag", "which": "a", "old": "../..", "new": null, "why": ""}',
        b'{"when": "", "kind": "tag", "which": "a", "old": null, "why": ""',
        b"\xff\xfe",
    ],
)
def test_a_damaged_line_does_not_hide_the_others(store: Store, commits: list[str], line: bytes) -> None:
    store.tags.set("app", "v1", commits[0])
    path = store.root / "refs" / "app" / "log.jsonl"
    path.write_bytes(line + b"\n" + path.read_bytes())
    entries, damaged = store.reflog.scan("app")
    assert [entry.new for entry in entries] == [commits[0]]
    assert damaged == [1]


def test_a_missing_reflog_is_empty_and_comes_back(store: Store, commits: list[str]) -> None:
    store.tags.set("app", "v1", commits[0])
    (store.root / "refs" / "app" / "log.jsonl").unlink()
    assert store.reflog.read("app") == []
    store.tags.set("app", "v2", commits[0], why="again")
    assert [entry.why for entry in store.reflog.read("app")] == ["again"]
    assert isinstance(store.reflog.read("app")[0], ReflogEntry)
