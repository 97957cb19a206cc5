"""Patch trees: a plain tree with whiteout markers, read as a layer. Pure.

Two families of markers are understood, also mixed: files named ``.wh.NAME`` and ``.wh..wh..opq`` (OCI image layer
specification, "Whiteouts"), and what overlayfs keeps in an upperdir: character devices 0:0, directories with
``trusted.overlay.opaque`` or ``user.overlay.opaque``, and the empty files marked as whiteouts (with ``opaque=x``).
"""

from __future__ import annotations

import os

from stratum.errors import UsageError
from stratum.tree import overlay
from stratum.tree.merge import Task, run_deep
from stratum.tree.model import Directory, File, Inode, Whiteout, Xattrs, with_xattrs

_PREFIXES = tuple(dialect.prefix for dialect in overlay.Dialect)
_MARKER = b".wh."
_OPAQUE_MARKER = b".wh..wh..opq"
_RESERVED = b".wh..wh."  # other names below this belong to aufs and are no content


def layer_from_patch_tree(root: Directory) -> Directory:
    """The layer that the tree at ``root`` describes; the input stays as it is, unchanged parts are shared.

    A whiteout hides what lies below the layer, so a name that the patch also brings stays (a directory: opaque).
    overlayfs's bookkeeping attributes are dropped, escaped ones unescaped. ``UsageError`` for a marker without a name,
    a directory named like a marker, and for what only has a meaning over one certain base: redirect and metacopy.
    """
    return run_deep(_Converter().directory(b"/", root))


class _Converter:
    """Keeps hard links: an inode that is rewritten is rewritten once."""

    def __init__(self) -> None:
        self._rewritten: dict[int, Inode] = {}

    def directory(self, path: bytes, tree: Directory) -> Task[Directory]:
        opaque, xattrs = self._overlay_state(path, tree)
        hidden: list[bytes] = []
        children: dict[bytes, Inode] = {}
        for name, inode in tree.children.items():
            where = path.rstrip(b"/") + b"/" + name
            if name.startswith(_MARKER):
                if name == _OPAQUE_MARKER:
                    opaque = overlay.OPAQUE_YES
                elif not name.startswith(_RESERVED):
                    hidden.append(_hidden_name(where, name, inode))
            elif isinstance(inode, Directory):
                children[name] = yield self.directory(where, inode)
            else:
                children[name] = self._leaf(where, inode)
        for name in hidden:
            inode = children.setdefault(name, Whiteout())
            if isinstance(inode, Directory) and not inode.opaque:
                children[name] = _copy(inode, inode.xattrs, inode.children, opaque=True)
        is_opaque = opaque == overlay.OPAQUE_YES
        if tree.opaque == is_opaque and xattrs == tree.xattrs and _unchanged(children, tree.children):
            return tree
        return _copy(tree, xattrs, children, opaque=is_opaque)

    def _overlay_state(self, path: bytes, inode: Inode) -> tuple[bytes | None, Xattrs]:
        """The value of the opaque attribute, and the attributes that are content."""
        xattrs = inode.xattrs
        opaque = None
        for dialect in overlay.Dialect:
            private, xattrs = dialect.split(xattrs)
            opaque = private.get(overlay.OPAQUE, opaque)
            for name in (overlay.REDIRECT, overlay.METACOPY):
                if name in private:
                    raise UsageError(
                        f"{os.fsdecode(path)} in the patch refers to another layer ({os.fsdecode(dialect.own(name))})",
                        hint="copy the patch out of a mounted view instead of taking an overlay's upper directory",
                    )
        return opaque, xattrs

    def _leaf(self, path: bytes, inode: Inode) -> Inode:
        if isinstance(inode, Whiteout) or overlay.is_whiteout_device(inode):
            return Whiteout()
        if isinstance(inode, File) and inode.size == 0 and _marked_whiteout(inode.xattrs):
            return Whiteout()
        if not any(name.startswith(_PREFIXES) for name, _ in inode.xattrs):
            return inode
        done = self._rewritten.get(id(inode))
        if done is None:
            done = self._rewritten[id(inode)] = with_xattrs(inode, self._overlay_state(path, inode)[1])
        return done


def _hidden_name(path: bytes, marker: bytes, inode: Inode) -> bytes:
    name = marker[len(_MARKER) :]
    if isinstance(inode, Directory):
        raise UsageError(f"{os.fsdecode(path)} in the patch is a directory with the name of a whiteout")
    if name in (b"", b".", b".."):
        raise UsageError(f"{os.fsdecode(path)} in the patch is a whiteout of no valid name")
    return name


def _marked_whiteout(xattrs: Xattrs) -> bool:
    names = {dialect.own(overlay.WHITEOUT) for dialect in overlay.Dialect}
    return any(name in names for name, _ in xattrs)


def _unchanged(new: dict[bytes, Inode], old: dict[bytes, Inode]) -> bool:
    return len(new) == len(old) and all(new.get(name) is child for name, child in old.items())


def _copy(tree: Directory, xattrs: Xattrs, children: dict[bytes, Inode], *, opaque: bool) -> Directory:
    return Directory(tree.mode, tree.uid, tree.gid, tree.mtime, xattrs, children=children, opaque=opaque)
