"""What the watcher records is what was done: replaying the log gives what the mount shows, whatever is done in it."""

from __future__ import annotations

import mmap
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.sys.syscalls import RENAME_EXCHANGE, renameat2
from tests.integration.overlay_ops import KINDS, Operation
from tests.support.recorded import Recorded, begun

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Recorded]:
    yield from begun(tmp_path)


def some(seed: int) -> Iterator[Operation]:
    chosen = random.Random(seed)
    while True:
        yield (chosen.choice(KINDS), *(chosen.randrange(1 << 16) for _ in range(3)))


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_operation_is_recorded(app: Recorded, kind: str) -> None:
    operations = app.operations()
    chosen = random.Random(kind)
    for _ in range(4):
        operations.run((kind, *(chosen.randrange(1 << 16) for _ in range(3))))
        app.check()


@pytest.mark.parametrize("seed", range(6))
def test_many_operations_are_recorded_exactly(app: Recorded, seed: int) -> None:
    operations, source = app.operations(), some(seed)
    for _ in range(25):
        for _ in range(20):
            operations.run(next(source))
        app.check()
    assert app.told == []


def test_what_is_told_is_what_was_done(app: Recorded) -> None:
    view = app.view
    (view / "new").write_bytes(b"1")
    (view / "made").mkdir()
    (view / "made" / "inner").write_bytes(b"2")
    os.symlink("new", view / "link")
    os.link(view / "new", view / "second")
    last = app.flush()
    assert sorted(app.told_of()) == sorted(
        [
            ("base", ""),
            ("create", "/new"),
            ("mkdir", "/made"),
            ("create", "/made/inner"),
            ("symlink", "/link"),
            ("link", "/second"),
        ]
    )
    (view / "made" / "inner").write_bytes(b"3")
    os.rename(view / "made", view / "moved")
    (view / "d" / "big").chmod(0o600)
    (view / "f").unlink()
    shutil.rmtree(view / "other")
    app.flush()
    told = app.told_of(last)
    assert [record.was for record in app.records(after=last) if record.op == "rename"] == [b"/made"]
    assert ("rename", "/moved") in told
    assert ("write", "/moved/inner") in told
    assert ("setattr", "/d/big") in told
    assert ("delete", "/f") in told
    assert ("delete", "/other") in told
    app.check()


def test_who_did_it_is_told(app: Recorded) -> None:
    (app.view / "mine").write_bytes(b"1")
    app.flush()
    [record] = [record for record in app.records() if record.path == b"/mine"]
    assert record.by == Path("/proc/self/comm").read_text().strip()


def test_versions_in_between_are_kept(app: Recorded) -> None:
    contents = [b"%d" % number * 100 for number in range(30)]
    for content in contents:
        (app.view / "new").write_bytes(content)
        os.rename(app.view / "new", app.view / "f")
    app.flush()
    assert app.versions(b"/f") == contents
    assert not [path for op, path in app.told_of() if path == "/new"]
    (app.view / "short").write_bytes(b"lived")
    (app.view / "short").unlink()
    app.flush()
    assert app.versions(b"/short") == [b"lived"]
    app.check()


def test_versions_that_are_rewritten_in_place_are_kept_while_it_listens(app: Recorded) -> None:
    contents = [b"%d" % number * 100 for number in range(10)]
    for content in contents:
        (app.view / "f").write_bytes(content)
        app.watcher.listen()
    app.flush()
    assert app.versions(b"/f") == contents


def test_a_close_without_a_change_is_no_version(app: Recorded) -> None:
    (app.view / "f").write_bytes(b"1")
    last = app.flush()
    for _ in range(3):
        os.close(os.open(app.view / "f", os.O_RDWR))
        app.flush()
    assert app.told_of(last) == []


