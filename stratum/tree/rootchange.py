"""What the root directory of a new worktree is to have other than the tree that it begins as: owner and permissions."""

from __future__ import annotations

import stat

from stratum.errors import UsageError
from stratum.frozen import frozen
from stratum.tree.model import Directory

_MAX_ID = (1 << 32) - 2
"""-1 means "leave it" to chown(2)."""


@frozen
class RootChange:
    """The user, group and permission bits (of ``0o7777``) to set; None leaves what is there."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None

    def applied(self, root: Directory) -> Directory:
        """``root`` with them, sharing its children."""
        mode = root.mode if self.mode is None else stat.S_IFDIR | self.mode
        uid = root.uid if self.uid is None else self.uid
        gid = root.gid if self.gid is None else self.gid
        return Directory(mode, uid, gid, root.mtime, root.xattrs, children=root.children)

    def __bool__(self) -> bool:
        return not (self.uid is None and self.gid is None and self.mode is None)


AS_IT_IS = RootChange()


def parse_id(text: str, what: str) -> int:
    """A user or group ID in decimal digits; ``UsageError`` calls it ``what``."""
    if not (text.isascii() and text.isdecimal() and len(text) <= 10 and int(text) <= _MAX_ID):
        raise UsageError(f"{what}={ascii(text)[1:-1][:40]} is not an ID", hint=f"write a number from 0 to {_MAX_ID}")
    return int(text)


def parse_mode(text: str, what: str = "mode") -> int:
    """Permission bits in one to five octal digits, as chmod(1) takes them; ``UsageError`` calls them ``what``."""
    if not (0 < len(text) <= 5 and not set(text) - set("01234567") and int(text, 8) <= 0o7777):
        raise UsageError(
            f"{what}={ascii(text)[1:-1][:40]} is not a mode", hint="write octal digits, as for chmod: 0770"
        )
    return int(text, 8)
