"""Commits of trees that a program puts together."""

from __future__ import annotations

import os
import stat
from contextlib import closing
from datetime import datetime
from typing import TYPE_CHECKING

from stratum.api.session import Session
from stratum.api.tagmoves import tag_move
from stratum.errors import DamagedError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.refs import DEFAULT_TAG, parse_tag
from stratum.tree.model import INLINE_MAX, Directory, File

if TYPE_CHECKING:
    from stratum.ingest.staging import Stager
    from stratum.progress import Progress
    from stratum.store.transaction import Transaction
    from stratum.tree.edit import New, TreeEdit

Content = bytes | os.PathLike[str]
"""What a new file holds: these bytes, or what is in the file at that path when the commit is made."""


def compose(
    session: Session,
    edit: TreeEdit,
    name: str,
    *,
    base: str | None = None,
    known: Directory | None = None,
    message: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> str:
    """Make the commit of ``edit`` and point ``name`` (NAME or NAME:TAG) at it; its hash.

    ``base`` is the commit that ``edit`` began with, whose tree ``known`` is; it is the new commit's parent. Without it,
    that is the commit that the tag names. The tag ``latest`` moves to what was made on top of it; any other that names
    another commit is ``ExistsError``, and nothing is kept, unless ``force``. ``UsageError`` for a file that cannot be
    read.
    """
    from stratum.store.descent import descends

    stratum, tag = parse_tag(name)
    store = session.create_store()
    with store.begin(f"committing {name}") as tx:
        if base is not None and not store.commits.exists(base):  # its objects may be gone with it
            raise NotFoundError(f"there is no commit {base} any more", hint="a garbage collection took it; tag commits")
        move = tag_move(store, stratum, tag, force=force)
        old = move.previous
        follows = tag == DEFAULT_TAG and (base is None or (old is not None and descends(store, base, old)))
        timestamp = session.now()
        with closing(_Staged(tx, store.root, progress)) as staged:
            root = edit.finish(_nanoseconds(timestamp), staged.file)
        meta = store.commits.write(
            tx,
            root,
            parent=base or old,
            message=message,
            origin={"kind": "import"},
            timestamp=timestamp,
            known=known,
            accept=lambda made: move.check(made, follows=follows),
        )
        move.set(store, meta.metadata_hash, f"commit of {stratum}")
    return meta.metadata_hash


def _nanoseconds(when: datetime) -> int:
    return int(when.timestamp()) * 1_000_000_000 + when.microsecond * 1000


class _Staged:
    """Has the contents of new files staged in ``tx``."""

    def __init__(self, tx: Transaction, root: os.PathLike[str], progress: Progress | None) -> None:
        self._tx = tx
        self._root = os.fsencode(root)
        self._progress = progress
        self._stager: Stager | None = None
        self._done = self._files = 0

    def close(self) -> None:
        """Close what is open."""
        if self._stager is not None:
            self._stager.close()

    def file(self, new: New, mtime: int) -> File:
        """The file that is ``new``, with this time."""
        common = (new.mode, new.uid, new.gid, mtime, new.xattrs)
        data = new.content
        size, digest, content = self._of_bytes(data) if isinstance(data, bytes) else self._of_file(data)
        self._done += size
        self._files += 1
        if self._progress is not None:
            self._progress(self._done, None, files=self._files)
        return File(*common, size=size, digest=digest, content=content)

    def _of_bytes(self, data: bytes) -> tuple[int, bytes | None, bytes | None]:
        if len(data) <= INLINE_MAX:
            return len(data), None, data or None
        return len(data), self._tx.add_bytes(data), None

    def _of_file(self, path: os.PathLike[str]) -> tuple[int, bytes | None, bytes | None]:
        from stratum.ingest.staging import Stager, StagingError, signature
        from stratum.store.layout import storage_error

        if self._stager is None:
            self._stager = Stager(self._root, os.fsencode(self._tx.object_staging), "composed")
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise UsageError(f"cannot read {os.fspath(path)}: {os_error_text(exc)}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise UsageError(f"{os.fspath(path)} is no regular file")
            read = self._stager.read(fd, b"", signature(info), xattrs=False, candidate=None)
        except StagingError as exc:
            raise storage_error(exc.error, "write an object to the store") from None
        except OSError as exc:
            raise StratumError(f"cannot read {os.fspath(path)}: {os_error_text(exc)}") from None
        finally:
            os.close(fd)
        assert read is not None  # only what has a name can be gone
        size, digest, content, _, staged, changing, _ = read
        if changing:
            raise DamagedError(f"{os.fspath(path)} is written to while it is read", hint="try again when it is done")
        if staged:
            assert digest is not None
            self._tx.stage(digest, size)
        return size, digest, content
