"""Walking a tree by descriptors, and how much room one takes."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from stratum.errors import ConflictError
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.sys.usage import Usage, disk_usage, usage_of


class TestDirectoryStack:
    def descend(self, stack: DirectoryStack, depth: int) -> None:
        for _ in range(depth):
            fd = os.open("d", OPEN_DIRECTORY, dir_fd=stack.top)
            stack.push(fd, os.fstat(fd))

    def ascend(self, stack: DirectoryStack) -> None:
        while len(stack) > 1:
            stack.pop()

    def make(self, path: Path, depth: int) -> int:
        root = os.open(path, OPEN_DIRECTORY)
        fd = os.dup(root)
        for _ in range(depth):
            os.mkdir("d", dir_fd=fd)
            below = os.open("d", OPEN_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        return root

    def test_few_descriptors_however_deep(self, tmp_path: Path) -> None:
        root = self.make(tmp_path, 50)
        inodes = []
        before = len(os.listdir("/proc/self/fd"))
        with DirectoryStack(root, max_open=4) as stack:
            for _ in range(50):
                inodes.append(os.fstat(stack.top).st_ino)
                self.descend(stack, 1)
            assert len(os.listdir("/proc/self/fd")) <= before + 5
            while inodes:
                stack.pop()
                assert os.fstat(stack.top).st_ino == inodes.pop()
            assert len(stack) == 1
        assert len(os.listdir("/proc/self/fd")) == before - 1

    def test_a_directory_that_was_moved_is_noticed(self, tmp_path: Path) -> None:
        root = self.make(tmp_path, 10)
        with DirectoryStack(root, max_open=2) as stack:
            self.descend(stack, 10)
            (tmp_path / "d/d/d/d").rename(tmp_path / "elsewhere")
            with pytest.raises(ConflictError, match="moved"):
                self.ascend(stack)


class TestUsage:
    def test_it_is_what_du_says(self, tmp_path: Path) -> None:
        (tmp_path / "deep" / "er").mkdir(parents=True)
        (tmp_path / "deep" / "er" / "file").write_bytes(b"x" * 10_000)
        os.link(tmp_path / "deep" / "er" / "file", tmp_path / "again")
        with open(tmp_path / "holes", "wb") as file:
            file.truncate(1 << 30)
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "link").symlink_to("/etc")
        (tmp_path / os.fsdecode(b"not \xff utf-8\n")).write_bytes(b"x")
        found = usage_of(tmp_path)
        said = [
            int(subprocess.check_output(["du", "-s", "-B1", *how, tmp_path]).split()[0])
            for how in ([], ["--apparent-size"])
        ]
        assert [found.disk, found.size] == pytest.approx(said, abs=20_000)  # coreutils 9 leave directories out
        assert found.disk == said[0]
        assert found.entries == 8
        assert disk_usage(tmp_path) == found.disk

    def test_no_depth_is_too_deep(self, tmp_path: Path) -> None:
        fd = os.open(tmp_path, OPEN_DIRECTORY)
        for _ in range(2500):  # more than a path has room for, and than there may be descriptors
            os.mkdir("d" * 10, dir_fd=fd)
            below = os.open("d" * 10, OPEN_DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = below
        os.close(fd)
        assert usage_of(tmp_path).entries == 2501
        subprocess.run(["rm", "-rf", tmp_path], check=True)

    def test_links_are_not_followed_and_what_is_gone_is_nothing(self, tmp_path: Path) -> None:
        (tmp_path / "big").write_bytes(b"x" * 100_000)
        (tmp_path / "link").symlink_to("big")
        (tmp_path / "up").symlink_to(".")
        assert usage_of(tmp_path / "link").size == len("big")
        assert usage_of(tmp_path / "up").entries == 1
        assert usage_of(tmp_path / "none") == Usage()
