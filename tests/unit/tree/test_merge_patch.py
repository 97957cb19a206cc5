"""Patch trees with whiteout markers read as layers."""

from __future__ import annotations

import stat

import pytest

from stratum.errors import UsageError
from stratum.tree.dump import write_dump
from stratum.tree.merge import apply_layer
from stratum.tree.model import Directory, File, Inode, Special, Whiteout, Xattrs, lookup
from stratum.tree.patch import layer_from_patch_tree


def directory(children: dict[bytes, Inode] | None = None, xattrs: Xattrs = ()) -> Directory:
    return Directory(stat.S_IFDIR | 0o755, 0, 0, 0, xattrs, children=children)


def file(content: bytes = b"", xattrs: Xattrs = ()) -> File:
    return File(stat.S_IFREG | 0o644, 0, 0, 0, xattrs, size=len(content), content=content or None)


def device(rdev: int) -> Special:
    return Special(stat.S_IFCHR, 0, 0, 0, rdev=rdev)


BASE = directory({b"a": file(b"a"), b"d": directory({b"x": file(b"x"), b"y": file(b"y")})})


def patched(patch: Directory) -> Directory:
    return apply_layer(BASE, layer_from_patch_tree(patch))


def test_plain_tree_is_its_own_layer() -> None:
    patch = directory({b"new": file(b"n"), b"d": directory({b"z": file(b"z")})})
    assert layer_from_patch_tree(patch) is patch
    assert set(patched(patch).children) == {b"a", b"d", b"new"}


def test_marker_files_delete() -> None:
    merged = patched(directory({b".wh.a": file(), b"d": directory({b".wh.x": file()})}))
    assert set(merged.children) == {b"d"}
    assert lookup(merged, b"/d/x") is None
    assert lookup(merged, b"/d/y") is not None


def test_opaque_marker_hides() -> None:
    merged = patched(directory({b"d": directory({b".wh..wh..opq": file(), b"z": file()})}))
    inside = merged.children[b"d"]
    assert isinstance(inside, Directory)
    assert set(inside.children) == {b"z"}
    assert not inside.opaque


def test_kernel_whiteouts_and_opaque_directories() -> None:
    for prefix in (b"trusted", b"user"):
        opaque = ((prefix + b".overlay.opaque", b"y"), (prefix + b".overlay.origin", b""), (b"user.kept", b"1"))
        merged = patched(directory({b"a": device(0), b"d": directory({b"z": file()}, opaque)}))
        inside = merged.children[b"d"]
        assert isinstance(inside, Directory)
        assert set(merged.children) == {b"d"}
        assert set(inside.children) == {b"z"}
        assert inside.xattrs == ((b"user.kept", b"1"),)


def test_whiteouts_marked_by_an_attribute() -> None:
    whiteout = file(xattrs=((b"user.overlay.whiteout", b""),))
    merged = patched(directory({b"d": directory({b"x": whiteout}, ((b"user.overlay.opaque", b"x"),))}))
    inside = merged.children[b"d"]
    assert isinstance(inside, Directory)
    assert set(inside.children) == {b"y"}
    assert inside.xattrs == ()


def test_a_device_that_is_no_whiteout_stays() -> None:
    assert isinstance(patched(directory({b"a": device(259)})).children[b"a"], Special)


def test_a_name_that_is_deleted_and_brought_replaces() -> None:
    merged = patched(directory({b".wh.d": file(), b"d": directory({b"z": file()}), b".wh.a": file(), b"a": file(b"A")}))
    inside = merged.children[b"d"]
    assert isinstance(inside, Directory)
    assert set(inside.children) == {b"z"}
    assert merged.children[b"a"].content_key() == (1, None, b"A")


def test_aufs_bookkeeping_is_no_content() -> None:
    layer = layer_from_patch_tree(directory({b".wh..wh.plnk": directory({b"1": file()}), b".wh..wh.aufs": file()}))
    assert layer.children == {}


def test_escaped_attributes_lose_one_level_and_hard_links_stay() -> None:
    inode = file(b"f", ((b"trusted.overlay.origin", b"o"), (b"trusted.overlay.overlay.opaque", b"y")))
    layer = layer_from_patch_tree(directory({b"f": inode, b"g": inode}))
    assert layer.children[b"f"] is layer.children[b"g"]
    assert layer.children[b"f"].xattrs == ((b"trusted.overlay.opaque", b"y"),)
    assert inode.xattrs[0][0] == b"trusted.overlay.origin"


@pytest.mark.parametrize("name", [b".wh.", b".wh..", b".wh..."])
def test_markers_without_a_valid_name_are_refused(name: bytes) -> None:
    with pytest.raises(UsageError, match=r"whiteout of no valid name"):
        layer_from_patch_tree(directory({b"d": directory({name: file()})}))


def test_directory_named_like_a_marker_is_refused() -> None:
    with pytest.raises(UsageError, match=r"/d/\.wh\.x"):
        layer_from_patch_tree(directory({b"d": directory({b".wh.x": directory({b"data": file()})})}))


@pytest.mark.parametrize("name", [b"trusted.overlay.redirect", b"user.overlay.metacopy"])
def test_references_to_another_layer_are_refused(name: bytes) -> None:
    with pytest.raises(UsageError, match=r"/f in the patch refers to another layer"):
        layer_from_patch_tree(directory({b"f": file(xattrs=((name, b"/a"),))}))


def test_depth_costs_no_stack() -> None:
    patch = directory({b".wh.x": file()})
    for _ in range(2000):
        patch = directory({b"d": patch})
    layer: Inode = layer_from_patch_tree(patch)
    for _ in range(2000):
        assert isinstance(layer, Directory)
        layer = layer.children[b"d"]
    assert isinstance(layer, Directory)
    assert isinstance(layer.children[b"x"], Whiteout)
    assert len(write_dump(patch)) > 0
