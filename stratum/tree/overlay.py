"""The names that overlayfs gives to its own extended attributes, and its escaping. Pure.

overlayfs keeps its state in ``trusted.overlay.*``, or in ``user.overlay.*`` on a mount with ``userxattr``: its
``Dialect``. What a user of a mounted overlay stores under that prefix reaches the disk one level deeper, as
``trusted.overlay.overlay.*``, and is shown again without that level. Trees hold what the user sees; images and
upperdirs hold the escaped names. An image, an upperdir over it and the mount of both speak one dialect.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from enum import Enum

from stratum.tree.model import Inode, Special, Xattrs

_ESCAPE = b"overlay."

OPAQUE = b"opaque"
REDIRECT = b"redirect"
METACOPY = b"metacopy"
WHITEOUT = b"whiteout"
WHITEOUTS = b"whiteouts"

OPAQUE_YES = b"y"
OPAQUE_XATTR_WHITEOUTS = b"x"


class Dialect(Enum):
    """Which attributes are overlayfs's own: those whose name begins with ``prefix``."""

    TRUSTED = b"trusted.overlay."
    USER = b"user.overlay."

    @property
    def prefix(self) -> bytes:
        return self.value

    def own(self, attribute: bytes) -> bytes:
        """What overlayfs's own ``attribute`` (``OPAQUE``, ...) is called on disk."""
        return self.prefix + attribute

    def split(self, xattrs: Xattrs) -> tuple[dict[bytes, bytes], Xattrs]:
        """overlayfs's own attributes of an upper inode, by name without ``prefix``, and those that its user sees.

        Escaped names among the second are unescaped by one level.
        """
        private: dict[bytes, bytes] = {}
        visible: list[tuple[bytes, bytes]] = []
        prefix, escape = self.prefix, self.prefix + _ESCAPE
        for name, value in xattrs:
            if not name.startswith(prefix):
                visible.append((name, value))
            elif name.startswith(escape):
                visible.append((prefix + name[len(escape) :], value))
            else:
                private[name[len(prefix) :]] = value
        visible.sort()
        return private, tuple(visible)

    def escape(self, xattrs: Xattrs) -> Xattrs:
        """What ``xattrs`` of a tree are on disk below an overlay mount: the inverse of ``split``'s second value."""
        prefix = self.prefix
        return tuple(sorted((prefix + _ESCAPE + n[len(prefix) :] if n.startswith(prefix) else n, v) for n, v in xattrs))


BY_STRATUM = b"stratum"
"""The value of a mark that an image's inode bears for users, who see that of their dialect alone: so it is told from
what one of them has set."""

_STORED_WHITEOUT = frozenset(dialect.own(WHITEOUT) for dialect in Dialect)
_STORED_WHITEOUTS = frozenset(dialect.own(WHITEOUTS) for dialect in Dialect)
_USERS_WHITEOUT = (Dialect.USER.own(WHITEOUT), BY_STRATUM)
_USERS_WHITEOUTS = (Dialect.USER.own(WHITEOUTS), BY_STRATUM)
_STORED_OPAQUE = frozenset((dialect.own(OPAQUE), OPAQUE_XATTR_WHITEOUTS) for dialect in Dialect)


def is_whiteout_device(inode: Inode) -> bool:
    """Whether ``inode`` is a character device 0:0, which overlayfs takes for a whiteout."""
    return isinstance(inode, Special) and stat.S_ISCHR(inode.mode) and inode.rdev == 0


def stores_whiteout(size: int, xattrs: Xattrs, dialect: Dialect = Dialect.TRUSTED) -> bool:
    """Whether a regular file seen in a commit mounted in ``dialect`` stands for a character device 0:0 of its tree.

    A composefs image cannot hold that device, it would hide the name; it holds an empty file with two marker
    attributes, which overlayfs shows, and copies up, as such. One is of a kind that only root can give to a file. Users
    see the other alone; in a mount of root's that proves nothing, as whoever may write a file may have set it.
    """
    if size:
        return False
    by_users = dialect is Dialect.USER and _USERS_WHITEOUT in xattrs
    return by_users or {name for name, _ in xattrs} >= _STORED_WHITEOUT


def whiteout_xattrs(xattrs: Xattrs) -> Xattrs:
    """``xattrs`` of a file that ``stores_whiteout``, without its marks: the whiteout device's own."""
    return tuple(item for item in xattrs if item[0] not in _STORED_WHITEOUT)


def directory_xattrs(xattrs: Xattrs, children: Iterable[Inode]) -> Xattrs:
    """``xattrs`` of a directory seen in a mounted commit, without the marks of an image's directory with whiteouts.

    Marks that a directory without any whiteout still has, because those were deleted, are told from a user's
    attributes by being complete.
    """
    names = {name for name, _ in xattrs}
    if names.isdisjoint(_STORED_WHITEOUTS) and not any(item in _STORED_OPAQUE for item in xattrs):
        return xattrs
    if names >= _STORED_WHITEOUTS or _USERS_WHITEOUTS in xattrs or any(map(is_whiteout_device, children)):
        return tuple(item for item in xattrs if item[0] not in _STORED_WHITEOUTS and item not in _STORED_OPAQUE)
    return xattrs
