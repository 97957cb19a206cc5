"""Removing files that the store has: a batch of them at a time, here or in a worker process (``ingest.leaving``).

The first message to a worker (``sys.workers``) is the path of the store's objects; each further one is a batch, a list
of ``Gone`` for each directory, whose descriptors come with it. The answer is ``()``, or what failed: errno, text.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stratum.errors import os_error_text
from stratum.ingest.adopting import made_object
from stratum.store.objects import OBJECT_MODE
from stratum.sys.dirstack import OPEN_DIRECTORY
from stratum.tree.model import File, Inode, Symlink, object_path

if TYPE_CHECKING:
    from collections.abc import Sequence

    from stratum.sys.workers import Connection

Gone = tuple[bytes, int, int, int, "bytes | None", "bytes | None"]
"""Name, type (S_IFMT), size and mtime in ns of a regular file, the digest of its object, its content or the target of a
symbolic link."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def gone(name: bytes, node: Inode) -> Gone:
    """What is to go as ``name``, where it is as ``node``, which is no directory."""
    kind = stat.S_IFMT(node.mode)
    if isinstance(node, File):
        return name, kind, node.size, node.mtime, node.digest, node.content
    return name, kind, 0, 0, None, node.target if isinstance(node, Symlink) else None


def remove_batch(objects: int, directories: Sequence[int], batch: Sequence[Sequence[Gone]]) -> tuple[Any, ...]:
    """Remove what is as it is said to be from the open ``directories``; the answer as described above.

    Files that are objects by another name, below the open directory ``objects``, are made as objects are.
    """
    try:
        for directory, files in zip(directories, batch, strict=True):
            for file in files:
                _remove(objects, directory, file)
    except OSError as exc:
        return exc.errno, os_error_text(exc)
    return ()


def _remove(objects: int, directory: int, file: Gone) -> None:
    name, kind, size, mtime, digest, text = file
    try:
        info = os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return
    if stat.S_IFMT(info.st_mode) != kind:
        return
    if kind == stat.S_IFREG:
        if (info.st_size, info.st_mtime_ns) != (size, mtime):
            return
        if digest is None:
            if _content(name, directory, size) != (text or b""):
                return
        elif info.st_nlink > 1:
            _finish_object(object_path(digest), info, objects)
    elif kind == stat.S_IFLNK and os.readlink(name, dir_fd=directory) != text:
        return
    os.unlink(name, dir_fd=directory)


def _content(name: bytes, directory: int, size: int) -> bytes:
    fd = os.open(name, _READ, dir_fd=directory)
    try:
        return os.pread(fd, size + 1, 0)
    finally:
        os.close(fd)


def _finish_object(path: bytes, info: os.stat_result, objects: int) -> None:
    """Make the object what objects are. It may be the file that is as ``info``; if not, it is so already."""
    with suppress(FileNotFoundError):
        if stat.S_IMODE(info.st_mode) != OBJECT_MODE:
            os.chmod(path, OBJECT_MODE, dir_fd=objects)
            return
        fd = os.open(path, _READ, dir_fd=objects)
        try:
            made_object(fd)
        finally:
            os.close(fd)


def main() -> None:
    """Remove files for the process that started this one."""
    from stratum.sys.workers import serve

    objects = -1

    def answer(connection: Connection, message: Any, directories: list[int]) -> None:
        nonlocal objects
        if objects < 0:
            objects = os.open(message, OPEN_DIRECTORY)
        else:
            connection.send(remove_batch(objects, directories, message))

    serve(answer)
