"""What an image's inodes have in common: extended attributes, and the oldest modification time."""

from __future__ import annotations

from typing import Final

from stratum.composefs.erofs.numbering import Numbering
from stratum.composefs.erofs.xattrs import XattrTable
from stratum.tree.limits import overlay_marks, with_marks
from stratum.tree.model import File, Inode, Special, Xattrs, object_path
from stratum.tree.overlay import escape_xattrs
from stratum.tree.quirks import Quirks

METACOPY: Final = b"trusted.overlay.metacopy"
REDIRECT: Final = b"trusted.overlay.redirect"
METACOPY_SHA256: Final = bytes((0, 36, 0, 1))  # version, length of the whole value, flags, fs-verity algorithm
_ACL_NAMES: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_SECOND: Final = 1_000_000_000

Time = tuple[int, int]


def is_backed(file: File) -> bool:
    """Whether the content of ``file`` is neither empty nor inline."""
    return file.size > 0 and not file.content


class Survey:
    """What has to be known of all inodes before the first one is written."""

    def __init__(self, numbering: Numbering, quirks: Quirks) -> None:
        self.numbering = numbering
        self.sizes = quirks.sizes
        self._times = dict(quirks.times)
        root_time = quirks.times.get(id(numbering.root))
        if root_time is not None:
            self._times.update((id(i), root_time) for i in numbering.inodes[:1] + numbering.object_masks())
        self.table = XattrTable()
        self.xattrs: dict[int, Xattrs] = {}  # by inode number, of those that have any; see ``all_xattrs``
        self.shared_digests: set[bytes] = set()
        self._escaped: dict[Xattrs, Xattrs] = {(): ()}
        self.oldest = self._oldest()
        self.foreign = any(issubclass(kind, File) and kind is not File for kind in set(map(type, numbering.inodes)))
        self._collect()
        self.has_acl = self.table.has_name(*_ACL_NAMES)
        self.table.share(pair for digest in self.shared_digests for pair in backing_xattrs(digest, object_path(digest)))

    def _oldest(self) -> Time:
        """The earliest modification time, which inodes without one of their own have."""
        inodes = self.numbering.inodes
        if self._times:
            return min(self.time(inode) for inode in inodes)
        return divmod(min([inode.mtime for inode in inodes]), _SECOND)

    @property
    def odd_times(self) -> bool:
        """Whether there are modification times that are not the inodes' own."""
        return bool(self._times)

    def time(self, inode: Inode) -> Time:
        """The modification time of ``inode`` as (s, ns)."""
        return self._times.get(id(inode)) or divmod(inode.mtime, _SECOND)

    def _collect(self) -> None:
        seen: set[bytes] = set()
        foreign = self.foreign
        for number, inode in enumerate(self.numbering.inodes):
            if type(inode) is File and not foreign:
                digest = inode.digest
                if digest is not None and inode.size > 0 and not inode.content:
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
        if type(inode) is File and not self.foreign and inode.digest is not None and is_backed(inode):
            return tuple(sorted((*xattrs, *backing_xattrs(inode.digest, object_path(inode.digest)))))
        return xattrs

    def _image_xattrs(self, number: int, inode: Inode) -> Xattrs:
        xattrs = self._escaped.get(inode.xattrs)
        if xattrs is None:
            xattrs = self._escaped[inode.xattrs] = escape_xattrs(inode.xattrs)
        if isinstance(inode, File):
            if is_backed(inode) and (self.foreign or inode.digest is None):
                return tuple(sorted((*xattrs, *backing_xattrs(inode.digest, inode.payload))))
            return xattrs
        node = self.numbering.nodes.get(number)
        if node is None and type(inode) is not Special:
            return xattrs
        marks = overlay_marks(inode, holds_whiteouts=node is not None and node.holds_whiteouts, is_root=number == 0)
        return with_marks(xattrs, marks) if marks else xattrs


def backing_xattrs(digest: bytes | None, payload: bytes | None) -> Xattrs:
    """What makes overlayfs take a file's content from ``payload`` in the data layer, with or without a digest."""
    metacopy = (METACOPY, b"" if digest is None else METACOPY_SHA256 + digest)
    return (metacopy, (REDIRECT, b"/" + payload)) if payload else (metacopy,)
