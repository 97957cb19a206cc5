"""Files are told of by the name by which overlayfs found them first, which may be gone: nothing is missed for that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.recorded import Recorded

pytestmark = pytest.mark.root


@pytest.fixture
def app(tmp_path: Path) -> Iterator[Recorded]:
    made = Recorded(tmp_path)
    try:
        made.mount()
        yield made
    finally:
        made.close()


def write(path: Path) -> None:
    """In place, keeping the size."""
    with path.open("r+b") as file:
        file.write(b"W")


CHANGES: dict[str, Callable[[Path], None]] = {
    "write": write,
    "chmod": lambda path: path.chmod(0o604),
    "utime": lambda path: os.utime(path, ns=(5, 5)),
    "truncate": lambda path: os.truncate(path, 3),
    "set_xattr": lambda path: os.setxattr(path, "user.new", b"value"),
    "chown": lambda path: os.chown(path, 7, 7),
}


def changed_and_recorded(app: Recorded, path: Path) -> None:
    """Each kind of change, one at a time and all at once."""
    for change in CHANGES.values():
        change(path)
        app.flush()
        app.check()
    for change in reversed(CHANGES.values()):
        change(path)
    app.flush()
    app.check()


@pytest.mark.parametrize("flushed", [True, False])
@pytest.mark.parametrize("source", ["f", "new"])
def test_the_first_name_is_gone(app: Recorded, source: str, flushed: bool) -> None:
    """A file of the base, and a new one; linked into a directory of which nothing was told before."""
    app.start()
    if source == "new":
        (app.view / source).write_bytes(b"content " * 20)
    (app.view / source).chmod(0o640)
    os.link(app.view / source, app.view / "empty" / "other")
    if flushed:
        app.flush()
    with (app.view / "empty" / "other").open("rb"):  # so that overlayfs goes on knowing it by its first name
        (app.view / source).unlink()
        app.flush()
        changed_and_recorded(app, app.view / "empty" / "other")


@pytest.mark.parametrize("flushed", [True, False])
def test_the_directory_of_the_first_name_is_gone_too(app: Recorded, flushed: bool) -> None:
    app.start()
    (app.view / "d" / "made").mkdir()
    app.flush()
    (app.view / "d" / "made" / "first").write_bytes(b"content " * 20)
    os.link(app.view / "d" / "made" / "first", app.view / "other" / "second")
    if flushed:
        app.flush()
    with (app.view / "other" / "second").open("rb"):
        (app.view / "d" / "made" / "first").unlink()
        (app.view / "d" / "made").rmdir()
        app.flush()
        changed_and_recorded(app, app.view / "other" / "second")


def test_a_file_that_had_no_name(app: Recorded) -> None:
    app.start()
    fd = os.open(app.view / "d", os.O_TMPFILE | os.O_RDWR)
    os.write(fd, b"content " * 20)
    os.link(f"/proc/self/fd/{fd}", app.view / "other" / "named", src_dir_fd=fd, follow_symlinks=True)
    app.flush()
    os.pwrite(fd, b"written by the descriptor", 0)
    os.close(fd)
    app.flush()
    app.check()
    changed_and_recorded(app, app.view / "other" / "named")


def test_a_watcher_that_comes_later_learns_of_it(app: Recorded) -> None:
    """The kernel goes on telling of the name that was gone before it looked at anything."""
    (app.view / "f").chmod(0o640)
    os.link(app.view / "f", app.view / "d" / "other")
    with (app.view / "d" / "other").open("rb"):
        (app.view / "f").unlink()
        app.start()
        changed_and_recorded(app, app.view / "d" / "other")
