"""What is known of an upperdir: its directories, and its other inodes with the names that they have. Pure.

An upper directory stays the same object whatever its name is, as long as it is there; so does what is known of an upper
inode. Of each file there is an entry in its directory, one in the index of inodes, and one object of eight fields.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from stratum.ingest.upperentry import Metadata
from stratum.tree.model import Directory, Inode

Number = int | tuple[int, int]
"""An inode number; with the device before it where that is not the upperdir's."""


class UpperDirectory:
    """A directory of an upperdir.

    ``key`` is its device and inode number, ``handle`` its file handle (``sys.handles``; empty where the file system has
    none). ``parent`` is None for the top, and for a directory that has gone; with ``name`` it says where the directory
    was last seen. ``subdirectories`` are those in it by name, ``known`` what else stands there, but for whiteouts.
    """

    __slots__ = (
        "handle",
        "is_marked",
        "key",
        "known",
        "lower",
        "merged",
        "metadata",
        "name",
        "omits",
        "parent",
        "redirect",
        "subdirectories",
        "xattr_whiteouts",
    )

    def __init__(self, key: tuple[int, int], handle: bytes, parent: UpperDirectory | None, name: bytes) -> None:
        self.key = key
        self.handle = handle
        self.parent = parent
        self.name = name
        self.known: dict[bytes, UpperInode] = {}
        self.subdirectories: dict[bytes, UpperDirectory] = {}
        self.merged: Directory | None = None  # what shows; None: it was not listed yet
        self.metadata: Metadata = (0, 0, 0, 0, ())  # its own, as of the last look
        self.lower: Directory | None = None  # what of the base shows in it
        self.redirect: bytes | None = None
        self.xattr_whiteouts = False
        self.omits = False  # something in it has too long a path for any tree
        self.is_marked = False

    def path(self) -> bytes:
        """Its path in the upperdir, which is the one in the worktree: ``/`` for the top."""
        parts = []
        directory = self
        while directory.parent is not None:
            parts.append(directory.name)
            directory = directory.parent
        parts.append(b"")
        return b"/".join(reversed(parts)) or b"/"

    def within(self, name: bytes) -> bytes:
        """The path of an entry."""
        return self.path().rstrip(b"/") + b"/" + name

    def above(self) -> Iterator[UpperDirectory]:
        """It and all that it is in, up to the top."""
        directory: UpperDirectory | None = self
        while directory is not None:
            yield directory
            directory = directory.parent

    def below(self) -> list[UpperDirectory]:
        """It and all directories in it."""
        found = [self]
        for directory in found:
            found += directory.subdirectories.values()
        return found


class UpperInode:
    """An upper inode that is no directory: what it was when it was last looked at, and the names that it has.

    ``ctime`` is negative where it may change and have the same change time. ``inode`` is what it stands for.
    ``directory`` and ``name`` are one of its names; ``more`` has the others, and is None as long as it never had any.
    """

    __slots__ = ("ctime", "directory", "inode", "more", "mtime", "name", "number", "size")

    def __init__(self, number: Number) -> None:
        self.number = number
        self.size = 0
        self.mtime = 0
        self.ctime = 0
        self.inode: Inode | None = None
        self.directory: UpperDirectory | None = None
        self.name = b""
        self.more: dict[tuple[UpperDirectory, bytes], None] | None = None

    def places(self) -> list[tuple[UpperDirectory, bytes]]:
        """Its names, as the directory and the name there."""
        first = [] if self.directory is None else [(self.directory, self.name)]
        return [*first, *self.more] if self.more else first

    def count(self) -> int:
        """How many names are known."""
        return (self.directory is not None) + len(self.more or ())


class UpperNodes:
    """All that is known of an upperdir, whose top is ``root``."""

    def __init__(self, key: tuple[int, int], handle: bytes) -> None:
        self.root = UpperDirectory(key, handle, None, b"")
        self.directories: dict[tuple[int, int], UpperDirectory] = {key: self.root}
        self.inodes: dict[Number, UpperInode] = {}
        self.linked: dict[int, UpperInode] = {}  # by ``id(inode)``, those with several names
        self._device = key[0]

    def number(self, key: tuple[int, int]) -> Number:
        """What the inode of a device and number is called here."""
        return key[1] if key[0] == self._device else key

    def add(self, known: UpperInode, directory: UpperDirectory, name: bytes) -> None:
        """Note another name of an inode, which has none yet, or others."""
        directory.known[name] = known
        if known.directory is None:
            known.directory, known.name = directory, name
            self.inodes[known.number] = known
            return
        if known.more is None:
            known.more = {}
        known.more[directory, name] = None
        if known.inode is not None:
            self.linked[id(known.inode)] = known

    def remove(self, directory: UpperDirectory, name: bytes) -> UpperInode | None:
        """Forget a name; the inode that had it, if it was the last name."""
        known = directory.known.pop(name, None)
        if known is None:
            return None
        if known.directory is directory and known.name == name:
            known.directory = None
            if known.more:
                (known.directory, known.name), _ = known.more.popitem()
        elif known.more:
            del known.more[directory, name]
        if not known.more:
            self.linked.pop(id(known.inode), None)
        if known.directory is not None:
            return None
        self.inodes.pop(known.number, None)
        return known

    def set_inode(self, known: UpperInode, inode: Inode, info: os.stat_result, *, trusted: bool) -> None:
        """Note what an upper inode, found as ``info``, stands for; ``trusted``: its times tell each later change."""
        if known.inode is not inode:
            self.linked.pop(id(known.inode), None)
            known.inode = inode
            if known.more:
                self.linked[id(inode)] = known
        known.size, known.mtime = info.st_size, info.st_mtime_ns
        known.ctime = info.st_ctime_ns if trusted else -info.st_ctime_ns
