"""What was written to a layer: contents by their digests, in memory or in a directory."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Protocol, cast

from stratum.composefs.verity import VerityHasher
from stratum.store.layout import storing
from stratum.sys.atomic import fsync_dir, new_file, remove_abandoned
from stratum.tree.model import INLINE_MAX, File, object_path

FILE_MODE = 0o100644
_SPOOL_MAX = 64 << 20
"""Bytes of a file in the making that are kept in memory, of a layer that is there."""


class Contents(Protocol):
    """Where contents are kept. ``StratumError`` where that does not work."""

    def create(self) -> BinaryIO:
        """A file in the making, to write to."""

    def sync(self, file: BinaryIO) -> None:
        """Have what was written where a power cut leaves it. ``OSError``."""

    def keep(self, file: BinaryIO, digest: bytes) -> None:
        """Keep what was written and synced, which has this digest; the file is closed."""

    def discard(self, file: BinaryIO) -> None:
        """Forget a file in the making."""

    def open(self, digest: bytes) -> int | bytes | None:
        """A descriptor of the content, or all of it; None where it is not kept here."""

    def keep_only(self, digests: Callable[[], Set[bytes]]) -> None:
        """Forget those that are not among ``digests``, where that is worth its while."""

    def clear(self) -> None:
        """Forget everything."""


class MemoryContents(Contents):
    """In memory; what is being written is on disk where it is large, in a file without a name."""

    def __init__(self) -> None:
        self._kept: dict[bytes, bytes] = {}
        self._size = self._needed = 0

    def create(self) -> BinaryIO:
        return cast(BinaryIO, tempfile.SpooledTemporaryFile(_SPOOL_MAX))

    def sync(self, file: BinaryIO) -> None:
        return

    def keep(self, file: BinaryIO, digest: bytes) -> None:
        with file:
            file.seek(0)
            if digest not in self._kept:
                self._kept[digest] = file.read()
                self._size += len(self._kept[digest])

    def discard(self, file: BinaryIO) -> None:
        file.close()

    def open(self, digest: bytes) -> int | bytes | None:
        return self._kept.get(digest)

    def clear(self) -> None:
        self._kept.clear()
        self._size = self._needed = 0

    def keep_only(self, digests: Callable[[], Set[bytes]]) -> None:
        """When twice as much is kept as was needed the last time, and more."""
        if self._size > 2 * self._needed + _SPOOL_MAX:
            needed = digests()
            self._kept = {digest: data for digest, data in self._kept.items() if digest in needed}
            self._size = self._needed = sum(map(len, self._kept.values()))


class DirectoryContents(Contents):
    """In ``directory``, which is made on need, laid out as the objects of a store."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def _path(self, digest: bytes) -> Path:
        return self._directory / os.fsdecode(object_path(digest))

    def create(self) -> BinaryIO:
        with storing(f"write to {self._directory}"):
            self._directory.mkdir(0o700, exist_ok=True)
            fd, _ = new_file(self._directory)  # locked, so that what a dead process left is known by that
            return os.fdopen(fd, "wb")

    def sync(self, file: BinaryIO) -> None:
        file.flush()
        os.fdatasync(file.fileno())

    def keep(self, file: BinaryIO, digest: bytes) -> None:
        temporary, path = _name_of(file), self._path(digest)
        with storing(f"write to {self._directory}"), file:
            if not path.parent.is_dir():
                path.parent.mkdir(0o700, exist_ok=True)
                fsync_dir(self._directory)
            os.rename(temporary, path)
            fsync_dir(path.parent)

    def discard(self, file: BinaryIO) -> None:
        with suppress(OSError):
            os.unlink(_name_of(file))
        file.close()

    def open(self, digest: bytes) -> int | bytes | None:
        try:
            return os.open(self._path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            return None

    def keep_only(self, digests: Callable[[], Set[bytes]]) -> None:
        """Others may have them open: they go with ``clear``."""

    def clear(self) -> None:
        """Forget everything but files in the making, which somebody else may be writing."""
        with suppress(OSError):
            for entry in os.scandir(self._directory):
                if entry.is_dir(follow_symlinks=False):
                    shutil.rmtree(entry.path, ignore_errors=True)
            fd = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                remove_abandoned(fd)
            finally:
                os.close(fd)


def _name_of(file: BinaryIO) -> str:
    return os.readlink(f"/proc/self/fd/{file.fileno()}")


class Draft:
    """A file that is being written. Once it is whole, ``placed`` is given it, to ``keep`` it and give it a name.
    ``first``: what it begins with."""

    def __init__(
        self,
        contents: Contents,
        placed: Callable[[Draft], None],
        first: Iterable[bytes] = (),
    ) -> None:
        self._contents, self._placed = contents, placed
        self._file: BinaryIO | None = None
        self._hasher = VerityHasher()
        self._begun = b""
        self.size = 0
        for piece in first:
            self.write(piece)

    def write(self, data: bytes | memoryview) -> None:
        """Write what comes next. ``StratumError``."""
        self.size += len(data)
        if self._file is None:
            self._begun += bytes(data)
            if self.size <= INLINE_MAX:
                return
            self._file = self._contents.create()
            data, self._begun = self._begun, b""
        self._hasher.update(data)
        with storing("write to the layer"):
            self._file.write(data)

    def place(self) -> None:
        """Have it in the layer. ``StratumError``, ``OSError``; then nothing has changed."""
        if self._file is not None:
            with storing("write to the layer"):
                self._contents.sync(self._file)
        try:
            self._placed(self)
        except BaseException:
            self.drop()
            raise

    def keep(self) -> File:
        """Keep the content; the file that has it, made now, the user's own. For ``placed``."""
        digest = None
        if self._file is not None:
            digest = self._hasher.digest()
            self._contents.keep(self._file, digest)
            self._file = None
        content = self._begun or None
        owner = (os.geteuid(), os.getegid())
        return File(FILE_MODE, *owner, time.time_ns(), size=self.size, digest=digest, content=content)

    def drop(self) -> None:
        """Forget it."""
        if self._file is not None:
            file, self._file = self._file, None
            self._contents.discard(file)
