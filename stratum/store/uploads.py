"""Blobs on their way into a repository: ``repositories/<name>/uploads/<id>``, a file that grows as bytes arrive.

An upload outlives the server that began it. While bytes arrive nothing is locked but the file itself: a slow client
keeps nobody waiting. One that nobody added to for ``UPLOAD_KEPT`` seconds is taken by a garbage collection.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
from collections import OrderedDict
from collections.abc import Iterable
from contextlib import suppress
from hashlib import new as new_hash
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import BusyError, ConflictError, NotFoundError, RefusedError
from stratum.store.blobs import BLOB_MODE
from stratum.store.layout import Layout, storage_error, storing
from stratum.store.repositories import UPLOADS
from stratum.sys.atomic import fsync_dir, write_all
from stratum.sys.locks import locked

if TYPE_CHECKING:
    from stratum.store.blobs import Blobs
    from stratum.store.locks import StoreLocks
    from stratum.store.repositories import Repositories

UPLOAD_KEPT = 24 * 3600.0
"""Seconds that an upload waits for more."""

_ID = re.compile(r"[0-9a-f]{32}")
_REMEMBERED = 4096
_PIECE = 1 << 20
_LOCK_WAIT = 5.0


class Uploads:
    """The uploads to the repositories of one store. What was hashed of each as it came is remembered here."""

    def __init__(self, layout: Layout, locks: StoreLocks, blobs: Blobs, repositories: Repositories) -> None:
        self.layout, self.locks, self.blobs, self.repositories = layout, locks, blobs, repositories
        self._lock = threading.Lock()
        self._hashed: OrderedDict[str, tuple[Any, int]] = OrderedDict()

    def begin(self, name: str) -> Upload:
        """A new upload to a repository, which is made where it is missing."""
        upload_id = secrets.token_hex(16)
        with self.locks.store(), storing(f"begin an upload to {name}"):
            self.repositories.ensure(name)
            path = self.repositories.directory(name, UPLOADS, upload_id)
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600))
        return Upload(self, name, upload_id, path)

    def get(self, name: str, upload_id: str) -> Upload:
        """An upload that was begun. ``NotFoundError``."""
        path = self.repositories.directory(name, UPLOADS, upload_id)
        if not _ID.fullmatch(upload_id) or not path.is_file() or path.is_symlink():
            raise _unknown(upload_id)
        return Upload(self, name, upload_id, path)

    def hashed(self, upload_id: str, size: int) -> Any:
        """The hash of the upload's first ``size`` bytes, to go on with; None where it is not known."""
        with self._lock:
            found = self._hashed.pop(upload_id, None)
        if found is not None and found[1] == size:
            return found[0]
        return sha256() if size == 0 else None

    def remember(self, upload_id: str, hasher: Any, size: int) -> None:
        with self._lock:
            self._hashed[upload_id] = (hasher, size)
            while len(self._hashed) > _REMEMBERED:
                self._hashed.popitem(last=False)


class Upload:
    """A blob on its way; one thread, of one process, adds to it at a time."""

    def __init__(self, uploads: Uploads, name: str, upload_id: str, path: Path) -> None:
        self.id = upload_id
        self._uploads, self._name, self._path = uploads, name, path

    @property
    def offset(self) -> int:
        """Bytes that have arrived. ``NotFoundError`` where it was ended."""
        try:
            return os.lstat(self._path).st_size
        except FileNotFoundError:
            raise _unknown(self.id) from None

    def append(self, pieces: Iterable[bytes], start: int) -> int:
        """Add bytes that begin at byte ``start`` of the blob, which must be where the last ended, or ``ConflictError``;
        how many there are now. What arrived stays where ``pieces`` raises."""
        with self._open() as (fd, there):
            size = there
            if os.fstat(fd).st_nlink > 1:  # a blob by now, of whoever has the same; its end was cut short by a crash
                raise ConflictError("the upload is whole, and is to be finished")
            if start != size:
                raise ConflictError(f"the upload is at byte {size}, and what came begins at {start}")
            hasher = self._uploads.hashed(self.id, size)
            try:
                for piece in pieces:
                    with storing("keep what arrives"):
                        write_all(fd, piece)
                    size += len(piece)
                    if hasher is not None:
                        hasher.update(piece)
            finally:
                if hasher is not None:
                    self._uploads.remember(self.id, hasher, size)
            return size

    def finish(self, digest: str) -> None:
        """Have the blob in the repository, durably. ``RefusedError`` where its bytes are not what ``digest`` (of
        SHA-256 or SHA-512) says: then the upload is ended."""
        uploads, name, (kind, _, called) = self._uploads, self._name, digest.partition(":")
        with self._open() as (fd, size):
            sha = (uploads.hashed(self.id, size) or _hash_of(fd, "sha256")).hexdigest()
            found = sha if kind == "sha256" else _hash_of(fd, "sha512").hexdigest()
            if found != called:
                self._remove()
                raise RefusedError(f"{size} bytes arrived whose digest is another, {found}", code="DIGEST_INVALID")
            with storing("keep what arrived"):
                os.fchmod(fd, BLOB_MODE)
                os.fsync(fd)
            with uploads.locks.store():
                if not self._path.exists():
                    raise _unknown(self.id)
                uploads.blobs.take_in(self._path, sha, size)
                uploads.repositories.link_fresh(name, sha, called)
                self._remove()

    def cancel(self) -> None:
        """End it, and forget what arrived."""
        with self._open():
            self._remove()

    def _remove(self) -> None:
        self._uploads.hashed(self.id, -1)
        with storing("end an upload"):
            self._path.unlink(missing_ok=True)
            with suppress(FileNotFoundError):
                fsync_dir(self._path.parent)

    def _open(self) -> _Opened:
        return _Opened(self._path, self.id)


class _Opened:
    """A block with the file of an upload, locked, and its size. Bytes are added at its end."""

    def __init__(self, path: Path, upload_id: str) -> None:
        self._path, self._id = path, upload_id

    def __enter__(self) -> tuple[int, int]:
        try:
            self._fd = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            raise _unknown(self._id) from None
        except OSError as exc:
            raise storage_error(exc, "open an upload") from None
        try:
            self._lock = locked(self._path, timeout=_LOCK_WAIT, what="the upload")
            with storing("open an upload"):
                self._lock.acquire()
            try:
                return self._fd, self._size()
            except BaseException:
                self._lock.release()
                raise
        except BaseException as exc:
            os.close(self._fd)
            if isinstance(exc, BusyError):
                raise BusyError("something else is being added to the upload", hint="ask how far it is") from None
            raise

    def _size(self) -> int:
        info = os.fstat(self._fd)
        with suppress(FileNotFoundError):
            if os.path.samestat(info, os.lstat(self._path)):
                return info.st_size
            os.unlink(self._path)  # who had the lock before ended the upload, and to wait for it made the file anew
        raise _unknown(self._id)

    def __exit__(self, *_exc: object) -> None:
        os.close(self._fd)
        self._lock.release()


def _hash_of(fd: int, kind: str) -> Any:
    hasher, at = new_hash(kind), 0
    with storing("read an upload"):
        while piece := os.pread(fd, _PIECE, at):
            hasher.update(piece)
            at += len(piece)
    return hasher


def _unknown(upload_id: str) -> NotFoundError:
    return NotFoundError(f"there is no upload {upload_id[:64]!a}", hint="begin anew")
