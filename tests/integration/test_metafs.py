"""Filesystems of images that a process serves, on the real kernel: what they show, alone and below an overlay, and when
their server ends."""

from __future__ import annotations

import contextlib
import errno
import os
import random
import signal
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from stratum.composefs.erofs.writer import image_pieces
from stratum.composefs.verity import verity_digest
from stratum.errors import DamagedError
from stratum.metafs.ids import IdTable
from stratum.metafs.serving import serve_image
from stratum.sys import fuse
from stratum.sys.mountapi import MOUNT_ATTR_RDONLY, FilesystemContext
from stratum.tree.model import Directory, File, Inode, Symlink, object_path, walk
from stratum.tree.overlay import Dialect
from tests.integration.test_image_kernel import seen_below
from tests.support.shown import Seen, expected, in_image, in_overlay
from tests.support.trees import TreeBuilder

pytestmark = pytest.mark.root

WHICH = pytest.mark.parametrize("data", [False, True], ids=["names", "files"])


@contextlib.contextmanager
def served(root: Directory, directory: Path, *, data: bool = False, ids: IdTable | None = None) -> Iterator[int]:
    """The filesystem of an image of ``root``, whose objects are in ``directory``; a mount fd."""
    (directory / "objects").mkdir(exist_ok=True)
    with (directory / "image").open("wb+") as image:
        image.writelines(image_pieces(root))
        image.flush()
        objects = os.open(directory / "objects", os.O_PATH)
        try:
            mount = serve_image(image.fileno(), objects=[objects], data=data, ids=ids, source=directory.name)
        finally:
            os.close(objects)
    try:
        yield mount
    finally:
        os.close(mount)


@contextlib.contextmanager
def overlaid(mount: int, directory: Path, *, data: bool) -> Iterator[int]:
    """An overlay in the dialect of users over what ``served`` gives; a mount fd."""
    with FilesystemContext("overlay") as context, contextlib.ExitStack() as opened:
        context.set_fd("lowerdir+", mount)
        (directory / "empty").mkdir()
        layer = os.open(directory / ("empty" if data else "objects"), os.O_PATH)
        opened.callback(os.close, layer)
        context.set_fd("lowerdir+" if data else "datadir+", layer)
        context.set_flag("userxattr")
        context.create()
        overlay = context.mount(MOUNT_ATTR_RDONLY)
    try:
        yield overlay
    finally:
        os.close(overlay)


def servers(directory: Path) -> set[int]:
    """Those of filesystems that ``served`` has made there."""
    line = os.fsencode(f"stratum-metafs {directory.name}")
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (process / "cmdline").read_bytes().rstrip(b"\0") == line:
                assert (process / "comm").read_text() == "stratum-metafs\n"
                found.add(int(process.name))
    return found


def gone(pid: int) -> bool:
    """Whether it ends within some seconds; that it is a zombie whom nobody has asked for yet is enough."""
    for _ in range(500):
        try:
            if "\nState:\tZ" in Path(f"/proc/{pid}/status").read_text():
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


def shown_by(mount: int) -> dict[bytes, Seen]:
    root = os.open(".", os.O_RDONLY | os.O_DIRECTORY, dir_fd=mount)
    try:
        return dict(seen_below(root, read=False))
    finally:
        os.close(root)


@WHICH
@pytest.mark.parametrize("seed", range(2))
def test_generated_trees_are_shown_as_they_are(tmp_path: Path, seed: int, data: bool) -> None:
    builder = TreeBuilder(seed + 3, mountable=True)
    root = builder.tree(builder.random.choice((30, 800)))
    want, inodes = expected(root), dict(walk(root))
    content = ("user.overlay.metacopy", "user.overlay.redirect")
    with served(root, tmp_path, data=data) as mount:
        for _ in range(2):  # asked for, then known
            shown = shown_by(mount)
            assert shown.keys() == want.keys()
            for path, seen in shown.items():
                wish = in_image(path, inodes[path], want[path], Dialect.USER)
                hidden = (b"trusted.", *map(str.encode, content)) if data else (b"trusted.",)
                xattrs = tuple(pair for pair in wish.xattrs if not pair[0].startswith(hidden))
                assert seen == wish._replace(xattrs=xattrs), path
        with overlaid(mount, tmp_path, data=data) as overlay:
            shown = shown_by(overlay)
            assert shown.keys() == want.keys()
            for path, seen in shown.items():
                wish = in_overlay(path, inodes[path], want[path], Dialect.USER)
                xattrs = tuple(pair for pair in wish.xattrs if not pair[0].startswith(b"trusted."))
                nlink = None if stat.S_ISDIR(seen.mode) else seen.nlink
                assert seen._replace(nlink=nlink) == wish._replace(xattrs=xattrs), path


