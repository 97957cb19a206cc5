"""The owners of what an import reads, as they are recorded.

In a user namespace the kernel shows the files of everybody whom the namespace has no ID for, such as root of the
machine, as those of the overflow ID, 65534. They are recorded as 0's: so the commit of a directory of the system is
the one that root makes of it. Where the namespace has an ID 65534 too, as that of a container has, files of it are
told from those by what this process may do with them.
"""

from __future__ import annotations

import errno
import os
import stat

from stratum.sys.userns import OVERFLOW_ID, in_initial_namespace, is_mapped

_AS_OWNER = os.O_RDONLY | os.O_NOATIME | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC

_NOTE = "files of users without an ID in this namespace, such as root of the machine, are recorded as those of user 0"


class Owners:
    """Of one import."""

    def __init__(self) -> None:
        self._met = False
        self._run_as_them = 0
        self._mapped = is_mapped(OVERFLOW_ID)

    def of(self, info: os.stat_result, name: str, directory: int | None = None) -> tuple[int, int]:
        """User and group to record of the file ``name`` in ``directory`` (an fd), of which stat says ``info``."""
        uid, gid = info.st_uid, info.st_gid
        if OVERFLOW_ID not in (uid, gid):
            return uid, gid
        unknown = uid == OVERFLOW_ID and not (self._mapped and _acts_as_owner(info, name, directory))
        if unknown:
            uid = 0
        if gid == OVERFLOW_ID and (unknown or uid == 0):  # containers alone have files of 65534's group and other users
            gid = 0
        self._met |= (uid, gid) != (info.st_uid, info.st_gid)
        self._run_as_them += unknown and stat.S_ISREG(info.st_mode) and bool(info.st_mode & stat.S_ISUID)
        return uid, gid

    def told(self) -> list[str]:
        """What is to be said of it, once everything is read. Whoever made a set-user-ID program may have been anybody:
        as 0's it is a way to become root, where root mounts the commit."""
        more = f"; {self._run_as_them} of them are set-user-ID, whoever made them" if self._run_as_them else ""
        return [_NOTE + more] if self._met else []


def owners() -> Owners | None:
    """What to ask; None where IDs are what they are."""
    return None if in_initial_namespace() else Owners()


def _acts_as_owner(info: os.stat_result, name: str, directory: int | None) -> bool:
    """Whether this process has the rights of a file's owner, which as user 0 it has where the owner has an ID here.

    Only an owner may read without the time of access being noted. What cannot be opened harmlessly nobody's container
    has made, as far as anybody can tell.
    """
    if not (stat.S_ISREG(info.st_mode) or stat.S_ISDIR(info.st_mode)):
        return False
    try:
        os.close(os.open(name, _AS_OWNER, dir_fd=directory))
    except OSError as exc:
        return exc.errno not in (errno.EPERM, errno.EACCES)
    return True
