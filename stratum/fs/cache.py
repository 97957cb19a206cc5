"""What was fetched, kept for the next who asks: in memory, and beside that on disk where somebody wants it.

Keys are text of letters, digits, '.' and '-'. What is kept on disk may have been changed there, so everybody compares
what they get with the digest that they have anyway. Nothing here ever fails because a disk does.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from stratum.sys.atomic import is_temporary, temporary_name, write_all

MEMORY = 256 << 20
DISK = 4 << 30
_LOOK = 64
"""The directory is measured after so many files that were written to it, and at the first."""
_KEEP = 0.9
_ABANDONED = 3600.0
"""Seconds after which nobody writes a file in progress any more."""
_READ_MAX = 64 << 20


class Cache:
    """At most ``limit`` bytes, what was not used for longest goes first; with ``disk``, that too. For all threads."""

    def __init__(self, limit: int = MEMORY, disk: DiskCache | None = None) -> None:
        self.limit = limit
        self.disk = disk
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()
        self._busy: dict[str, tuple[threading.Lock, list[None]]] = {}

    def get(self, key: str) -> bytes | None:
        """What is kept in memory under ``key``; it was put there by this process."""
        with self._lock:
            data = self._kept.get(key)
            if data is not None:
                self._kept.move_to_end(key)
            return data

    def put(self, key: str, data: bytes, *, disk: bool = True) -> None:
        """Keep ``data``, which is what ``key`` says; ``disk``: also there, where that is wanted."""
        if len(data) <= self.limit:
            with self._lock:
                before = self._kept.pop(key, None)
                self._size += len(data) - (len(before) if before is not None else 0)
                self._kept[key] = data
                while self._size > self.limit:
                    self._size -= len(self._kept.popitem(last=False)[1])
        if disk and self.disk is not None:
            self.disk.put(key, data)

    def load(self, key: str, right: Callable[[bytes], bool]) -> bytes | None:
        """What is kept under ``key``; what comes from the disk is asked about, and forgotten where it is not right."""
        data = self.get(key)
        if data is not None or self.disk is None:
            return data
        data = self.disk.get(key)
        if data is None:
            return None
        if not right(data):
            self.disk.forget(key)
            return None
        self.put(key, data, disk=False)
        return data

    def forget(self, key: str) -> None:
        """Keep it in memory no longer."""
        with self._lock:
            data = self._kept.pop(key, None)
            self._size -= len(data) if data is not None else 0

    def alone(self, key: str) -> _Alone:
        """A block that one thread at a time is in, of those that name ``key``: so that two do not fetch the same."""
        return _Alone(self, key)

    @property
    def size(self) -> int:
        """Bytes that are kept in memory."""
        return self._size


class _Alone:
    def __init__(self, cache: Cache, key: str) -> None:
        self._cache, self._key = cache, key

    def __enter__(self) -> None:
        busy = self._cache._busy
        with self._cache._lock:
            lock, waiting = busy.setdefault(self._key, (threading.Lock(), []))
            waiting.append(None)
        lock.acquire()

    def __exit__(self, *_exc: object) -> None:
        busy = self._cache._busy
        with self._cache._lock:
            lock, waiting = busy[self._key]
            waiting.pop()
            if not waiting:
                del busy[self._key]
        lock.release()


class DiskCache:
    """Files in ``directory``, at most about ``limit`` bytes of them; those not read for longest go first.

    Several processes may use one. It is made with the first file, for its owner alone.
    """

    def __init__(self, directory: Path, limit: int = DISK) -> None:
        self.directory, self.limit = directory, limit
        self._written = 0

    def _path(self, key: str) -> Path:
        return self.directory / key[:2] / key

    def get(self, key: str) -> bytes | None:
        """The file's content, or None where there is none that can be read."""
        try:
            fd = os.open(self._path(key), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            with open(fd, "rb") as file:
                data = file.read(_READ_MAX + 1)
                os.utime(fd)
        except OSError:
            return None
        return data if len(data) <= _READ_MAX else None

    def put(self, key: str, data: bytes) -> None:
        """Keep it; where that does not work, it is not kept."""
        if len(data) > min(self.limit, _READ_MAX):
            return
        path = self._path(key)
        temporary = path.with_name(temporary_name())
        with suppress(OSError):
            try:
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            except FileNotFoundError:
                path.parent.mkdir(0o700, parents=True, exist_ok=True)
                fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                try:
                    write_all(fd, data)
                finally:
                    os.close(fd)
                os.rename(temporary, path)
            except OSError:
                os.unlink(temporary)
                raise
            self._written += 1
            if self._written % _LOOK == 1:
                self._trim()

    def forget(self, key: str) -> None:
        """Remove the file."""
        with suppress(OSError):
            self._path(key).unlink()

    def _trim(self) -> None:
        """Remove what is too much."""
        found, now = [], time.time()
        for shard in os.scandir(self.directory):
            if len(shard.name) != 2 or not shard.is_dir(follow_symlinks=False):
                continue
            for entry in os.scandir(shard.path):
                with suppress(OSError):
                    info = entry.stat(follow_symlinks=False)
                    if not is_temporary(entry.name):
                        found.append((info.st_mtime, info.st_size, entry.path))
                    elif now - info.st_mtime > _ABANDONED:
                        os.unlink(entry.path)
        total = sum(size for _, size, _ in found)
        if total <= self.limit:
            return
        for _, size, path in sorted(found):
            if total <= self.limit * _KEEP:
                break
            with suppress(OSError):
                os.unlink(path)
            total -= size
