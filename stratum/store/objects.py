"""File contents: ``objects/ab/cdef...``, named by fs-verity digest, mode 0444, never changed once named.

The layout is composefs's digest store, so the directory is an overlayfs data layer as it stands. An object gets its
name only after its bytes are on disk (``store.transaction``), so a named object of the right size is whole; what a
failing disk did to it later is for ``verify`` to find.
"""

from __future__ import annotations

import itertools
import os
import re
import stat
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from stratum.errors import DamagedError, NotFoundError
from stratum.store.layout import Layout, storage_error
from stratum.sys.syscalls import RENAME_NOREPLACE, renameat2

OBJECT_MODE = 0o444
_SHARD = re.compile(r"[0-9a-f]{2}")
_REST = re.compile(r"[0-9a-f]{62}")
_CHUNK = 1 << 20


class Objects:
    """The objects of one store. Digests are 32 bytes."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self._directory = os.fspath(layout.objects)

    @property
    def directory(self) -> Path:
        """The object directory."""
        return self.layout.objects

    @property
    def layers(self) -> tuple[Path, ...]:
        """The data layers of a mount (``mount.plan``), in the order in which an object is looked for in them."""
        return (self.layout.objects,)

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
            fd = self.layout.open_beneath(path, os.O_RDONLY | os.O_NONBLOCK)
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
        """Read the whole object, but for its holes, and compare it with its name; its size.

        ``DamagedError`` where they differ, and, before anything is read, where it has not the ``expected`` size.
        """
        from io import FileIO

        from stratum.composefs.verity import VerityHasher
        from stratum.sys.holes import sparse_pieces

        hasher, size = VerityHasher(), 0
        fd = self.open(digest)
        try:
            found = os.fstat(fd).st_size
            if expected is not None and found != expected:
                raise DamagedError(f"object {digest.hex()} has {found} bytes instead of {expected}")
            with FileIO(fd, closefd=False) as file:
                for piece in sparse_pieces(file, found, _CHUNK):
                    if isinstance(piece, int):
                        hasher.update_zeros(piece)
                        size += piece
                    else:
                        hasher.update(piece)
                        size += len(piece)
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
        for shard in filter(_SHARD.fullmatch, self.layout.names_in(self.layout.objects)):
            directory = self.layout.objects / shard
            if stat.S_ISDIR(directory.lstat().st_mode):
                for rest in filter(_REST.fullmatch, self.layout.names_in(directory)):
                    yield bytes.fromhex(shard + rest)


def name_objects(
    layout: Layout, staging: Path, staged: Iterable[tuple[bytes, str, int]], *, settled: bool = False
) -> int:
    """Give each (digest, name below ``staging``, size) its place in the store; how many were new.

    The bytes must be on disk already; making the new names durable, by a syncfs, is left to the caller. An object that
    is there with the same size is trusted and kept; one of another size is damaged and replaced. ``settled``: nobody
    else writes below ``staging`` meanwhile, so that a shard which the store has none of yet may move as a whole. Raises
    ``OSError``, and ``DamagedError`` where something else than a file has an object's name.
    """
    new = 0
    source = os.open(staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for shard, group in itertools.groupby(sorted(staged), lambda item: item[0].hex()[:2]):
            objects = [(digest.hex()[2:], name, size) for digest, name, size in group]
            if settled and _move_shard(layout, source, shard, objects):
                new += len(objects)
                continue
            _make_shard(layout, shard)
            target = layout.open_beneath(layout.objects / shard, os.O_RDONLY | os.O_DIRECTORY)
            try:
                new += sum(_name_object(source, name, target, rest, size) for rest, name, size in objects)
            finally:
                os.close(target)
    finally:
        os.close(source)
    return new


def _make_shard(layout: Layout, shard: str) -> None:
    path = layout.objects / shard
    try:
        path.mkdir()
    except FileExistsError:
        return
    path.chmod(0o755)


def _move_shard(layout: Layout, source: int, shard: str, objects: Sequence[tuple[str, str, int]]) -> bool:
    """Make the directory ``shard`` in ``source`` the store's, where it has none and that one holds just ``objects``."""
    if os.path.lexists(layout.objects / shard) or any(name != f"{shard}/{rest}" for rest, name, _ in objects):
        return False
    fd = os.open(shard, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=source)
    try:
        if set(os.listdir(fd)) != {rest for rest, _, _ in objects}:
            return False
        os.fchmod(fd, 0o755)
    finally:
        os.close(fd)
    target = layout.open_beneath(layout.objects, os.O_RDONLY | os.O_DIRECTORY)
    try:
        renameat2(source, shard, target, shard, RENAME_NOREPLACE)
    except FileExistsError:
        return False  # somebody was faster
    finally:
        os.close(target)
    return True


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