def test_a_file_that_is_open_has_the_content_of_its_last_close(app: Recorded) -> None:
    with open(app.view / "f", "wb", buffering=0) as old, open(app.view / "new", "wb", buffering=0) as new:
        old.write(b"unfinished")
        new.write(b"unfinished")
        app.flush()
        assert set(app.versions(b"/f")) <= {b"inline 0"}
        assert app.versions(b"/new") == [None]
        assert [record.why for record in app.records() if record.path == b"/new"] == ["open"]
        assert app.watcher.status()["worktrees"]["app+dev"]["open"] == ["/f", "/new"]
        old.write(b", now finished")
    app.flush()
    assert app.versions(b"/f")[-1] == b"unfinished, now finished"
    assert app.versions(b"/new") == [None, b"unfinished"]
    app.check()


def test_a_file_that_was_empty_when_it_was_looked_at_does_not_stay_so(app: Recorded) -> None:
    """As a database, which has no content that anybody knows until it is closed."""
    with open(app.view / "new", "wb", buffering=0) as file:
        app.flush()
        file.write(b"1" * 100)
        app.flush()
        assert app.versions(b"/new") == [b"", None]
        assert [record.why for record in app.records() if record.path == b"/new"] == [None, "open"]
    app.check()
    assert app.versions(b"/new") == [b"", None, b"1" * 100]


def test_a_file_that_is_about_to_be_written_anew_is_not_empty(app: Recorded) -> None:
    (app.view / "f").write_bytes(b"1" * 100)
    app.flush()
    with open(app.view / "f", "wb", buffering=0) as file:
        (app.view / "f").chmod(0o600)
        app.flush()
        assert set(app.versions(b"/f")) == {b"1" * 100}
        file.write(b"2" * 100)
    (app.view / "none").write_bytes(b"1")
    app.check()
    os.truncate(app.view / "f", 0)
    (app.view / "none").write_bytes(b"")
    app.check()
    assert app.versions(b"/f")[-2:] == [b"2" * 100, b""]
    assert app.versions(b"/none") == [b"1", b""]


def test_a_file_that_was_looked_at_while_it_was_open_is_taken_when_it_is_closed(app: Recorded) -> None:
    """Though nothing was written to it since."""
    with open(app.view / "f", "wb", buffering=0) as file:
        file.write(b"all of it")
        (app.view / "f").chmod(0o600)
        app.flush()
    app.check()


def test_mappings_that_outlive_their_descriptor(app: Recorded) -> None:
    fd = os.open(app.view / "d" / "big", os.O_RDWR)
    mapping = mmap.mmap(fd, 4096)
    os.close(fd)
    app.flush()
    mapping[:4] = b"late"
    app.flush()
    mapping.close()
    app.check()


def test_a_truncated_file_is_recorded_though_nobody_closes_it(app: Recorded) -> None:
    (app.view / "f").write_bytes(b"12345")
    last = app.flush()
    os.truncate(app.view / "f", 2)
    app.flush()
    assert app.versions(b"/f", after=last) == [b"12"]
    app.check()


def test_a_directory_that_moves_while_its_entries_wait(app: Recorded) -> None:
    view = app.view
    (view / "a" / "b").mkdir(parents=True)
    (view / "a" / "b" / "f").write_bytes(b"1")
    app.check()
    (view / "a" / "b" / "f").write_bytes(b"2")
    app.watcher.listen()
    os.rename(view / "a" / "b", view / "c")
    (view / "a").rmdir()
    (view / "c" / "f").write_bytes(b"3")
    app.watcher.listen()
    renameat2(-100, os.fsencode(view / "c"), -100, os.fsencode(view / "other"), RENAME_EXCHANGE)
    (view / "other" / "g").write_bytes(b"4")
    app.check()
    assert app.versions(b"/other/f")[-1] in (b"2", b"3")


def test_a_moved_directory_of_the_base_is_a_rename(app: Recorded) -> None:
    os.rename(app.view / "d", app.view / "moved")
    app.flush()
    assert app.told_of()[1:] == [("rename", "/moved")]
    app.check()


