"""Upperdirs that change while they are read: what is taken is what was there, and no link leads elsewhere."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from stratum.ingest.reader import FileReader, Pending
from stratum.ingest.upperdir import read_upperdir
from stratum.sys.syscalls import RENAME_EXCHANGE, renameat2
from stratum.tree.model import Directory, Symlink, lookup
from tests.integration.overlay_ops import Worktree, file_at, lines

pytestmark = pytest.mark.root


class Meddling:
    """A content reader before whose first file something happens."""

    def __init__(self, inner: FileReader, happens: Callable[[], object]) -> None:
        self.inner = inner
        self.happens: Callable[[], object] | None = happens

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        if self.happens is not None:
            self.happens()
            self.happens = None
        self.inner.read(directory, path, files)

    def finish(self) -> None:
        self.inner.finish()


def read_while(tree: Worktree, happens: Callable[[], object]) -> Directory:
    store = tree.lab.store
    with store.begin() as tx, FileReader(tx, store.objects) as reader:
        return read_upperdir(tree.base, tree.upper, Meddling(reader, happens))


def test_a_file_that_changes_is_taken_as_it_is_in_the_end(tree: Worktree) -> None:
    path = tree.view / "d" / "changing"
    path.write_bytes(b"first" * 100)
    merged = read_while(tree, lambda: path.write_bytes(b"second" * 200))
    assert file_at(merged, b"/d/changing").size == 1200
    assert lines(merged) == lines(tree.walk())


def test_entries_that_come_and_go_in_the_directory_that_is_read(tree: Worktree) -> None:
    for name in ("1", "2", "3", "4"):
        (tree.view / "d" / name).write_bytes(b"x" * 100)
    (tree.view / "d" / "dir").mkdir()

    def happens() -> None:
        (tree.view / "d" / "4").rename(tree.view / "d" / "5")
        (tree.view / "d" / "3").unlink()
        (tree.view / "d" / "2").unlink()
        (tree.view / "d" / "2").mkdir()
        (tree.view / "d" / "dir").rmdir()
        (tree.view / "d" / "f").unlink()

    assert lines(read_while(tree, happens)) == lines(tree.walk())


def test_subdirectories_that_are_replaced_before_they_are_read(tree: Worktree) -> None:
    for name in ("to-file", "to-link", "to-nothing", "to-directory"):
        (tree.view / "d" / name).mkdir()
        (tree.view / "d" / name / "x").write_bytes(b"x" * 100)
    (tree.view / "d" / "sub" / "f").unlink()
    (tree.view / "d" / "a").mkdir()
    (tree.view / "d" / "a" / "file").write_bytes(b"read first" * 10)
    outside = tree.place / "outside"
    outside.mkdir()
    (outside / "secret").write_text("secret")

    def happens() -> None:
        for name in ("to-file", "to-link", "to-nothing", "to-directory", "sub"):
            shutil.rmtree(tree.view / "d" / name)
        (tree.view / "d" / "to-file").write_bytes(b"y" * 100)
        (tree.view / "d" / "to-link").symlink_to(outside)
        (tree.view / "d" / "to-directory").mkdir()

    merged, truth = read_while(tree, happens), tree.walk()
    for name in (b"to-file", b"to-link", b"to-nothing", b"to-directory/x", b"sub"):
        mine, real = lookup(merged, b"/d/" + name), lookup(truth, b"/d/" + name)
        assert type(mine) is type(real), name
        assert mine is None or real is None or mine.content_key() == real.content_key()


def test_swapped_symlinks_lead_nowhere(tree: Worktree, tmp_path: Path) -> None:
    """A directory and a symlink that change places all the time: what the symlink leads to is never taken."""
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").write_text("s" * 100)
    (tree.view / "x").mkdir()
    (tree.view / "x" / "mine").write_bytes(b"m")
    (tree.view / "y").symlink_to(outside)
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            renameat2(-100, os.fsencode(tree.view / "x"), -100, os.fsencode(tree.view / "y"), RENAME_EXCHANGE)

    swapping = threading.Thread(target=swap)
    swapping.start()
    try:
        for _ in range(300):
            merged = tree.read()
            for name in (b"x", b"y"):
                inode = lookup(merged, b"/" + name)
                if isinstance(inode, Directory):
                    assert set(inode.children) == {b"mine"}
                elif inode is not None:
                    assert isinstance(inode, Symlink)
    finally:
        stop.set()
        swapping.join()
    tree.check()
