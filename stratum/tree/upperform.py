"""A layer as the tree of files that overlayfs takes for it: what to write into an upperdir. Pure."""

from __future__ import annotations

import stat

from stratum.errors import UnsupportedError
from stratum.tree.merge import Task, run_deep
from stratum.tree.model import Directory, Inode, Special, Whiteout, with_xattrs
from stratum.tree.overlay import OPAQUE, OPAQUE_YES, Dialect, is_whiteout_device

_WHITEOUT = stat.S_IFCHR


def upper_form(layer: Directory, dialect: Dialect = Dialect.TRUSTED) -> Directory:
    """``layer`` with whiteouts as character devices 0:0, opaque directories marked by their xattr, and xattrs under
    overlayfs's own prefix escaped, so that an overlay of ``dialect`` with this upperdir shows the layer.

    Hard links stay hard links. Raises ``UnsupportedError`` for a character device 0:0 of the layer's own, which an
    upperdir cannot hold.
    """
    return run_deep(_directory(layer, dialect, {}))


def _directory(layer: Directory, dialect: Dialect, done: dict[int, Inode]) -> Task[Directory]:
    children: dict[bytes, Inode] = {}
    for name, node in layer.children.items():
        if isinstance(node, Directory):
            children[name] = yield _directory(node, dialect, done)
        elif isinstance(node, Whiteout):
            children[name] = Special(_WHITEOUT, 0, 0, 0)
        else:
            if id(node) not in done:
                done[id(node)] = _stored(node, dialect)
            children[name] = done[id(node)]
    xattrs = dialect.escape(layer.xattrs)
    if layer.opaque:
        xattrs = tuple(sorted((*xattrs, (dialect.own(OPAQUE), OPAQUE_YES))))
    return Directory(layer.mode, layer.uid, layer.gid, layer.mtime, xattrs, children=children)


def _stored(node: Inode, dialect: Dialect) -> Inode:
    if is_whiteout_device(node):
        raise UnsupportedError("a character device 0:0 cannot be kept as a change of a worktree")
    xattrs = dialect.escape(node.xattrs)
    return node if xattrs == node.xattrs else with_xattrs(node, xattrs)
