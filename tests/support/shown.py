"""What stat, readlink, listxattr and getxattr show of a tree: of its image, and of an overlay over that."""

from __future__ import annotations

import stat
from typing import NamedTuple

from stratum.tree.dump import count_links, directory_nlink
from stratum.tree.limits import overlay_marks, with_marks
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs, object_path, walk
from stratum.tree.overlay import METACOPY, REDIRECT, Dialect, is_whiteout_device


class Seen(NamedTuple):
    """What is shown of one entry."""

    mode: int
    uid: int
    gid: int
    mtime: int
    size: int | None
    rdev: int
    nlink: int | None
    target: bytes | None
    content: bytes | None
    xattrs: Xattrs


def expected(root: Directory) -> dict[bytes, Seen]:
    """What the tree at ``root`` looks like without overlayfs's attributes."""
    links = count_links(root)
    result = {}
    for path, inode in walk(root):
        size: int | None = 0
        target = None
        if isinstance(inode, File):
            size = inode.size
        elif isinstance(inode, Symlink):
            size, target = len(inode.target), inode.target
        elif isinstance(inode, Directory):
            size = None
        nlink = directory_nlink(inode) if isinstance(inode, Directory) else links.get(id(inode), 1)
        rdev = inode.rdev if isinstance(inode, Special) else 0
        result[path] = Seen(
            inode.mode, inode.uid, inode.gid, inode.mtime, size, rdev, nlink, target, None, inode.xattrs
        )
    return result


def _marked(path: bytes, inode: Inode, dialect: Dialect) -> Xattrs:
    whiteouts = isinstance(inode, Directory) and any(map(is_whiteout_device, inode.children.values()))
    marks = overlay_marks(inode, dialect, holds_whiteouts=whiteouts, is_root=path == b"/")
    return with_marks(dialect.escape(inode.xattrs), marks)


def _mode(inode: Inode) -> int:
    return stat.S_IFREG | stat.S_IMODE(inode.mode) if is_whiteout_device(inode) else inode.mode


def in_image(path: bytes, inode: Inode, seen: Seen, dialect: Dialect) -> Seen:
    """What the image shows for an entry: whiteouts are files, and there are overlayfs's attributes."""
    xattrs = _marked(path, inode, dialect)
    if isinstance(inode, File) and inode.digest is not None:
        backing = (
            (dialect.own(METACOPY), b"\x00\x24\x00\x01" + inode.digest),
            (dialect.own(REDIRECT), b"/" + object_path(inode.digest)),
        )
        xattrs = tuple(sorted((*xattrs, *backing)))
    return seen._replace(mode=_mode(inode), xattrs=xattrs)


def in_overlay(path: bytes, inode: Inode, seen: Seen, dialect: Dialect) -> Seen:
    """What a mounted commit shows: the tree, but for whiteouts, which are files with marks; link counts of directories
    are overlayfs's own."""
    nlink = None if isinstance(inode, Directory) else seen.nlink
    return seen._replace(mode=_mode(inode), xattrs=dialect.split(_marked(path, inode, dialect))[1], nlink=nlink)
