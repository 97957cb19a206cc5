"""What is left of a directory that was moved into the store (``store.moving``): removed, or made what it was."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path

from stratum.ingest.adopting import unseal
from stratum.ingest.copying import copy_hashed
from stratum.ingest.pool import DIRECTORIES_MAX, Batch, Pool
from stratum.ingest.removing import gone, remove_batch
from stratum.ingest.worker import Answer
from stratum.store.objects import OBJECT_MODE, Objects
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.sys.holes import is_sparse
from stratum.tree.model import Directory

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_BATCH = 512
"""Files that a worker removes at a time."""
_STAYS = (errno.ENOTEMPTY, errno.EEXIST, errno.EBUSY, errno.ENOENT, errno.ENOTDIR)
"""What rmdir(2) says of a directory in which something is left, of one that is mounted over, and of none."""


def remove_stored(root: int, tree: Directory, objects: Objects, jobs: int = 1) -> None:
    """Remove from the open directory ``root``, which stays itself, what is as in ``tree``, a commit of the store.

    Files that are objects by another name are made as objects are. What is another than in ``tree``, by its kind, size,
    time or target, stays, and so does what is not in it. ``jobs`` processes remove files. ``OSError`` where something
    cannot be removed, ``StratumError`` where a process is gone.
    """
    with DirectoryStack(os.dup(root)) as stack, _Removal(objects, jobs) as removal:
        removal.add(stack.top, tree)
        frames = [iter(_directories(tree))]
        while frames:
            for name, node in frames[-1]:
                try:
                    fd = os.open(name, OPEN_DIRECTORY, dir_fd=stack.top)
                except (FileNotFoundError, NotADirectoryError):
                    continue
                except OSError as exc:
                    if exc.errno == errno.ELOOP:
                        continue
                    raise
                stack.push(fd, os.fstat(fd))
                removal.add(fd, node)
                frames.append(iter(_directories(node)))
                break
            else:
                frames.pop()
                if frames:
                    stack.pop()
        removal.finish()
    _remove_directories(root, tree)


def _directories(node: Directory) -> list[tuple[bytes, Directory]]:
    return [(name, child) for name, child in node.children.items() if isinstance(child, Directory)]


def _remove_directories(root: int, tree: Directory) -> None:
    """Remove those directories of ``tree`` in the open ``root`` in which nothing is left."""
    with DirectoryStack(os.dup(root)) as stack:
        frames = [(b"", iter(_directories(tree)))]
        while frames:
            for name, node in frames[-1][1]:
                if inner := _directories(node):
                    try:
                        fd = os.open(name, OPEN_DIRECTORY, dir_fd=stack.top)
                    except OSError:
                        continue
                    stack.push(fd, os.fstat(fd))
                    frames.append((name, iter(inner)))
                    break
                _remove_empty(name, stack.top)
            else:
                name, _ = frames.pop()
                if frames:
                    stack.pop()
                    _remove_empty(name, stack.top)


def _remove_empty(name: bytes, directory: int) -> None:
    """Remove the directory ``name`` in ``directory``, unless something is left in it or it is none any more."""
    try:
        os.rmdir(name, dir_fd=directory)
    except OSError as exc:
        if exc.errno not in _STAYS:
            raise


class _Removal:
    """Hands the files of directories to worker processes, or removes few of them here. A context manager."""

    def __init__(self, objects: Objects, jobs: int) -> None:
        self._path = os.fsencode(objects.layout.objects)
        self._objects = os.open(self._path, OPEN_DIRECTORY)
        self._jobs = jobs
        self._pool: Pool | None = None
        self._batch = Batch([], [], None)
        self._files = 0

    def add(self, directory: int, node: Directory) -> None:
        """Remove what is no directory in ``node`` from the open ``directory``, now or later. ``OSError``."""
        files = [gone(name, child) for name, child in node.children.items() if not isinstance(child, Directory)]
        if files:
            self._batch.directories.append(os.dup(directory))
            self._batch.request.append(files)
            self._files += len(files)
        if self._files >= _BATCH or len(self._batch.directories) >= DIRECTORIES_MAX:
            self._dispatch()

    def _dispatch(self) -> None:
        batch, self._batch, self._files = self._batch, Batch([], [], None), 0
        if self._jobs == 1:
            self._remove_here(batch)
            return
        if self._pool is None:
            self._pool = Pool(self._jobs, "stratum.ingest.removing", "removes files", lambda number: self._path)
        while self._pool.full:
            self._take(self._pool.answers(wait=True))
        self._pool.add(batch)
        self._take(self._pool.answers(wait=False))

    def _remove_here(self, batch: Batch) -> None:
        try:
            answer = remove_batch(self._objects, batch.directories, batch.request)
        finally:
            batch.close()
        self._take([(batch, answer)])

    @staticmethod
    def _take(answers: list[tuple[Batch, Answer]]) -> None:
        for _, answer in answers:
            if answer:
                raise OSError(*answer)

    def finish(self) -> None:
        """Wait until everything is removed. ``OSError``."""
        self._remove_here(self._batch)
        while self._pool is not None and not self._pool.idle:
            self._take(self._pool.answers(wait=True))

    def __enter__(self) -> _Removal:
        return self

    def __exit__(self, *_: object) -> None:
        self._batch.close()
        os.close(self._objects)
        if self._pool is not None:
            self._pool.close()


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
