"""Contents as files of a directory, by their C4 IDs: ``LocalStore``, and ``TreeStore``, which the program c4 shares.

::

    c4/5Y/c45Y...          a content, mode 0600 (``content.trie`` has the layout)
    .counts/5Y/c45Y...     how many references there are, in decimal, where it is more than one
    .lock                  flock'd by whoever changes any of that
    .tmp-*                 files in progress, flock'd by their writers

A content is written beside, synced, and gets its name by one rename, whose directory is synced before its ID is
returned: so a power cut leaves it whole or not there. Reading takes no lock. What is put again is compared with what is
there, so that after a put the content is right whatever a disk did to it. What other programs put counts as one
reference.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from io import FileIO
from pathlib import Path
from threading import Lock
from typing import BinaryIO

from stratum.c4.ids import C4Id
from stratum.content.base import Entry, KeptStore, Stream
from stratum.content.c4content import Spooled, c4_id, checked_stream, content_words, not_there
from stratum.content.streams import file_pieces
from stratum.content.trie import SPLIT, Trie
from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.store.layout import storage_error, storing
from stratum.sys.atomic import new_file, remove_abandoned, write_all, write_atomic
from stratum.sys.locks import FileLock
from stratum.sys.smallfile import READ, UnfitError, read_opened
from stratum.sys.syscalls import RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, syncfs

COUNTS = ".counts"
LOCK = ".lock"
_COUNT_MAX = 24
_LOCK_SECONDS = 120.0
_BATCH = 256
"""Contents that become durable together: each has two files open meanwhile."""
_BATCH_BYTES = 64 << 20
_NO_LINKS = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS


class TreeStore(KeptStore[C4Id]):
    """The store in the directory ``root``, which is made where there is none, unless ``create`` is false: then
    ``NotFoundError``.

    ``split``: a directory with more contents than that is split in many. ``durable`` false: what is put may be gone, or
    damaged, after a power cut, which is found when it is read; for copies of what is elsewhere.
    """

    _levels = 0

    def __init__(
        self, root: str | os.PathLike[str], *, create: bool = True, split: int = SPLIT, durable: bool = True
    ) -> None:
        self.root = Path(os.path.abspath(root))
        self._durable = durable
        self._trie = Trie(str(self.root), split=split, levels=self._levels)
        self._threads = Lock()
        if create:
            with storing(f"make {self.root}"):
                self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._opened() as fd, suppress(OSError):
            remove_abandoned(fd)

    def __str__(self) -> str:
        return str(self.root)

    # Reading

    def get(self, content_id: C4Id) -> BinaryIO:
        c4id = c4_id(content_id)
        with self._opened() as root, storing(f"open {content_words(c4id)}"):
            fd = self._trie.open(root, c4id)
        if fd is None:
            raise not_there(c4id, str(self))
        file = FileIO(fd)
        return checked_stream(file_pieces(file, f"read {content_words(c4id)}"), c4id, str(self), file.close)

    def size(self, content_id: C4Id) -> int | None:
        c4id = c4_id(content_id)
        with self._opened() as root, storing(f"look for {content_words(c4id)}"):
            info = self._trie.stat(root, c4id)
        return None if info is None else info.st_size

    def touch(self, content_id: C4Id) -> None:
        c4id = c4_id(content_id)
        with self._opened() as root, suppress(OSError):
            fd = self._trie.open(root, c4id)
            if fd is not None:
                try:
                    os.utime(fd)
                finally:
                    os.close(fd)

    def entries(self) -> Iterator[Entry[C4Id]]:
        with self._opened() as root, storing(f"list {self}"):
            for c4id, info in self._trie.entries(root):
                yield c4id, info.st_size, info.st_mtime

    # Writing

    def put(self, stream: Stream) -> C4Id:
        return self._put(stream, counts=True)

    def keep(self, stream: Stream) -> C4Id:
        return self._put(stream, counts=False)

    def _put(self, stream: Stream, *, counts: bool) -> C4Id:
        with self._opened() as root, _Incoming(root, stream) as coming, storing(f"write to {self}"):
            while True:
                same = self._same_as(root, coming)
                if same is None:
                    coming.write()
                    self._sync(coming.fd)
                with self._locked():
                    if not self._take_in(root, coming, same, counts=counts):
                        continue
                    if coming.directory is not None:
                        self._sync(coming.directory)
                        if self._durable:
                            self._trie.make_durable(root, coming.id)
                        self._trie.grow(root, coming.id)
                return coming.id

    def put_all(self, streams: Iterable[Stream]) -> Iterator[C4Id]:
        """As ``ContentStore.put_all``: many contents become durable by one sync, and their IDs are given then."""
        with self._opened() as root:
            for batch in _batches(root, streams):
                yield from self._put_batch(root, batch)

    def _put_batch(self, root: int, batch: list[_Incoming]) -> list[C4Id]:
        with storing(f"write to {self}"):
            same = [self._same_as(root, coming) for coming in batch]
            for coming, there in zip(batch, same, strict=True):
                if there is None:
                    coming.write()
            self._sync_all(root)
            with self._locked():
                for coming, there in zip(batch, same, strict=True):
                    if not self._take_in(root, coming, there, counts=True):  # it went since this looked
                        coming.write()
                        self._sync(coming.fd)
                        self._take_in(root, coming, None, counts=True)
                self._sync_all(root)
                for coming in batch:
                    if coming.directory is not None:
                        self._trie.grow(root, coming.id)
        return [coming.id for coming in batch]

    def _sync(self, fd: int) -> None:
        if self._durable:
            os.fsync(fd)

    def _sync_all(self, root: int) -> None:
        if self._durable:
            syncfs(root)

    def _take_in(self, root: int, coming: _Incoming, same: os.stat_result | None, *, counts: bool) -> bool:
        """Give what came its name, or where ``same`` has its bytes count that; False where ``same`` is there no more.
        The caller has the lock."""
        found = self._trie.stat(root, coming.id)
        if same is not None and (found is None or not os.path.samestat(found, same)):
            return False
        if found is None:
            self._set_count(root, coming.id, 1)
        elif counts:
            self._set_count(root, coming.id, self._count(root, coming.id) + 1)
        if same is None:
            coming.place(self._trie)
        return True

    def _same_as(self, root: int, coming: _Incoming) -> os.stat_result | None:
        """The file of the content, where there is one with the same bytes."""
        fd = self._trie.open(root, coming.id)
        if fd is None:
            return None
        with FileIO(fd) as file:
            info = os.fstat(fd)
            if info.st_size != coming.size:
                return None
            there = file_pieces(file, "")
            with suppress(StratumError):  # of a disk that cannot read it: what came is written instead
                if all(next(there, b"") == piece for piece in coming.pieces()):
                    return info
        return None

    def delete(self, content_id: C4Id) -> None:
        c4id = c4_id(content_id)
        with self._opened() as root, storing(f"delete {content_words(c4id)}"), self._locked():
            if self._trie.stat(root, c4id) is None:
                raise not_there(c4id, str(self))
            count = self._count(root, c4id)
            if count > 1:
                self._set_count(root, c4id, count - 1)
            else:
                self._trie.remove(root, c4id)

    def discard(self, content_id: C4Id) -> None:
        c4id = c4_id(content_id)
        with self._opened() as root, storing(f"remove {content_words(c4id)}"), self._locked():
            self._set_count(root, c4id, 1)
            self._trie.remove(root, c4id)

    # Counts

    def _count(self, root: int, c4id: C4Id) -> int:
        try:
            fd = openat2(root, _count_path(c4id), READ, resolve=_NO_LINKS)
        except FileNotFoundError:
            return 1
        except OSError as exc:
            raise self._count_damaged(c4id) from exc
        try:
            text = read_opened(fd, _COUNT_MAX)[1].decode("ascii").strip()
            count = int(text) if text.isdecimal() else 0
        except (UnfitError, UnicodeDecodeError):
            count = 0
        if count < 1:
            raise self._count_damaged(c4id)
        return count

    def _count_damaged(self, c4id: C4Id) -> DamagedError:
        return DamagedError(
            f"how many references there are to {content_words(c4id)} cannot be read",
            hint=f"remove {self}/{_count_path(c4id)}: then it counts as one",
        )

    def _set_count(self, root: int, c4id: C4Id, count: int) -> None:
        """Have that number of references be known, durably."""
        path = Path(_count_path(c4id))
        if count > 1:
            for directory in (path.parent.parent, path.parent):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o700, dir_fd=root)
        try:
            parent = openat2(root, str(path.parent), os.O_RDONLY | os.O_DIRECTORY, resolve=_NO_LINKS)
        except FileNotFoundError:
            return
        try:
            if count > 1:
                write_atomic(Path(path.name), b"%d\n" % count, 0o600, self._durable, directory=parent)
            else:
                with suppress(FileNotFoundError):
                    os.unlink(path.name, dir_fd=parent)
                    self._sync(parent)
        finally:
            os.close(parent)

    # The directory

    @contextmanager
    def _opened(self) -> Iterator[int]:
        try:
            fd = os.open(self.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFoundError(f"there is no content store at {self.root}") from None
        except OSError as exc:
            raise storage_error(exc, f"open the content store {self.root}") from None
        try:
            yield fd
        finally:
            os.close(fd)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Nobody else changes names or counts meanwhile."""
        lock = FileLock(self.root / LOCK, timeout=_LOCK_SECONDS, what=f"the content store {self.root}")
        with self._threads, lock:
            yield


