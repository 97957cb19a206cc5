"""Histories that tests write themselves, record by record, as a watcher leaves them."""

from __future__ import annotations

import os
from datetime import datetime, timedelta, timezone

from stratum.store import Store
from stratum.store.histories import HistorySettings
from stratum.tree.model import Directory, File, Inode, Symlink
from stratum.tree.oplog import Record, entry_of
from tests.support.stores import file

START = datetime(2026, 11, 21, 14, 0, 0, tzinfo=timezone.utc)


class Logbook:
    """The history of ``name+worktree``, on from now on. Each record is a second after the one before, unless ``at`` is
    set; ``n`` is the last CHANGE."""

    def __init__(self, store: Store, name: str = "app", worktree: str = "dev") -> None:
        self.store = store
        self.whose = (name, worktree)
        self.n = 0
        self.at = START
        store.histories.set_settings(*self.whose, HistorySettings(since="2026-11-21T14:00:00Z"))
        self.begin(store.worktrees.get(*self.whose).base_commit)

    def begin(self, commit: str, why: str = "history on") -> int:
        """A new epoch over ``commit``."""
        return self.add("base", None, commit=commit, why=why)

    def write(self, path: str, data: bytes, op: str = "write", **more: str) -> int:
        """A file's content as it was closed."""
        with self.store.begin("a test") as tx:
            inode = file(tx, data)
            tx.publish_objects()
        return self.add(op, path, inode, **more)

    def create(self, path: str, data: bytes, **more: str) -> int:
        return self.write(path, data, "create", **more)

    def unknown(self, path: str, why: str, op: str = "write", size: int = 1000) -> int:
        """A version whose content is not kept."""
        return self.add(op, path, File(0o100644, os.geteuid(), os.getegid(), 0, size=size), why=why)

    def mkdir(self, path: str) -> int:
        return self.add("mkdir", path, Directory(0o40755, os.geteuid(), os.getegid(), 0))

    def symlink(self, path: str, target: str) -> int:
        return self.add("symlink", path, Symlink(0o120777, os.geteuid(), os.getegid(), 0, target=target.encode()))

    def rename(self, old: str, new: str, **more: str) -> int:
        return self.add("rename", new, was=old, **more)

    def delete(self, path: str, **more: str) -> int:
        return self.add("delete", path, **more)

    def add(
        self, op: str, path: str | None, inode: Inode | None = None, was: str | None = None, **more: str | bytes
    ) -> int:
        """Any record; its CHANGE."""
        self.n += 1
        self.at += timedelta(seconds=1)
        record = Record(
            self.n,
            self.at.replace(tzinfo=None).isoformat(timespec="milliseconds") + "Z",
            op,
            None if path is None else os.fsencode(path),
            None if inode is None else entry_of(inode),
            was=None if was is None else os.fsencode(was),
            **more,  # type: ignore[arg-type]
        )
        with self.store.histories.writing():
            writer = self.store.histories.writer(*self.whose)
            try:
                writer.append([record])
            finally:
                writer.close()
        return self.n
