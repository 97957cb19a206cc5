"""The open directories from a root down to the one in hand, with a bounded number of descriptors.

Walking by descriptor is safe against directories that are renamed or replaced by symbolic links meanwhile, and does
not care how long a path gets; holding one descriptor a level would run out of them in a tree thousands of levels deep.
So the shallowest but the root are closed, and opened again through ``..`` on the way up, which must lead to the same
inode.
"""

from __future__ import annotations

import os
from types import TracebackType

from stratum.errors import ConflictError

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
MAX_OPEN = 64


class _Level:
    """``fd`` is -1 while it is closed; ``identity`` is (device, inode)."""

    __slots__ = ("fd", "identity")

    def __init__(self, fd: int, identity: tuple[int, int]) -> None:
        self.fd = fd
        self.identity = identity


class DirectoryStack:
    """Directories by descriptor; ``top`` is the current one. A context manager that closes what is open.

    ``root`` is an open descriptor, which the stack takes over.
    """

    def __init__(self, root: int, max_open: int = MAX_OPEN) -> None:
        self._levels = [_Level(root, _identity(os.fstat(root)))]
        self._first_open = 1  # above the bottom
        self._max_open = max_open

    def __len__(self) -> int:
        return len(self._levels)

    @property
    def top(self) -> int:
        """The descriptor of the current directory."""
        return self._levels[-1].fd

    @property
    def bottom(self) -> int:
        """The descriptor of the directory that the stack began with, which stays open."""
        return self._levels[0].fd

    def push(self, fd: int, info: os.stat_result) -> None:
        """Enter the directory open as ``fd``, a child of the current one; the stack takes the descriptor over."""
        self._levels.append(_Level(fd, _identity(info)))
        if len(self._levels) - self._first_open > self._max_open:
            level = self._levels[self._first_open]
            os.close(level.fd)
            level.fd = -1
            self._first_open += 1

    def pop(self) -> None:
        """Leave the current directory for its parent.

        Raises ``ConflictError`` where the directory was moved elsewhere meanwhile, ``OSError`` as open(2) does.
        """
        if len(self._levels) > 1 and self._levels[-2].fd < 0:
            parent = self._levels[-2]
            fd = os.open("..", OPEN_DIRECTORY, dir_fd=self.top)
            if _identity(os.fstat(fd)) != parent.identity:
                os.close(fd)
                raise ConflictError(
                    "a directory was moved while the tree that it is in was walked",
                    hint="stop what changes the tree, and try again",
                )
            parent.fd = fd
            self._first_open -= 1
        os.close(self._levels.pop().fd)

    def close(self) -> None:
        """Close every descriptor."""
        while self._levels:
            fd = self._levels.pop().fd
            if fd >= 0:
                os.close(fd)

    def __enter__(self) -> DirectoryStack:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino
