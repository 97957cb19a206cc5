"""Namespaces that a process keeps: opened, and only where they are this user's and see the files that we see."""

from __future__ import annotations

import os
from contextlib import suppress

from stratum.frozen import frozen
from stratum.sys.userns import join, owner_of

_NAMESPACE = os.O_RDONLY | os.O_CLOEXEC


@frozen
class Found:
    """The user and the mount namespace (fds) that process ``pid`` keeps."""

    pid: int
    users: int
    mounts: int

    def enter(self) -> None:
        """Move this process, which must have one thread, into them, and close the fds. Raises ``OSError``."""
        try:
            join(self.users, self.mounts)
        finally:
            self.close()

    def close(self) -> None:
        """Let go of the fds."""
        os.close(self.users)
        os.close(self.mounts)


def find(pid: int) -> Found | None:
    """The namespaces of ``pid``; None where there is no such process, where another user made them or root did, where
    they are ours already, and where that process has another root directory, as one in a container has."""
    fds: list[int] = []
    try:
        fds.append(users := os.open(f"/proc/{pid}/ns/user", _NAMESPACE))
        fds.append(mounts := os.open(f"/proc/{pid}/ns/mnt", _NAMESPACE))
        if (
            not os.path.samestat(os.fstat(users), os.stat("/proc/self/ns/user"))
            and owner_of(users) == os.geteuid()
            and os.path.samestat(os.stat(f"/proc/{pid}/root"), os.stat("/"))
        ):
            fds.clear()
            return Found(pid, users, mounts)
    except OSError:
        pass  # it has ended, or is somebody else's
    finally:
        for fd in fds:
            with suppress(OSError):
                os.close(fd)
    return None
