"""Looking at an upperdir while it changes: what is seen is there, nothing else is followed, and the end is exact."""

from __future__ import annotations

import os
import random
import shutil
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from stratum.ingest.upperstate import UpperDirectory
from stratum.tree.model import Directory, File, Symlink, lookup
from tests.integration.overlay_ops import KINDS, Operations, Worktree, file_at
from tests.integration.upper_watching import Marking, Reading, Watched
from tests.support.effort import examples

pytestmark = pytest.mark.root


class Meddling(Reading):
    """Does something the first time it is asked for a path."""

    def __init__(self, path: bytes, deed: Callable[[], object], times: int = 1) -> None:
        super().__init__()
        self._path = path
        self._deed = deed
        self._times = times

    def content(
        self, fd: int, info: os.stat_result, path: bytes, before: File | None
    ) -> tuple[int, bytes | None, bytes | None]:
        found = super().content(fd, info, path, before)
        if path == self._path and self._times:
            self._times -= 1
            self._deed()
        return found


def meddled(tree: Worktree, path: bytes, deed: Callable[[], object], times: int = 1) -> Watched:
    """A worktree whose state does ``deed`` when it reads ``path``."""
    watched = Watched(tree)
    watched.contents = watched.state._contents = Meddling(path, deed, times)  # type: ignore[assignment]
    return watched


def test_a_file_that_changes_while_it_is_read_is_read_again(tree: Worktree) -> None:
    def append() -> None:
        with open(tree.view / "new", "ab") as file:
            file.write(b"more")

    for times, reads in ((1, 2), (2, 3), (9, 3)):
        (tree.view / "new").write_bytes(b"n" * 100)
        watched = meddled(tree, b"/new", append, times)
        with watched.state:
            watched.state.scan()  # it was read before, but too lately to be believed
            assert watched.contents.read.count(b"/new") == reads
            found = file_at(watched.state.root, b"/new")
            assert found.size == 100 + 4 * (reads - 1)
            watched.state.scan()
            if times < 9:
                watched.check()
            (tree.view / "new").unlink()


@pytest.mark.parametrize("as_list", [False, True])
def test_entries_that_go_or_become_others(tree: Worktree, tmp_path: Path, as_list: bool) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "f").write_bytes(b"secret" * 100)
    made = tree.view / "made"
    for name in "abcdef":
        (made / name).mkdir(parents=True)
        (made / name / "f").write_bytes(name.encode() * 100)
    for name in "ghi":
        (made / name).write_bytes(name.encode() * 100)
    (tree.view / "other" / "kept").write_bytes(b"k" * 100)

    def deed() -> None:
        shutil.rmtree(made / "a")
        shutil.rmtree(made / "b")
        (made / "b").symlink_to(secret)
        shutil.rmtree(made / "c")
        (made / "c").write_bytes(b"file" * 100)
        (made / "d").rename(tree.view / "d2")
        (made / "e").rename(made / "e2")
        (made / "e2").rename(made / "a")
        (made / "g").unlink()
        (made / "h").unlink()
        (made / "h").symlink_to(secret / "f")
        (made / "i").unlink()
        (made / "i").mkdir()

    watched = meddled(tree, b"/other/kept", deed)
    with watched.state:
        os.utime(tree.view / "other" / "kept")
        directories = {found.path(): found for found in watched.marks.directories.values()}
        if as_list:
            watched.state.scan()
        else:
            dirty = {directories[b"/made/" + name.encode()]: {b"f"} for name in "abcdef"}
            everything = {b"a", b"b", b"c", b"d", b"e", b"f", b"g", b"h", b"i"}
            watched.state.refresh({directories[b"/other"]: {b"kept"}, directories[b"/made"]: everything, **dirty})
        assert not any(b"secret" in path for path in watched.contents.read)
        assert isinstance(lookup(watched.state.root, b"/made/b"), (Symlink, Directory))
        watched.state.scan()
        watched.check()


def test_a_directory_that_comes_to_be_in_what_was_in_it(tree: Worktree) -> None:
    """All that is known is forgotten then."""
    (tree.view / "a" / "b").mkdir(parents=True)
    (tree.view / "a" / "b" / "f").write_bytes(b"f" * 100)

    def deed() -> None:
        (tree.view / "a" / "b").rename(tree.view / "b")
        (tree.view / "a").rename(tree.view / "b" / "a")

    watched = meddled(tree, b"/a/b/f", deed)
    with watched.state:
        [inner] = [found for found in watched.marks.directories.values() if found.path() == b"/a/b"]
        os.utime(tree.view / "a" / "b" / "f")
        watched.state.refresh({inner: None})
        assert sorted(found.path() for found in watched.marks.directories.values()) == [b"/", b"/b", b"/b/a"]
        assert inner not in watched.marks.directories.values()
        watched.check()


def test_what_comes_before_a_directory_is_listed_is_seen(tree: Worktree) -> None:
    """It is marked first: what comes after that has an event."""

    class Late(Marking):
        def directory(self, directory: UpperDirectory, fd: int) -> None:
            super().directory(directory, fd)
            if directory.name == b"new":
                (tree.view / "new" / "late").write_bytes(b"l" * 100)
                os.mkdir(tree.view / "new" / "later")

    watched = Watched(tree)
    with watched.state:
        marks = Late()
        marks.directories.update(watched.marks.directories)
        watched.marks = watched.state._marks = marks
        watched.state.scan()
        (tree.view / "new").mkdir()
        watched.state.scan()
        assert file_at(watched.state.root, b"/new/late").size == 100
        assert isinstance(lookup(watched.state.root, b"/new/later"), Directory)
        watched.check()


def test_a_directory_that_is_removed_while_it_is_listed_is_gone(tree: Worktree) -> None:
    class Removing(Marking):
        def directory(self, directory: UpperDirectory, fd: int) -> None:
            super().directory(directory, fd)
            if directory.name == b"new":
                os.rmdir(tree.view / "new")

    watched = Watched(tree)
    with watched.state:
        marks = Removing()
        marks.directories.update(watched.marks.directories)
        watched.marks = watched.state._marks = marks
        (tree.view / "new").mkdir()
        watched.state.scan()
        assert lookup(watched.state.root, b"/new") is None
        watched.state.scan()
        watched.check()


def test_looking_while_others_write(tree: Worktree) -> None:
    """Four processes do anything to the worktree while it is looked at all the time."""
    watched = Watched(tree)
    writers = [_writing(tree, seed) for seed in range(4)]
    try:
        with watched.state:
            for number in range(examples(60)):
                if number % 5 == 0:
                    watched.state.scan()
                else:
                    directories = list(watched.marks.directories.values())
                    chosen = random.Random(number).sample(directories, min(3, len(directories)))
                    watched.state.refresh({directory: {b"f", b"d", b"new", b"large"} for directory in chosen})
            _end(writers)
            watched.state.scan()
            watched.check()
    finally:
        _end(writers)


def _writing(tree: Worktree, seed: int) -> int:
    """A process that carries out operations until it is ended; its ID."""
    child = os.fork()
    if child:
        return child
    try:
        operations, choose = Operations(tree.view), random.Random(seed)
        while True:
            with suppress(OSError, shutil.Error):
                operations.run((choose.choice(KINDS), *(choose.randrange(60) for _ in range(3))))  # type: ignore[arg-type]
    finally:
        os._exit(1)


def _end(writers: list[int]) -> None:
    while writers:
        writer = writers.pop()
        os.kill(writer, signal.SIGKILL)
        os.waitpid(writer, 0)
