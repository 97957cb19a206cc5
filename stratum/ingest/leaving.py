"""What is left of a directory that was moved into the store (``store.moving``): removed, or made what it was."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from stratum.ingest.adopting import made_object, unseal
from stratum.ingest.copying import copy_hashed
from stratum.store.objects import OBJECT_MODE, Objects
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.sys.holes import is_sparse
from stratum.tree.model import Directory, File, Inode, Special, Symlink, object_path

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_Frame = tuple[bytes, Iterator[tuple[bytes, Directory]]]


def remove_stored(root: int, tree: Directory, objects: Objects) -> None:
    """Remove from the open directory ``root``, which stays itself, what is as in ``tree``, a commit of the store.

    Files that are objects by another name are made as objects are. What is another than in ``tree``, by its kind, size,
    time or target, stays, and so does what is not in it. ``OSError`` where something cannot be removed.
    """
    with DirectoryStack(os.dup(root)) as stack:
        objects_directory = os.open(objects.layout.objects, OPEN_DIRECTORY)
        try:
            frames: list[_Frame] = [(b"", _emptied(stack.top, tree, objects_directory))]
            while frames:
                name, subdirectories = frames[-1]
                for child, node in subdirectories:
                    try:
                        fd = os.open(child, OPEN_DIRECTORY, dir_fd=stack.top)
                    except (FileNotFoundError, NotADirectoryError):
                        continue
                    except OSError as exc:
                        if exc.errno == errno.ELOOP:
                            continue
                        raise
                    stack.push(fd, os.fstat(fd))
                    frames.append((child, _emptied(fd, node, objects_directory)))
                    break
                else:
                    frames.pop()
                    if frames:
                        stack.pop()
                        _remove_empty(name, stack.top)
        finally:
            os.close(objects_directory)


def _remove_empty(name: bytes, directory: int) -> None:
    """Remove the directory ``name`` in ``directory``, unless something is left in it."""
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY):
            raise


def _emptied(directory: int, node: Directory, objects: int) -> Iterator[tuple[bytes, Directory]]:
    """Remove all but directories, which are returned."""
    subdirectories = []
    for name, child in node.children.items():
        if isinstance(child, Directory):
            subdirectories.append((name, child))
            continue
        try:
            info = os.stat(name, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            continue
        if _is_as(child, info, name, directory):
            if info.st_nlink > 1 and isinstance(child, File) and child.digest is not None:
                _finish_object(object_path(child.digest), info, objects)
            os.unlink(name, dir_fd=directory)
    return iter(subdirectories)


def _is_as(node: Inode, info: os.stat_result, name: bytes, directory: int) -> bool:
    if isinstance(node, File):
        if not stat.S_ISREG(info.st_mode) or (info.st_size, info.st_mtime_ns) != (node.size, node.mtime):
            return False
        return node.digest is not None or _content(name, directory, node.size) == (node.content or b"")
    if isinstance(node, Symlink):
        return stat.S_ISLNK(info.st_mode) and os.readlink(name, dir_fd=directory) == node.target
    assert isinstance(node, Special)
    return stat.S_IFMT(info.st_mode) == stat.S_IFMT(node.mode)


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


def make_as_it_was(root: int, objects: Objects, beside: str) -> None:
    """Make all files in the open directory ``root`` what they were before they were sealed, and none an object.

    Whoever owns the files may write to them again, so an object that is one of them becomes a copy first, by way of the
    path ``beside``. ``OSError``.
    """
    named = {number: path for directory, is_ours in objects.directories() if is_ours for number, path in _in(directory)}
    with DirectoryStack(os.dup(root)) as stack:
        frames = [_restored(stack.top, named, beside)]
        while frames:
            for name in frames[-1]:
                fd = os.open(name, OPEN_DIRECTORY, dir_fd=stack.top)
                stack.push(fd, os.fstat(fd))
                frames.append(_restored(fd, named, beside))
                break
            else:
                frames.pop()
                if frames:
                    stack.pop()


def _in(directory: Path) -> list[tuple[int, str]]:
    with os.scandir(directory) as entries:
        return [(entry.inode(), entry.path) for entry in entries]


def _restored(directory: int, named: Mapping[int, str], beside: str) -> Iterator[str]:
    """Restore the files in ``directory``; its subdirectories."""
    with os.scandir(directory) as entries:
        found = [(entry.name, entry.stat(follow_symlinks=False)) for entry in entries]
    for name, info in found:
        if stat.S_ISREG(info.st_mode):
            fd = os.open(name, _READ, dir_fd=directory)
            try:
                if info.st_nlink > 1 and info.st_ino in named:
                    _copy_object(fd, named[info.st_ino], beside)
                unseal(fd)
            finally:
                os.close(fd)
    return iter([name for name, info in found if stat.S_ISDIR(info.st_mode)])


def _copy_object(fd: int, path: str, beside: str) -> None:
    """Put a copy of the open file, which is an object, at ``path`` in its place, durably."""
    with suppress(FileNotFoundError):
        os.unlink(beside)
    info, out = os.fstat(fd), os.open(beside, _NEW, OBJECT_MODE)
    try:
        copy_hashed(fd, out, info.st_size, sparse=is_sparse(info))
        os.fchmod(out, OBJECT_MODE)
        os.fsync(out)
    finally:
        os.close(out)
    os.rename(beside, path)
