"""What an upperdir may not say, and what other programs than the kernel write into one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from stratum.errors import DamagedError
from stratum.ingest.upperdir import read_upperdir
from stratum.tree import overlay
from stratum.tree.model import Directory, lookup
from tests.integration.overlay_ops import NothingToRead, Worktree, file_at

pytestmark = pytest.mark.root


def set_private(path: Path, name: str, value: bytes) -> None:
    os.setxattr(path, f"trusted.overlay.{name}", value)


def test_whiteouts_marked_by_an_attribute(tree: Worktree) -> None:
    """Other programs write them. The kernel looks nothing up there, though it may go on listing the name."""
    tree.unmount()
    (tree.upper / "d").mkdir()
    set_private(tree.upper / "d", "opaque", b"x")
    (tree.upper / "d" / "f").touch()
    set_private(tree.upper / "d" / "f", "whiteout", b"")
    tree.mount()
    merged = tree.read()
    assert not os.path.lexists(tree.view / "d" / "f")
    assert lookup(merged, b"/d/f") is None
    assert lookup(merged, b"/d/big") is lookup(tree.base, b"/d/big")


@pytest.mark.parametrize(
    "redirect",
    [
        b"/nothing",
        b"/d/nothing",
        b"nothing",
        b"",
        b"/",
        b"//d",
        b"/d/",
        b"..",
        b"/../d",
        b"/d/./sub",
        b"d/sub",
        b"/f/x",
    ],
)
def test_a_redirect_to_what_the_base_has_not_is_damage(tree: Worktree, redirect: bytes) -> None:
    tree.unmount()
    (tree.upper / "e").mkdir()
    set_private(tree.upper / "e", "redirect", redirect)
    (tree.upper / "e" / "x").touch()
    with pytest.raises(DamagedError, match="'/e'"):
        tree.read()


def test_a_redirect_of_a_directory_to_a_file_is_damage(tree: Worktree) -> None:
    tree.unmount()
    (tree.upper / "e").mkdir()
    set_private(tree.upper / "e", "redirect", b"/d/big")
    with pytest.raises(DamagedError, match=r"'/e'.*no directory"):
        tree.read()


@pytest.mark.parametrize("redirect", [None, b"/d", b"/d/link", b"/etc/shadow", b"../../etc/shadow", b"/d/fifo"])
def test_data_that_the_base_has_not_is_damage(tree: Worktree, redirect: bytes | None) -> None:
    """Also where the redirect would be the path of an object, or one of the host's."""
    tree.unmount()
    (tree.upper / "e").touch()
    set_private(tree.upper / "e", "metacopy", b"")
    if redirect is not None:
        set_private(tree.upper / "e", "redirect", redirect)
    with pytest.raises(DamagedError, match="'/e'"):
        tree.read()


def test_an_object_cannot_be_named_by_its_path(tree: Worktree) -> None:
    digest = file_at(tree.base, b"/d/big").digest
    assert digest is not None
    tree.unmount()
    (tree.upper / "e").touch()
    os.truncate(tree.upper / "e", file_at(tree.base, b"/d/big").size)
    set_private(tree.upper / "e", "metacopy", b"\x00\x24\x00\x01" + digest)
    set_private(tree.upper / "e", "redirect", b"/" + digest.hex()[:2].encode() + b"/" + digest.hex()[2:].encode())
    with pytest.raises(DamagedError, match="'/e'"):
        tree.read()


def test_data_of_another_size_is_damage(tree: Worktree) -> None:
    tree.unmount()
    (tree.upper / "f").write_bytes(b"short")
    set_private(tree.upper / "f", "metacopy", b"")
    with pytest.raises(DamagedError, match=r"'/f'.*5 bytes and not 8"):
        tree.read()


def test_user_namespace_of_attributes(tree: Worktree) -> None:
    """An upperdir of a mount with userxattr: same meanings, other prefix; trusted names are then plain."""
    tree.unmount()
    shutil.rmtree(tree.upper)
    (tree.upper / "d").mkdir(parents=True)
    os.setxattr(tree.upper / "d", "user.overlay.opaque", b"y")
    os.setxattr(tree.upper / "d", "user.overlay.overlay.opaque", b"n")
    (tree.upper / "e").mkdir()
    os.setxattr(tree.upper / "e", "user.overlay.redirect", b"d")
    merged = read_upperdir(tree.base, tree.upper, NothingToRead(), dialect=overlay.Dialect.USER)
    opaque = lookup(merged, b"/d")
    assert isinstance(opaque, Directory)
    assert not opaque.children
    assert opaque.xattrs == ((b"user.overlay.opaque", b"n"),)
    assert lookup(merged, b"/e/sub") is lookup(tree.base, b"/d/sub")
