"""An object store in a directory: ``file://``.

A key is a path below the directory. An object appears whole and durably, by a rename from a temporary name or, where it
must not be there yet, by a link. Writers that have a condition take turns by a lock on ``.lock``; each version of an
object has a time of its own. The directory may be where others can write: no symbolic link below it is followed, and
only regular files are read.
"""

from __future__ import annotations

import errno
import os
import stat
import time
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stratum.errors import ChangedError, DamagedError, NotFoundError, StratumError, os_error_text
from stratum.oci.bucketname import Bucket
from stratum.oci.bucketstore import (
    ALWAYS,
    PIECE,
    Absent,
    BucketStore,
    Entry,
    Exactly,
    Match,
    When,
    check_folder,
    check_key,
    is_key,
)
from stratum.sys.atomic import make_directories, new_file, remove_abandoned, write_all
from stratum.sys.locks import FileLock, locked
from stratum.sys.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2

_LOCK = ".lock"
_CLOCK = "clock"


class DirectoryBucket(BucketStore):
    """The directory that ``bucket`` names; it is made when something is written."""

    local = True

    def __init__(self, bucket: Bucket) -> None:
        self.bucket = self.located = bucket
        self._root = Path(bucket.name)
        self._tidied: set[str] = set()
        self._fd: int | None = None
        self._close: weakref.finalize[[int], DirectoryBucket] | None = None
        with self._doing("open"), suppress(FileNotFoundError):
            self._open_root()

    def _open_root(self) -> int:
        if self._fd is None:
            self._fd = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._close = weakref.finalize(self, os.close, self._fd)
        return self._fd

    def close(self) -> None:
        if self._close is not None:
            self._fd = None
            self._close()

    @contextmanager
    def _doing(self, what: str, key: str = "") -> Iterator[None]:
        """Turn an ``OSError`` into the words for it."""
        where = f"{self._root}/{key}" if key else str(self._root)
        try:
            yield
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"there is no object {where}") from None
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.EXDEV):
                raise StratumError(
                    f"{where} is a symbolic link, or is reached through one; in an object store none is followed",
                    hint="name the directory that has the objects in it",
                ) from None
            raise StratumError(f"cannot {what} {where}: {os_error_text(exc)}") from None

    def _beneath(self, name: str, flags: int) -> int:
        """Open what is below the directory, through no symbolic link. ``OSError`` as open(2)."""
        if self._fd is None:
            self._open_root()
        assert self._fd is not None
        return openat2(self._fd, name, flags | os.O_CLOEXEC, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)

    # Reading

    def file(self, key: str) -> BinaryIO:
        with self._doing("read", check_key(key)):
            fd = self._beneath(key, os.O_RDONLY | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DamagedError(f"{self._root}/{key} is not a regular file")
        return os.fdopen(fd, "rb", buffering=0)

    def get(self, key: str, limit: int) -> tuple[bytes, str]:
        with self.file(key) as file, self._doing("read", key):
            data = b"".join(_pieces(file, limit + 1))
            if len(data) > limit:
                raise DamagedError(f"{self._root}/{key} has more than {limit} bytes")
            return data, _version(os.fstat(file.fileno()))

    def read(self, key: str) -> Iterator[bytes]:
        with self.file(key) as file, self._doing("read", key):
            yield from _pieces(file, os.fstat(file.fileno()).st_size)

    def read_range(self, key: str, start: int, size: int) -> bytes:
        with self.file(key) as file, self._doing("read", key):
            file.seek(start)
            return b"".join(_pieces(file, size))

    def head(self, key: str) -> Entry | None:
        try:
            with self.file(key) as file:
                return _entry(key, os.fstat(file.fileno()))
        except NotFoundError:
            return None

    def list(self, prefix: str, after: str = "") -> Iterator[Entry]:
        with self._doing("list", check_folder(prefix)):
            try:
                fd = self._beneath(prefix or ".", os.O_RDONLY | os.O_DIRECTORY)
            except (FileNotFoundError, NotADirectoryError):
                return
            yield from self._below(fd, prefix, after)

    def _below(self, fd: int, prefix: str, after: str) -> Iterator[Entry]:
        """What is in an open directory, which is closed, and in those below it. Keys sort by their whole text: a
        directory among files as if its name ended with the slash."""
        try:
            with os.scandir(fd) as found:
                names = [(each.name, each.is_dir(follow_symlinks=False)) for each in found]
            for name, folder in sorted((f"{name}/" if folder else name, folder) for name, folder in names):
                key = prefix + name
                if not is_key(key.removesuffix("/")):
                    continue
                if folder and (after < key or after.startswith(key)):
                    with suppress(FileNotFoundError, NotADirectoryError):
                        inner = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
                        yield from self._below(inner, key, after)
                elif not folder and key > after:
                    with suppress(FileNotFoundError):
                        state = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        if stat.S_ISREG(state.st_mode):
                            yield _entry(key, state)
        finally:
            os.close(fd)

    # Writing

    def put(self, key: str, data: bytes, *, when: When = ALWAYS) -> str:
        with self._doing("write", check_key(key)), self._folder(key) as (folder, name), self._locked():
            state = _stat(folder, name)
            if isinstance(when, Match) and (state is None or _version(state) != when.version):
                raise ChangedError(f"{self._root}/{key} was changed by somebody else meanwhile")
            if isinstance(when, Absent) and state is not None:
                raise ChangedError(f"{self._root}/{key} is there already")
            before = state.st_mtime_ns if state is not None else 0
            return _version(self._write(folder, name, (data,), before))

    def put_stream(self, key: str, pieces: Iterable[bytes], size: int) -> None:
        checked = Exactly(pieces, size, f"{self._root}/{check_key(key)}")
        try:
            with self._doing("write", key), self._folder(key) as (folder, name):
                self._write(folder, name, checked, None)
        except StratumError:
            if checked.error is not None:
                raise checked.error from None
            raise

    def _write(self, folder: int, name: str, pieces: Iterable[bytes], before: int | None) -> os.stat_result:
        """Write a file in the open directory ``folder``; what is known of it. With ``before`` (nanoseconds) its time is
        one that no version of it had: the clock may stand still, or have been set back."""
        fd, temporary = new_file(Path(), 0o644, directory=folder)
        try:
            for piece in pieces:
                write_all(fd, piece)
            if before is not None:
                now = max(time.time_ns(), before + 1)
                os.utime(fd, ns=(now, now))
            os.fsync(fd)
            os.rename(temporary, name, src_dir_fd=folder, dst_dir_fd=folder)
            os.fsync(folder)
            return os.fstat(fd)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary, dir_fd=folder)
            raise
        finally:
            os.close(fd)

    @contextmanager
    def _folder(self, key: str) -> Iterator[tuple[int, str]]:
        """The directory that a key lies in, made where it is missing, and the key's name in it."""
        parent, _, name = key.rpartition("/")
        if self._fd is None:
            make_directories(self._root)
            self._open_root()
        try:
            fd = self._beneath(parent or ".", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            self._make_folder(parent)
            fd = self._beneath(parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            if parent not in self._tidied:  # what dead writers left in progress
                remove_abandoned(fd)
                self._tidied.add(parent)
            yield fd, name
        finally:
            os.close(fd)

    def _make_folder(self, path: str) -> None:
        above, _, name = path.rpartition("/")
        try:
            fd = self._beneath(above or ".", os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            self._make_folder(above)
            fd = self._beneath(above, os.O_RDONLY | os.O_DIRECTORY)
        try:
            with suppress(FileExistsError):
                os.mkdir(name, dir_fd=fd)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _locked(self) -> FileLock:
        # By way of the descriptor: the directory's name may be somebody else's by now.
        return locked(Path(f"/proc/self/fd/{self._fd}/{_LOCK}"), what=f"the object store {self.bucket}")

    def delete(self, keys: Iterable[str]) -> None:
        for key in map(check_key, keys):
            parent, _, name = key.rpartition("/")
            with self._doing("remove", key), suppress(FileNotFoundError, NotADirectoryError):
                fd = self._beneath(parent or ".", os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.unlink(name, dir_fd=fd)
                finally:
                    os.close(fd)

    def server_time(self) -> float:
        self.put(_CLOCK, b"")
        entry = self.head(_CLOCK)
        return entry.modified if entry is not None else time.time()


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size > 0 and (piece := file.read(min(PIECE, size))):
        size -= len(piece)
        yield piece


def _stat(folder: int, name: str) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=folder, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _version(state: os.stat_result) -> str:
    return f"{state.st_ino:x}-{state.st_mtime_ns:x}-{state.st_size:x}"


def _entry(key: str, state: os.stat_result) -> Entry:
    return Entry(key, state.st_size, state.st_mtime_ns / 1e9, _version(state))
