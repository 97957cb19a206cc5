"""Transactions: how anything gets into a store, so that at every moment either the old state or the new one is there.

::

    tmp/lock               flock, held for the moment in which a transaction is made or a dead one claimed
    tmp/<id>/owner         flock'd while the transaction lives; says who and what for
    tmp/<id>/objects/      file contents on their way to objects/
    tmp/<id>/resume        where it can be taken up again after a kill (``store.salvage``)
    tmp/<id>/needs         digests (32 bytes each) of objects that must not be collected while the transaction lives
    tmp/<id>/...           everything else on its way, and what an exchange brought out
    tmp/<id>/              without an owner: what was removed from the store and is being deleted

The order of writing is always the same: (1) bytes into ``tmp/<id>/``; (2) one syncfs(2) of the store's file system;
(3) objects are renamed to their names, which another syncfs makes durable; (4) the commit's file appears by one
rename, its parent is synced; (5) the tag or worktree moves, by one rename, and its parent is synced. A crash between
two of these leaves things that nothing refers to, never a reference to something missing. syncfs reports a failed
write-back only to descriptors opened before it happened, so the descriptor is opened when the transaction begins. The
first one may be begun while bytes still come (``sync_ahead``); what comes after that is synced as well.

A transaction holds the store lock shared for as long as it lives, but for those that wait for others (``apart``): their
owner takes it whenever it looks at the store or adds to it, and a garbage collection in between leaves them and what
they need alone. Whoever begins a transaction first collects those whose owner is dead: it moves them into its own
directory. Left alone for a while are those that another one could take up (``store.salvage``); such a transaction ends
at once when it is interrupted, and deletes nothing. A forked child of the owner shares its lock, so a transaction also
lives as long as one of them writes; programs that are started inherit nothing.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path

from stratum.errors import BusyError, DamagedError, ExistsError, StratumError
from stratum.store.frames import Frames, digest_of
from stratum.store.layout import Layout, storage_error, storing
from stratum.store.locks import StoreLocks
from stratum.store.objects import OBJECT_MODE, Objects, Staging
from stratum.store.salvage import RESUME, dead_in, take_over, waits_for_another, words
from stratum.store.trash import remove_tree
from stratum.sys.atomic import write_all
from stratum.sys.locks import is_locked, locked
from stratum.sys.manystat import ManyStat
from stratum.sys.syscalls import AT_FDCWD, RENAME_EXCHANGE, RENAME_NOREPLACE, renameat2, syncfs

OWNER = "owner"
NEEDS = "needs"
HOLDS = "holds"
_DIGEST_SIZE = 32
_STAGED_NAME = r"[0-9a-z-]+"
_GUARD_WAIT = 30.0
_CHECKED = 1024
_TYPE = 0o170000
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Transaction:
    """One change of a store, from ``Transactions.begin``.

    ``directory`` is the transaction's own directory in ``tmp/``; ``object_staging`` is where objects are written,
    by this process or its workers. ``dead`` are the directories of dead transactions that were claimed by this one.
    """

    def __init__(self, layout: Layout, objects: Objects, directory: Path) -> None:
        self.directory = directory
        self.object_staging = directory / "objects"
        self._layout = layout
        self._objects = objects
        self._staged: dict[bytes, int] = {}  # sizes
        self._staged_as: dict[bytes, str] = {}  # names of those that have others than ``Staging`` gives
        self._published: dict[bytes, int] = {}
        self._frames = Frames(layout)
        self._new_frames: dict[bytes, Path] = {}
        self._prepared: dict[bytes, Path] = {}
        self._counter = 0
        self._dirty = False
        self._ahead: _Ahead | None = None
        self._process = os.getpid()
        self.dead = dead_in(directory)
        self.object_staging.mkdir(0o700)
        self._root = os.open(layout.root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def close(self) -> None:
        """Delete whatever was not published. What cannot be deleted now is left for the next transaction to try:
        by this time the change itself is done or has failed. Does nothing in a forked child."""
        if os.getpid() != self._process:
            return
        os.close(self._root)
        _delete(self.directory)

    def abandon(self) -> None:
        """End at once: what was not published is left as that of a dead transaction."""
        if os.getpid() == self._process:
            os.close(self._root)

    # Objects

    def has(self, digest: bytes, size: int) -> bool:
        """Whether the object is in the store or in this transaction, so that it need not be written."""
        return digest in self._staged or digest in self._published or self._objects.has(digest, size)

    def published(self, digest: bytes) -> bool:
        """Whether this transaction gave the object its name, or found it named."""
        return digest in self._published

    def need(self, digests: Iterable[bytes]) -> None:
        """Have garbage collections keep these objects, too, in the store or to come, while the transaction lives.

        The caller holds the store's lock, and has since before it looked which of them are there.
        """
        with storing("write to the store"), open(self.directory / NEEDS, "ab") as file:
            file.writelines(digests)

    def hold(self, commit: str) -> None:
        """Have garbage collections keep the commit, with all that it needs, while the transaction lives.

        The caller holds the store's lock, and has since before it looked whether the commit is there.
        """
        with storing("write to the store"), open(self.directory / HOLDS, "ab") as file:
            file.write(bytes.fromhex(commit))

    def stage(self, digest: bytes, size: int, name: str | None = None) -> None:
        """Take over ``object_staging / name``, complete with ``size`` bytes, as the object ``digest``. Without a name
        it is where ``store.objects.Staging`` has it.

        The writer computed the digest over the bytes that it wrote; the file is not read again. Staging an object
        twice is fine.
        """
        if name is not None and not re.fullmatch(_STAGED_NAME, name):
            raise ValueError(f"{name!r} is not the name of a staged object")
        self._staged[digest] = size
        if name is not None:
            self._staged_as[digest] = name
        self._dirty = True

    def add_bytes(self, data: bytes) -> bytes:
        """Store ``data`` as an object; its digest. Raises ``StratumError`` (full disk, ...)."""
        from stratum.composefs.verity import verity_digest

        digest = verity_digest(data)
        if self.has(digest, len(data)):
            return digest
        with storing("write an object to the store"):
            name, fd = self._create_object()
            _write_and_close(fd, data)
        self.stage(digest, len(data), name)
        return digest

    def add_pieces(self, pieces: Iterable[bytes], size: int) -> bytes:
        """Store ``pieces``, one after the other, as an object; its digest.

        They must be ``size`` bytes, or ``DamagedError``. What getting them raises passes through; ``OSError`` from
        writing becomes ``StratumError``.
        """
        from stratum.composefs.verity import VerityHasher

        hasher, written = VerityHasher(), 0
        with storing("write an object to the store"):
            name, fd = self._create_object()
        try:
            for piece in pieces:
                hasher.update(piece)
                written += len(piece)
                if written > size:
                    raise DamagedError(f"more than the {size} bytes that a file should have arrived")
                with storing("write an object to the store"):
                    write_all(fd, piece)
        finally:
            os.close(fd)
        if written < size:
            raise DamagedError(f"only {written} of the {size} bytes of a file arrived")
        digest = hasher.digest()
        if self.has(digest, size):
            (self.object_staging / name).unlink()
        else:
            self.stage(digest, size, name)
        return digest

    def add_frame(self, data: bytes) -> bytes:
        """Store a frame of a dump, given as its file; its digest. ``publish_objects`` gives it its name."""
        digest = digest_of(data)
        if digest not in self._new_frames and not self._frames.holds(digest, data):
            path = self.new_path("frame")
            self.write_file(path, data)
            self._new_frames[digest] = path
        return digest

    def _create_object(self) -> tuple[str, int]:
        """A new file in ``object_staging`` that no worker's file can collide with: its name, a descriptor."""
        self._counter += 1
        name = f"own-{self._counter}"
        return name, os.open(self.object_staging / name, _NEW_FILE, OBJECT_MODE)

    def publish_objects(self, *, complete: bool = False, forget: bool = False) -> int:
        """Sync, name all objects and frames staged so far, and sync the names; how many objects were new to the store.

        ``complete``: nobody writes to ``object_staging`` meanwhile; then less is to be done. ``forget``: they are not
        remembered as ``published``, which takes as much memory as their digests do.
        """
        with storing("write objects to the store"):
            self._check_staged()  # while what is synced ahead goes to the disk
            self.sync()
            new = self._objects.take_in(Staging(str(self.object_staging)), self._in_order(), complete=complete)
            self._frames.take_in(self._new_frames.items())
            self._dirty = bool(self._staged or self._new_frames)
            self.sync()
        if self._published and not forget:
            self._published.update(self._staged)
        elif not forget:  # no second of a million names beside the first
            self._published = self._staged
        self._staged, self._staged_as = {}, {}
        self._new_frames.clear()
        return new

    def _in_order(self) -> Iterator[tuple[bytes, str, int]]:
        """Digest, name and size of what is staged, by digest."""
        for digest in sorted(self._staged):
            yield digest, self._staged_as.get(digest) or Staging.name(digest), self._staged[digest]

    def _check_staged(self) -> None:
        if not self._staged:
            return
        directory = os.open(self.object_staging, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            many, staged = ManyStat(directory, min(_CHECKED, len(self._staged))), iter(self._staged.items())
            while some := list(islice(staged, _CHECKED)):
                names = [(self._staged_as.get(digest) or Staging.name(digest)).encode() for digest, _ in some]
                for (digest, size), name, found, mode, links in zip(some, names, *many.look(names), strict=True):
                    if found != size or mode & _TYPE != stat.S_IFREG:
                        raise StratumError(
                            f"object {digest.hex()} has {found} bytes on disk instead of {size}",
                            hint="the disk or another program changed it while it was written; run the command again",
                        )
                    # What has a name in a directory that is moved, too, becomes an object when that goes.
                    if mode & 0o7777 != OBJECT_MODE and links == 1:
                        os.chmod(name, OBJECT_MODE, dir_fd=directory)
        finally:
            os.close(directory)

    # Everything else

    def sync(self) -> None:
        """One syncfs of the store's file system, where anything was written since the last."""
        with storing("write to the store"):
            self._wait_ahead()
            if self._dirty:
                syncfs(self._root)
                self._dirty = False

    def sync_ahead(self) -> None:
        """Begin to sync what is staged by now, while the caller does something else; ``sync`` waits for it, and tells
        of what failed. Nothing is done while that goes on for what was staged before."""
        if self._ahead is not None and not self._ahead.is_done:
            return
        with storing("write to the store"):
            self._wait_ahead()
        self._ahead = _Ahead.begun(self._root)
        self._dirty = self._ahead is None

    def _wait_ahead(self) -> None:
        ahead, self._ahead = self._ahead, None
        if ahead is not None:
            try:
                ahead.wait()
            except OSError:
                self._dirty = True
                raise

    def new_path(self, what: str) -> Path:
        """A path in ``directory`` that is not in use; ``what`` becomes part of its name."""
        self._counter += 1
        self._dirty = True
        return self.directory / f"{what}-{self._counter}"

    def write_file(self, path: Path, data: bytes) -> None:
        """Write a new file below ``directory``; ``sync`` makes it durable."""
        self.write_pieces(path, (data,))

    def write_pieces(self, path: Path, pieces: Iterable[bytes | bytearray | memoryview]) -> None:
        """As ``write_file``, of content that comes in pieces."""
        self._dirty = True
        with storing(f"write {path.name}"), open(path, "xb", opener=partial(os.open, mode=0o644)) as file:
            file.writelines(pieces)

    def make_directory(self, path: Path, mode: int = 0o755) -> None:
        """Make a directory of exactly ``mode`` below ``directory``; ``sync`` makes it durable."""
        self._dirty = True
        with storing(f"make {path}"):
            path.mkdir()
            path.chmod(mode)

    def prepare_file(self, data: bytes) -> None:
        """Write what ``place_file`` is probably going to place: the next ``sync`` makes it durable with all else."""
        path = self.new_path("prepared")
        self.write_file(path, data)
        self._prepared[data] = path

    def place_file(self, data: bytes, target: Path) -> None:
        """Make ``data`` the durable content of the store's file ``target``, in one step for readers."""
        prepared = self._prepared.pop(data, None)
        if prepared is not None:
            self.replace(prepared, target)
            return
        path = self.new_path(target.name)
        with self._placing(target) as parent:
            _write_and_close(os.open(path, _NEW_FILE, 0o644), data, sync=True)
            os.rename(path, target.name, dst_dir_fd=parent)

    def place_symlink(self, points_to: str, target: Path) -> None:
        """Make ``target`` a durable symbolic link to ``points_to``, replacing what is there in one step."""
        path = self.new_path(target.name)
        with self._placing(target) as parent:
            os.symlink(points_to, path)
            os.rename(path, target.name, dst_dir_fd=parent)

    def place(self, source: Path, target: Path) -> None:
        """Rename ``source``, a file or directory complete in this transaction, to ``target``, after a sync;
        ``ExistsError`` where that exists."""
        self.sync()
        with self._placing(target) as parent:
            try:
                renameat2(AT_FDCWD, source, parent, target.name, RENAME_NOREPLACE)
            except FileExistsError:
                raise ExistsError(f"{target} exists already") from None

    def replace(self, source: Path, target: Path) -> None:
        """Rename ``source``, a file complete in this transaction, to ``target``, after a sync."""
        self.sync()
        with self._placing(target) as parent:
            os.rename(source, target.name, dst_dir_fd=parent)

    def exchange(self, source: Path, target: Path) -> None:
        """Swap ``source``, a directory complete in this transaction, with the store's ``target`` in one durable step,
        after a sync. What ``target`` was is deleted when the transaction ends."""
        self.sync()
        with self._placing(target) as parent:
            renameat2(AT_FDCWD, source, parent, target.name, RENAME_EXCHANGE)

    @contextmanager
    def _placing(self, target: Path) -> Iterator[int]:
        """A descriptor of the directory of ``target``, which is about to change."""
        with storing(f"change {target}"), _synced_parent(self._layout, target) as parent:
            yield parent


class _Ahead:
    """A syncfs in a thread, which does not keep the process from ending."""

    def __init__(self, root: int) -> None:
        from threading import Thread

        self._error: OSError | None = None
        self._root = os.dup(root)  # of one open file: what this one reports, the descriptor itself reports no more
        self._thread = Thread(target=self._sync, daemon=True)

    @classmethod
    def begun(cls, root: int) -> _Ahead | None:
        """None where there can be no thread."""
        ahead = cls(root)
        try:
            ahead._thread.start()
        except RuntimeError:
            os.close(ahead._root)
            return None
        return ahead

    @property
    def is_done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until it is done; ``OSError`` where it failed."""
        self._thread.join()
        if self._error is not None:
            raise self._error

    def _sync(self) -> None:
        try:
            syncfs(self._root)
        except OSError as exc:
            self._error = exc
        finally:
            os.close(self._root)


@contextmanager
def _synced_parent(layout: Layout, path: Path) -> Iterator[int]:
    """A descriptor of the directory of ``path``, reached without symbolic links, and synced afterwards."""
    parent = layout.open_beneath(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield parent
        os.fsync(parent)
    finally:
        os.close(parent)


def _is_unlinked(directory: int, name: str) -> bool:
    """Remove a file; False where it is a directory, which somebody put there. Raises ``OSError``."""
    try:
        os.unlink(name, dir_fd=directory)
    except FileNotFoundError:
        pass
    except (IsADirectoryError, PermissionError):
        if stat.S_ISDIR(os.stat(name, dir_fd=directory, follow_symlinks=False).st_mode):
            return False
        raise
    return True


def _write_and_close(fd: int, data: bytes, sync: bool = False) -> None:
    try:
        write_all(fd, data)
        if sync:
            os.fsync(fd)
    finally:
        os.close(fd)


class Transactions:
    """Begins transactions on one store."""

    def __init__(self, layout: Layout, locks: StoreLocks, objects: Objects) -> None:
        self._layout = layout
        self._locks = locks
        self._objects = objects

    @contextmanager
    def begin(self, what: str, *, resumable: bool = False, apart: bool = False) -> Iterator[Transaction]:
        """Begin a transaction, which ends with the ``with`` block: what was published by then stays, all else goes.

        ``what`` is shown to those who wait for it. ``resumable``: where it is killed, or interrupted by the user, what
        it staged is left for the next transaction that says the same words, as one of its ``dead``. ``apart``: the
        store is not locked any more when this returns. Raises ``BusyError`` where gc or a removal holds the store,
        ``UnsupportedError`` on a read-only one.
        """
        with ExitStack() as lock, ExitStack() as owner:
            lock.enter_context(self._locks.store())
            directory = self._layout.tmp / os.urandom(8).hex()
            try:
                self._claim(owner, directory, what, resumable)
                transaction = Transaction(self._layout, self._objects, directory)
            except OSError as exc:
                _delete(directory)
                raise storage_error(exc, "write to the store") from None
            if apart:
                lock.close()
            try:
                yield transaction
            except KeyboardInterrupt:
                # Whoever presses Ctrl-C does not want to wait until a hundred thousand files are deleted.
                transaction.abandon() if resumable else transaction.close()
                raise
            except BaseException:
                transaction.close()
                raise
            transaction.close()

    def needed(self) -> Iterator[bytes]:
        """The digests of the objects that living transactions need. The caller holds the store's lock exclusively."""
        return self._told(NEEDS)

    def held(self) -> Iterator[str]:
        """The commits that living transactions hold. The caller holds the store's lock exclusively."""
        return map(bytes.hex, self._told(HOLDS))

    def _told(self, file_name: str) -> Iterator[bytes]:
        """The digests in a file of that name of every living transaction."""
        for name in self._layout.names_in(self._layout.tmp):
            if not self.is_alive(name):
                continue
            try:
                fd = self._layout.open_beneath(self._layout.tmp / name / file_name)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise storage_error(exc, f"read what the transaction {name} needs") from None
            with open(fd, "rb") as file:
                while len(digest := file.read(_DIGEST_SIZE)) == _DIGEST_SIZE:
                    yield digest

    def is_alive(self, name: str) -> bool:
        """Whether ``name`` in ``tmp/`` is a transaction with an owner."""
        try:
            return is_locked(self._layout.tmp / name / OWNER)
        except NotADirectoryError:
            return False

    def discard(self, path: Path) -> None:
        """Take ``path``, a file or directory of the store, out of it in one durable step, and delete it.

        Needs no space, so it works on a full disk. The caller holds the locks that keep others from using it.
        """
        with storing(f"remove {path}"), _synced_parent(self._layout, path) as parent:
            if not stat.S_ISDIR(os.stat(path.name, dir_fd=parent, follow_symlinks=False).st_mode):
                os.unlink(path.name, dir_fd=parent)
                return
            removed = self._layout.tmp / os.urandom(8).hex()  # without an owner: whoever comes next deletes the rest
            os.rename(path.name, removed, src_dir_fd=parent)
        with suppress(OSError):
            remove_tree(removed)

    def discard_all(self, directory: Path, names: Iterable[str]) -> None:
        """Take some files in ``directory``, which is of the store, out of it, all in one durable step; as ``discard``.
        Those that are not there are passed over."""
        with storing(f"remove files in {directory}"), _synced_parent(self._layout, directory / "any") as parent:
            others = [name for name in names if not _is_unlinked(parent, name)]
        for name in others:
            self.discard(directory / name)

    def _claim(self, owner: ExitStack, directory: Path, what: str, resumable: bool) -> None:
        """Make ``directory``, locked until ``owner`` closes, with the leftovers of the dead in it."""
        with locked(self._layout.tmp / "lock", timeout=_GUARD_WAIT, what=f"the store {self._layout.root}"):
            directory.mkdir(0o700)
            owner.enter_context(locked(directory / OWNER, timeout=0))
            with suppress(OSError):  # for people only; the lock is what counts
                (directory / OWNER).write_text(f"process {os.getpid()}: {what}\n", "utf-8", errors="backslashreplace")
            self._claim_dead(directory, what if resumable else None)
            if resumable:
                _write_and_close(os.open(directory / RESUME, _NEW_FILE, 0o600), words(what))

    def _claim_dead(self, directory: Path, what: str | None) -> None:
        """Move the transactions whose owner is dead into ``directory``, to be deleted with it, but for those that wait
        for one that does something else than ``what``."""
        for name in self._layout.names_in(self._layout.tmp):
            path = self._layout.tmp / name
            # One that is not found is ending at this moment; its owner file went last.
            with suppress(BusyError, FileNotFoundError):
                if path != directory and stat.S_ISDIR(path.lstat().st_mode):
                    with locked(path / OWNER, timeout=0):
                        if not waits_for_another(path, what):
                            take_over(path, directory)


def _delete(directory: Path) -> None:
    with suppress(OSError):
        remove_tree(directory, last=OWNER)
