"""What an image's inodes have in common: extended attributes, and the oldest modification time."""

from __future__ import annotations

from typing import Final

from stratum.composefs.erofs.numbering import Numbering
from stratum.composefs.erofs.xattrs import XattrTable
from stratum.tree.limits import overlay_marks, with_marks
from stratum.tree.model import File, Inode, Special, Xattrs, object_path
from stratum.tree.overlay import METACOPY, REDIRECT, Dialect

METACOPY_SHA256: Final = bytes((0, 36, 0, 1))  # version, length of the whole value, flags, fs-verity algorithm
_ACL_NAMES: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
SECOND: Final = 1_000_000_000


class Survey:
    """What has to be known of all inodes before the first one is written."""

    def __init__(self, numbering: Numbering, dialect: Dialect) -> None:
        self.numbering = numbering
        self.dialect = dialect
        self.table = XattrTable()
        self.xattrs: dict[int, Xattrs] = {}  # by inode number, of those that have any; see ``all_xattrs``
        self.shared_digests: set[bytes] = set()
        self._escaped: dict[Xattrs, Xattrs] = {(): ()}
        self.oldest = divmod(min([inode.mtime for inode in numbering.inodes]), SECOND)
        """The earliest modification time (s, ns), which inodes without one of their own have."""
        self._collect()
        self.has_acl = self.table.has_name(*_ACL_NAMES)
        self.table.share(pair for digest in self.shared_digests for pair in backing_xattrs(digest, dialect))

    def _collect(self) -> None:
        seen: set[bytes] = set()
        for number, inode in enumerate(self.numbering.inodes):
            if type(inode) is File:
                if (digest := inode.digest) is not None:
                    (self.shared_digests if digest in seen else seen).add(digest)
                if not inode.xattrs:
                    continue
            xattrs = self._image_xattrs(number, inode)
            if xattrs:
                self.xattrs[number] = xattrs
                self.table.count(xattrs)

    def all_xattrs(self, number: int, inode: Inode) -> Xattrs:
        """Every attribute of an inode. Those of files with an object of their own are made when they are needed."""
        xattrs = self.xattrs.get(number, ())
        if isinstance(inode, File) and inode.digest is not None:
            return tuple(sorted((*xattrs, *backing_xattrs(inode.digest, self.dialect))))
        return xattrs

    def _image_xattrs(self, number: int, inode: Inode) -> Xattrs:
        xattrs = self._escaped.get(inode.xattrs)
        if xattrs is None:
            xattrs = self._escaped[inode.xattrs] = self.dialect.escape(inode.xattrs)
        node = self.numbering.nodes.get(number)
        if node is None and type(inode) is not Special:
            return xattrs
        holds_whiteouts = node is not None and node.holds_whiteouts
        marks = overlay_marks(inode, self.dialect, holds_whiteouts=holds_whiteouts, is_root=number == 0)
        return with_marks(xattrs, marks) if marks else xattrs


def backing_xattrs(digest: bytes, dialect: Dialect) -> Xattrs:
    """What makes overlayfs take a file's content from the object with this digest in a data layer."""
    return (
        (dialect.own(METACOPY), METACOPY_SHA256 + digest),
        (dialect.own(REDIRECT), b"/" + object_path(digest)),
    )
