"""Images of commits: ``cache/images/<metadata_hash>.cfs``, an EROFS image each (``composefs.erofs``).

An image is a pure function of the commit's dump, so it is a cache: made when a mount needs it, and made again, byte for
byte the same, where it is gone. Nothing else makes one, and nothing else in the store tells of it. It gets its name
when it is complete and durable, so a power cut leaves a whole one or none.
"""

from __future__ import annotations

import contextlib
import os
import stat
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stratum.errors import DamagedError
from stratum.refs import is_hash
from stratum.store.layout import Layout, storage_error, storing
from stratum.sys.smallfile import READ

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.store.commits import Commits
    from stratum.store.locks import StoreLocks
    from stratum.tree.model import Directory

SUFFIX = ".cfs"
_MODE = 0o644
_BLOCK_SIZE = 4096
_MAGIC_AT, _BLOCKS_AT = 1024, 1024 + 36
"""Where an image's superblock (``composefs.erofs.layout``) has its magic number, and the number of blocks."""
_NUMBER = struct.Struct("<I")
_MAGIC = 0xE0F5E1E2


class Images:
    """The images of one store. Who relies on one that ``ensure`` named holds the store's lock shared until it is
    open, or mounted."""

    def __init__(self, layout: Layout, locks: StoreLocks, commits: Commits) -> None:
        self._layout = layout
        self._locks = locks
        self._commits = commits

    def path(self, commit: str) -> Path:
        """Where the image of a commit is, if it is there."""
        return self._layout.images / (commit + SUFFIX)

    def list(self) -> dict[str, os.stat_result]:
        """The images that are there: commit -> lstat(2). What else is in the directory is left out."""
        found = {}
        for name in self._layout.names_in(self._layout.images):
            commit = name.removesuffix(SUFFIX)
            if name.endswith(SUFFIX) and is_hash(commit):
                with contextlib.suppress(FileNotFoundError):
                    found[commit] = self.path(commit).lstat()
        return found

    def size(self, commit: str) -> int | None:
        """Bytes of the image of a commit; None where there is none."""
        try:
            return self.path(commit).lstat().st_size
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc, f"read {self.path(commit)}") from None

    def ensure(self, commit: str) -> Path:
        """The path of the commit's image, which is made where it is missing, or not whole.

        Raises ``NotFoundError``, ``DamagedError`` (of the commit's tree), ``StratumError``.
        """
        path = self.path(commit)
        if not self._is_whole(path):
            with self._locks.store():
                self._make(self._commits.tree(commit), path)
        with contextlib.suppress(OSError):  # it has been of use; a store may be read-only
            os.utime(path, follow_symlinks=False)
        return path

    def drop(self, commit: str) -> bool:
        """Remove the image of a commit; whether there was one. What is mounted of it stays as it is."""
        try:
            self.path(commit).unlink()
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"remove {self.path(commit)}") from None
        return True

    def check(self, commit: str, root: Directory) -> None:
        """Compare the image with what the commit's tree gives, byte for byte. ``DamagedError`` where it differs,
        ``FileNotFoundError`` where there is none."""
        path = self.path(commit)
        with self._reading(path), os.fdopen(self._layout.open_beneath(path, READ), "rb", buffering=0) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise DamagedError("it is not a regular file")
            buffered = _Whole(file.fileno())
            if any(buffered.read(len(piece)) != piece for piece in _pieces(root)) or buffered.read(1):
                raise DamagedError("it is not the image of the commit's tree")

    def _is_whole(self, path: Path) -> bool:
        """Whether the file is there, is ours, and has as many blocks as it says."""
        try:
            fd = self._layout.open_beneath(path, READ)
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
                return False
            head = os.pread(fd, _BLOCKS_AT + _NUMBER.size, 0)
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None
        finally:
            os.close(fd)
        if len(head) < _BLOCKS_AT + _NUMBER.size or _NUMBER.unpack_from(head, _MAGIC_AT)[0] != _MAGIC:
            return False
        return bool(_NUMBER.unpack_from(head, _BLOCKS_AT)[0] * _BLOCK_SIZE == info.st_size)

    def _make(self, root: Directory, path: Path) -> None:
        from stratum.sys.atomic import create_atomic

        with storing(f"write {path}"):
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with create_atomic(path, _MODE) as fd, open(fd, "wb", closefd=False) as file:
                file.writelines(_pieces(root))

    @contextlib.contextmanager
    def _reading(self, path: Path) -> Iterator[None]:
        try:
            yield
        except FileNotFoundError:
            raise
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None


class _Whole:
    """read(2) until there is as much as was asked for, or no more."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def read(self, size: int) -> bytes:
        data = b""
        while len(data) < size and (more := os.read(self._fd, size - len(data))):
            data += more
        return data


def _pieces(root: Directory) -> Iterator[bytes | bytearray]:
    from stratum.composefs.erofs.writer import image_pieces

    return image_pieces(root)
