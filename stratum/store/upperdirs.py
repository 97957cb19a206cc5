"""Whose upperdirs a store has, and whether they can be looked at from here.

An overlay of root's keeps its state in ``trusted.overlay.*``, one of anybody else's in ``user.overlay.*``
(``tree.overlay``). So who owns the store decides what its upperdirs speak. A worktree notes it, as a store may be given
to somebody else.

Files in the upperdir of a user's worktree may belong to any of the user's subordinate IDs. Only inside the user
namespace in which it was mounted are they what a commit records, and only there can they all be read and removed. The
reverse holds of root's: the kernel shows ``trusted.*`` in no other user namespace than the first.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import StratumError, UnsupportedError
from stratum.store.dialects import dialect_of
from stratum.store.layout import storage_error
from stratum.store.untouched import is_untouched
from stratum.sys.userns import in_initial_namespace, is_mapped
from stratum.sys.xattrs import list_xattrs
from stratum.tree.overlay import Dialect

if TYPE_CHECKING:
    from stratum.tree.model import Directory

_ACLS = (b"system.posix_acl_access", b"system.posix_acl_default")


def within_reach(dialect: Dialect) -> bool:
    """Whether this process is in a user namespace in which upperdirs of a store of ``dialect`` can be read."""
    return in_initial_namespace() == (dialect is Dialect.TRUSTED)


def out_of_reach(what: str, dialect: Dialect) -> UnsupportedError:
    """The error for ``what`` (a worktree), whose upperdir cannot be read or removed from this user namespace."""
    if dialect is Dialect.TRUSTED:
        return UnsupportedError(
            f"what was written in {what} is root's, and cannot be read in another user namespace",
            hint="run the command as root, outside of every container and of 'podman unshare'",
        )
    return UnsupportedError(
        f"what was written in {what} may belong to subordinate IDs, and is read, committed and removed only in the user"
        " namespace that has these",
        hint="run it there: stratum unshare -- COMMAND...",
    )


def another_dialect(what: str, noted: Dialect) -> UnsupportedError:
    """The error for ``what`` (a worktree), which was written by mounts of the other kind than its store's are now."""
    whose, now = ("root", "a user") if noted is Dialect.TRUSTED else ("a user", "root")
    return UnsupportedError(
        f"{what} was written by a mount of {whose}'s, and the store is {now}'s now, whose mounts would take it for"
        " something else",
        hint=f"give the store back to {whose} and commit it there; or remove it, with what is not committed, by"
        f" 'stratum worktree remove --discard {what}'",
    )


def holds_nothing(upperdir: Path) -> bool:
    """Whether there is no entry in the upperdir, so that any mount may have it. Raises ``OSError``."""
    with os.scandir(upperdir) as entries:
        return next(entries, None) is None


def shows_base(upperdir: Path, dialect: Dialect, store: Path) -> bool:
    """``is_untouched``, also from outside of the namespace of a user's store: there the owner of the store is what the
    namespace calls 0. Raises ``OSError``."""
    if is_untouched(upperdir, dialect):
        return True
    if within_reach(dialect) or dialect is Dialect.TRUSTED:
        return False
    info = os.stat(store, follow_symlinks=False)
    return is_untouched(upperdir, dialect, root=(info.st_uid, info.st_gid))


def removal_error(exc: OSError, path: Path, store: Path, error: StratumError) -> StratumError:
    """What to raise where ``path`` of the store cannot be removed: ``error``, or why only a namespace has the right."""
    if isinstance(exc, PermissionError):
        dialect = dialect_of(store)
        if dialect is Dialect.USER and not within_reach(dialect):
            return out_of_reach(str(path), dialect)
    return error


def dress_upperdir(path: Path, root: Directory, dialect: Dialect) -> None:
    """Give the empty upperdir ``path`` owner, mode, times and xattrs of the commit's ``root``, which it is shown as by
    a mount of ``dialect``.

    Raises ``StratumError``, and ``UnsupportedError`` for an owner whom this user namespace has no ID for.
    """
    if not (is_mapped(root.uid) and is_mapped(root.gid, "gid_map")):
        raise UnsupportedError(
            f"the root directory belongs to {root.uid}:{root.gid}, whom your user namespace has no ID for",
            hint="root may give you more IDs: usermod --add-subuids FIRST-LAST --add-subgids FIRST-LAST USER",
        )
    try:
        os.chown(path, root.uid, root.gid)
        os.chmod(path, stat.S_IMODE(root.mode))
        wanted = dict(dialect.escape(root.xattrs))
        for name in list_xattrs(path):
            if name in _ACLS and name not in wanted:  # inherited from a default ACL of the store
                os.removexattr(path, name)
        for name, value in wanted.items():
            os.setxattr(path, name, value)
        os.utime(path, ns=(root.mtime, root.mtime))
    except OSError as exc:
        raise storage_error(exc, "give the worktree the owner, mode and attributes of its base's root") from None
