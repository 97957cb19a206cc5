"""A store with worktrees that have a history, mounted without the rest of the product; a watcher in this process."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from stratum.api.session import Session
from stratum.config import load_config
from stratum.history.events import Groups
from stratum.history.watcher import Watcher
from stratum.mount.build import mount, unmount
from stratum.mount.plan import MountPlan
from stratum.store import Store
from stratum.store.histories import HistorySettings
from stratum.tree.model import Directory, File, walk
from stratum.tree.oplog import Record, inode_of
from stratum.tree.replay import Replay
from tests.integration.overlay_ops import Operations, lines, make_source, walk_view

SINCE = "2026-01-01T00:00:00Z"
PATIENCE = 60.0


class Recorded:
    """``app+dev`` over a commit of all kinds of things, mounted at ``view``; watched once ``start`` is called."""

    def __init__(self, place: Path, **settings: Any) -> None:
        self.place = place
        self.store = Store.create(place / "store")
        self.base = self.commit(make_source(place))
        self.view = place / "view"
        self.view.mkdir()
        self.told: list[str] = []
        self._stack = ExitStack()
        self._stack.enter_context(self.store.histories.writing())
        self.groups: Groups | None = None
        self._watcher: Watcher | None = None
        self._mounted: set[Path] = set()
        self._watched: list[str] = []
        self.add("dev", **settings)

    def close(self) -> None:
        self.stop()
        for view in list(self._mounted):
            self.unmount(view)
        self._stack.close()

    # Worktrees

    def commit(self, source: Path) -> str:
        """A commit of the directory ``source``."""
        tree = walk_view(source)
        with self.store.begin() as tx:
            for path, _, names in os.walk(os.fsencode(source)):
                for name in names:
                    file = Path(os.fsdecode(path + b"/" + name))
                    if file.is_file() and not file.is_symlink() and file.stat().st_size > 64:
                        tx.add_bytes(file.read_bytes())
            return self.store.commits.write(tx, tree).metadata_hash

    def add(self, worktree: str, base: str | None = None, **settings: Any) -> None:
        """Another worktree, with its history on."""
        self.store.worktrees.create("app", worktree, base or self.base)
        self.store.histories.set_settings("app", worktree, HistorySettings(SINCE, **settings))

    def upper(self, worktree: str = "dev") -> Path:
        return self.store.worktrees.get("app", worktree).upperdir

    def mount(self, view: Path | None = None, worktree: str = "dev") -> Path:
        view = view or self.view
        view.mkdir(exist_ok=True)
        tree = self.store.worktrees.get("app", worktree)
        image = self.store.images.ensure(tree.base_commit)
        mount(MountPlan(image, self.store.objects.layers, tree.upperdir, tree.workdir), view)
        self._mounted.add(view)
        return view

    @property
    def session(self) -> Session:
        """For verbs on worktrees that are not mounted; what is mounted here is not on record."""
        return Session(load_config({}, store=str(self.store.root), runtime_dir=str(self.place / "run")))

    def unmount(self, view: Path | None = None) -> None:
        unmount(view or self.view)
        self._mounted.remove(view or self.view)

    # Watching

    @property
    def watcher(self) -> Watcher:
        assert self._watcher is not None
        return self._watcher

    def start(self, *, kept: bool = False, scanning: bool = False) -> Watcher:
        """Watch. ``kept``: with the groups that ``stop`` kept; ``scanning``: without events."""
        if not scanning and not (kept and self.groups is not None):
            self.groups = Groups.open()
        mine = None
        if not scanning:
            assert self.groups is not None
            mine = Groups.adopt(*map(os.dup, self.groups.fds))
        self._watcher = Watcher(self.store, mine, kept=self._watched if kept else (), tell=self.told.append)
        self._watcher.look()
        self.flush()
        return self._watcher

    def stop(self, *, keep: bool = False) -> None:
        if self._watcher is not None:
            self._watched = self._watcher.watching()
            self._watcher.close()
            self._watcher = None
        if not keep and self.groups is not None:
            self.groups.close()
            self.groups = None

    def flush(self, worktree: str = "dev") -> int:
        return self.watcher.flush("app", worktree)

    def run(self, until: Callable[[], bool], timeout: float = PATIENCE) -> None:
        """Let the watcher work until something is so."""
        deadline = time.monotonic() + timeout
        while not until():
            assert time.monotonic() < deadline, self.told
            self.watcher.run_once(0.05)

    # What is recorded

    def records(self, worktree: str = "dev", after: int = 0) -> list[Record]:
        return [record for record in self.store.histories.records("app", worktree) if record.n > after]

    def told_of(self, after: int = 0, worktree: str = "dev") -> list[tuple[str, str]]:
        """(operation, path) of what was recorded, without times of directories."""
        return [
            (record.op, os.fsdecode(record.path or b""))
            for record in self.records(worktree, after)
            if record.op != "mtime"
        ]

    def replayed(self, n: int | None = None, worktree: str = "dev") -> Directory:
        """The tree that the log gives."""
        records = self.store.histories.epoch("app", worktree, n)
        first = next(records)
        assert first.op == "base"
        assert first.commit is not None
        replay = Replay(self.store.commits.tree(first.commit))
        for record in records:
            replay.apply(record)
        return replay.root

    def check(self, view: Path | None = None, worktree: str = "dev") -> None:
        """After a flush, what the log gives is what the mount shows, and all contents are there."""
        self.flush(worktree)
        shown = lines(walk_view(view or self.view))
        tree = self.replayed(worktree=worktree)
        unknown = [path for path, inode in walk(tree) if is_unknown(inode)]
        assert not unknown
        found = lines(tree)
        assert found == shown, "\n".join(sorted(set(found) ^ set(shown), key=lambda line: line.split(" ")[0])[:20])
        for path, inode in walk(tree):
            if isinstance(inode, File) and inode.digest is not None:
                assert self.store.objects.size(inode.digest) == inode.size, path

    def versions(self, path: bytes, worktree: str = "dev", after: int = 0) -> list[bytes | None]:
        """The contents of a path that the log has, in its order; None for one that is not known."""
        found: list[bytes | None] = []
        for record in self.records(worktree, after):
            if record.path == path and record.entry is not None:
                inode = inode_of(record.entry)
                if isinstance(inode, File):
                    found.append(self.content(inode))
        return found

    def content(self, inode: File) -> bytes | None:
        if inode.digest is None:
            return None if is_unknown(inode) else inode.content or b""
        fd = self.store.objects.open(inode.digest)
        with open(fd, "rb") as file:
            return file.read()

    def operations(self) -> Operations:
        return Operations(self.view)


def is_unknown(inode: object) -> bool:
    """Whether it is a file whose content is not known."""
    return isinstance(inode, File) and inode.size > 0 and inode.digest is None and inode.content is None


def begun(directory: Path) -> Iterator[Recorded]:
    """A worktree that is mounted and watched, for a fixture."""
    recorded = Recorded(directory)
    recorded.mount()
    recorded.start()
    yield recorded
    recorded.close()
