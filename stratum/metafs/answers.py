"""What a request to the filesystem of an image is answered with. Pure.

Node IDs are the nids of the image, but for the root's. All answers hold for ever, so the kernel asks for each thing
once, as long as it has memory for it; what it is told ENOSYS to, it never asks for again (opening, for one).

An image speaks the TRUSTED dialect of overlayfs, in which nobody but root may read. So attributes are shown under the
names that the USER dialect has for them: ``trusted.overlay.X`` as ``user.overlay.X``, what a user has stored as
``user.overlay.X`` escaped, as ``user.overlay.overlay.X``. All other ``trusted.*`` is not shown. The whiteouts that hide
the directories of objects in the image's root are for overlays of other kinds, and not shown either.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum
from functools import lru_cache
from stat import S_ISBLK, S_ISCHR, S_ISREG
from typing import Final, NamedTuple

from stratum.composefs.erofs.reader import Image, Node, is_elsewhere
from stratum.errors import DamagedError
from stratum.metafs.ids import IdTable
from stratum.sys import fuseproto
from stratum.sys.fuseproto import NO_ENTRY, ROOT_NODE, Capability, Hello, Opcode, Request
from stratum.tree.limits import XATTR_NAME_MAX
from stratum.tree.model import object_path
from stratum.tree.overlay import BY_STRATUM, METACOPY, REDIRECT, WHITEOUT, WHITEOUTS, Dialect

_TRUSTED: Final = b"trusted."
_OWN: Final = Dialect.TRUSTED.prefix
_SHOWN: Final = Dialect.USER.prefix
_ESCAPED: Final = b"overlay."
_ACLS: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_METACOPY: Final = Dialect.TRUSTED.own(METACOPY)
_OF_CONTENT: Final = frozenset((_METACOPY, Dialect.TRUSTED.own(REDIRECT)))
_MARKS: Final = {Dialect.USER.own(mark): _OWN + _ESCAPED + mark for mark in (WHITEOUT, WHITEOUTS)}
"""What an image has for users on what stands for a whiteout or has one in it, and what it has there for root."""
_METACOPY_SIZE: Final = 36
_DIGEST_SIZE: Final = 32
_D_TYPES: Final = (0, 8, 4, 2, 6, 1, 12, 10)
"""What readdir(3) calls the file types of an image's directories."""
_CHARACTER: Final = 3
_ASKED_OFTEN: Final = 1000


class Shows(Enum):
    """For whom the filesystem is."""

    NAMES = "the layer of an overlay that has the contents from objects"
    FILES = "the layer of an overlay, contents and all"
    TREE = "people, without an overlay above"


class Wanted(NamedTuple):
    """Content that is in an object: ``size`` bytes from ``offset`` on of the object at ``path`` in a data layer;
    ``all`` where it has no more."""

    path: bytes
    offset: int
    size: int
    all: bool


Answer = bytes | int | Wanted
"""The body of an answer, an errno, or where the body is."""


