"""Blobs that others pushed: ``blobs/sha256/ab/<62 hex digits>``, named by the SHA-256 of what is in them.

A blob gets its name when its bytes are on disk and were compared with it. Each repository that has it, has a hard link
to it (``store.repositories``); a commit that was pushed can be fetched from here (``oci.ownblobs``). Manifests that
were pushed are blobs too.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from stratum.errors import DamagedError, NotFoundError
from stratum.store.layout import Layout, storage_error, storing
from stratum.sys.atomic import fsync_dir, temporary_name, write_atomic
from stratum.sys.smallfile import READ

BLOB_MODE = 0o444
_ALGORITHM = "sha256"
_SHARD = 2
_SHARD_NAME = re.compile(r"[0-9a-f]{2}")
_REST_NAME = re.compile(r"[0-9a-f]{62}")


def link(source: Path, directory: int, name: str) -> None:
    """Give a blob's file another name in a directory (a descriptor), in place of nothing; a copy where it has as many
    as a file can have. The caller makes that durable. ``NotFoundError`` where it is gone."""
    try:
        os.link(source, name, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        return
    except FileNotFoundError:
        raise NotFoundError(f"{source} is not in the store any more") from None
    except OSError as exc:
        if exc.errno != errno.EMLINK:
            raise storage_error(exc, f"link {source}") from None
        with storing(f"copy {source}"):
            write_atomic(Path(name), source.read_bytes(), BLOB_MODE, directory=directory)


class Blobs:
    """The blobs of one store, by 64 hex digits. Whoever writes here holds the store's lock shared."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def path(self, sha: str) -> Path:
        """Where a blob is or would be."""
        return self._layout.blobs / _ALGORITHM / sha[:_SHARD] / sha[_SHARD:]

    def size(self, sha: str) -> int | None:
        """Bytes of a blob; None where it is not here."""
        try:
            info = os.lstat(self.path(sha))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as exc:
            raise storage_error(exc, f"look for blob {sha}") from None
        return info.st_size if stat.S_ISREG(info.st_mode) else None

    def open(self, sha: str) -> int:
        """A descriptor to read it by. ``NotFoundError``, ``DamagedError``."""
        try:
            fd = self._layout.open_beneath(self.path(sha), READ)
        except FileNotFoundError:
            raise NotFoundError(f"blob sha256:{sha} is not in the store") from None
        except OSError as exc:
            raise storage_error(exc, f"read blob {sha}") from None
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            raise DamagedError(f"{self.path(sha)} is not a regular file", hint="run 'stratum fsck'")
        return fd

    def take_in(self, source: Path, sha: str, size: int) -> None:
        """Give the file ``source``, whose bytes are on disk and have this digest, its name too, durably. One that is
        here with as many bytes stays."""
        if self.size(sha) == size:
            return
        target = self.path(sha)
        with storing(f"keep blob {sha}"):
            self._make(target.parent)
            shard = self._layout.open_beneath(target.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                name = temporary_name()
                os.link(source, name, dst_dir_fd=shard, follow_symlinks=False)
                try:
                    os.rename(name, target.name, src_dir_fd=shard, dst_dir_fd=shard)
                finally:
                    with suppress(FileNotFoundError):  # also where both were the same file already
                        os.unlink(name, dir_fd=shard)
                os.fsync(shard)
            finally:
                os.close(shard)

    def link(self, sha: str, directory: int, name: str) -> None:
        """Have the blob under ``name`` in a directory (a descriptor) too, in place of nothing; the caller makes that
        durable. ``NotFoundError`` where it is not here."""
        link(self.path(sha), directory, name)

    def directories(self) -> Iterator[tuple[Path, bool]]:
        """What is where the directories of blobs are: (path, whether it is named as one)."""
        directory = self._layout.blobs / _ALGORITHM
        for name in self._layout.names_in(directory):
            yield directory / name, _SHARD_NAME.fullmatch(name) is not None

    def list(self) -> Iterator[str]:
        """The blobs that are here, sorted. What has no blob's name is passed over."""
        for path, is_ours in self.directories():
            if is_ours and stat.S_ISDIR(path.lstat().st_mode):
                for name in filter(_REST_NAME.fullmatch, self._layout.names_in(path)):
                    yield path.name + name

    def verify(self, sha: str) -> int:
        """Compare a blob with its name; its size in bytes. ``DamagedError``, ``NotFoundError``."""
        from hashlib import sha256

        hasher, size = sha256(), 0
        with storing(f"read blob {sha}"), open(self.open(sha), "rb", buffering=0) as file:
            while piece := file.read(1 << 20):
                hasher.update(piece)
                size += len(piece)
        if hasher.hexdigest() != sha:
            raise DamagedError("its content does not match its name")
        return size

    def _make(self, directory: Path) -> None:
        """Make the directories of a blob, durably."""
        for path in (self._layout.blobs, self._layout.blobs / _ALGORITHM, directory):
            with suppress(FileExistsError):
                path.mkdir(mode=0o755)
                fsync_dir(path.parent)
