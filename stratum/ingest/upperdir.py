"""An overlayfs upperdir over a base tree, read as the tree that the mounted overlay shows.

What each entry stands for says ``ingest.upperentry``.

Two names are one inode when their upper inodes are. A base inode with several names loses one when that name is
copied up, in the mounted view as here: without an index the kernel does not keep such links.

Only what is in the upperdir is looked at, so the cost follows the change and not the tree. The reader changes
nothing, and the worktree may be mounted and in use meanwhile: every entry is opened relative to its directory, without
following symlinks, and what it is decided on that open file. A file or directory that keeps changing is reported.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from stratum.ingest.reader import Pending, source_error
from stratum.ingest.staging import open_source, signature
from stratum.ingest.upperentry import (
    OPEN_ENTRY,
    Metadata,
    UpperEntries,
    UpperEntry,
    Warn,
    merged_directory,
    metadata,
)
from stratum.sys.copymark import check_mark
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.tree import overlay
from stratum.tree.limits import refuse_long_path
from stratum.tree.model import Directory, File, Inode

_ATTEMPTS = 3

_Stamp = tuple[int, int, int]
Knows = Callable[[bytes, int, File], bool]


class ContentReader(Protocol):
    """What gives ``File`` nodes their content: ``ingest.reader.FileReader``."""

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        """Take files to be read."""

    def finish(self) -> None:
        """Wait until the node of every file is complete."""


def read_upperdir(
    base: Directory,
    upper: Path | int,
    reader: ContentReader,
    *,
    warn: Warn | None = None,
    dialect: overlay.Dialect = overlay.Dialect.TRUSTED,
    knows: Knows = lambda path, size, node: False,
) -> Directory:
    """The tree that the overlay of ``upper`` (a path or a directory fd) over ``base`` shows.

    It shares what did not change with ``base``, and is ``base`` itself where nothing did. Files with data of their own
    are read by ``reader`` (a ``FileReader``), which is finished when this returns, unless ``knows`` says of their path
    and size that they need not be; then it has made the node what it is to be. ``warn`` gets a line for each socket,
    which no tree holds, and each directory that kept changing. ``dialect`` is that of the mount.

    ``DamagedError`` where the upperdir does not fit ``base``, ``ConflictError`` where directories are moved while they
    are read, ``StratumError`` with the kernel's words where something cannot be read. A path that is a copy without
    attributes (``sys.copymark``) is a ``LostAttributesError``.
    """
    if isinstance(upper, Path):
        check_mark(upper.parent)
    try:
        root = os.open(b".", OPEN_DIRECTORY, dir_fd=upper) if isinstance(upper, int) else os.open(upper, OPEN_DIRECTORY)
    except OSError as exc:
        raise source_error(exc, f"the upper directory {upper}") from None
    with DirectoryStack(root) as directories:
        return _Scan(base, directories, reader, warn, dialect, knows).run()


class _Frame:
    """A directory of the upperdir while it is read: its lower directory, and the merged children so far."""

    __slots__ = ("children", "lower", "metadata", "name", "path", "subdirectories", "xattr_whiteouts")

    def __init__(self, name: bytes, path: bytes, lower: Directory | None) -> None:
        self.name = name
        self.path = path
        self.lower = lower
        self.children: dict[bytes, Inode] = {}
        self.subdirectories: list[bytes] = []
        self.xattr_whiteouts = False
        self.metadata: Metadata = (0, 0, 0, 0, ())

    def within(self, name: bytes) -> bytes:
        """The path of an entry."""
        return self.path.rstrip(b"/") + b"/" + name


class _Scan:
    """One pass over an upperdir, directory by directory, without recursion."""

    def __init__(
        self,
        base: Directory,
        directories: DirectoryStack,
        reader: ContentReader,
        warn: Warn | None,
        dialect: overlay.Dialect,
        knows: Knows,
    ) -> None:
        self._knows = knows
        self._directories = directories
        self._reader = reader
        self._entries = UpperEntries(base, dialect, warn)
        self._linked: dict[tuple[int, ...], Inode] = {}  # upper inodes with several names
        self._at = b"/"  # what is looked at

    def run(self) -> Directory:
        frame = _Frame(b"", b"/", self._entries.base)
        frames = [frame]
        try:
            self._list(frame)
            while frames:
                frame = frames[-1]
                if frame.subdirectories:
                    inner = self._enter(frame, frame.subdirectories.pop())
                    if inner is not None:
                        frames.append(inner)
                        self._list(inner)
                    continue
                frames.pop()
                if frames:
                    self._at = frames[-1].path
                    self._directories.pop()
                    frames[-1].children[frame.name] = _finished(frame)
        except OSError as exc:
            raise source_error(exc, f"{os.fsdecode(self._at)} in the upper directory") from exc
        self._reader.finish()
        return _finished(frame)

    def _list(self, frame: _Frame) -> None:
        """Read the current directory into ``frame``: all but its subdirectories, whose names are left there."""
        fd = self._directories.top
        for _ in range(_ATTEMPTS):
            self._at = frame.path
            before = os.fstat(fd)
            self._entries.check_owner(before, frame.path)
            private, xattrs = self._entries.attributes(fd, frame.path)
            frame.metadata = metadata(before, xattrs)
            frame.xattr_whiteouts = private.get(overlay.OPAQUE) == overlay.OPAQUE_XATTR_WHITEOUTS
            frame.children = dict(frame.lower.children) if frame.lower is not None else {}
            names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
            frame.subdirectories = [name for name in names if self._take(frame, name)]
            if _stamp(os.fstat(fd)) == _stamp(before):
                return
        self._entries.warn(f"{os.fsdecode(frame.path)}: the directory kept changing while it was read")

    def _take(self, frame: _Frame, name: bytes) -> bool:
        """Put one entry into ``frame``; True for a directory, which is left alone."""
        self._at = path = frame.within(name)
        fd = self._open(name)
        if fd is None:
            return False
        try:
            entry = UpperEntry(fd, os.fstat(fd), name, path)
            refuse_long_path(entry.path)
            if stat.S_ISDIR(entry.info.st_mode):
                return True
            inode = self._inode(frame, entry)
        finally:
            os.close(fd)
        if inode is None:
            frame.children.pop(name, None)
        else:
            frame.children[name] = inode
        return False

    def _open(self, name: bytes) -> int | None:
        """An O_PATH fd of an entry of the current directory, of a symlink or device itself; None where it has gone.

        What has gone from the upperdir without leaving a whiteout hides nothing of the base.
        """
        try:
            return os.open(name, OPEN_ENTRY, dir_fd=self._directories.top)
        except FileNotFoundError:
            return None

    def _enter(self, frame: _Frame, name: bytes) -> _Frame | None:
        """Go into a subdirectory; None where the name is none any more, which is taken as what it is now."""
        self._at = path = frame.within(name)
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=self._directories.top)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            if self._take(frame, name):
                frame.subdirectories.append(name)  # a directory again
            return None
        self._directories.push(fd, os.fstat(fd))
        private, _ = self._entries.attributes(fd, path)
        return _Frame(name, path, self._entries.lower_directory(frame.lower, name, private, path))

    def _inode(self, frame: _Frame, entry: UpperEntry) -> Inode | None:
        """The inode of an entry; None where the name is deleted, or is one that no tree can have."""
        info = entry.info
        key = (info.st_dev, info.st_ino, info.st_size, *metadata(info, ())[:4]) if info.st_nlink > 1 else None
        known = self._linked.get(key) if key is not None else None
        if known is not None:
            return known
        inode = self._entries.inode(entry, frame.lower, xattr_whiteouts=frame.xattr_whiteouts)
        if entry.has_data and isinstance(inode, File):
            self._read(frame, entry, inode)
        if key is not None and inode is not None:
            self._linked[key] = inode
        return inode

    def _read(self, frame: _Frame, entry: UpperEntry, node: File) -> None:
        """Have the content read from the very inode that was looked at, whatever has its name by then."""
        if entry.info.st_nlink == 1 and self._knows(entry.path, entry.info.st_size, node):
            return
        below = frame.lower.children.get(entry.name) if frame.lower is not None else None
        candidate = below.digest if isinstance(below, File) and below.size == entry.info.st_size else None
        fd = open_source(f"/proc/self/fd/{entry.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            key = signature(entry.info)
            pending = Pending(entry.name, entry.info, node, key, xattrs=False, candidate=candidate, opened=True)
            self._reader.read(fd, os.path.dirname(entry.path), [pending])
        finally:
            os.close(fd)


def _finished(frame: _Frame) -> Directory:
    return merged_directory(frame.metadata, frame.lower, frame.children)


def _stamp(info: os.stat_result) -> _Stamp:
    return (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
