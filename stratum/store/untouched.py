"""Whether an upperdir is as it was made, told without reading the tree of its base.

A new upperdir gets owner, mode and time of its base's root, and a note of them among overlayfs's own attributes, which
nobody sees in the mount::

    trusted.overlay.stratum.root    "MODE UID GID MTIME": octal, decimal, decimal, nanoseconds

In the worktree of a user it is ``user.overlay.stratum.root``. There is none where the root has attributes of its own,
or where the user or the file system cannot write it; then the base has to be read.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from stratum.sys.xattrs import get_xattr, list_xattrs
from stratum.tree.model import Directory
from stratum.tree.overlay import Dialect

_NOTE = b"stratum.root"
_NOT_STORED = b"security.selinux"


def note_root(upperdir: Path, root: Directory, dialect: Dialect) -> None:
    """Note that the new ``upperdir`` has been given owner, mode and time of ``root``."""
    if not root.xattrs:
        with suppress(OSError):
            os.setxattr(upperdir, dialect.own(_NOTE), _text(root.mode, root.uid, root.gid, root.mtime))


def is_untouched(upperdir: Path, dialect: Dialect, root: tuple[int, int] = (0, 0)) -> bool:
    """Whether ``upperdir`` shows its base and nothing else; False also where that is not known. ``root``: the user and
    the group that were 0 where the note was made. Raises ``OSError``."""
    with os.scandir(upperdir) as entries:  # of which there may be very many
        if next(entries, None) is not None:
            return False
    info = os.stat(upperdir, follow_symlinks=False)
    uid = 0 if info.st_uid == root[0] else info.st_uid
    gid = 0 if info.st_gid == root[1] else info.st_gid
    if get_xattr(upperdir, dialect.own(_NOTE)) != _text(info.st_mode, uid, gid, info.st_mtime_ns):
        return False
    return all(name.startswith(dialect.prefix) or name == _NOT_STORED for name in list_xattrs(upperdir))


def _text(mode: int, uid: int, gid: int, mtime: int) -> bytes:
    return f"{mode:o} {uid} {gid} {mtime}".encode("ascii")
