"""Telling that a directory was copied without its extended attributes.

What overlayfs keeps in an upperdir has its meaning in ``trusted.*`` or ``user.*`` attributes, which many ways to copy
leave out: then deleted files come back, and files that only changed their mode are full of zeros. So a directory that
must not be copied like that bears an attribute, and a file in it says which: a copy has the file and not the attribute.
The mark is on the directory around the upperdir, where no mount shows it.

::

    DIRECTORY         trusted.stratum.mark = 32 hex digits
    DIRECTORY/mark    the same 32 hex digits

In the store of a user the attribute is ``user.stratum.mark``, and ``user:`` is before the digits.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from stratum.errors import DamagedError
from stratum.sys.userns import in_initial_namespace
from stratum.sys.xattrs import get_xattr

FILE = "mark"
HINT = (
    "copy the store again, as root (a user's inside of 'stratum unshare'), with all attributes: cp -a, rsync -aHAX"
    " --numeric-ids, or tar --xattrs --xattrs-include='*' --acls"
)
_XATTR, _USERS_XATTR = b"trusted.stratum.mark", b"user.stratum.mark"
_USERS = b"user:"
_SIZE = 32


class LostAttributesError(DamagedError):
    """A worktree's directory is a copy without extended attributes."""


def put_mark(directory: Path, *, users: bool = False) -> bytes | None:
    """Give ``directory`` the attribute, that of a store of users with ``users``, which has to be durable before the
    file; what the file has to say, or None where nobody could copy or use the attributes anyway: without privilege, or
    on a file system that has none. ``OSError``."""
    value = os.urandom(_SIZE // 2).hex().encode()
    try:
        os.setxattr(directory, _USERS_XATTR if users else _XATTR, value, follow_symlinks=False)
    except OSError as exc:
        if exc.errno in (errno.EPERM, errno.EOPNOTSUPP):
            return None
        raise
    return _USERS + value if users else value


def has_mark(directory: Path) -> bool:
    """Whether there is a file that tells of the mark; older versions made none."""
    return os.path.lexists(directory / FILE)


def check_mark(directory: Path) -> None:
    """Raise ``LostAttributesError`` where the file tells of a mark that ``directory`` does not bear, as far as it can
    be seen: root's is shown in no other user namespace than the first."""
    try:
        fd = os.open(directory / FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        said = os.read(fd, len(_USERS) + _SIZE + 1)
    finally:
        os.close(fd)
    is_users = said.startswith(_USERS)
    if not is_users and not in_initial_namespace():
        return
    if get_xattr(directory, _USERS_XATTR if is_users else _XATTR) != said.removeprefix(_USERS):
        raise LostAttributesError(
            f"the worktree at {directory} was copied without its extended attributes and cannot be used",
            hint=HINT,
        )
