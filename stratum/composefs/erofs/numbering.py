"""The order of inodes in an image: breadth-first from the root, names in byte order.

A hard-linked inode stands where the first of its names in *dump order* (depth-first) is.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator

from stratum.composefs.erofs import layout
from stratum.tree.model import Directory, Inode, Special, Xattrs
from stratum.tree.overlay import is_whiteout_device


class ObjectMask(Special):
    """A character device 0:0 in the image's root that overlayfs obeys: it hides one of the object directories."""

    __slots__ = ()


class DirectoryNode:
    """One place of a directory in a tree; a directory that is shared has several.

    ``names`` are those of the children with ``.`` and ``..``, sorted. ``links`` are the names whose inode stands
    elsewhere; all other children have consecutive numbers from ``first_child``.
    """

    __slots__ = ("directory", "first_child", "holds_whiteouts", "links", "names", "number", "parent", "subdirectories")

    def __init__(self, directory: Directory, parent: DirectoryNode | None) -> None:
        self.directory = directory
        self.parent = self if parent is None else parent
        self.names = sorted([*directory.children, b".", b".."])
        self.subdirectories: list[DirectoryNode] = []
        self.links: dict[bytes, Inode] = {}
        self.number = 0
        self.first_child = 0
        self.holds_whiteouts = False


class Numbering:
    """Every inode of an image in its order.

    ``inodes[number]`` and ``types[number]`` (the type in directory entries) describe it, ``nodes[number]`` is there for
    directories only; ``link_counts`` and ``link_numbers`` are by ``id`` of those inodes that have several names.
    The first inode is a copy of ``root`` with object masks in it.
    """

    def __init__(self, root: Directory) -> None:
        self.inodes: list[Inode] = []
        self.types = bytearray()
        self.nodes: dict[int, DirectoryNode] = {}
        self.link_counts: dict[int, int] = {}
        self.link_numbers: dict[int, int] = {}
        self.holds_whiteouts = False
        top = DirectoryNode(with_object_masks(root), None)
        self._find_links(top)
        self._number(top)

    def _find_links(self, top: DirectoryNode) -> None:
        """Visit everything in dump order and set aside the names of inodes that were seen before."""
        seen: set[int] = set()
        counts = self.link_counts
        stack: list[tuple[DirectoryNode, Iterator[bytes]]] = [(top, iter(top.names))]
        while stack:
            node, names = stack[-1]
            children = node.directory.children
            for name in names:
                child = children.get(name)
                if child is None:
                    continue
                if type(child) is Directory:
                    inner = DirectoryNode(child, node)
                    node.subdirectories.append(inner)
                    stack.append((inner, iter(inner.names)))
                    break
                key = id(child)
                if key in seen:
                    node.links[name] = child
                    counts[key] = counts.get(key, 1) + 1
                else:
                    seen.add(key)
            else:
                stack.pop()

    def _number(self, top: DirectoryNode) -> None:
        inodes, types = self.inodes, self.types
        inodes.append(top.directory)
        types.append(layout.DIRECTORY)
        self.nodes[0] = top
        queue = [top]
        for node in queue:
            node.first_child = len(inodes)
            children = node.directory.children
            inner = iter(node.subdirectories)
            for name in node.names:
                child = children.get(name)
                if child is None or name in node.links:
                    continue
                if type(child) is Directory:
                    below = next(inner)
                    below.number = len(inodes)
                    self.nodes[below.number] = below
                    queue.append(below)
                    types.append(layout.DIRECTORY)
                else:
                    if type(child) is Special and is_whiteout_device(child):
                        node.holds_whiteouts = self.holds_whiteouts = True
                        types.append(layout.REGULAR)
                    else:
                        types.append(layout.FILE_TYPES[child.mode >> 12 & 15])
                    if id(child) in self.link_counts:
                        self.link_numbers[id(child)] = len(inodes)
                inodes.append(child)


def with_object_masks(root: Directory) -> Directory:
    """``root`` with a whiteout for each name that an object directory has (``00`` to ``ff``) and the tree has not.

    They hide the objects' own directories where overlayfs merges them with the image.
    """
    label: Xattrs = tuple(pair for pair in root.xattrs if pair[0] == b"security.selinux")
    masks: dict[bytes, Inode] = {
        b"%02x" % number: ObjectMask(stat.S_IFCHR | 0o644, root.uid, root.gid, root.mtime, label)
        for number in range(256)
    }
    return Directory(root.mode, root.uid, root.gid, root.mtime, root.xattrs, children=masks | root.children)
