"""Objects as FUSE files: large ones, of which only what is read is fetched, and those that metadata was changed of.

Nothing is kept about them but what the catalogs have: the node ID of an object is made of its digest, and found again
by it, and file handles have no meaning. So a worker that takes over from another knows all files that are open.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from stratum.errors import StratumError
from stratum.store.catalog import Catalog
from stratum.store.objects import Objects, Staging
from stratum.sys.actors import Actor

UNREAL = "unreal"

FIRST_NODE = 1 << 56
"""Node IDs from here on are objects: what is added is the first seven bytes of the digest."""
_PREFIX = 7
_TOLD_MAX = 4096

Done = Callable[[int], None]
DoneReading = Callable[[int, bytes], None]


class Fetching(Protocol):
    """What is asked of a fetcher: the objects of one commit, those that are here and those that are not."""

    def size(self, digest: bytes) -> int | None:
        """The object's size; None where it is none of the commit."""

    def is_large(self, digest: bytes) -> bool:
        """Whether it is read by ranges."""

    def condition(self, digest: bytes) -> str:
        """ "here" (in the store), "landed" (in the landing directory), or "unreal"."""

    def pass_on(self, digest: bytes) -> bool:
        """Whether the object has landed and is no large one; then that is counted as ``want`` of it would be."""

    def want(self, digest: bytes, reader: Actor | None, done: Done) -> None:
        """Fetch the object, and call ``done`` from any thread, with 0 when it is here or landed, else an errno."""

    def read_range(self, digest: bytes, start: int, size: int, reader: Actor | None, done: DoneReading) -> None:
        """Fetch a range of a large object, and call ``done`` from any thread with (0, bytes) or (errno, b"")."""


class ObjectFiles:
    """The objects of a commit as FUSE files.

    ``became_native`` is called, from any thread and now and then, when an object that is open as such a file is whole:
    a mount that is refreshed (``sys.mountapi.refresh_mount``) opens it as an ordinary file the next time.
    """

    def __init__(
        self,
        fetcher: Fetching,
        catalogs: Sequence[Catalog],
        objects: Objects,
        landing: Path,
        became_native: Callable[[], None] | None = None,
    ) -> None:
        self._fetcher = fetcher
        self._catalogs = tuple(catalogs)
        self._objects = objects
        self._landing = os.fspath(landing)
        self._became_native = became_native
        self._told: set[bytes] = set()

    def node_of(self, digest: bytes) -> int | None:
        """The node ID of the object; None where it can have none of its own, as another's digest begins alike."""
        node = FIRST_NODE + int.from_bytes(digest[:_PREFIX], "big")
        return node if self.digest_of(node) == digest else None

    def digest_of(self, node: int) -> bytes | None:
        """The object whose node ID that is, or None."""
        number = node - FIRST_NODE
        if not 0 <= number < FIRST_NODE:
            return None
        prefix = number.to_bytes(_PREFIX, "big")
        found = {digest for catalog in self._catalogs for digest in catalog.beginning_with(prefix)}
        return found.pop() if len(found) == 1 else None

    def size(self, digest: bytes) -> int:
        """The object's size. ``OSError`` ESTALE where it is none of the commit."""
        size = self._fetcher.size(digest)
        if size is None:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
        return size

    def is_ready(self, digest: bytes) -> bool:
        """Whether it can be read from without fetching all of it."""
        return self._fetcher.condition(digest) != UNREAL or self._fetcher.is_large(digest)

    def read(self, digest: bytes, start: int, size: int, reader: Actor | None, done: DoneReading) -> None:
        """Read what there is of the object from ``start`` on, up to ``size`` bytes; ``done`` gets (0, bytes) or (errno,
        b""). There are never less than that: the kernel would take the rest for zeros."""
        length = max(0, min(size, self.size(digest) - start))

        def checked(code: int, data: bytes) -> None:
            done(*((0, data) if code == 0 and len(data) == length else (code or errno.EIO, b"")))

        def fetched(code: int) -> None:
            done(code, b"") if code else checked(*self._read_here(digest, start, length))

        if length == 0:
            done(0, b"")
        elif self._is_ranged(digest):
            self._fetcher.read_range(digest, start, length, reader, checked)
        elif self._fetcher.condition(digest) == UNREAL:
            self._fetcher.want(digest, reader, fetched)
        else:
            fetched(0)

    def _is_ranged(self, digest: bytes) -> bool:
        return self._fetcher.condition(digest) == UNREAL and self._fetcher.is_large(digest)

    def _read_here(self, digest: bytes, start: int, size: int) -> tuple[int, bytes]:
        try:
            fd = self._opened(digest)
            try:
                data = os.pread(fd, size, start)
            finally:
                os.close(fd)
        except (OSError, StratumError):
            return errno.EIO, b""
        self._tell(digest)
        return 0, data

    def _tell(self, digest: bytes) -> None:
        if self._became_native is None or digest in self._told:
            return
        if len(self._told) >= _TOLD_MAX:
            self._told = set()
        self._told.add(digest)
        self._became_native()

    def _opened(self, digest: bytes) -> int:
        """The object, wherever it is: it may be named in the store, and leave the landing directory, at any moment."""
        with suppress(StratumError):
            return self._objects.open(digest)
        with suppress(FileNotFoundError):
            return os.open(Staging(self._landing).path(digest), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        return self._objects.open(digest)
