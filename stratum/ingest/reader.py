"""Reading many files into a transaction: the content of every ``File`` of a new tree.

Whoever builds a tree (``ingest.directory``, ``ingest.upperdir``) makes the ``File`` nodes with what it knows and hands
them over, directory by directory::

    with FileReader(tx, store.objects, jobs=2) as reader:
        reader.read(dirfd, b"/usr/share/doc", [Pending(b"README", info, node), ...])
        ...
        reader.finish()      # now every node has its content, and tx its objects
    reader.warnings

Little work is done in this process. Once there is a batch of it, worker processes are started (``ingest.pool``) and
share it with one another, while the caller goes on listing.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from stratum.errors import ConflictError, StratumError
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.journal import Journal
from stratum.ingest.pool import DIRECTORIES_MAX, Batch, Pool, reading_pool
from stratum.ingest.staging import FileRead, Signature, Stager
from stratum.ingest.statcache import tells_changes
from stratum.ingest.worker import OK, STORE_FAILED, Answer, read_batch, stager_for
from stratum.store.layout import storage_error
from stratum.store.objects import Objects
from stratum.store.transaction import Transaction
from stratum.sys.userns import in_initial_namespace
from stratum.tree.model import File
from stratum.tree.owners import without_strangers

BATCH_FILES = 256
BATCH_BYTES = 8 << 20
FEW = 1024
"""So many files are read in less time than it takes to start worker processes."""
SYNCED_BYTES = 64 << 20
"""After so many bytes the disk is given what was read, so that it does not wait for the end."""


class Pending:
    """A regular file to be read into ``node``.

    ``info`` is what lstat said when it was listed, ``key`` the signature in that. ``xattrs`` tells whether the extended
    attributes are read too (those that ``ingest.attributes`` keeps) or are the node's already. ``candidate`` is the
    digest that the content probably has, for one that only had its metadata changed; ``before`` the one that it had
    when an import which was cut short read a file with the same signature. With ``opened``, the descriptor that the
    reader is given is not the file's directory but the file, open for reading.
    """

    __slots__ = ("before", "candidate", "info", "key", "name", "node", "opened", "xattrs")

    def __init__(
        self,
        name: bytes,
        info: os.stat_result,
        node: File,
        key: Signature,
        xattrs: bool = True,
        candidate: bytes | None = None,
        before: bytes | None = None,
        opened: bool = False,
    ) -> None:
        self.name = name
        self.info = info
        self.node = node
        self.key = key
        self.xattrs = xattrs
        self.candidate = candidate
        self.before = before
        self.opened = opened


class _Group:
    """The files of one directory in a batch; ``time`` is when it was handed over, in ns: after it was listed and before
    it is read."""

    __slots__ = ("files", "gone", "path", "time")

    def __init__(self, path: bytes, files: list[Pending], gone: Callable[[Pending], None] | None, time: int) -> None:
        self.path = path
        self.files = files
        self.gone = gone
        self.time = time


class FileReader:
    """Fills ``File`` nodes with the content of source files, staged in ``tx``.

    ``jobs`` is the number of worker processes; 1 reads everything in this one, and so it does with the first ``here``
    files, unless they are large. ``progress`` is called with the bytes of the files so far and their number;
    ``pass_over`` adds what need not be read. ``journal`` is told what was read. ``failed`` makes the error for a path
    that cannot be read. ``adopts``: the files are to go (``ingest.adopting``), and become objects as they are, where
    they can, or not. ``warnings`` collects one line for each file that kept changing or was gone; ``unlike_listed`` the
    ``id`` of every node whose file was not as listed. A context manager: leaving it ends the workers.
    """

    def __init__(
        self,
        tx: Transaction,
        objects: Objects,
        *,
        jobs: int = 1,
        here: int = 0,
        progress: Callable[[int, int], None] | None = None,
        journal: Journal | None = None,
        failed: Callable[[OSError, str], StratumError] | None = None,
        adopts: bool | None = None,
    ) -> None:
        self.warnings: list[str] = []
        self.unlike_listed: set[int] = set()
        self._tx = tx
        self._jobs = jobs
        self._adopts = adopts
        self._here = here
        self._progress = progress
        self._journal = journal
        self._failed = failed or source_error
        self._paths = (os.fsencode(objects.layout.root), os.fsencode(tx.object_staging))
        self._salvage = [os.fsencode(dead / "objects") for dead in tx.dead]
        self._pool: Pool | None = None
        self._stager: Stager | None = None
        self._batch = Batch([], [], [])
        self._files = 0
        self._bytes = 0
        self._done = self._size = self._synced = 0
        self._passed_over = 0
        self.strangers: list[str] = []
        """Files with access lists of which entries for users without an ID here are left out."""

    def read(
        self,
        directory: int,
        path: bytes,
        files: Sequence[Pending],
        *,
        gone: Callable[[Pending], None] | None = None,
    ) -> None:
        """Read ``files``, all in the open ``directory``; the nodes are complete after ``finish``.

        ``path`` names the directory in messages; the descriptor may be closed on return. ``gone`` is called for a
        file that was not there any more (``ConflictError`` where it is None). Raises ``StratumError`` for files that
        cannot be read, not necessarily those of this call.
        """
        start = 0
        while start < len(files):
            room = BATCH_FILES - self._files
            part = list(files[start : start + room])
            start += room
            self._batch.directories.append(os.dup(directory))
            self._batch.tag.append(_Group(path, part, gone, time.time_ns()))
            self._batch.request.append(
                [(b"" if f.opened else f.name, f.key, f.xattrs, f.candidate, f.before) for f in part]
            )
            self._files += len(part)
            self._bytes += sum([f.key[2] for f in part])
            if (
                self._files >= BATCH_FILES
                or self._bytes >= BATCH_BYTES
                or len(self._batch.directories) >= DIRECTORIES_MAX
            ):
                self._dispatch()

    def pass_over(self, size: int) -> None:
        """Count a file of so many bytes that is known already."""
        self._passed_over += 1
        self._size += size
        if self._passed_over % BATCH_FILES == 0:
            self._tell()

    def finish(self) -> None:
        """Wait until everything is read."""
        if self._pool is None:
            self._read_here()
            return
        if self._files:
            self._dispatch()
        while not self._pool.idle:
            self._take(self._pool.answers(wait=True))
        self._tx.sync_ahead()

    def close(self) -> None:
        """End the workers and forget what is not read."""
        self._batch.close()
        if self._pool is not None:
            self._pool.close()
            self._pool = None
        if self._stager is not None:
            self._stager.close()
            self._stager = None

    def __enter__(self) -> FileReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _next_batch(self) -> Batch:
        batch, self._batch = self._batch, Batch([], [], [])
        self._files = self._bytes = 0
        return batch

    def _read_here(self) -> None:
        batch = self._next_batch()
        try:
            if self._stager is None:
                self._stager = stager_for(*self._paths, "read", self._salvage, self._adopts)
            answer = read_batch(self._stager, batch.directories, batch.request)
        finally:
            batch.close()
        self._take([(batch, answer)])

    def _dispatch(self) -> None:
        few = self._pool is None and self._files <= self._here and self._bytes < BATCH_BYTES
        if self._jobs == 1 or few:
            self._here -= self._files
            self._read_here()
            return
        if self._pool is None:
            self._pool = reading_pool(self._jobs, *self._paths, self._salvage, self._adopts)
        while self._pool.full:
            self._take(self._pool.answers(wait=True))
        self._pool.add(self._next_batch())
        self._take(self._pool.answers(wait=False))

    def _take(self, answers: list[tuple[Batch, Answer]]) -> None:
        for batch, answer in answers:
            if answer[0] != OK:
                raise self._failure(batch.tag, answer)
            for group, results in zip(batch.tag, answer[1], strict=True):
                self._fill(group, results)
                self._done += len(results)
                self._size += sum(result[0] for result in results if result is not None)
            if self._journal is not None:
                self._journal.flush()
        if answers:
            self._tell()
            if self._size - self._synced >= SYNCED_BYTES:
                self._synced = self._size
                self._tx.sync_ahead()

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(self._size, self._done + self._passed_over)

    def _fill(self, group: _Group, results: list[FileRead | None]) -> None:
        stage = self._tx.stage
        for pending, result in zip(group.files, results, strict=True):
            if result is None:
                self._gone(group, pending)
                continue
            node = pending.node
            node.size, node.digest, node.content, xattrs, staged, changing, metadata = result
            if staged and node.digest is not None:
                stage(node.digest, node.size)
            if xattrs:
                kept = _kept(xattrs, group, pending)
                node.xattrs = without_strangers(kept)
                if node.xattrs is not kept:
                    self.strangers.append(_where(group, pending))
            if metadata is not None:
                node.mode, uid, gid, node.mtime = metadata
                if (uid, gid) != (pending.info.st_uid, pending.info.st_gid):
                    node.uid, node.gid = uid, gid
                self.unlike_listed.add(id(node))
            if changing:
                self.unlike_listed.add(id(node))
                self.warnings.append(
                    f"{_where(group, pending)} kept changing while it was read; it is stored as last read"
                )
            if self._journal is not None and node.digest is not None and id(node) not in self.unlike_listed:
                self._note(self._journal, group, pending, node.digest)

    def _failure(self, groups: list[_Group], answer: Answer) -> StratumError:
        if answer[0] == STORE_FAILED:
            _, code, text = answer
            return storage_error(OSError(code, text), "write an object to the store")
        _, number, place, code, text = answer
        return self._failed(OSError(code, text), _where(groups[number], groups[number].files[place]))

    def _note(self, journal: Journal, group: _Group, pending: Pending, digest: bytes) -> None:
        """Write down that the file was read, where a change of it since would be seen."""
        if tells_changes(pending.key[4], group.time):
            journal.add(pending.key, digest)

    def _gone(self, group: _Group, pending: Pending) -> None:
        where = _where(group, pending)
        self.unlike_listed.add(id(pending.node))
        if group.gone is None:
            raise ConflictError(f"{where} was removed while the tree was read")
        group.gone(pending)
        self.warnings.append(f"{where} was removed while the tree was read; it is left out")


def _where(group: _Group, pending: Pending) -> str:
    return os.fsdecode(os.path.join(group.path, pending.name))


def _kept(xattrs: Any, group: _Group, pending: Pending) -> Any:
    try:
        return stored_xattrs(xattrs)
    except StratumError as exc:
        raise StratumError(f"cannot store {_where(group, pending)}: {exc.message}", hint=exc.hint) from None


def source_error(exc: OSError, where: str) -> StratumError:
    """What to raise for a source file or directory that cannot be read, in the kernel's words."""
    if exc.errno in (errno.ELOOP, errno.ENXIO):
        return ConflictError(f"{where} was replaced by something else while the tree was read", hint="run it again")
    whoever = (
        "run as root, or as a user who may read all of it"
        if in_initial_namespace()
        else "it belongs to root or to another user, and is closed to all others"
    )
    hint = {
        errno.EACCES: whoever,
        errno.EPERM: whoever,
        errno.EIO: "the disk reports errors: check it before anything else",
        errno.EMFILE: "raise the limit on open files (ulimit -n)",
    }.get(exc.errno or 0, "")
    return StratumError(f"cannot read {where}: {exc.strerror}", hint=hint)
