"""A layer as the tree of files that overlayfs takes for it: what to write into an upperdir. Pure."""

from __future__ import annotations

import stat

from stratum.errors import UnsupportedError
from stratum.tree import overlay
from stratum.tree.merge import Task, run_deep
from stratum.tree.model import Directory, Inode, Special, Whiteout, with_xattrs

_WHITEOUT = stat.S_IFCHR
_OPAQUE = (overlay.TRUSTED_PREFIX + overlay.OPAQUE, overlay.OPAQUE_YES)


def upper_form(layer: Directory) -> Directory:
    """``layer`` with whiteouts as character devices 0:0, opaque directories marked by their xattr, and xattrs under
    overlayfs's own prefix escaped, so that an overlay with this upperdir shows the layer.

    Hard links stay hard links. Raises ``UnsupportedError`` for a character device 0:0 of the layer's own, which an
    upperdir cannot hold.
    """
    return run_deep(_directory(layer, {}))


def _directory(layer: Directory, done: dict[int, Inode]) -> Task[Directory]:
    children: dict[bytes, Inode] = {}
    for name, node in layer.children.items():
        if isinstance(node, Directory):
            children[name] = yield _directory(node, done)
        elif isinstance(node, Whiteout):
            children[name] = Special(_WHITEOUT, 0, 0, 0)
        else:
            if id(node) not in done:
                done[id(node)] = _stored(node)
            children[name] = done[id(node)]
    xattrs = overlay.escape_xattrs(layer.xattrs)
    if layer.opaque:
        xattrs = tuple(sorted((*xattrs, _OPAQUE)))
    return Directory(layer.mode, layer.uid, layer.gid, layer.mtime, xattrs, children=children)


def _stored(node: Inode) -> Inode:
    if overlay.is_whiteout_device(node):
        raise UnsupportedError("a character device 0:0 cannot be kept as a change of a worktree")
    xattrs = overlay.escape_xattrs(node.xattrs)
    return node if xattrs == node.xattrs else with_xattrs(node, xattrs)
