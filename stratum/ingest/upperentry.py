"""What an entry of an upperdir stands for: the inode that the mounted overlay shows at its name.

The mount is the one that ``stratum.mount`` makes: one EROFS lower layer holding the base tree, objects as a data-only
layer, ``redirect_dir=on``, ``metacopy=on``, no index. What the kernel keeps in the upperdir then means
(Documentation/filesystems/overlayfs.rst):

- a character device 0:0, or an empty file with ``overlay.whiteout`` in a directory with ``opaque=x``: deleted;
- ``opaque=y`` on a directory: nothing of the base shows in it;
- ``redirect`` on a directory: what shows below it is the base's directory of that path (see ``upper_lower``);
- ``metacopy`` on a file: its metadata is here, its data is the base's, at ``redirect`` where there is one;
- ``overlay.*`` below the prefix: attributes of the user's, escaped once; every other name is bookkeeping.

Whoever walks an upperdir (``ingest.upperdir``, once; ``ingest.upperstate``, again and again) opens each entry relative
to its directory, without following symlinks, and asks here what it is; nothing is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from operator import is_not

from stratum.errors import StratumError
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.upper_lower import damaged, lower_entry
from stratum.sys.userns import OVERFLOW_ID, is_mapped
from stratum.sys.xattrs import read_fd_xattrs
from stratum.tree import overlay
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs

OPEN_ENTRY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""How an entry that may be anything is opened."""

Warn = Callable[[str], None]
Metadata = tuple[int, int, int, int, Xattrs]
"""Mode, uid, gid, mtime in ns, extended attributes: what ``Inode.metadata`` says."""


class UpperEntry:
    """An upper entry that is no directory: open as ``fd`` (O_PATH), with overlayfs's attributes and the user's.

    ``has_data`` tells whether it is a file with data of its own, which the inode that it stands for does not have yet.
    """

    __slots__ = ("fd", "has_data", "info", "name", "path", "private", "xattrs")

    def __init__(self, fd: int, info: os.stat_result, name: bytes, path: bytes) -> None:
        self.fd = fd
        self.info = info
        self.name = name
        self.path = path
        self.private: dict[bytes, bytes] = {}
        self.xattrs: Xattrs = ()
        self.has_data = False

    def metadata(self) -> Metadata:
        """What the inode's metadata is."""
        return metadata(self.info, self.xattrs)