class Answers:
    """Answers requests to the filesystem of ``image``; ``ids`` are other IDs for its users and groups."""

    def __init__(self, image: Image, shows: Shows, ids: IdTable | None = None) -> None:
        self.image = image
        self.shows = shows
        self.ids = ids
        self._last: tuple[int, dict[bytes, bytes]] = (0, {})
        self._asked = 0
        self._plain = False
        self._methods: dict[int, Callable[[int, bytes], Answer]] = {
            Opcode.LOOKUP: self._lookup,
            Opcode.GETATTR: self._getattr,
            Opcode.READLINK: self._readlink,
            Opcode.READ: self._read,
            Opcode.STATFS: self._statfs,
            Opcode.GETXATTR: self._getxattr,
            Opcode.LISTXATTR: self._listxattr,
            Opcode.READDIRPLUS: self._readdirplus,
        }

    def hello(self, theirs: Hello) -> bytes:
        """The body of the answer to INIT."""
        acl = Capability.POSIX_ACL if self.image.has_acl else Capability(0)  # or else each file is asked for its own
        return fuseproto.hello(theirs, fuseproto.WANTED_UNCHANGING | acl)

    def answer(self, request: Request) -> Answer:
        """The answer to a request that the kernel waits for one to."""
        method = self._methods.get(request.opcode)
        if method is None:
            return errno.ENOSYS
        try:
            return method(self._nid(request.node), request.body)
        except DamagedError:
            return errno.EIO

    def _nid(self, node: int) -> int:
        return self.image.root if node == ROOT_NODE else node

    def _entry(self, nid: int) -> bytes:
        return fuseproto.entry_of(nid, self._status(nid))

    def _status(self, nid: int) -> bytes:
        node = self.image.node(nid)
        mode, uid, gid = node.mode, node.uid, node.gid
        if self.ids is not None:
            uid, gid = self.ids.translate(uid, gid)
        rdev = node.union if S_ISCHR(mode) or S_ISBLK(mode) else 0
        return fuseproto.status(nid, mode, node.size, node.nlink, uid, gid, rdev, node.mtime, node.mtime_ns)

    def _is_mask(self, nid: int) -> bool:
        """Whether it is a whiteout, as only the image's root has them."""
        node = self.image.node(nid)
        return S_ISCHR(node.mode) and node.union == 0

    def _lookup(self, parent: int, body: bytes) -> Answer:
        nid = self.image.lookup(parent, fuseproto.parse_name(body))
        if nid is None or (parent == self.image.root and self._is_mask(nid)):
            return NO_ENTRY
        return self._entry(nid)

    def _getattr(self, nid: int, _: bytes) -> Answer:
        return fuseproto.attributes_of(self._status(nid))

    def _readlink(self, nid: int, _: bytes) -> Answer:
        return self.image.target(self.image.node(nid))

    def _statfs(self, _: int, __: bytes) -> Answer:
        return fuseproto.statfs(self.image.blocks, self.image.inodes)

    def _readdirplus(self, directory: int, body: bytes) -> Answer:
        start, size = fuseproto.parse_read(body)
        found: list[bytes] = []
        for name, nid, kind, after in self.image.names(directory, start):
            size -= fuseproto.name_size(name)
            if size < 0:
                break
            if kind == _CHARACTER and directory == self.image.root and self._is_mask(nid):
                size += fuseproto.name_size(name)
                continue
            entry = NO_ENTRY if name in (b".", b"..") else self._entry(nid)
            d_type = _D_TYPES[kind] if kind < len(_D_TYPES) else 0
            found.append(fuseproto.named(entry, nid, after, d_type, name))
        return b"".join(found)

    def _read(self, nid: int, body: bytes) -> Answer:
        offset, size = fuseproto.parse_read(body)
        node = self.image.node(nid)
        if not S_ISREG(node.mode):
            return errno.EINVAL
        if not is_elsewhere(node):
            return self.image.content(node, offset, size)
        if self.shows is Shows.NAMES:
            return errno.EIO
        size = max(0, min(size, node.size - offset))
        return Wanted(object_path(self._digest(node)), offset, size, size == node.size)

    def _digest(self, node: Node) -> bytes:
        value = dict(self.image.xattrs(node)).get(_METACOPY, b"")
        if len(value) != _METACOPY_SIZE:
            raise DamagedError("the image does not say what a file's content is")
        return value[-_DIGEST_SIZE:]

    def _getxattr(self, nid: int, body: bytes) -> Answer:
        if self._is_plain():
            return errno.ENOSYS
        size, name = fuseproto.parse_getxattr(body)
        value = self._xattrs(nid).get(name)
        if value is None:
            return errno.ENODATA
        return _sized(value, size)

    def _listxattr(self, nid: int, body: bytes) -> Answer:
        if self._is_plain():
            return errno.ENOSYS
        size, _ = fuseproto.parse_getxattr(body)
        return _sized(b"".join([name + b"\0" for name in self._xattrs(nid)]), size)

    def _is_plain(self) -> bool:
        """Whether no file has attributes to show, so that nobody need ask for any. The whole image says that, so it is
        asked once it seems that all files are."""
        self._asked += 1
        if self._asked == _ASKED_OFTEN and self.shows is not Shows.NAMES:
            self._plain = all(not self._xattrs(nid) for nid in self.image.all() if nid != self.image.root)
        return self._plain

    def _xattrs(self, nid: int) -> dict[bytes, bytes]:
        """The attributes as they are shown. An overlay asks for three in a row of the same file."""
        last, found = self._last
        if last != nid:
            found = {}
            stored = dict(self.image.xattrs(self.image.node(nid)))
            for name, value in stored.items():
                shown = shown_name(name, self.shows)
                if shown is not None:
                    found[shown] = self._value(name, value, stored)
            self._last = (nid, found)
        return found

    def _value(self, name: bytes, value: bytes, stored: dict[bytes, bytes]) -> bytes:
        if name in _MARKS and _MARKS[name] in stored:
            return BY_STRATUM
        return self.ids.translate_acl(value) if self.ids and name in _ACLS else value


@lru_cache(1024)
def shown_name(name: bytes, shows: Shows) -> bytes | None:
    """What an attribute of the image is shown as, if at all."""
    if name.startswith(_OWN):
        if shows is Shows.TREE or name.startswith(_OWN + _ESCAPED) or (shows is Shows.FILES and name in _OF_CONTENT):
            return None
        return _SHOWN + name[len(_OWN) :]
    if name.startswith(_TRUSTED):
        return None
    if name.startswith(_SHOWN) and shows is not Shows.TREE:
        name = _SHOWN + _ESCAPED + name[len(_SHOWN) :]
    return name if len(name) <= XATTR_NAME_MAX else None  # no system call takes it; listed, it could not be copied


def _sized(value: bytes, room: int) -> Answer:
    if room == 0:
        return fuseproto.xattr_size(len(value))
    return value if len(value) <= room else errno.ERANGE