def test_versions_in_directories_that_are_new_are_kept(app: Recorded) -> None:
    """Also where the directory is moved before a batch finds it, and in one that is made in it."""
    (app.view / "new" / "deep").mkdir(parents=True)
    app.watcher.listen()
    contents = [b"%d" % number * 100 for number in range(5)]
    for content in contents:
        (app.view / "new" / "deep" / "f").write_bytes(content)
        app.watcher.listen()
    os.rename(app.view / "new", app.view / "moved")
    (app.view / "moved" / "deep" / "deeper").mkdir()
    app.watcher.listen()
    for content in contents:
        (app.view / "moved" / "deep" / "deeper" / "f").write_bytes(content)
        os.rename(app.view / "moved" / "deep" / "deeper" / "f", app.view / "moved" / "deep" / "g")
    app.check()
    assert app.versions(b"/moved/deep/f")[-1] == contents[-1]
    kept = [app.versions(path) for path in (b"/new/deep/f", b"/moved/deep/f")]
    assert kept[0] + kept[1] == contents
    assert app.versions(b"/moved/deep/g") == contents


def test_in_a_flood_of_directories_no_version_is_missed_that_is_there_for_a_moment(app: Recorded) -> None:
    places = [app.view / f"made-{number}" / "f" for number in range(100)]
    for place in places:
        place.parent.mkdir()
        place.write_bytes(b"first" * 20)
    app.watcher.listen()
    while app.watcher._arrivals.next_due is not None:
        app.watcher.run_once(0.01)
    for place in places:
        place.write_bytes(b"second" * 20)
        app.watcher.listen()
    app.check()
    for place in places:
        path = os.fsencode("/" + str(place.relative_to(app.view)))
        assert app.versions(path) == [b"first" * 20, b"second" * 20]


def test_files_that_were_closed_before_their_directory_was_heard_of(app: Recorded) -> None:
    (app.view / "new" / "deep").mkdir(parents=True)
    (app.view / "new" / "deep" / "f").write_bytes(b"first" * 20)
    app.watcher.listen()
    (app.view / "new" / "deep" / "f").write_bytes(b"second" * 20)
    app.check()
    assert app.versions(b"/new/deep/f") == [b"first" * 20, b"second" * 20]


def test_a_version_in_a_directory_that_is_gone(app: Recorded) -> None:
    (app.view / "a" / "b").mkdir(parents=True)
    (app.view / "a" / "b" / "f").write_bytes(b"first" * 20)
    app.flush()
    (app.view / "a" / "b" / "f").write_bytes(b"last" * 20)
    shutil.rmtree(app.view / "a")
    app.check()
    assert app.versions(b"/a/b/f") == [b"first" * 20, b"last" * 20]
    (app.view / "a").mkdir()
    (app.view / "a" / "f").write_bytes(b"short-lived" * 20)
    shutil.rmtree(app.view / "a")
    app.check()
    assert app.versions(b"/a/f") in ([b"short-lived" * 20], [])


def test_what_is_gone_is_forgotten(app: Recorded) -> None:
    before = len(app.watcher._common.directories)
    for number in range(20):
        (app.view / "made" / str(number)).mkdir(parents=True)
        (app.view / "made" / str(number) / "f").write_bytes(b"1")
        os.link(app.view / "made" / str(number) / "f", app.view / "made" / str(number) / "g")
        app.flush()
        shutil.rmtree(app.view / "made")
        app.flush()
    app.flush()
    (app.view / "f").write_bytes(b"1")
    app.check()
    assert len(app.watcher._common.directories) <= before + 1


def test_files_with_several_names_are_followed(app: Recorded) -> None:
    view = app.view
    (view / "dir").mkdir()
    (view / "dir" / "first").write_bytes(b"1")
    os.link(view / "dir" / "first", view / "second")
    app.check()
    (view / "dir" / "first").unlink()
    (view / "dir").rmdir()
    app.check()
    os.truncate(view / "second", 0)
    app.check()
    with open(view / "second", "ab") as file:
        file.write(b"2")
    app.check()
    (view / "second").chmod(0o600)
    app.check()


def test_a_deep_tree_that_is_made_and_removed(app: Recorded) -> None:
    for round_ in range(3):
        path = app.view
        for depth in range(60):
            path = path / f"deep{depth}"
            path.mkdir()
            (path / "f").write_bytes(b"%d" % (round_ * depth))
        app.check()
        shutil.rmtree(app.view / "deep0")
        app.check()
