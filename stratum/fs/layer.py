"""A writable layer over a commit: reads look in it first, writes go to it, and the commit stays as it is.

A layer is what was done to the commit's tree, as operations of a history (``tree.oplog``), and the contents that were
written. Both are in memory, or in a directory, which survives the process, and which several processes may write to
at the same time::

    log              operations, in whole batches; the first is ``base``: the commit, and as ``why`` the ref that it was
    objects/ab/cd... contents, named by digest as in a store
    lock             held by who appends to the log

What is in a directory is written before the log tells of it, and the log grows by whole batches only: after a kill or a
power cut the layer is as it was before an operation or after it. ``tree.replay`` makes the tree of it.
"""

from __future__ import annotations

import os
import threading
import time
import weakref
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stratum.errors import UsageError, path_text
from stratum.fs.contents import Contents, Draft
from stratum.fs.layerlog import Log
from stratum.tree.limits import check_name
from stratum.tree.model import Directory, File, Inode, with_xattrs
from stratum.tree.oplog import Record, entry_of, when_text
from stratum.tree.replay import Operation, Replay

__all__ = ["Draft", "Layer"]

DIRECTORY_MODE = 0o40755
_PRIVILEGES = b"security.capability"
_layers: weakref.WeakSet[Layer] = weakref.WeakSet()


class Layer:
    """Operations over ``base``, a commit's tree. ``log`` and ``contents`` are where they and what was written are kept.

    For all threads. ``open_base(commit, why)`` gives the tree of a commit that another process made the base.
    """

    def __init__(self, log: Log, contents: Contents, open_base: Callable[[str, str], Directory]) -> None:
        self.log, self.contents = log, contents
        self._open_base = open_base
        self._lock = threading.RLock()
        self._replay: Replay | None = None
        self.base = self.origin = ""
        self.changed = False
        _layers.add(self)

    # What is there

    @contextmanager
    def reading(self) -> Iterator[Directory]:
        """The tree as it is now, which does not change within the block. ``DamagedError``, ``StratumError``."""
        with self._lock:
            yield _root_of(self._refresh())

    def snapshot(self) -> Directory:
        """The tree as it is now; what is written later does not change it."""
        with self._lock:
            return self._refresh().root

    def _refresh(self) -> Replay:
        for record in self.log.news():
            if record.op == "base":
                assert record.commit is not None
                self._replay = Replay(self._open_base(record.commit, record.why or ""))
                self.base, self.origin, self.changed = record.commit, record.why or "", False
            else:
                assert self._replay is not None
                self._replay.apply(record)
                self.changed = True
        assert self._replay is not None, "every log begins with its base"
        return self._replay

    def begin(self, commit: str, origin: str) -> None:
        """Have it lie over ``commit``, which ``origin`` names, with nothing in it. Within ``log.writing``."""
        with self._lock:
            self._restart(commit, origin)

    def become(self, make: Callable[[Directory], tuple[str, str]]) -> None:
        """Have it lie, with nothing in it, over what ``make`` made of its tree: (commit, what names it). Nobody writes
        meanwhile. Where ``make`` raises, the layer stays as it is."""
        with self._lock, self.log.writing():
            self._restart(*make(self._refresh().root))

    def _restart(self, commit: str, origin: str) -> None:
        self.log.restart(Record(1, when_text(time.time_ns()), "base", commit=commit, why=origin))
        self._refresh()
        self.contents.clear()

    # Changes

    @contextmanager
    def changing(self) -> Iterator[Changes]:
        """Operations of the block become one batch, at its end, where no error was raised in it."""
        with self._lock, self.log.writing():
            replay = self._refresh()
            before = replay.root
            changes = Changes(replay)
            try:
                yield changes
                now = when_text(time.time_ns())
                records = [self._as_record(self.log.last + 1 + n, now, op) for n, op in enumerate(changes.done)]
                if records:
                    self.log.append(records)
                    self.changed = True
                    self.contents.keep_only(lambda: {digest for digest, _ in written(replay.root)})
            except BaseException:
                self._replay = Replay(before)
                raise

    @staticmethod
    def _as_record(n: int, now: str, done: Operation) -> Record:
        entry = entry_of(done.inode) if done.inode is not None and done.op not in ("rename", "delete") else None
        return Record(n, now, done.op, done.path, entry, done.link, done.was)


