"""What a ``Store`` and its commits tell: immutable records of plain values."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from stratum.tree.model import File, Inode, Special, Symlink

Kind = Literal["file", "directory", "symlink", "fifo", "socket", "character device", "block device"]

_KINDS: dict[int, Kind] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "directory",
    stat.S_IFLNK: "symlink",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
    stat.S_IFCHR: "character device",
    stat.S_IFBLK: "block device",
}


@dataclass(frozen=True, slots=True)
class Entry:
    """What is at a path of a commit.

    ``path`` begins with a slash; bytes that are not UTF-8 are in it as ``os.fsdecode`` has them. ``mode`` is that of
    ``os.stat``, with the type. ``target`` is where a symbolic link leads. ``digest`` is the fs-verity SHA-256 digest of
    a file's content, in hex: files of equal content have equal ones.
    """

    path: str
    kind: Kind
    mode: int
    size: int
    mtime_ns: int
    uid: int
    gid: int
    target: str | None = None
    digest: str | None = None
    rdev: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict, hash=False)

    @property
    def name(self) -> str:
        """The last part of ``path``; nothing for the root."""
        return self.path.rpartition("/")[2]


@dataclass(frozen=True, slots=True)
class Change:
    """A path at which two commits differ.

    ``fields`` are ``content``, ``mode``, ``uid``, ``gid``, ``mtime``, ``xattrs`` and ``links``, as far as they differ.
    """

    path: str
    kind: Literal["added", "deleted", "modified", "type", "metadata"]
    fields: tuple[str, ...]
    old: Entry | None
    new: Entry | None


@dataclass(frozen=True, slots=True)
class Worktree:
    """A worktree: ``ref`` is NAME+WORKTREE, ``base`` the commit it lies over, ``head`` the last one made of it."""

    ref: str
    base: str
    head: str | None


@dataclass(frozen=True, slots=True)
class Pushed:
    """What a push did: ``place`` is where the commit is now, ``manifest`` the digest of its manifest there."""

    place: str
    manifest: str
    bytes_sent: int


@dataclass(frozen=True, slots=True)
class Access:
    """How a place is reached, besides what the settings say of it.

    ``plain_http`` allows HTTP without TLS, ``ca_file`` names a file with certificate authorities to trust, and
    ``unsafe_concurrent`` allows to write to an object store that heeds no conditions, where nobody else writes.
    """

    plain_http: bool = False
    ca_file: str | None = None
    unsafe_concurrent: bool = False


def entry_of(path: bytes, inode: Inode) -> Entry:
    """What there is to say of an inode at a path."""
    file = inode if isinstance(inode, File) else None
    return Entry(
        os.fsdecode(path),
        _KINDS[stat.S_IFMT(inode.mode)],
        inode.mode,
        file.size if file is not None else 0,
        inode.mtime,
        inode.uid,
        inode.gid,
        os.fsdecode(inode.target) if isinstance(inode, Symlink) else None,
        _digest(file) if file is not None else None,
        inode.rdev if isinstance(inode, Special) else 0,
        {os.fsdecode(name): value for name, value in inode.xattrs},
    )


def _digest(file: File) -> str:
    from stratum.composefs.verity import verity_digest

    return (file.digest or verity_digest(file.content or b"")).hex()
