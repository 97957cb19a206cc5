"""An overlayfs upperdir over a base tree, read as the tree that the mounted overlay shows.

The mount is the one that ``stratum.mount`` makes: one EROFS lower layer holding the base tree, objects as a data-only
layer, ``redirect_dir=on``, ``metacopy=on``, no index. What the kernel keeps in the upperdir then means
(Documentation/filesystems/overlayfs.rst):

- a character device 0:0, or an empty file with ``overlay.whiteout`` in a directory with ``opaque=x``: deleted;
- ``opaque=y`` on a directory: nothing of the base shows in it;
- ``redirect`` on a directory: what shows below it is the base's directory of that path (see ``upper_lower``);
- ``metacopy`` on a file: its metadata is here, its data is the base's, at ``redirect`` where there is one;
- ``overlay.*`` below the prefix: attributes of the user's, escaped once; every other name is bookkeeping.

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

from stratum.errors import StratumError
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.ingest.reader import Pending, source_error
from stratum.ingest.staging import open_source
from stratum.ingest.upper_lower import damaged, lower_entry
from stratum.sys.copymark import check_mark
from stratum.sys.xattrs import read_fd_xattrs
from stratum.tree import overlay
from stratum.tree.limits import refuse_long_path
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs

_ATTEMPTS = 3
_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC

Warn = Callable[[str], None]
_Stamp = tuple[int, int, int]


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
) -> Directory:
    """The tree that the overlay of ``upper`` (a path or a directory fd) over ``base`` shows.

    It shares what did not change with ``base``, and is ``base`` itself where nothing did. Files with data of their own
    are read by ``reader`` (a ``FileReader``), which is finished when this returns. ``warn`` gets a line for each
    socket, which no tree holds, and each directory that kept changing. ``dialect`` is that of the mount.

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
        return _Scan(base, directories, reader, warn, dialect).run()


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
        self.metadata: tuple[int, int, int, int, Xattrs] = (0, 0, 0, 0, ())

    def within(self, name: bytes) -> bytes:
        """The path of an entry."""
        return self.path.rstrip(b"/") + b"/" + name

    def finish(self) -> Directory:
        """The merged directory: the lower one itself where nothing differs."""
        lower, children = self.lower, self.children
        mode, uid, gid, mtime, xattrs = self.metadata
        metadata = (mode, uid, gid, mtime, overlay.directory_xattrs(xattrs, children.values()))
        if (
            lower is not None
            and lower.metadata() == metadata
            and lower.children.keys() == children.keys()
            and all(children[name] is child for name, child in lower.children.items())
        ):
            return lower
        return Directory(*metadata, children=children)


class _Entry:
    """An upper entry that is no directory: open as ``fd`` (O_PATH), with overlayfs's attributes and the user's."""

    __slots__ = ("fd", "info", "name", "path", "private", "xattrs")

    def __init__(self, fd: int, info: os.stat_result, name: bytes, path: bytes) -> None:
        self.fd = fd
        self.info = info
        self.name = name
        self.path = path
        self.private: dict[bytes, bytes] = {}
        self.xattrs: Xattrs = ()

    def metadata(self) -> tuple[int, int, int, int, Xattrs]:
        return _metadata(self.info, self.xattrs)


