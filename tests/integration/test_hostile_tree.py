"""A pulled tree whose entries look like overlayfs's own state: in a mount they are plain files and attributes.

Such a tree is valid: it is what a container sees that works on overlays itself. So it is not refused; the image's
writer escapes what overlayfs would act on, and nothing lies below an image that a whiteout could hide.
"""

from __future__ import annotations

import os
import stat
from datetime import datetime, timezone
from pathlib import Path

import pytest

from stratum.oci.access import Access
from stratum.oci.target import parse_target
from stratum.store import Store
from stratum.transfer.push import push
from stratum.tree.model import Directory, File, Inode, Special, Xattrs, object_path
from tests.support.command import Command
from tests.support.pulling import pull

pytestmark = pytest.mark.root

SECRET = b"another stratum's secret\n" * 100
TIME = datetime(2024, 5, 6, 7, 8, 9, tzinfo=timezone.utc)


def both(name: bytes, value: bytes = b"") -> Xattrs:
    """An attribute of overlayfs, as it is called with and without ``userxattr``."""
    return ((b"trusted.overlay." + name, value), (b"user.overlay." + name, value))


def directory(children: dict[bytes, Inode] | None = None, xattrs: Xattrs = ()) -> Directory:
    return Directory(0o40755, 0, 0, 10**18, tuple(sorted(xattrs)), children=children)


def file(content: bytes = b"", xattrs: Xattrs = ()) -> File:
    return File(0o100644, 0, 0, 10**18, tuple(sorted(xattrs)), size=len(content), content=content or None)


def hostile_tree(secret: bytes) -> Directory:
    """Reaches for the object ``secret``, for its own hidden parts, and hides what it shows."""
    redirect = both(b"redirect", b"/" + object_path(secret))
    return directory(
        {
            b".wh..wh..opq": file(),
            b".wh.target": file(),
            b"data-only": file(xattrs=both(b"metacopy") + redirect),
            b"deleted": Special(0o20000, 0, 0, 10**18, rdev=0),
            b"marked": directory({b"gone": file(xattrs=both(b"whiteout")[:1])}, both(b"opaque", b"x")),
            b"metacopy": file(b"inline", both(b"metacopy", b"\0\x24\0\1" + secret) + redirect),
            b"moved": directory({b"own": file(b"own")}, both(b"redirect", b"/target")),
            b"opaque": directory({b"inside": file(b"inside")}, both(b"opaque", b"y")),
            b"target": directory({b"other": file(b"other")}),
        }
    )


@pytest.fixture
def victim(cli: Command, tmp_path: Path) -> Command:
    """A store with a secret in one stratum and a hostile tree, pulled, as ``evil:v1``."""
    (tmp_path / "private").mkdir()
    (tmp_path / "private/secret").write_bytes(SECRET)
    cli.ok("import", "--bare", tmp_path / "private", "private")
    ((secret, _),) = Store.open(cli.store).objects.list()
    origin = Store.create(tmp_path / "origin")
    with origin.begin("test") as tx:
        commit = origin.commits.write(tx, hostile_tree(secret), timestamp=TIME).metadata_hash
    layout = parse_target(f"oci:{tmp_path}/layout:v1")
    push(origin, commit, layout, Access())
    pull(Store.open(cli.store), layout, Access())
    cli.ok("tag", commit, "evil:v1")
    return cli


def look_at(place: Path) -> None:
    """Everything is there, has its own content, and its attributes are data."""
    names = [".wh..wh..opq", ".wh.target", "data-only", "deleted", "marked", "metacopy", "moved", "opaque", "target"]
    assert sorted(os.listdir(place)) == names
    assert (place / "data-only").read_bytes() == b""
    assert (place / "metacopy").read_bytes() == b"inline"
    assert os.listdir(place / "marked") == ["gone"]
    assert os.listdir(place / "moved") == ["own"]
    assert os.listdir(place / "opaque") == ["inside"]
    assert os.listdir(place / "target") == ["other"]
    assert (place / "deleted").read_bytes() == b""  # no image can hold the device: a marked file stands for it
    assert os.getxattr(place / "moved", "trusted.overlay.redirect") == b"/target"
    assert os.getxattr(place / "opaque", "user.overlay.opaque") == b"y"
    for path in place.rglob("*"):
        assert not stat.S_ISREG(path.lstat().st_mode) or b"secret" not in path.read_bytes()


def test_a_hostile_tree_mounted(victim: Command, tmp_path: Path) -> None:
    victim.ok("mount", "evil:v1", tmp_path / "mnt")
    try:
        look_at(tmp_path / "mnt")
    finally:
        victim.ok("unmount", tmp_path / "mnt")


def test_a_hostile_tree_in_a_worktree(victim: Command, tmp_path: Path) -> None:
    victim.ok("worktree", "add", "evil+work", "evil:v1")
    place = tmp_path / "mnt"
    victim.ok("mount", "evil+work", place)
    try:
        for path in (place, *place.rglob("*")):  # each is copied up
            os.chmod(path, 0o700)
        look_at(place)
        victim.ok("commit", "evil+work", "v2")
    finally:
        victim.ok("unmount", place)
    changed = victim.json("diff", "evil:v1", "evil:v2")
    assert {tuple(change["fields"]) for change in changed} == {("mode",)}
    victim.ok("mount", "evil:v2", place)
    try:
        look_at(place)
    finally:
        victim.ok("unmount", place)
