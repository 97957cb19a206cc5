"""Advisory locks on files: flock(2) with a bounded wait, and a name for whoever is in the way.

Rules:

- A lock belongs to an open file: it ends when the holder releases it or dies, so a crash leaves nothing to clean up.
  The lock file itself stays, unless the holder removes it; its content means nothing.
- Two ``FileLock`` objects exclude one another also inside one process (threads).
- The fd is close-on-exec, so programs started meanwhile do not keep the lock. A *forked* child that goes on without
  exec shares it: an explicit release by the parent ends it for both, but a killed parent leaves it with the child.
- A lock file that was removed or replaced while we waited is not the lock any more; it is opened and taken again.
- Where several locks are needed, their owner's docstring says the order. Waiting is always bounded, so a mistake
  in the order is a ``BusyError``, not a hang.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from stratum.errors import BusyError
from stratum.sys.proc import command_name

DEFAULT_TIMEOUT = 30.0
_FIRST_PAUSE = 0.002
_LONGEST_PAUSE = 0.1
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK  # a fifo in its place must not make us wait


class FileLock:
    """A shared or exclusive lock on ``path``, which is created (mode 0600) where it is missing.

    ``timeout`` is how many seconds ``acquire`` waits; ``what`` names the locked thing in the message.
    A context manager; ``acquire`` and ``release`` are for locks that outlive one block.
    """

    def __init__(self, path: Path, *, exclusive: bool = True, timeout: float = DEFAULT_TIMEOUT, what: str = "") -> None:
        self.path = path
        self.exclusive = exclusive
        self.timeout = timeout
        self.what = what or str(path)
        self._fd: int | None = None

    def acquire(self) -> None:
        """Take the lock. ``BusyError`` names the holders after the timeout; ``OSError`` where it cannot be opened."""
        assert self._fd is None, "the lock is held by this object already"
        deadline = time.monotonic() + self.timeout
        pause = _FIRST_PAUSE
        while True:
            fd = os.open(self.path, _OPEN | os.O_CREAT, 0o600)
            try:
                while not self._try(fd):
                    if time.monotonic() >= deadline:
                        raise BusyError(
                            f"{self.what} is locked by {_named(holders(fd))}",
                            hint="wait for it to finish, or stop it, and try again",
                        )
                    time.sleep(pause)
                    pause = min(pause * 2, _LONGEST_PAUSE)
                if _is_file_at(fd, self.path):
                    self._fd = fd
                    return
            finally:
                if self._fd != fd:
                    os.close(fd)

    def release(self) -> None:
        """Give the lock back; does nothing where it is not held."""
        if self._fd is None:
            return
        fd, self._fd = self._fd, None
        try:
            fcntl.flock(fd, fcntl.LOCK_UN)
        finally:
            os.close(fd)

    def detach(self) -> int:
        """Give the lock to the caller: the descriptor that has it, for as long as that, or a copy of it, is open."""
        assert self._fd is not None, "the lock is not held"
        fd, self._fd = self._fd, None
        return fd

    def _try(self, fd: int) -> bool:
        try:
            fcntl.flock(fd, (fcntl.LOCK_EX if self.exclusive else fcntl.LOCK_SH) | fcntl.LOCK_NB)
        except OSError as exc:
            if exc.errno in (errno.EWOULDBLOCK, errno.EINTR):
                return False
            raise
        return True

    def __enter__(self) -> FileLock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def locked(path: Path, *, exclusive: bool = True, timeout: float = DEFAULT_TIMEOUT, what: str = "") -> FileLock:
    """``with locked(path, what="the store"): ...`` holds the lock for the block."""
    return FileLock(path, exclusive=exclusive, timeout=timeout, what=what)


def is_locked(path: Path) -> bool:
    """Whether anybody holds a lock on ``path``. False where there is no such file."""
    try:
        fd = os.open(path, _OPEN)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError as exc:
        if exc.errno != errno.EWOULDBLOCK:
            raise
        return True
    finally:
        os.close(fd)
    return False


def holders(fd: int) -> list[int]:
    """The processes that hold a flock on the open file's inode, from ``/proc/locks``."""
    inode = os.fstat(fd).st_ino
    found = []
    try:
        with open("/proc/locks", encoding="ascii", errors="replace") as file:
            lines = file.readlines()
    except OSError:
        return []
    for line in lines:
        fields = line.split()
        # "1: FLOCK ADVISORY WRITE pid major:minor:inode start end"; waiters have "->" in the second place. The device
        # is not compared: on btrfs and overlay it is another than stat's.
        if len(fields) >= 6 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
            found.append(int(fields[4]))
    return found


def _named(pids: list[int]) -> str:
    shown = [f"process {pid} ({command_name(pid)})" for pid in pids if pid > 0]
    return ", ".join(shown) or "another process"


def _is_file_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False