class _Scan:
    """One pass over an upperdir, directory by directory, without recursion."""

    def __init__(
        self,
        base: Directory,
        directories: DirectoryStack,
        reader: ContentReader,
        warn: Warn | None,
        dialect: overlay.Dialect,
    ) -> None:
        self._base = base
        self._directories = directories
        self._reader = reader
        self._warn = warn
        self._dialect = dialect
        self._linked: dict[tuple[int, ...], Inode] = {}  # upper inodes with several names

    def run(self) -> Directory:
        frame = _Frame(b"", b"/", self._base)
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
                    self._directories.pop()
                    frames[-1].children[frame.name] = frame.finish()
        except OSError as exc:
            raise source_error(exc, f"{os.fsdecode(frame.path)} in the upper directory") from exc
        self._reader.finish()
        return frame.finish()

    def _list(self, frame: _Frame) -> None:
        """Read the current directory into ``frame``: all but its subdirectories, whose names are left there."""
        fd = self._directories.top
        for _ in range(_ATTEMPTS):
            before = os.fstat(fd)
            private, xattrs = self._xattrs(fd, frame.path)
            frame.metadata = _metadata(before, xattrs)
            frame.xattr_whiteouts = private.get(overlay.OPAQUE) == overlay.OPAQUE_XATTR_WHITEOUTS
            frame.children = dict(frame.lower.children) if frame.lower is not None else {}
            names = sorted(map(os.fsencode, os.listdir(fd)), reverse=True)
            frame.subdirectories = [name for name in names if self._take(frame, name)]
            if _stamp(os.fstat(fd)) == _stamp(before):
                return
        self._report(f"{os.fsdecode(frame.path)}: the directory kept changing while it was read")

    def _take(self, frame: _Frame, name: bytes) -> bool:
        """Put one entry into ``frame``; True for a directory, which is left alone."""
        fd = self._open(name)
        if fd is None:
            return False
        try:
            entry = _Entry(fd, os.fstat(fd), name, frame.within(name))
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
            return os.open(name, _ENTRY, dir_fd=self._directories.top)
        except FileNotFoundError:
            return None

    def _enter(self, frame: _Frame, name: bytes) -> _Frame | None:
        """Go into a subdirectory; None where the name is none any more, which is taken as what it is now."""
        try:
            fd = os.open(name, OPEN_DIRECTORY, dir_fd=self._directories.top)
        except OSError as exc:
            if exc.errno not in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise
            if self._take(frame, name):
                frame.subdirectories.append(name)  # a directory again
            return None
        self._directories.push(fd, os.fstat(fd))
        path = frame.within(name)
        private, _ = self._xattrs(fd, path)
        if private.get(overlay.OPAQUE) == overlay.OPAQUE_YES:
            return _Frame(name, path, None)
        redirect = private.get(overlay.REDIRECT)
        lower = lower_entry(self._base, frame.lower, name, redirect, path)
        if lower is None or isinstance(lower, Directory):
            return _Frame(name, path, lower)
        if redirect is not None:
            raise damaged(path, f"it is redirected to {os.fsdecode(redirect)!r}, which is no directory there")
        return _Frame(name, path, None)

    def _inode(self, frame: _Frame, entry: _Entry) -> Inode | None:
        """The inode of an entry; None where the name is deleted, or is one that no tree can have."""
        info, mode = entry.info, entry.info.st_mode
        if stat.S_ISCHR(mode) and info.st_rdev == 0:
            return None
        if stat.S_ISSOCK(mode):
            self._report(f"{os.fsdecode(entry.path)}: sockets are not stored")
            return None
        key = (info.st_dev, info.st_ino, info.st_size, *_metadata(info, ())[:4])
        known = self._linked.get(key) if info.st_nlink > 1 else None
        if known is not None:
            return known
        entry.private, entry.xattrs = self._xattrs(entry.fd, entry.path)
        inode: Inode
        if stat.S_ISREG(mode):
            if frame.xattr_whiteouts and info.st_size == 0 and overlay.WHITEOUT in entry.private:
                return None
            inode = self._file(frame, entry)
        elif stat.S_ISLNK(mode):
            inode = Symlink(*entry.metadata(), target=os.readlink(b"", dir_fd=entry.fd))
        else:
            inode = Special(*entry.metadata(), rdev=info.st_rdev)
        if info.st_nlink > 1:
            self._linked[key] = inode
        return inode

    def _file(self, frame: _Frame, entry: _Entry) -> Inode:
        """A regular file: with the base's data, with its own, or what stands for a whiteout device of the base."""
        mode, uid, gid, mtime, xattrs = entry.metadata()
        size = entry.info.st_size
        if overlay.stores_whiteout(size, xattrs):
            device = stat.S_IFCHR | stat.S_IMODE(mode)
            return Special(device, uid, gid, mtime, overlay.whiteout_xattrs(xattrs))
        if overlay.METACOPY in entry.private:
            redirect = entry.private.get(overlay.REDIRECT)
            lower = lower_entry(self._base, frame.lower, entry.name, redirect, entry.path)
            if lower is not None and overlay.is_whiteout_device(lower) and not size:
                return File(mode, uid, gid, mtime, xattrs)  # it is an empty file in the image, and its marks are gone
            if not isinstance(lower, File):
                raise damaged(entry.path, "its data is the base's, but the base has no such file")
            if lower.size != size:
                raise damaged(entry.path, f"its data is the base's, but it has {size} bytes and not {lower.size}")
            return File(mode, uid, gid, mtime, xattrs, size=size, digest=lower.digest, content=lower.content)
        node = File(mode, uid, gid, mtime, xattrs)
        if size:
            below = frame.lower.children.get(entry.name) if frame.lower is not None else None
            candidate = below.digest if isinstance(below, File) and below.size == size else None
            self._read(entry, node, candidate)
        return node

    def _read(self, entry: _Entry, node: File, candidate: bytes | None) -> None:
        """Have the content read from the very inode that was looked at, whatever has its name by then."""
        fd = open_source(f"/proc/self/fd/{entry.fd}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            pending = Pending(entry.name, entry.info, node, xattrs=False, candidate=candidate, opened=True)
            self._reader.read(fd, os.path.dirname(entry.path), [pending])
        finally:
            os.close(fd)

    def _xattrs(self, target: int, path: bytes) -> tuple[dict[bytes, bytes], Xattrs]:
        """overlayfs's own attributes without their prefix, and those that are part of the tree."""
        private, visible = self._dialect.split(read_fd_xattrs(target))
        try:
            return private, stored_xattrs(visible)
        except StratumError as exc:
            raise StratumError(f"cannot store {os.fsdecode(path)}: {exc.message}", hint=exc.hint) from None

    def _report(self, warning: str) -> None:
        if self._warn is not None:
            self._warn(warning)


def _metadata(info: os.stat_result, xattrs: Xattrs) -> tuple[int, int, int, int, Xattrs]:
    return (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, xattrs)


def _stamp(info: os.stat_result) -> _Stamp:
    return (info.st_size, info.st_mtime_ns, info.st_ctime_ns)
