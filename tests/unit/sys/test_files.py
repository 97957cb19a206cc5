"""Files that appear whole, paths that stay below their root, and the errors of both."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from stratum.sys import atomic
from stratum.sys.smallfile import UnfitError, read_regular
from stratum.sys.syscalls import (
    AT_FDCWD,
    RENAME_NOREPLACE,
    open_beneath,
    open_in_root,
    open_nofollow,
    renameat2,
    statx_mount_id,
)
from stratum.sys.xattrs import get_xattr, list_xattrs, read_xattrs


@pytest.fixture
def root(tmp_path: Path):
    (tmp_path / "in" / "dir").mkdir(parents=True)
    (tmp_path / "in" / "dir" / "file").write_text("inside")
    (tmp_path / "secret").write_text("outside")
    fd = os.open(tmp_path / "in", os.O_PATH | os.O_DIRECTORY)
    yield tmp_path / "in", fd
    os.close(fd)


def read_and_close(fd: int) -> str:
    with open(fd) as file:
        return file.read()


def test_write_atomic_replaces_content_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "f"
    path.write_text("old")
    atomic.write_atomic(path, b"new", 0o600)
    assert path.read_bytes() == b"new"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["f"]


def test_write_atomic_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic.write_atomic(tmp_path / "f", b"", 0o644, durable=False)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o644


def test_write_atomic_takes_the_longest_name(tmp_path: Path) -> None:
    atomic.write_atomic(tmp_path / ("n" * 255), b"x")
    assert os.listdir(tmp_path) == ["n" * 255]


def test_write_atomic_replaces_a_symlink_and_leaves_its_target(tmp_path: Path) -> None:
    (tmp_path / "target").write_text("keep")
    (tmp_path / "link").symlink_to("target")
    atomic.write_atomic(tmp_path / "link", b"new")
    assert not (tmp_path / "link").is_symlink()
    assert (tmp_path / "target").read_text() == "keep"


def test_write_atomic_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "dir" / "sub").mkdir(parents=True)
    with pytest.raises(OSError, match="directory"):
        atomic.write_atomic(tmp_path / "dir", b"x")
    assert os.listdir(tmp_path) == ["dir"]


def test_open_beneath_stays_below(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "out").symlink_to("../secret")
    (directory / "abs").symlink_to("/etc/passwd")
    (directory / "up").symlink_to("dir/../dir/file")
    assert read_and_close(open_beneath(fd, "dir/file", os.O_RDONLY)) == "inside"
    assert read_and_close(open_beneath(fd, "up", os.O_RDONLY)) == "inside"
    for path in ("../secret", "out", "abs", "/etc/passwd", "dir/../../secret"):
        with pytest.raises(OSError, match=os.strerror(errno.EXDEV)):
            open_beneath(fd, path, os.O_RDONLY)


def test_open_beneath_does_not_follow_magic_links() -> None:
    proc = os.open("/proc", os.O_PATH)
    try:
        with pytest.raises(OSError, match=os.strerror(errno.ELOOP)):
            open_beneath(proc, f"{os.getpid()}/root", os.O_RDONLY)
    finally:
        os.close(proc)


def test_open_in_root_takes_the_root_for_slash(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "abs").symlink_to("/dir/file")
    (directory / "climb").symlink_to("../../../dir/file")
    for path in ("/dir/file", "abs", "climb", "/../../dir/file"):
        assert read_and_close(open_in_root(fd, path, os.O_RDONLY)) == "inside"


def test_opened_files_are_closed_on_exec(root: tuple[Path, int]) -> None:
    _, fd = root
    opened = open_beneath(fd, "dir/file", os.O_RDONLY)
    assert not os.get_inheritable(opened)
    os.close(opened)


def test_open_nofollow_refuses_a_final_symlink(root: tuple[Path, int]) -> None:
    directory, fd = root
    (directory / "l").symlink_to("dir")
    with pytest.raises(OSError, match=os.strerror(errno.ENOTDIR)):
        open_nofollow("l", os.O_PATH | os.O_DIRECTORY, directory=fd)


def test_errors_name_the_file_and_say_what_the_kernel_says(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        renameat2(AT_FDCWD, tmp_path / "no", AT_FDCWD, tmp_path / "new", RENAME_NOREPLACE)
    assert caught.value.strerror == os.strerror(errno.ENOENT)
    assert caught.value.filename == str(tmp_path / "new")


def test_a_nul_in_a_path_is_an_error_not_a_shorter_path(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="NUL"):
        statx_mount_id(os.fsencode(tmp_path) + b"\0tail")


def test_mount_id_of_a_path_and_of_an_fd_agree(root: tuple[Path, int]) -> None:
    directory, fd = root
    assert statx_mount_id(directory) == statx_mount_id(directory=fd)
    assert statx_mount_id("/proc") != statx_mount_id("/")


def test_xattrs_are_sorted_and_not_read_through_symlinks(tmp_path: Path) -> None:
    file, link = tmp_path / "f", tmp_path / "l"
    file.write_text("")
    link.symlink_to("f")
    for name, value in (("user.z", b""), ("user.a\udcff", b"\0\1"), ("user.b", b"x" * 1000)):
        os.setxattr(file, name, value)
    expected = ((b"user.a\xff", b"\0\1"), (b"user.b", b"x" * 1000), (b"user.z", b""))
    ours = tuple(pair for pair in read_xattrs(file) if pair[0].startswith(b"user."))
    assert ours == expected
    with open(file, "rb") as opened:
        assert read_xattrs(opened.fileno()) == read_xattrs(file)
    assert not [name for name in list_xattrs(link) if name.startswith(b"user.")]


def test_xattrs_of_a_filesystem_without_any() -> None:
    assert read_xattrs("/proc/self/stat") == ()
    assert get_xattr("/proc/self/stat", b"user.x") is None


def test_get_xattr_tells_empty_from_absent(tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_text("")
    os.setxattr(file, "user.empty", b"")
    assert get_xattr(file, b"user.empty") == b""
    assert get_xattr(file, b"user.absent") is None


def test_small_files_are_regular_and_small(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"x" * 100)
    status, data = read_regular(file, 100)
    assert (status.st_size, data) == (100, b"x" * 100)
    with pytest.raises(UnfitError, match="larger than 99 bytes"):
        read_regular(file, 99)
    assert read_regular(Path("/proc/self/status"), 1 << 16)[1]  # whose size is 0
    (tmp_path / "link").symlink_to("file")
    assert read_regular(tmp_path / "link", 100)[1] == data
    with pytest.raises(OSError, match="symbolic"):
        read_regular(tmp_path / "link", 100, follow=False)
    os.mkfifo(tmp_path / "fifo")
    for unfit in (tmp_path / "fifo", tmp_path, Path("/dev/zero")):
        with pytest.raises(UnfitError):
            read_regular(unfit, 100)