class LocalStore(TreeStore):
    """A ``TreeStore`` whose contents are at ``c4/5Y/c45Y...`` from the first one on."""

    _levels = 2


class _Incoming:
    """A content that was read from ``stream`` for the store whose root is open as ``root``: in memory, or in a file in
    progress there. ``directory`` is one that its name is in and that was not synced since."""

    def __init__(self, root: int, stream: Stream) -> None:
        self._root = root
        self._name: str | None = None
        self.fd = -1
        self.directory: int | None = None
        try:
            self._spooled = Spooled(stream, self._begin)
        except BaseException:
            self.__exit__()
            raise
        self.id, self.size = self._spooled.id, self._spooled.size
        self.pieces = self._spooled.pieces

    def _begin(self) -> int:
        self.fd, path = new_file(Path(), directory=self._root)
        self._name = str(path)
        return self.fd

    def write(self) -> None:
        """Have it in a file, whatever its size. Raises ``OSError``."""
        if self._name is None:
            write_all(self._begin(), self._spooled.data or b"")

    def place(self, trie: Trie) -> None:
        """Give the file its name."""
        assert self._name is not None, "it was written"
        self.directory = trie.place(self._root, self.id, self._name)
        self._name = None

    def __enter__(self) -> _Incoming:
        return self

    def __exit__(self, *_: object) -> None:
        if self._name is not None:
            with suppress(OSError):
                os.unlink(self._name, dir_fd=self._root)
        for fd in (self.fd, self.directory):
            if fd is not None and fd >= 0:
                os.close(fd)


def _batches(root: int, streams: Iterable[Stream]) -> Iterator[list[_Incoming]]:
    """What the streams have, read. What was not taken in when the next batch is asked for, is gone."""
    rest = iter(streams)
    while True:
        batch, size = list[_Incoming](), 0
        with ExitStack() as opened:
            while len(batch) < _BATCH and size < _BATCH_BYTES:
                stream = next(rest, None)
                if stream is None:
                    break
                batch.append(opened.enter_context(_Incoming(root, stream)))
                size += batch[-1].size
            if batch:
                yield batch
        if not batch:
            return


def _count_path(c4id: C4Id) -> str:
    return f"{COUNTS}/{c4id[2:4]}/{c4id}"