class UpperEntries:
    """Entries of an upperdir over ``base``, on a mount that speaks ``dialect``. ``warn`` gets a line for each socket,
    which no tree holds."""

    def __init__(self, base: Directory, dialect: overlay.Dialect, warn: Warn | None) -> None:
        self.base = base
        self.dialect = dialect
        self._warn = warn
        self._others = tuple(_shown_for_others(name) for name in ("uid_map", "gid_map"))

    def attributes(self, target: int, path: bytes) -> tuple[dict[bytes, bytes], Xattrs]:
        """overlayfs's own attributes without their prefix, and those that are part of the tree. ``StratumError`` where
        those are more than a tree can hold."""
        private, visible = self.dialect.split(read_fd_xattrs(target))
        try:
            return private, stored_xattrs(visible)
        except StratumError as exc:
            raise StratumError(f"cannot store {os.fsdecode(path)}: {exc.message}", hint=exc.hint) from None

    def check_owner(self, info: os.stat_result, path: bytes) -> None:
        """``StratumError`` where an entry belongs to somebody whom this user namespace has no ID for, so that nobody
        can tell to whom."""
        uid, gid = self._others
        if info.st_uid == uid or info.st_gid == gid:
            raise StratumError(
                f"{os.fsdecode(path)} in the upper directory belongs to an ID that this user namespace does not have",
                hint="read it in the user namespace that it was written in: stratum unshare -- COMMAND...",
            )

    def lower_directory(
        self, parent: Directory | None, name: bytes, private: dict[bytes, bytes], path: bytes
    ) -> Directory | None:
        """The base's directory that shows in the upper directory ``name``, whose own attributes are ``private``;
        ``parent`` is the one that shows in its parent. ``DamagedError`` where it does not fit the base."""
        if private.get(overlay.OPAQUE) == overlay.OPAQUE_YES:
            return None
        redirect = private.get(overlay.REDIRECT)
        lower = lower_entry(self.base, parent, name, redirect, path)
        if lower is None or isinstance(lower, Directory):
            return lower
        if redirect is not None:
            raise damaged(path, f"it is redirected to {os.fsdecode(redirect)!r}, which is no directory there")
        return None

    def inode(self, entry: UpperEntry, lower: Directory | None, *, xattr_whiteouts: bool) -> Inode | None:
        """The inode of an entry; None where the name is deleted, or is one that no tree can have.

        ``lower`` is what shows in its directory; ``xattr_whiteouts`` whether that is one with ``opaque=x``.
        ``DamagedError`` where the entry does not fit the base.
        """
        info, mode = entry.info, entry.info.st_mode
        if is_whiteout(info):
            return None
        self.check_owner(info, entry.path)
        if stat.S_ISSOCK(mode):
            self.warn(f"{os.fsdecode(entry.path)}: sockets are not stored")
            return None
        entry.private, entry.xattrs = self.attributes(entry.fd, entry.path)
        if stat.S_ISREG(mode):
            if xattr_whiteouts and info.st_size == 0 and overlay.WHITEOUT in entry.private:
                return None
            return self._file(entry, lower)
        if stat.S_ISLNK(mode):
            return Symlink(*entry.metadata(), target=os.readlink(b"", dir_fd=entry.fd))
        return Special(*entry.metadata(), rdev=info.st_rdev)

    def _file(self, entry: UpperEntry, lower_directory: Directory | None) -> Inode:
        """A regular file: with the base's data, with its own, or what stands for a whiteout device of the base."""
        mode, uid, gid, mtime, xattrs = entry.metadata()
        size = entry.info.st_size
        if overlay.stores_whiteout(size, xattrs, self.dialect):
            device = stat.S_IFCHR | stat.S_IMODE(mode)
            return Special(device, uid, gid, mtime, overlay.whiteout_xattrs(xattrs))
        if overlay.METACOPY not in entry.private:
            entry.has_data = size > 0
            return File(mode, uid, gid, mtime, xattrs)
        redirect = entry.private.get(overlay.REDIRECT)
        lower = lower_entry(self.base, lower_directory, entry.name, redirect, entry.path)
        if lower is not None and overlay.is_whiteout_device(lower) and not size:
            return File(mode, uid, gid, mtime, xattrs)  # it is an empty file in the image, and its marks are gone
        if not isinstance(lower, File):
            raise damaged(entry.path, "its data is the base's, but the base has no such file")
        if lower.size != size:
            raise damaged(entry.path, f"its data is the base's, but it has {size} bytes and not {lower.size}")
        return File(mode, uid, gid, mtime, xattrs, size=size, digest=lower.digest, content=lower.content)

    def warn(self, warning: str) -> None:
        """Tell of what is left out."""
        if self._warn is not None:
            self._warn(warning)


def _shown_for_others(name: str) -> int:
    """The ID that all have whom this user namespace has none for; -1 where that is also somebody's here."""
    return -1 if is_mapped(OVERFLOW_ID, name) else OVERFLOW_ID


def is_whiteout(info: os.stat_result) -> bool:
    """Whether an entry is the device that stands for a deleted name."""
    return info.st_rdev == 0 and stat.S_ISCHR(info.st_mode)


def metadata(info: os.stat_result, xattrs: Xattrs) -> Metadata:
    """What the metadata of an inode is that was found as ``info``."""
    return (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, xattrs)


def merged_directory(own: Metadata, lower: Directory | None, children: dict[bytes, Inode]) -> Directory:
    """The directory that shows ``children``, with the metadata of the upper one: ``lower`` itself where nothing
    differs."""
    mode, uid, gid, mtime, xattrs = own
    xattrs = overlay.directory_xattrs(xattrs, children.values())
    if (
        lower is not None
        and lower.metadata() == (mode, uid, gid, mtime, xattrs)
        and len(lower.children) == len(children)
        and not any(map(is_not, map(children.get, lower.children), lower.children.values()))
    ):
        return lower
    return Directory(mode, uid, gid, mtime, xattrs, children=children)
