"""The kernel mounts every image that we write, and what it shows is the tree: the image itself and the overlay view."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from stratum.composefs.erofs.writer import image_pieces
from stratum.composefs.verity import verity_digest
from stratum.ingest.reader import Pending
from stratum.ingest.upperdir import read_upperdir
from stratum.mount.build import build_detached, kernel_method, mount_image
from stratum.mount.plan import MountPlan
from stratum.sys.xattrs import read_fd_xattrs
from stratum.tree.model import Directory, File, Inode, object_path, walk
from stratum.tree.overlay import Dialect
from tests.support.shown import Seen, expected, in_image, in_overlay
from tests.support.trees import TreeBuilder

pytestmark = pytest.mark.root

USERXATTR = pytest.mark.parametrize("dialect", Dialect, ids=lambda dialect: dialect.name.lower())


def seen_below(root: int, *, read: bool) -> Iterator[tuple[bytes, Seen]]:
    """Everything below the directory fd ``root``, depth-first; ``read``: with the content of small files."""
    stack: list[tuple[bytes, int]] = [(b"/", os.dup(root))]
    yield b"/", _look(root, read)
    while stack:
        path, directory = stack.pop()
        try:
            for name in map(os.fsencode, os.listdir(directory)):
                fd = os.open(name, os.O_PATH | os.O_NOFOLLOW, dir_fd=directory)
                seen = _look(fd, read)
                yield path + name, seen
                if stat.S_ISDIR(seen.mode):
                    stack.append((path + name + b"/", os.open(name, os.O_RDONLY | os.O_NOFOLLOW, dir_fd=directory)))
                os.close(fd)
        finally:
            os.close(directory)


def _look(fd: int, read: bool) -> Seen:
    info = os.stat(fd)
    content = None
    if read and stat.S_ISREG(info.st_mode) and info.st_size <= 1 << 20:
        with open(f"/proc/self/fd/{fd}", "rb") as file:
            content = file.read()
    return Seen(
        info.st_mode,
        info.st_uid,
        info.st_gid,
        info.st_mtime_ns,
        None if stat.S_ISDIR(info.st_mode) else info.st_size,
        info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else 0,
        info.st_nlink,
        os.readlink(b"", dir_fd=fd) if stat.S_ISLNK(info.st_mode) else None,
        content,
        read_fd_xattrs(fd),
    )


def write(root: Directory, path: Path, dialect: Dialect = Dialect.TRUSTED) -> Path:
    with path.open("wb") as file:
        file.writelines(image_pieces(root, dialect))
    return path


@contextlib.contextmanager
def image_view(image: Path) -> Iterator[int]:
    """The image alone, mounted; a directory fd."""
    with image.open("rb") as file:
        mount = mount_image(file.fileno(), kernel_method())
    try:
        yield mount
    finally:
        os.close(mount)


@contextlib.contextmanager
def overlay_view(image: Path, objects: Path, dialect: Dialect = Dialect.TRUSTED) -> Iterator[int]:
    """What a mounted commit shows; a directory fd."""
    mount = build_detached(MountPlan(image, (objects,), dialect=dialect))
    try:
        yield mount
    finally:
        os.close(mount)


def check_image(root: Directory, directory: Path, dialect: Dialect = Dialect.TRUSTED) -> None:
    want = expected(root)
    inodes = dict(walk(root))
    with image_view(write(root, directory / "image", dialect)) as mount:
        shown = dict(seen_below(_opened(mount), read=False))
    masks = {b"/%02x" % number for number in range(256)} - want.keys()
    for path in masks:
        seen = shown.pop(path)
        assert stat.S_ISCHR(seen.mode)
        assert seen.rdev == 0
    assert shown.keys() == want.keys()
    for path, seen in shown.items():
        assert seen == in_image(path, inodes[path], want[path], dialect), path


def _opened(mount: int) -> int:
    return os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount)


def check_overlay(root: Directory, directory: Path, dialect: Dialect = Dialect.TRUSTED) -> None:
    want = expected(root)
    inodes = dict(walk(root))
    (directory / "objects").mkdir(exist_ok=True)
    with overlay_view(write(root, directory / "image", dialect), directory / "objects", dialect) as mount:
        shown = dict(seen_below(_opened(mount), read=False))
    assert shown.keys() == want.keys()
    for path, seen in shown.items():
        shown_here = seen._replace(nlink=None) if stat.S_ISDIR(seen.mode) else seen
        assert shown_here == in_overlay(path, inodes[path], want[path], dialect), path


@USERXATTR
@pytest.mark.parametrize("seed", range(12))
def test_generated_trees_are_shown_as_they_are(tmp_path: Path, seed: int, dialect: Dialect) -> None:
    builder = TreeBuilder(seed, mountable=True)
    root = builder.tree(builder.random.choice((10, 300, 2000)))
    check_image(root, tmp_path, dialect)
    check_overlay(root, tmp_path, dialect)


def test_deep_nesting(tmp_path: Path) -> None:
    root = inner = Directory(0o40755, 0, 0, 0)
    for _ in range(1100):
        child = Directory(0o40700, 1, 2, 3)
        inner.children[b"d" * 20] = child
        inner = child
    inner.children[b"end"] = File(0o100644, 0, 0, 5, size=3, content=b"end")
    check_image(root, tmp_path)


def test_ten_thousand_names_in_one_directory(tmp_path: Path) -> None:
    root = Directory(0o40755, 0, 0, 0)
    for number in range(10_000):
        root.children[b"%x" % (number * 7919) + b"n" * (number % 200)] = File(0o100644, 0, 0, number)
    check_image(root, tmp_path)


@USERXATTR
def test_contents_are_read_through_the_overlay(tmp_path: Path, dialect: Dialect) -> None:
    rng = random.Random(5)
    objects = tmp_path / "objects"
    contents: dict[bytes, bytes] = {}
    root = Directory(0o40755, 0, 0, 0)
    for number, size in enumerate((0, 1, 63, 64, 65, 4096, 4097, 100_000)):
        data = contents[b"/f%d" % number] = rng.randbytes(size)
        file = File(0o100644, 0, 0, 7, size=size, content=data or None)
        if size > 64:
            digest = verity_digest(data)
            path = objects / os.fsdecode(object_path(digest))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            file = File(0o100644, 0, 0, 7, size=size, digest=digest)
        root.children[b"f%d" % number] = file
    with overlay_view(write(root, tmp_path / "image", dialect), objects, dialect) as mount:
        shown = {path: seen.content for path, seen in seen_below(_opened(mount), read=True) if path != b"/"}
    assert shown == contents


class NoContent:
    """A content reader for an upperdir that has no files with data."""

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        raise AssertionError(path)

    def finish(self) -> None:
        pass


@USERXATTR
def test_an_upperdir_is_read_in_the_dialect_that_it_was_written_in(tmp_path: Path, dialect: Dialect) -> None:
    files: dict[bytes, Inode] = {b"%d" % number: File(0o100644, 0, 0, 7) for number in range(3)}
    root = Directory(0o40755, 0, 0, 0, children={b"d": Directory(0o40755, 0, 0, 0, children=files), **files})
    for name in ("objects", "upperdir", "workdir"):
        (tmp_path / name).mkdir()
    image = write(root, tmp_path / "image", dialect)
    upper = tmp_path / "upperdir"
    mount = build_detached(
        MountPlan(image, (tmp_path / "objects",), upper, tmp_path / "workdir", dialect=dialect),
    )
    try:
        view = Path(f"/proc/self/fd/{mount}")
        (view / "1").unlink()
        shutil.rmtree(view / "d")
        (view / "d").mkdir()
        (view / "d" / "new").symlink_to("there")
        os.setxattr(view / "d", dialect.own(b"opaque"), b"the user's")
        shown = dict(seen_below(_opened(mount), read=False))
    finally:
        os.close(mount)
    assert os.getxattr(upper / "d", dialect.own(b"opaque")) == b"y"
    merged = dict(walk(read_upperdir(root, upper, NoContent(), dialect=dialect)))
    assert merged.keys() == shown.keys() == {b"/", b"/0", b"/2", b"/d", b"/d/new"}
    assert merged[b"/d"].xattrs == shown[b"/d"].xattrs == ((dialect.own(b"opaque"), b"the user's"),)
