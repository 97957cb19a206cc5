"""A history goes on over everything that changes a worktree's base, and over everything that keeps it from being told:
what it lacks it says."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stratum.api import worktrees
from stratum.api.rebasing import rebase
from stratum.api.switching import reset
from stratum.errors import NotFoundError, StratumError
from stratum.frozen import replace
from stratum.history import watched
from stratum.store.histories import HistorySettings
from stratum.store.logwriter import LogWriter
from tests.support.recorded import SINCE, Recorded, begun

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Recorded]:
    yield from begun(tmp_path)


def ops(app: Recorded, after: int = 0) -> list[str]:
    return [op for op, _ in app.told_of(after)]


def some_changes(app: Recorded, word: bytes = b"changed") -> None:
    (app.view / "f").write_bytes(word * 20)
    (app.view / "new").write_bytes(word)
    shutil.rmtree(app.view / "other", ignore_errors=True)
    if (app.view / "d").exists():
        os.rename(app.view / "d", app.view / "moved")


# Epochs


def test_a_commit_of_what_is_not_mounted_is_a_new_epoch_and_no_deletion(app: Recorded) -> None:
    some_changes(app)
    app.check()
    app.unmount()
    last = app.flush()
    with app.session.hold("app+dev") as held:
        made = held.commit().commit
    app.flush()
    assert [(record.op, record.commit) for record in app.records(after=last)] == [("base", made)]
    app.mount()
    app.check()
    (app.view / "f").write_bytes(b"in the new one")
    app.check()
    assert app.versions(b"/f")[-1] == b"in the new one"


def test_what_was_closed_before_a_commit_that_did_not_flush_is_a_version(app: Recorded) -> None:
    (app.view / "f").write_bytes(b"first")
    app.flush()
    (app.view / "f").write_bytes(b"last")
    app.unmount()
    with app.session.hold("app+dev") as held:
        held.commit()
    app.flush()
    assert app.versions(b"/f") == [b"first", b"last"]
    assert ops(app)[-2:] == ["version", "base"]


@pytest.mark.parametrize("verb", ["reset", "reset --hard", "rebase", "add again"])
def test_verbs_that_change_the_base(app: Recorded, verb: str) -> None:
    some_changes(app)
    app.unmount()
    other = app.place / "other"
    other.mkdir()
    (other / "only").write_bytes(b"of the other commit" * 30)
    commit = app.commit(other)
    last = app.flush()
    if verb == "rebase":
        with app.session.hold("app+dev") as held:
            held.commit()
        app.flush()
        (app.place / "source" / "f").write_bytes(b"rebased")
        rebase(app.session, "app+dev", app.commit(app.place / "source"), prefer="ours")
    elif verb == "add again":
        worktrees.remove(app.session, "app+dev")
        app.add("dev", commit)
    else:
        reset(app.session, "app+dev", commit, discard=verb == "reset --hard")
    app.watcher.look()
    app.mount()
    app.check()
    assert "delete" not in ops(app, last) or verb == "rebase"
    (app.view / "f").write_bytes(b"afterwards")
    app.check()


def test_a_live_switch(app: Recorded) -> None:
    """The old upperdir goes on to be written to for a while, and then is deleted: nothing of that is told."""
    some_changes(app)
    app.check()
    last = app.flush()
    tree = app.store.worktrees.get("app", "dev")
    base = app.commit(app.place / "source")
    with app.store.worktrees.lock("app", "dev"), app.store.begin() as tx:
        upper = app.store.worktrees.new_upperdir(tx, base)
        (upper / "carried").write_bytes(b"carried")
        app.store.worktrees.switch(tx, replace(tree, head=base), upper, None, why="a switch")
    (app.view / "f").write_bytes(b"to the old one")
    app.watcher.run_once(0)
    app.unmount()
    app.store.worktrees.drop_retired("app", "dev")
    app.mount()
    app.check()
    told = app.told_of(last)
    assert [item for item in told if item[0] != "version"] == [("base", ""), ("create", "/carried")]


def test_a_switch_that_is_undone(app: Recorded) -> None:
    some_changes(app)
    tree = app.store.worktrees.get("app", "dev")
    with app.store.worktrees.lock("app", "dev"), app.store.begin() as tx:
        upper = app.store.worktrees.new_upperdir(tx, tree.base_commit)
        app.store.worktrees.switch(tx, tree, upper, None, why="a switch")
    app.flush()
    with app.store.worktrees.lock("app", "dev"), app.store.begin() as tx:
        app.store.worktrees.undo_switch(tx, "app", "dev")
    app.check()


def test_a_worktree_that_is_removed_is_not_watched_any_more(app: Recorded) -> None:
    some_changes(app)
    app.flush()
    last = len(app.records())
    app.unmount()
    worktrees.remove(app.session, "app+dev")
    app.run(lambda: not app.watcher.watching())
    assert len(app.records()) == last
    with pytest.raises(NotFoundError, match=r"app\+dev"):
        app.flush()


def test_a_history_that_is_switched_off(app: Recorded) -> None:
    some_changes(app)
    last = app.flush()
    app.store.histories.set_settings("app", "dev", None)
    app.watcher.look()
    (app.view / "f").write_bytes(b"unseen")
    app.watcher.run_once(0)
    app.store.histories.set_settings("app", "dev", HistorySettings("2027-01-01T00:00:00Z"))
    app.watcher.look()
    (app.view / "f").write_bytes(b"seen")
    app.check()
    assert ops(app, last)[0] == "gap"


# Restarts


def test_a_restart_with_the_same_groups_leaves_no_gap(app: Recorded) -> None:
    some_changes(app)
    app.check()
    last = app.flush()
    app.stop(keep=True)
    contents = [b"%d" % number * 100 for number in range(5)]
    for content in contents:
        (app.view / "atomic").write_bytes(content)
        os.rename(app.view / "atomic", app.view / "f")
    (app.view / "while").mkdir()
    (app.view / "while" / "away").write_bytes(b"1")
    app.start(kept=True)
    app.check()
    assert app.versions(b"/f", after=last) == contents
    assert "gap" not in ops(app, last)
    assert "base" not in ops(app, last)


def test_a_restart_with_the_same_groups_of_many_worktrees(app: Recorded) -> None:
    """What waits in the groups is of all of them; it is not read before they are all known."""
    app.add("other")
    other = app.mount(app.place / "view-other", "other")
    app.watcher.look()
    app.flush("other")
    app.stop(keep=True)
    contents = [b"%d" % number * 100 for number in range(5)]
    for view in (app.view, other):
        for content in contents:
            (view / "atomic").write_bytes(content)
            os.rename(view / "atomic", view / "f")
        (view / "gone").write_bytes(b"gone" * 20)
        (view / "gone").unlink()
    app.start(kept=True)
    for view, worktree in ((app.view, "dev"), (other, "other")):
        app.check(view, worktree)
        assert app.versions(b"/f", worktree) == contents
        assert app.versions(b"/gone", worktree) == [b"gone" * 20]
        assert "gap" not in [op for op, _ in app.told_of(worktree=worktree)]


def test_a_restart_with_new_groups_tells_of_a_gap_where_anything_happened(app: Recorded) -> None:
    some_changes(app)
    last = app.flush()
    (app.view / "later").touch()
    app.run(lambda: len(app.records(after=last)) > 0)  # by a batch that was not asked for, and so is somewhat later
    last = app.flush()
    app.stop()
    app.start()
    assert app.flush() == last, "nothing happened meanwhile"
    app.stop()
    (app.view / "new").write_bytes(b"unseen")
    (app.view / "new").unlink()
    (app.view / "f").write_bytes(b"seen")
    app.start()
    app.check()
    records = app.records(after=last)
    assert records[0].op == "gap"
    assert "nobody watched since 20" in (records[0].why or "")
    assert ("write", "/f") in app.told_of(last)


def test_a_commit_while_nobody_watched(app: Recorded) -> None:
    some_changes(app)
    last = app.flush()
    app.stop(keep=True)
    app.unmount()
    with app.session.hold("app+dev") as held:
        held.commit()
    app.start(kept=True)
    app.mount()
    app.check()
    assert ops(app, last) == ["gap", "base"]


def test_at_a_restart_only_what_changed_is_read(app: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(20):
        (app.view / f"new{number}").write_bytes(b"%d" % number * 100)
    last = app.flush()
    time.sleep(0.1)  # so that the last record is younger by more than the kernel's clock may be behind
    (app.view / "later").touch()
    app.run(lambda: len(app.records(after=last)) > 0)
    app.stop()
    (app.view / "new3").write_bytes(b"changed" * 20)
    read: list[Any] = []
    capture = watched.Contents._captured  # type: ignore[attr-defined]
    monkeypatch.setattr(
        "stratum.history.contents.Contents._captured", lambda *args: (read.append(args[-1]), capture(*args))[1]
    )
    app.start()
    app.check()
    assert read == [b"/new3"]


# What is lost


def test_an_overflow_is_a_gap_and_everything_is_looked_at(app: Recorded) -> None:
    last = app.flush()
    assert app.groups is not None
    app.watcher._common.groups.overflowed = True  # type: ignore[union-attr]
    some_changes(app)
    app.check()
    assert ops(app, last)[0] == "gap"


def test_descriptors_that_run_out_are_a_gap(app: Recorded) -> None:
    last = app.flush()
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.dup(0)
    os.close(free)
    for number in range(50):
        (app.view / f"new{number}").write_bytes(b"%d" % number * 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free + 3, limits[1]))
    try:
        app.watcher.listen()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    app.check()
    assert "gap" in ops(app, last)


def test_a_damaged_log_is_a_gap_and_told_anew(app: Recorded) -> None:
    some_changes(app)
    app.check()
    app.stop()
    [segment] = (app.store.root / "refs/app/history/dev").glob("*.jsonl")
    lines = segment.read_bytes().splitlines(keepends=True)
    segment.write_bytes(b"".join([lines[0], lines[1], b'{"n":2}\n', *lines[3:]]))
    app.start()
    app.check()
    assert "gap" in [record.op for record in app.store.histories.newest("app", "dev")]
    assert "damaged" in str([record.why for record in app.store.histories.newest("app", "dev") if record.op == "gap"])


def test_a_log_that_is_changed_under_our_hands(app: Recorded) -> None:
    some_changes(app)
    app.check()
    [segment] = (app.store.root / "refs/app/history/dev").glob("*.jsonl")
    with segment.open("ab") as file:
        file.write(b"somebody else's\n")
    (app.view / "f").write_bytes(b"more")
    with pytest.raises(StratumError):
        app.flush()
    app.run(lambda: not app.watcher.status()["troubles"])
    app.check()


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_log_that_cannot_be_written_is_written_later(
    app: Recorded, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """Nothing is missing then, not even versions."""
    from stratum.store.layout import storage_error

    last = app.flush()
    append = LogWriter.append

    def fail(writer: LogWriter, records: object) -> None:
        raise storage_error(OSError(code, os.strerror(code)), "write the history")

    monkeypatch.setattr(LogWriter, "append", fail)
    contents = [b"%d" % number * 100 for number in range(4)]
    for content in contents:
        (app.view / "atomic").write_bytes(content)
        os.rename(app.view / "atomic", app.view / "f")
        with pytest.raises(StratumError, match="write the history"):
            app.flush()
    assert app.told
    monkeypatch.setattr(LogWriter, "append", append)
    app.check()
    assert app.versions(b"/f", after=last) == contents
    assert "gap" not in ops(app, last)


def test_objects_that_are_gone_before_they_were_named_are_read_again(app: Recorded) -> None:
    (app.view / "f").write_bytes(b"1" * 1000)
    app.watcher.listen()
    shutil.rmtree(app.watcher.status()["staging"])
    os.mkdir(app.watcher.status()["staging"])
    with pytest.raises(StratumError, match="gone"):
        app.flush()
    app.run(lambda: not app.watcher.status()["troubles"])
    app.check()


def test_settings_are_looked_at_again(app: Recorded) -> None:
    app.store.histories.set_settings("app", "dev", HistorySettings(SINCE, exclude=("*.tmp",), max_file=100))
    app.watcher.look()
    (app.view / "a.tmp").write_bytes(b"1")
    (app.view / "big").write_bytes(b"1" * 101)
    last = app.flush()
    assert [path for _, path in app.told_of() if path.endswith(".tmp")] == []
    assert app.versions(b"/big") == [None]
    assert [record.why for record in app.records() if record.path == b"/big"] == ["large"]
    app.store.histories.set_settings("app", "dev", HistorySettings(SINCE))
    app.watcher.look()
    app.flush()
    assert ("create", "/a.tmp") in app.told_of(last)