@WHICH
def test_contents_and_names_one_by_one(tmp_path: Path, data: bool) -> None:
    rng = random.Random(5)
    contents: dict[bytes, bytes] = {}
    inner: dict[bytes, Inode] = {b"l": Symlink(0o120777, 0, 0, 7, target=b"../d/f64")}
    for size in (0, 1, 64, 65, 4097, 131_072, 700_000):
        content = contents[b"f%d" % size] = rng.randbytes(size)
        file = File(0o100644, 0, 0, 7, size=size, content=content or None)
        if size > 64:
            digest = verity_digest(content)
            path = tmp_path / "objects" / os.fsdecode(object_path(digest))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            file = File(0o100644, 0, 0, 7, size=size, digest=digest)
        inner[b"f%d" % size] = file
    inner[b"lost"] = File(0o100644, 0, 0, 7, size=500, digest=bytes(32))
    inner[b"short"] = File(0o100644, 0, 0, 7, size=5000, digest=verity_digest(contents[b"f4097"]))
    root = Directory(0o40755, 0, 0, 0, children={b"d": Directory(0o40755, 0, 0, 0, children=inner)})
    with served(root, tmp_path, data=data) as mount, overlaid(mount, tmp_path, data=data) as overlay:
        for view in (mount, overlay) if data else (overlay,):
            place = Path(f"/proc/self/fd/{view}/d")
            for _ in range(2):
                assert not (place / "nothing").exists()
                assert (place / "l").read_bytes() == contents[b"f64"]
                for name, content in contents.items():
                    assert (place / os.fsdecode(name)).read_bytes() == content
            with (place / "f700000").open("rb") as file:
                for offset in (650_000, 3, 699_999, 700_000):
                    assert os.pread(file.fileno(), 5000, offset) == contents[b"f700000"][offset : offset + 5000]
            with pytest.raises(OSError, match="lost" if not data else "error") as caught:
                (place / "lost").read_bytes()
            assert caught.value.errno == (errno.EIO if data else errno.ENOENT)  # as the overlay has it
            if data:
                with pytest.raises(OSError, match="error"):
                    (place / "short").read_bytes()
            assert os.statvfs(view).f_files >= len(inner)


def test_other_ids_are_shown_and_acls_obeyed(tmp_path: Path) -> None:
    acl = bytes.fromhex("02000000 01000600ffffffff 02000400e8030000 04000000ffffffff 10000400ffffffff 20000000ffffffff")
    file = File(0o100640, 1000, 5, 7, ((b"system.posix_acl_access", acl),), size=1, content=b"x")
    with served(
        Directory(0o40755, 0, 0, 0, children={b"f": file}), tmp_path, ids=IdTable([(0, 0, 1), (1000, 2000, 1)], [])
    ) as mount:
        info = os.stat("f", dir_fd=mount)
        assert (info.st_uid, info.st_gid) == (2000, 0xFFFFFFFE)
        for uid, may in ((2001, False), (2000, True)):
            child = os.fork()
            if child == 0:
                code = 1
                with contextlib.suppress(OSError):
                    os.setresuid(uid, uid, uid)
                    os.close(os.open("f", os.O_RDONLY, dir_fd=mount))
                    code = 0
                os._exit(code)
            assert (os.waitpid(child, 0)[1] == 0) is may
        assert os.getxattr(f"/proc/self/fd/{mount}/f", "system.posix_acl_access")[16:20] == (2000).to_bytes(4, "little")


def test_a_server_has_nothing_of_who_started_it_and_ends_with_its_filesystem_or_when_it_is_killed(
    tmp_path: Path,
) -> None:
    root = Directory(0o40755, 0, 0, 0, children={b"f": File(0o100644, 0, 0, 7)})
    kept, ours = os.pipe()
    signal.signal(signal.SIGUSR1, lambda *_: None)
    with served(root, tmp_path) as mount:
        assert os.stat("f", dir_fd=mount).st_size == 0  # so it has begun
        (pid,) = servers(tmp_path)
        os.close(ours)
        assert os.read(kept, 1) == b""  # nobody else has the other end
        os.close(kept)
        files = {os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()}
        assert files - {fuse.DEVICE, "/dev/null", str(tmp_path / "image"), str(tmp_path / "objects")} == set()
        status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
        for kind in ("SigBlk", "SigIgn", "SigCgt"):
            assert int(status[kind], 16) & ~(3 << 31) == 0, kind  # two are the C library's own
        assert os.readlink(f"/proc/{pid}/cwd") == "/"
        assert os.getsid(pid) not in (0, os.getsid(0))
    signal.signal(signal.SIGUSR1, signal.SIG_DFL)
    assert gone(pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        with served(root, tmp_path) as mount:
            assert os.stat(".", dir_fd=mount).st_nlink == 2
            (pid,) = servers(tmp_path)
            os.kill(pid, number)
            assert gone(pid)
            with pytest.raises(OSError, match="connected") as caught:
                os.stat("f", dir_fd=mount)
            assert caught.value.errno == errno.ENOTCONN


def test_what_is_no_image_is_refused_in_words(tmp_path: Path) -> None:
    for content in (b"", b"x" * 5000):
        (tmp_path / "image").write_bytes(content)
        with (tmp_path / "image").open("rb") as image, pytest.raises(DamagedError, match="image"):
            serve_image(image.fileno(), data=False, ids=None, source="some")
