"""A directory as a tree whose files have C4 IDs; nothing is stored.

Every directory and file is opened beneath the top without following links, so only what is in it is read. Directories
that cannot be opened, and files that cannot be read, are errors: an ID of a part would be that of something else.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from stratum.c4.ids import C4Id, id_of_digest
from stratum.errors import NotFoundError, StratumError, UsageError, os_error_text, path_text
from stratum.sys.syscalls import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from stratum.tree.limits import PATH_MAX
from stratum.tree.model import Directory, File, Inode, Special, Symlink

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_RESOLVE = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_LARGE = 1 << 20
"""Files from this size on are read by threads: hashing lets others run."""
_PIECE = 1 << 20


class Identified(File):
    """A file whose content is known by ``sha512`` alone. No commit can hold it."""

    __slots__ = ("sha512",)

    sha512: bytes

    @property
    def c4id(self) -> C4Id:
        return id_of_digest(self.sha512)


def c4id_of(file: File) -> C4Id:
    """The ID of a file of a tree of ``identify_directory``."""
    assert isinstance(file, Identified)
    return file.c4id


def identify_directory(path: str, *, jobs: int = 1) -> Directory:
    """The tree of the directory ``path``, its regular files ``Identified``. ``NotFoundError``, ``UsageError``,
    ``StratumError`` naming what cannot be read."""
    try:
        top = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory") from None
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
    try:
        with ThreadPoolExecutor(jobs) as pool:
            return _Scan(path, top, pool).run()
    finally:
        os.close(top)


def identify_file(path: str) -> tuple[bytes, int]:
    """The SHA-512 and the size of a regular file, by a path that may lead through links. Raises as
    ``identify_directory``."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise UsageError(f"{path} is neither a regular file nor a directory")
        return _sha512(fd), os.fstat(fd).st_size
    except OSError as exc:
        raise StratumError(f"cannot read {path}: {os_error_text(exc)}") from None
    finally:
        os.close(fd)


def _sha512(fd: int) -> bytes:
    sha = hashlib.sha512(usedforsecurity=False)
    while piece := os.read(fd, _PIECE):
        sha.update(piece)
    return sha.digest()


class _Scan:
    def __init__(self, what: str, top: int, pool: ThreadPoolExecutor) -> None:
        self._what = os.fsencode(what).rstrip(b"/") or b"/"
        self._top = top
        self._pool = pool
        self._known: dict[tuple[int, int], Inode] = {}
        """Device and inode of what has several names -> its inode here."""
        self._running: list[tuple[Future[bytes], Identified, bytes]] = []

    def run(self) -> Directory:
        info = os.fstat(self._top)
        root = Directory(*_metadata(info))
        todo = [(root, b"")]
        while todo:
            directory, path = todo.pop()
            for name, inode in self._list(path):
                directory.children[name] = inode
                if isinstance(inode, Directory):
                    todo.append((inode, path + name + b"/"))
        for future, file, path in self._running:
            file.sha512 = self._result(future, path)
        return root

    def _result(self, future: Future[bytes], path: bytes) -> bytes:
        try:
            return future.result()
        except OSError as exc:
            raise self._error(path, exc) from None

    def _list(self, path: bytes) -> Iterator[tuple[bytes, Inode]]:
        """Name and inode of everything in a directory."""
        if len(path) > PATH_MAX:
            raise StratumError(f"{path_text(self._what)} has a path of over {PATH_MAX} bytes")
        try:
            fd = openat2(self._top, path or b".", _DIRECTORY, resolve=_RESOLVE)
        except OSError as exc:
            raise self._error(path, exc) from None
        try:
            with os.scandir(fd) as entries:
                found = [(os.fsencode(entry.name), entry.stat(follow_symlinks=False)) for entry in entries]
            for name, info in found:
                yield name, self._inode(fd, name, info, path)
        except OSError as exc:
            raise self._error(path, exc) from None
        finally:
            os.close(fd)

    def _inode(self, directory: int, name: bytes, info: os.stat_result, path: bytes) -> Inode:
        key = (info.st_dev, info.st_ino)
        several = info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode)
        if several and key in self._known:
            return self._known[key]
        try:
            inode = self._new(directory, name, info, path)
        except OSError as exc:
            raise self._error(path + name, exc) from None
        if several:
            self._known[key] = inode
        return inode

    def _new(self, directory: int, name: bytes, info: os.stat_result, path: bytes) -> Inode:
        if stat.S_ISDIR(info.st_mode):
            return Directory(*_metadata(info))
        if stat.S_ISLNK(info.st_mode):
            return Symlink(*_metadata(info), target=os.readlink(name, dir_fd=directory))
        if not stat.S_ISREG(info.st_mode):
            return Special(*_metadata(info), rdev=info.st_rdev)
        file = Identified(*_metadata(info), size=info.st_size)
        fd = os.open(name, _FILE, dir_fd=directory)
        if info.st_size >= _LARGE:
            self._running.append((self._pool.submit(_read_and_close, fd), file, path + name))
            if len(self._running) % 64 == 0:  # so many are open at most
                self._running[-1][0].exception()
        else:
            file.sha512 = _read_and_close(fd)
        return file

    def _error(self, path: bytes, exc: OSError) -> StratumError:
        return StratumError(f"cannot read {path_text(self._what + b'/' + path)}: {os_error_text(exc)}")


def _read_and_close(fd: int) -> bytes:
    try:
        return _sha512(fd)
    finally:
        os.close(fd)


def _metadata(info: os.stat_result) -> tuple[int, int, int, int]:
    return (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns)
