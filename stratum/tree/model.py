"""The entries of a directory tree.

A tree is a ``Directory``; its ``children`` map names (bytes, neither NUL nor '/') to inodes. Hard links are one
inode object under several names. Trees are treated as immutable once built: merge and commit make new
``Directory`` objects along the changed paths and share everything else, so never write to an inode that you
did not just make. Link counts are no part of a tree: they are derived from its names.
"""

from __future__ import annotations

import stat
from bisect import bisect_left
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Protocol

Xattrs = tuple[tuple[bytes, bytes], ...]

INLINE_MAX = 64
"""Regular files of at most this many bytes have their content in the dump and in the image."""


class Inode:
    """What every file has: type and permissions, owner, modification time, extended attributes.

    ``mode`` is the full ``st_mode``; ``mtime`` is in nanoseconds since the epoch and may be negative;
    ``xattrs`` is sorted by name, each name with its namespace prefix.
    """

    __slots__ = ("gid", "mode", "mtime", "uid", "xattrs")

    def __init__(self, mode: int, uid: int, gid: int, mtime: int, xattrs: Xattrs = ()) -> None:
        self.mode = mode
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.xattrs = xattrs

    def metadata(self) -> tuple[int, int, int, int, Xattrs]:
        """(mode, uid, gid, mtime, xattrs): what two inodes of one type can differ in besides content."""
        return (self.mode, self.uid, self.gid, self.mtime, self.xattrs)

    def content_key(self) -> object:
        """A value equal for two inodes of one type exactly when their content is equal (directories: always)."""
        return None


class File(Inode):
    """A regular file of ``size`` bytes.

    Its content is ``content`` (at most ``INLINE_MAX`` bytes; None for the empty file) or the object named by
    ``digest`` (32 bytes, fs-verity SHA-256).
    """

    __slots__ = ("content", "digest", "size")

    def __init__(
        self,
        mode: int,
        uid: int,
        gid: int,
        mtime: int,
        xattrs: Xattrs = (),
        *,
        size: int = 0,
        digest: bytes | None = None,
        content: bytes | None = None,
    ) -> None:
        self.mode = mode  # as Inode does, without the cost of a call: most inodes are files
        self.uid = uid
        self.gid = gid
        self.mtime = mtime
        self.xattrs = xattrs
        self.size = size
        self.digest = digest
        self.content = content

    def content_key(self) -> object:
        return (self.size, self.digest, self.content)


def content_unknown(inode: Inode) -> bool:
    """Whether it is a regular file of which nobody knows the content, as only the trees of a history have them
    (``tree.oplog``): no commit can hold one."""
    return isinstance(inode, File) and inode.size > 0 and inode.digest is None and inode.content is None


class Symlink(Inode):
    """A symbolic link to ``target`` (1 to 4095 bytes, no NUL)."""

    __slots__ = ("target",)

    def __init__(self, mode: int, uid: int, gid: int, mtime: int, xattrs: Xattrs = (), *, target: bytes) -> None:
        super().__init__(mode, uid, gid, mtime, xattrs)
        self.target = target

    def content_key(self) -> object:
        return self.target


class Special(Inode):
    """A fifo, socket, character or block device; ``rdev`` is the kernel's ``st_rdev`` (0 for fifo and socket)."""

    __slots__ = ("rdev",)

    def __init__(self, mode: int, uid: int, gid: int, mtime: int, xattrs: Xattrs = (), *, rdev: int = 0) -> None:
        super().__init__(mode, uid, gid, mtime, xattrs)
        self.rdev = rdev

    def content_key(self) -> object:
        return self.rdev


class Directory(Inode):
    """A directory. In a layer, ``opaque`` hides everything the trees below have at its path.

    One that comes from ``tree.lazy`` has a ``region``, and reads its ``children`` when they are first asked for, which
    raises ``DamagedError`` where the dump is not canonical there.
    """

    __slots__ = ("children", "opaque", "region")

    def __init__(
        self,
        mode: int,
        uid: int,
        gid: int,
        mtime: int,
        xattrs: Xattrs = (),
        *,
        children: dict[bytes, Inode] | None = None,
        opaque: bool = False,
    ) -> None:
        super().__init__(mode, uid, gid, mtime, xattrs)
        self.children: dict[bytes, Inode] = {} if children is None else children
        self.opaque = opaque
        self.region: Region | None = None

    if not TYPE_CHECKING:  # it would have mypy take every name for an attribute

        def __getattr__(self, name: str) -> Any:
            """Called only for what is not set: ``children`` that were not read yet."""
            if name != "children":
                raise AttributeError(f"a directory has no {name}")
            self.children = self.region.read()
            return self.children

    def with_children(self, children: dict[bytes, Inode]) -> Directory:
        """A copy of this directory's own metadata over other children."""
        return Directory(self.mode, self.uid, self.gid, self.mtime, self.xattrs, children=children)


