"""A worktree with a history that the processes of the product keep: mounted, written to, and compared with its log."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stratum.api.session import Session
from stratum.api.watching import history_on
from stratum.config import load_config
from stratum.history.wire import ask
from stratum.store import Store
from stratum.tree.dump import write_dump
from stratum.tree.model import Directory, File
from stratum.tree.oplog import Record, inode_of
from stratum.tree.replay import Replay
from tests.support import hydrating
from tests.support.command import Command
from tests.support.leftovers import unmount_below
from tests.support.watching import processes

PATIENCE = 60.0


class Watched:
    """``app+dev``, mounted at ``mnt`` where ``mounted``; its history is on once ``on`` was called."""

    def __init__(self, directory: Path, *, mounted: bool = True) -> None:
        self.directory = directory
        self.run = directory / "run"
        self.run.mkdir(mode=0o700, parents=True)
        self.cli = Command(directory / "store", self.run)
        self.mnt = directory / "mnt"
        source = directory / "source"
        (source / "dir").mkdir(parents=True)
        (source / "dir" / "file").write_text("of the base")
        self.cli.ok("import", "--bare", source, "app")
        self.cli.ok("worktree", "add", "app+dev", "app:latest")
        if mounted:
            self.cli.ok("mount", "app+dev", self.mnt)

    def close(self) -> None:
        unmount_below(self.directory)
        hydrating.stop(self.run)

    @property
    def store(self) -> Store:
        return Store.open(self.cli.store)

    @property
    def session(self) -> Session:
        return Session(load_config(self.cli.environment))

    def on(self, worktree: str = "app+dev") -> None:
        """Have the history kept, and somebody watch."""
        note = history_on(self.session, worktree).note
        assert note is None, note

    def ask(self, op: str, timeout: float = PATIENCE) -> dict[str, Any] | None:
        """What who watches answers."""
        return ask(self.run, self.cli.store, {"op": op}, timeout=timeout)

    # Processes

    @property
    def keeper(self) -> int:
        return self._pid("pid")

    @property
    def worker(self) -> int:
        return self._pid("worker")

    def _pid(self, key: str) -> int:
        answer = self.ask("status")
        assert answer is not None
        pid: int = answer[key]
        return pid

    def kill(self, *, keeper: bool = False, worker: bool = False) -> None:
        """Kill them, at once where it is both."""
        pids = [self.keeper] if keeper else []
        pids += [self.worker] if worker else []
        hydrating.kill(*pids)

    def running(self) -> list[int]:
        return processes(self.run)

    # The log

    def flush(self) -> int | None:
        from stratum.history.wire import flush

        return flush(self.run, self.cli.store, "app", "dev")

    def records(self, worktree: str = "dev") -> list[Record]:
        return list(self.store.histories.records("app", worktree))

    def of(self, path: str) -> list[str]:
        """The operations of a path."""
        return [record.op for record in self.records() if record.path == path.encode()]

    def gaps(self) -> list[str | None]:
        return [record.why for record in self.records() if record.op == "gap"]

    def replayed(self) -> Directory:
        """The tree that the log gives."""
        records = self.store.histories.epoch("app", "dev")
        base = next(records)
        assert base.commit is not None
        replay = Replay(self.store.commits.open_tree(base.commit))
        for record in records:
            replay.apply(record)
        return replay.root

    def is_exact(self) -> None:
        """What the log gives is what the worktree shows, with all contents."""
        self.flush()
        with self.session.hold("app+dev") as held:
            shown = held.shown()
        assert write_dump(self.replayed()) == write_dump(shown)

    def contents(self, path: str) -> set[bytes]:
        """All contents of a path that are in the log and in the store, also those that came by a rename."""
        found, held = set(), {}
        for record in self.records():
            if record.entry is not None:
                content = self._content(record.entry)
            elif record.op == "rename" and record.was in held:
                content = held.pop(record.was)
            else:
                continue
            held[record.path] = content
            if record.path == path.encode() and content is not None:
                found.add(content)
        return found

    def _content(self, entry: bytes) -> bytes | None:
        """What a regular file in the log holds, where that is known."""
        inode = inode_of(entry)
        if not isinstance(inode, File) or inode.digest is None:
            return inode.content if isinstance(inode, File) else None
        return Path(self.store.objects.path(inode.digest)).read_bytes()


def until(what: Callable[[], object], patience: float = PATIENCE, otherwise: str = "it does not come") -> None:
    """Wait until ``what`` gives something true."""
    deadline = time.monotonic() + patience
    while not what():
        assert time.monotonic() < deadline, otherwise
        time.sleep(0.05)


def replace(path: Path, text: str) -> None:
    """Give a file another content as editors do."""
    beside = path.with_name(f".{path.name}.new")
    beside.write_text(text)
    os.replace(beside, path)
