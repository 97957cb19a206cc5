"""A tree as files without content, for overlays that nobody may mount an image for. Pure.

The kernel takes the content of such a file from an object in a data layer, as it does for a file of an image: its
attributes name the object.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable

from stratum.composefs.erofs.survey import backing_xattrs
from stratum.errors import UnsupportedError
from stratum.tree.limits import XATTR_NAME_MAX, overlay_marks, with_marks
from stratum.tree.merge import Task, run_deep
from stratum.tree.model import Directory, File, Inode, Special, Xattrs, with_xattrs
from stratum.tree.overlay import Dialect, is_whiteout_device

_DIALECT = Dialect.USER
_TRUSTED = b"trusted."


def outline(root: Directory, has_ids: Callable[[int, int], bool]) -> Directory:
    """``root`` as its files are to be on disk, below an overlay of users' dialect; a file that has a digest is to be
    made without content, of its size.

    Hard links stay hard links. ``trusted.*`` attributes, which users neither set nor see, are left out, and those
    of which the escaped name is too long for a system call.
    ``UnsupportedError`` for what no user can make: devices, and files of owners of whom ``has_ids`` (user, group) says
    that they are nobody.
    """
    return run_deep(_directory(root, b"/", has_ids, {}))


def _directory(
    node: Directory, path: bytes, has_ids: Callable[[int, int], bool], done: dict[int, Inode]
) -> Task[Directory]:
    _check(node, path, has_ids)
    children: dict[bytes, Inode] = {}
    whiteouts = False
    for name, child in node.children.items():
        if isinstance(child, Directory):
            children[name] = yield _directory(child, path + name + b"/", has_ids, done)
            continue
        whiteouts = whiteouts or is_whiteout_device(child)
        if id(child) not in done:
            _check(child, path + name, has_ids)
            done[id(child)] = _stored(child)
        children[name] = done[id(child)]
    xattrs = with_marks(_escaped(node.xattrs), _marks(node, whiteouts=whiteouts))
    return Directory(node.mode, node.uid, node.gid, node.mtime, xattrs, children=children)


def _check(node: Inode, path: bytes, has_ids: Callable[[int, int], bool]) -> None:
    problem = ""
    if isinstance(node, Special) and not is_whiteout_device(node) and stat.S_IFMT(node.mode) in _DEVICES:
        problem = "it is a device"
    elif not has_ids(node.uid, node.gid):
        problem = f"it belongs to user {node.uid} and group {node.gid}, and one of them is nobody here"
    if problem:
        raise UnsupportedError(f"a user cannot make {os.fsdecode(path)} of the commit: {problem}")


_DEVICES = (stat.S_IFCHR, stat.S_IFBLK)


def _stored(node: Inode) -> Inode:
    xattrs = _escaped(node.xattrs)
    if is_whiteout_device(node):
        xattrs = with_marks(xattrs, _marks(node))
        return File(stat.S_IFREG | stat.S_IMODE(node.mode), node.uid, node.gid, node.mtime, xattrs)
    if isinstance(node, File) and node.digest is not None:
        xattrs = tuple(sorted((*xattrs, *backing_xattrs(node.digest, _DIALECT))))
    return with_xattrs(node, xattrs)


def _escaped(xattrs: Xattrs) -> Xattrs:
    escaped = _DIALECT.escape(xattrs)
    return tuple(item for item in escaped if len(item[0]) <= XATTR_NAME_MAX and not item[0].startswith(_TRUSTED))


def _marks(node: Inode, *, whiteouts: bool = False) -> Xattrs:
    marks = overlay_marks(node, _DIALECT, holds_whiteouts=whiteouts, is_root=False)
    return tuple(item for item in marks if not item[0].startswith(_TRUSTED))
