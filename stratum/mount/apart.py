"""For processes that outlive mounts: to keep none of them.

A user's mounts are there as long as the session's mount namespace is, and that as long as somebody is in it. A keeper
that stayed in there would keep them when the session has ended, and so the worktrees in use, where nobody reaches them.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from stratum.mount.record import PREFIX
from stratum.sys import mountinfo, userns
from stratum.sys.mountapi import MNT_DETACH, UMOUNT_NOFOLLOW, make_slave, umount2
from stratum.sys.namespaces import CLONE_NEWNS, unshare


def keep_no_mounts() -> None:
    """Move this process, which must have one thread, from a session's mount namespace to one of its own, without the
    mounts of Stratum and with all others. Does nothing elsewhere; where it is refused, the process stays."""
    if userns.in_initial_namespace() or userns.owns_system():
        return
    with suppress(OSError):
        unshare(CLONE_NEWNS)
        make_slave()
        for entry in reversed(mountinfo.read(containing=PREFIX)):
            if entry.source.startswith(PREFIX):
                with suppress(OSError):
                    umount2(Path(entry.mountpoint), UMOUNT_NOFOLLOW | MNT_DETACH)
