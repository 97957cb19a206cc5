"""How much room files take."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stratum.errors import ConflictError
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack

BLOCK = 512
"""Bytes of what ``st_blocks`` counts."""


class Usage(NamedTuple):
    """Bytes on disk (``st_blocks``), apparent size (``st_size``), and how many files and directories have them."""

    disk: int = 0
    size: int = 0
    entries: int = 0

    def plus(self, *others: Usage) -> Usage:
        """All of them together."""
        return Usage(*map(sum, zip(self, *others, strict=True)))

    def minus(self, other: Usage) -> Usage:
        """What is left without the ``other``, which is a part of this."""
        return Usage(self.disk - other.disk, self.size - other.size, self.entries - other.entries)


def disk_usage(path: Path) -> int:
    """Bytes on disk of a file, or of a directory and all below it; 0 for what is gone."""
    return usage_of(path).disk


def usage_of(path: Path) -> Usage:
    """What a file takes, or a directory and all below it on its file system; nothing where it is gone or not readable.

    A file with several names counts once. No symbolic link is followed, whoever changes the tree meanwhile, and no
    depth is too deep.
    """
    try:
        info = path.lstat()
    except OSError:
        return Usage()
    if not stat.S_ISDIR(info.st_mode):
        return _own(info)
    try:
        root = os.open(path, OPEN_DIRECTORY)
    except OSError:
        return _own(info)
    total, seen = _own(info), set[tuple[int, int]]()
    for found in below(root):
        if found.st_nlink > 1 and not stat.S_ISDIR(found.st_mode):
            if (found.st_dev, found.st_ino) in seen:
                continue
            seen.add((found.st_dev, found.st_ino))
        total = total.plus(_own(found))
    return total


def _own(info: os.stat_result) -> Usage:
    return Usage(info.st_blocks * BLOCK, info.st_size, 1)


def below(root: int, most: int | None = None) -> Iterator[os.stat_result]:
    """What is below the directory open as ``root``, on its file system, at ``most`` so many; ``root`` is closed in the
    end. What goes away meanwhile may be left out, and so may what is beside a directory that is moved elsewhere."""
    device = os.fstat(root).st_dev
    with DirectoryStack(root) as stack:
        waiting = [_listed(stack.top, most)]
        while waiting:
            directories, infos = waiting[-1]
            if most is not None:
                del infos[most:]
                most -= len(infos)
            yield from (info for info in infos if info.st_dev == device)
            infos.clear()
            if most == 0:
                return
            if not directories:
                waiting.pop()
                if not waiting:
                    return
                try:
                    stack.pop()
                except (ConflictError, OSError):
                    return
                continue
            with suppress(OSError):
                fd = os.open(directories.pop(), OPEN_DIRECTORY, dir_fd=stack.top)
                info = os.fstat(fd)
                if info.st_dev != device:
                    os.close(fd)
                    continue
                stack.push(fd, info)
                waiting.append(_listed(fd, most))


def _listed(fd: int, most: int | None) -> tuple[list[str], list[os.stat_result]]:
    """The directories in the one open as ``fd``, and all that is in it; ``most`` bounds how far it is looked."""
    directories, infos = [], []
    with suppress(OSError), os.scandir(fd) as entries:
        for entry in islice(entries, most):
            with suppress(OSError):
                info = entry.stat(follow_symlinks=False)
                infos.append(info)
                if stat.S_ISDIR(info.st_mode):
                    directories.append(entry.name)
    return directories, infos
