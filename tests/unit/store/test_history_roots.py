"""What histories keep from collection, what a check finds in them, and what becomes of those of what was removed."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.store import Store
from stratum.store.fsck import check
from stratum.store.gc import Collected, collect, read_ahead
from stratum.store.histories import HistorySettings
from stratum.store.retention import Retention
from stratum.store.segments import segment_name
from stratum.tree.model import File
from stratum.tree.oplog import Record, entry_of
from tests.support.stores import commit

NONE = Retention(timedelta())
APP = ("app", "dev")
WHEN = "2026-11-29T23:59:01.123Z"
SETTINGS = HistorySettings("2026-11-29T00:00:00Z")


@pytest.fixture
def base(store: Store) -> str:
    return commit(store, {b"f": b"f" * 5000})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store.create(tmp_path / "store")


def add_version(store: Store, data: bytes) -> File:
    with store.begin("a version") as tx:
        digest = tx.add_bytes(data)
        tx.publish_objects()
    return File(0o100644, 0, 0, 0, size=len(data), digest=digest)


def watch(store: Store, base: str, *files: File) -> None:
    """A worktree with a history in which one file had these versions."""
    store.worktrees.create("app", "dev", base)
    store.histories.set_settings(*APP, SETTINGS)
    log = [Record(1, WHEN, "base", commit=base)]
    log += [Record(n, WHEN, "create" if n == 2 else "write", b"/v", entry_of(f)) for n, f in enumerate(files, 2)]
    append(store, log)


def append(store: Store, log: list[Record]) -> None:
    with store.histories.writing(), store.locks.store():
        writer = store.histories.writer(*APP)
        writer.append(log)
        writer.close()


def run(store: Store, *, dry_run: bool = False) -> Collected:
    with store.locks.store(exclusive=not dry_run):
        return collect(store, NONE, {}, dry_run=dry_run)


def problems(store: Store) -> list[str]:
    return [f"{finding.kind} {finding.problem}" for finding in check(store).findings]


def test_versions_and_what_an_epoch_began_with_stay(store: Store, base: str) -> None:
    loose = add_version(store, b"l" * 4000)
    files = [add_version(store, letter * 4000) for letter in (b"a", b"b")]
    watch(store, base, *files)
    store.worktrees.remove("app", "dev")
    done = run(store)
    assert done.kept == {base: "history of app+dev"}
    assert (done.objects, done.objects_kept) == (1, 3)
    assert loose.digest is not None
    assert not store.objects.path(loose.digest).exists()
    assert problems(store) == []
    store.histories.retire(*APP, discard=True)
    done = run(store)
    assert (list(done.commits), done.objects, done.objects_kept) == ([base], 3, 0)


def test_a_dry_run_counts_versions_as_needed(store: Store, base: str) -> None:
    watch(store, base, add_version(store, b"a" * 4000))
    assert run(store, dry_run=True).objects == 0


def test_what_was_read_ahead_of_a_log_is_not_read_again(
    store: Store, base: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = add_version(store, b"a" * 4000), add_version(store, b"b" * 4000)
    watch(store, base, old)
    with store.locks.store():
        needed = read_ahead(store, NONE, {})
    read: list[str] = []
    blocks = type(store.histories.log(*APP)).blocks
    monkeypatch.setattr(
        "stratum.store.segments.Log.blocks", lambda log, segment, **k: read.append("x") or blocks(log, segment, **k)
    )
    with store.locks.store(exclusive=True):
        collect(store, NONE, {}, needed=needed)
    assert not read
    append(store, [Record(3, WHEN, "write", b"/v", entry_of(new))])  # come meanwhile
    with store.locks.store(exclusive=True):
        assert collect(store, NONE, {}, needed=needed).objects == 0
    assert read


def test_a_base_that_is_gone_is_told_and_stops_nothing(store: Store, base: str) -> None:
    watch(store, base)
    append(store, [Record(2, WHEN, "base", commit="ab" * 32)])
    assert base in run(store).kept
    found = [finding for finding in check(store).findings if finding.problem == "it is missing"]
    assert [(finding.path, finding.hurts) for finding in found] == [(f"commits/{'ab' * 32}", ["history of app+dev"])]


def test_a_log_that_cannot_be_read_stops_a_collection(store: Store, base: str) -> None:
    watch(store, base, add_version(store, b"a" * 4000))
    raw = store.layout.history(*APP) / segment_name(1)
    raw.with_name(raw.name + ".zst").write_bytes(b"\x28\xb5\x2f\xfdnothing")
    raw.unlink()
    with pytest.raises(DamagedError, match=r"not known what the history of app\+dev needs") as caught:
        run(store)
    assert "nothing was removed" in caught.value.hint
    assert any("history it is damaged" in problem for problem in problems(store))


def test_a_check_finds_what_is_wrong_with_a_history(store: Store, base: str) -> None:
    version = add_version(store, b"a" * 4000)
    watch(store, base, version)
    assert problems(store) == []
    assert version.digest is not None
    path = store.objects.path(version.digest)
    data = path.read_bytes()
    path.chmod(0o644)
    path.unlink()
    assert problems(store) == ["object it is missing: a version of 4000 bytes in the history of app+dev"]
    with store.begin("again") as tx:
        tx.add_bytes(data)
        tx.publish_objects()
    directory = store.layout.history(*APP)
    raw = directory / segment_name(1)
    good = raw.read_bytes()
    raw.write_bytes(good.replace(b'"op":"create"', b'"op":"creat3"'))
    assert problems(store) == ["history it is damaged after CHANGE 1 (000000000001.jsonl)"]
    raw.write_bytes(good)
    (directory / "notes").write_text("x")
    assert problems(store) == ["stray no store has such a file"]
    (directory / "notes").unlink()
    (directory / "settings.toml").write_text("[history]\n")
    assert any("exclude is not a list" in problem for problem in problems(store))
    (directory / "settings.toml").unlink()
    raw.rename(store.root.parent / "elsewhere")
    raw.symlink_to(store.root.parent / "elsewhere")
    assert any(problem.startswith("symlink") for problem in problems(store))
    assert any("symbolic link" in problem and problem.startswith("history") for problem in problems(store))


def test_the_history_of_a_removed_worktree_stays_and_is_off(store: Store, base: str) -> None:
    watch(store, base)
    store.worktrees.remove("app", "dev")
    store.histories.retire(*APP)
    store.histories.retire("app", "other")
    assert store.histories.watched() == []
    assert store.histories.settings(*APP) is None
    assert store.histories.each() == [APP]
    store.worktrees.create("app", "dev", base)
    assert store.histories.last(*APP) == 1


def test_histories_of_a_removed_stratum_stay_and_come_back(store: Store, base: str) -> None:
    watch(store, base, add_version(store, b"a" * 4000))
    store.remove("app")
    assert store.names() == []
    assert store.histories.each() == [APP]
    assert store.histories.last(*APP) == 2
    assert problems(store) == []
    assert run(store).objects == 0
    assert store.histories.settings(*APP) is None
    store.worktrees.create("app", "dev", base)
    assert store.layout.names_in(store.layout.removed_histories) == []
    assert store.histories.each() == [APP]
    assert store.histories.last(*APP) == 2
    assert problems(store) == []


def test_nothing_is_left_of_histories_that_went(store: Store, base: str) -> None:
    watch(store, base)
    store.histories.retire(*APP, discard=True)
    assert not store.layout.history(*APP).parent.exists()
    watch_again = [Record(1, WHEN, "base", commit=base)]
    append(store, watch_again)
    store.remove("app")
    store.histories.retire(*APP, discard=True)
    assert store.layout.names_in(store.layout.removed_histories) == []
    store.worktrees.create("app", "dev", base)
    store.remove("app")
    assert store.layout.names_in(store.layout.removed_histories) == []


def test_a_removal_that_was_cut_off_loses_no_history(store: Store, base: str) -> None:
    from stratum.store.histories import keep_of_removed

    watch(store, base)
    keep_of_removed(store.layout, "app")  # and then the power went
    assert store.names() == ["app"]
    assert store.histories.each() == []
    store.remove("app")
    assert store.histories.each() == [APP]
