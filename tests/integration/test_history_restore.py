"""A restore in a worktree whose history is kept is one more operation of it: undo, and undo of undo."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.ingest.restore import Rules, restore_below
from stratum.refs import parse_ref
from stratum.tree.model import Inode, lookup
from tests.support.recorded import Recorded, begun

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Recorded]:
    yield from begun(tmp_path)


def at(app: Recorded, n: int, path: bytes) -> Inode:
    found = lookup(app.store.changes.state(parse_ref(f"app+dev@{n}")).tree, path)
    assert found is not None
    return found


def restored(app: Recorded, n: int, path: bytes) -> int:
    """Restore as the verb does in a mount; the last CHANGE after that."""
    root = os.open(app.view, os.O_RDONLY | os.O_DIRECTORY)
    try:
        restore_below(app.store.objects, at(app, n, path), root, app.view, path, Rules(overwrite=True))
    finally:
        os.close(root)
    return app.flush()


@pytest.mark.parametrize("size", [10, 3000])
def test_what_was_restored_is_one_operation_by_its_name(app: Recorded, size: int) -> None:
    (app.view / "new").write_bytes(b"1" * size)
    first = app.flush()
    (app.view / "new").write_bytes(b"2" * size)
    second = app.flush()
    undone = restored(app, first, b"/new")
    assert (app.view / "new").read_bytes() == b"1" * size
    assert app.told_of(after=second) == [("write", "/new")]
    restored(app, second, b"/new")
    assert (app.view / "new").read_bytes() == b"2" * size
    assert app.told_of(after=undone) == [("write", "/new")]
    app.check()


def test_a_deleted_file_and_a_directory_come_back(app: Recorded) -> None:
    (app.view / "made").mkdir()
    (app.view / "made" / "a").write_bytes(b"a" * 100)
    os.link(app.view / "made" / "a", app.view / "made" / "b")
    (app.view / "made" / "c").symlink_to("a")
    there = app.flush()
    for name in "abc":
        (app.view / "made" / name).unlink()
    (app.view / "made").rmdir()
    gone = app.flush()
    restored(app, there, b"/made")
    assert sorted(os.listdir(app.view / "made")) == ["a", "b", "c"]
    assert (app.view / "made" / "a").stat().st_nlink == 2
    told = app.told_of(after=gone)
    assert sorted(told) == [("create", "/made/a"), ("link", "/made/b"), ("mkdir", "/made"), ("symlink", "/made/c")]
    app.check()


def test_a_file_that_never_had_a_name_is_no_version(app: Recorded) -> None:
    before = app.flush()
    fd = os.open(app.view, os.O_RDWR | os.O_TMPFILE, 0o600)
    os.write(fd, b"nobody")
    os.close(fd)
    fd = os.open(app.view, os.O_RDWR | os.O_TMPFILE, 0o600)
    os.write(fd, b"somebody")
    os.link(f"/proc/self/fd/{fd}", app.view / "named", src_dir_fd=fd)
    os.close(fd)
    app.flush()
    assert app.told_of(after=before) == [("create", "/named")]
    app.check()