class Changes:
    """What is being done to a tree. Paths are lists of names, and lead through directories only: whoever calls has
    followed links before."""

    def __init__(self, replay: Replay) -> None:
        self._replay = replay
        self.done: list[Operation] = []
        self.now = time.time_ns()

    def at(self, names: Iterable[bytes]) -> Inode | None:
        """What is there."""
        return self._replay.lookup(_path(names))

    def directory(self, names: list[bytes]) -> Directory:
        """The directory at ``names``, made with all above it where it is missing. ``NotADirectoryError``."""
        here = _root_of(self._replay)
        for depth, name in enumerate(names, 1):
            child = here.children.get(name)
            if child is None:
                made = Directory(DIRECTORY_MODE, os.geteuid(), os.getegid(), self.now)
                self._do(Operation("mkdir", self._checked(names[:depth]), made))
                self._touched(names[: depth - 1])
                child = self.at(names[:depth])
            if not isinstance(child, Directory):
                raise NotADirectoryError(20, "it is no directory", path_text(_path(names[:depth])))
            here = child
        return here

    def put(self, names: list[bytes], file: File) -> None:
        """Have a file there: of a new one all of ``file``, of one that is there the content and the time."""
        self.directory(names[:-1])
        path, found = self._checked(names), self.at(names)
        if isinstance(found, File):
            kept = tuple(pair for pair in found.xattrs if pair[0] != _PRIVILEGES)
            changed = File(found.mode, found.uid, found.gid, file.mtime, kept, size=file.size, digest=file.digest)
            changed.content = file.content
            self._do(Operation("write", path, changed))
            return
        if isinstance(found, Directory):
            raise IsADirectoryError(21, "it is a directory", path_text(path))
        if found is not None:
            self._do(Operation("delete", path))
        self._do(Operation("create", path, file))
        self._touched(names[:-1])

    def remove(self, names: list[bytes]) -> None:
        """Remove a file, a link or an empty directory."""
        self._do(Operation("delete", _path(names)))
        self._touched(names[:-1])

    def remove_tree(self, names: list[bytes]) -> None:
        """Remove a directory with all that is in it."""
        order, todo = [], [names]
        while todo:
            at = todo.pop()
            order.append(at)
            inode = self.at(at)
            if isinstance(inode, Directory):
                todo += [[*at, name] for name in inode.children]
        for at in reversed(order):
            if at:
                self._do(Operation("delete", _path(at)))
        self._touched(names[:-1])

    def rename(self, old: list[bytes], new: list[bytes]) -> None:
        """Move what is at ``old`` to ``new``, where nothing or a file is that it replaces."""
        self.directory(new[:-1])
        found, moved = self.at(new), self.at(old)
        if found is not None and (isinstance(found, Directory) or isinstance(moved, Directory)):
            raise FileExistsError(17, "something is there already", path_text(_path(new)))
        self._do(Operation("rename", self._checked(new), was=_path(old)))
        self._touched(old[:-1])
        self._touched(new[:-1])

    def set_time(self, names: list[bytes], mtime: int) -> None:
        """Give what is there another time, in nanoseconds."""
        inode = self.at(names)
        assert inode is not None
        if isinstance(inode, Directory):
            self._touched(names, mtime)
        else:
            changed = with_xattrs(inode, inode.xattrs)
            changed.mtime = mtime
            self._do(Operation("setattr", _path(names), changed))

    def _touched(self, names: list[bytes], mtime: int | None = None) -> None:
        directory = self.at(names)
        if isinstance(directory, Directory):
            meta = (directory.mode, directory.uid, directory.gid)
            changed = Directory(*meta, self.now if mtime is None else mtime, directory.xattrs)
            self._do(Operation("mtime", _path(names), changed))

    def _do(self, operation: Operation) -> None:
        self._replay.apply(operation)
        self.done.append(operation)

    @staticmethod
    def _checked(names: list[bytes]) -> bytes:
        for name in names[-1:]:
            if problem := check_name(name):
                raise UsageError(f"{path_text(_path(names))} {problem}")
        return _path(names)


def _path(names: Iterable[bytes]) -> bytes:
    return b"/" + b"/".join(names)


def written(root: Directory) -> Iterator[tuple[bytes, int]]:
    """(digest, size) of each file in a directory that is not as it was in the commit."""
    todo = [root]
    while todo:
        directory = todo.pop()
        if directory.region is not None:
            continue
        for inode in directory.children.values():
            if isinstance(inode, Directory):
                todo.append(inode)
            elif isinstance(inode, File) and inode.digest is not None:
                yield inode.digest, inode.size


def _root_of(replay: Replay) -> Directory:
    """The tree as it is at this moment; it may change with the next operation."""
    root = replay.lookup(b"/")
    assert isinstance(root, Directory)
    return root


def _renew_locks() -> None:
    for layer in list(_layers):
        layer._lock = threading.RLock()


os.register_at_fork(after_in_child=_renew_locks)
