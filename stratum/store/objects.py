"""File contents: ``objects/ab/cdef...``, named by fs-verity digest, mode 0444, never changed once named.

The layout is composefs's digest store, so the directory is an overlayfs data layer as it stands. An object gets its
name only after its bytes are on disk (``store.transaction``), so a named object of the right size is whole; what a
failing disk did to it later is for ``verify`` to find.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path

from stratum.errors import DamagedError, NotFoundError
from stratum.store.layout import Layout, storage_error
from stratum.sys.atomic import fsync_dir
from stratum.sys.syscalls import RENAME_NOREPLACE, renameat2

OBJECT_MODE = 0o444
_SHARD = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")
_CHUNK = 1 << 20


class Objects:
    """The objects of one store. Digests are 32 bytes."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._directory = os.fspath(layout.objects)

    @property
    def directory(self) -> Path:
        """The object directory: the overlay's data layer."""
        return self._layout.objects

    def path(self, digest: bytes) -> Path:
        """Where the object is or would be."""
        return Path(self._path(digest))

    def _path(self, digest: bytes) -> str:
        name = digest.hex()
        return f"{self._directory}/{name[:2]}/{name[2:]}"

    def size(self, digest: bytes) -> int | None:
        """The object's size in bytes, or None where there is no such object."""
        try:
            info = os.lstat(self._path(digest))
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc, f"look for object {digest.hex()}") from None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def has(self, digest: bytes, size: int | None = None) -> bool:
        """Whether there is such an object (of ``size`` bytes, where given)."""
        found = self.size(digest)
        return found is not None and (size is None or found == size)

    def open(self, digest: bytes) -> int:
        """A read-only, close-on-exec descriptor of the object; ``NotFoundError`` where there is none."""
        path = self.path(digest)
        try:
            fd = self._layout.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
        except FileNotFoundError:
            raise NotFoundError(
                f"object {digest.hex()} is missing from the store", hint="pull the commit again, or restore a backup"
            ) from None
        except OSError as exc:
            raise storage_error(exc, f"open object {digest.hex()}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DamagedError(f"{path} is not a regular file")
        return fd

    def verify(self, digest: bytes, expected: int | None = None) -> int:
        """Read the whole object and compare it with its name; its size. ``DamagedError`` where they differ, and, before
        anything is read, where it has not the ``expected`` size."""
        from stratum.composefs.verity import VerityHasher

        hasher, size = VerityHasher(), 0
        fd = self.open(digest)
        try:
            found = os.fstat(fd).st_size
            if expected is not None and found != expected:
                raise DamagedError(f"object {digest.hex()} has {found} bytes instead of {expected}")
            while chunk := os.read(fd, _CHUNK):
                hasher.update(chunk)
                size += len(chunk)
        except OSError as exc:
            raise storage_error(exc, f"read object {digest.hex()}") from None
        finally:
            os.close(fd)
        if hasher.digest() != digest:
            raise DamagedError(f"object {digest.hex()} does not match its digest", hint="run 'stratum fsck'")
        return size

    def list(self) -> Iterator[tuple[bytes, int]]:
        """Every object as (digest, size), in the order of digests; files that no object can be are left out."""
        for digest in self.names():
            size = self.size(digest)
            if size is not None:
                yield digest, size

    def names(self) -> Iterator[bytes]:
        """The digests that anything in the store is named by, be it an object or not, in order."""
        for shard in filter(_SHARD.fullmatch, self._layout.names_in(self._layout.objects)):
            directory = self._layout.objects / shard
            if stat.S_ISDIR(directory.lstat().st_mode):
                for rest in filter(_REST.fullmatch, self._layout.names_in(directory)):
                    yield bytes.fromhex(shard + rest)


def name_objects(layout: Layout, staging: Path, staged: Iterable[tuple[bytes, str, int]]) -> int:
    """Give each (digest, name below ``staging``, size) its place in the store; how many were new.

    The bytes must be on disk already. An object that is there with the same size is trusted and kept; one of another
    size is damaged and replaced. The new names are durable on return. Raises ``OSError``, and ``DamagedError`` where
    something else than a file has an object's name.
    """
    new = 0
    source = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        shard, shard_fd, made_shard = "", -1, False
        try:
            for digest, name, size in sorted(staged):
                text = digest.hex()
                if text[:2] != shard:
                    _close_shard(shard_fd)
                    shard_fd = -1
                    shard = text[:2]
                    made_shard |= _make_shard(layout, shard)
                    shard_fd = layout.open_beneath(layout.objects / shard, os.O_RDONLY | os.O_DIRECTORY)
                new += _name_object(source, name, shard_fd, text[2:], size)
            _close_shard(shard_fd)
            shard_fd = -1
        finally:
            if shard_fd >= 0:
                os.close(shard_fd)
        if made_shard:
            fsync_dir(layout.objects)
    finally:
        os.close(source)
    return new


def _make_shard(layout: Layout, shard: str) -> bool:
    path = layout.objects / shard
    try:
        path.mkdir()
    except FileExistsError:
        return False
    path.chmod(0o755)
    return True


def _close_shard(fd: int) -> None:
    """Make the names in a shard durable."""
    if fd >= 0:
        os.fsync(fd)
        os.close(fd)


def _name_object(source: int, name: str, shard: int, rest: str, size: int) -> bool:
    try:
        renameat2(source, name, shard, rest, RENAME_NOREPLACE)
    except FileExistsError:
        info = os.stat(rest, dir_fd=shard, follow_symlinks=False)
        if not stat.S_ISREG(info.st_mode):
            raise DamagedError(f"the store has something else than a file in place of object ...{rest}") from None
        if info.st_size == size:
            return False
        os.rename(name, rest, src_dir_fd=source, dst_dir_fd=shard)
    return True
