from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from stratum.store.trash import remove_tree


def test_a_tree_of_every_kind_of_file_is_deleted(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    (tree / "a" / "b" / "c").mkdir(parents=True)
    (tree / "a" / "file").write_text("x")
    (tree / "a" / "b" / "link").symlink_to("nowhere")
    os.mkfifo(tree / "a" / "fifo")
    (tree / "a" / os.fsdecode(b"\xff\n")).mkdir()
    remove_tree(tree)
    assert not tree.exists()


def test_links_are_not_followed(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (tmp_path / "tree" / "a").mkdir(parents=True)
    (tmp_path / "tree" / "a" / "link").symlink_to(outside)
    remove_tree(tmp_path / "tree")
    assert (outside / "kept").exists()
    (tmp_path / "link").symlink_to(outside)
    with pytest.raises(NotADirectoryError):
        remove_tree(tmp_path / "link")
    assert (outside / "kept").exists()


def test_depth_is_not_limited(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    fd = os.open(tree, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=fd)
        below = os.open("d", os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    remove_tree(tree)
    assert not tree.exists()


def test_directories_without_permissions(tmp_path: Path) -> None:
    (tmp_path / "tree" / "locked" / "inner").mkdir(parents=True)
    (tmp_path / "tree" / "locked" / "inner" / "file").write_text("x")
    (tmp_path / "tree" / "locked" / "inner").chmod(0)
    (tmp_path / "tree" / "locked").chmod(stat.S_IRUSR | stat.S_IXUSR)
    remove_tree(tmp_path / "tree")
    assert not (tmp_path / "tree").exists()