class Source(Protocol):
    """The dump that unread directories are read from: ``tree.lazy.LazyDump``.

    ``read_lines`` is ``id(inode)`` -> where its line begins and ends, and the inode, for everything read that is no
    directory and has one name. ``link_offsets`` are where lines of inodes with several names begin, sorted.
    """

    dump: bytes
    read_lines: dict[int, tuple[int, int, Inode]]

    @property
    def link_offsets(self) -> list[int]: ...

    def children(self, region: Region) -> dict[bytes, Inode]:
        """Name -> inode of everything in the directory of ``region``, its subdirectories not read yet."""

    def same_bytes(self, ours: Region, theirs: Region) -> bool:
        """Whether two regions of one size, here and in another dump, have the same lines."""


class Region:
    """The lines of a directory in a dump: its own at ``start``, those of what is below from ``inner`` to ``end``.

    ``prefix`` is the directory's escaped path with a slash behind it; ``was_read`` tells whether its children, as
    objects, can be anywhere else.
    """

    __slots__ = ("end", "inner", "prefix", "source", "start", "was_read")

    def __init__(self, source: Source, prefix: bytes, start: int, inner: int, end: int) -> None:
        self.source = source
        self.prefix = prefix
        self.start = start
        self.inner = inner
        self.end = end
        self.was_read = False

    def read(self) -> dict[bytes, Inode]:
        """The directory's children. ``DamagedError``."""
        self.was_read = True
        return self.source.children(self)

    @property
    def has_links(self) -> bool:
        """Whether anything in the directory or below has several names, here or elsewhere."""
        offsets = self.source.link_offsets
        index = bisect_left(offsets, self.start)
        return index < len(offsets) and offsets[index] < self.end

    @property
    def is_separate(self) -> bool:
        """Whether no inode in the directory or below is, or can have become, that of a path elsewhere."""
        return not self.was_read and not self.has_links

    def same_as(self, other: Region) -> bool:
        """Whether another dump has the very same lines here, and they are all there is to say of what is below."""
        if self.prefix != other.prefix or self.end - self.start != other.end - other.start:
            return False
        return self.is_separate and other.is_separate and self.source.same_bytes(self, other)


class Whiteout(Inode):
    """In a layer: the name is deleted from the trees below. Never part of a commit's tree."""

    __slots__ = ()

    def __init__(self) -> None:
        super().__init__(stat.S_IFCHR, 0, 0, 0)


def with_xattrs(inode: Inode, xattrs: Xattrs) -> Inode:
    """A copy of an inode that is no directory, with other extended attributes."""
    common = (inode.mode, inode.uid, inode.gid, inode.mtime, xattrs)
    if isinstance(inode, File):
        return File(*common, size=inode.size, digest=inode.digest, content=inode.content)
    if isinstance(inode, Symlink):
        return Symlink(*common, target=inode.target)
    assert isinstance(inode, Special)
    return Special(*common, rdev=inode.rdev)


def object_path(digest: bytes) -> bytes:
    """``ab/cdef...``: where the object with this 32-byte digest lives below the object directory."""
    return digest.hex("/", 31).encode()


def walk(root: Directory) -> Iterator[tuple[bytes, Inode]]:
    """Every entry as (path, inode), depth-first, names in byte order, the root first as ``b"/"``.

    Iterative, so that depth is bounded by memory and not by the interpreter's stack.
    """
    yield b"/", root
    stack: list[Iterator[tuple[bytes, Inode]]] = [_sorted_children(b"/", root)]
    while stack:
        for path, inode in stack[-1]:
            yield path, inode
            if isinstance(inode, Directory):
                stack.append(_sorted_children(path + b"/", inode))
                break
        else:
            stack.pop()


def _sorted_children(prefix: bytes, directory: Directory) -> Iterator[tuple[bytes, Inode]]:
    children = directory.children
    for name in sorted(children):
        yield prefix + name, children[name]


def lookup(root: Directory, path: bytes) -> Inode | None:
    """The inode at ``path`` (leading and repeated slashes are ignored; symlinks are not followed), or None."""
    inode: Inode = root
    for name in path.split(b"/"):
        if not name:
            continue
        if not isinstance(inode, Directory):
            return None
        child = inode.children.get(name)
        if child is None:
            return None
        inode = child
    return inode
