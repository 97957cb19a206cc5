"""What a watcher of an upperdir has, for tests: contents, marks, and which names changed since it last looked."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from stratum.composefs.verity import verity_digest
from stratum.ingest.upperstate import UpperDirectory, UpperState
from stratum.tree.dump import write_dump
from stratum.tree.model import INLINE_MAX, Directory, File, walk
from stratum.tree.operations import Operation, operations
from stratum.tree.replay import Replay
from tests.integration.overlay_ops import Worktree, lines

Info = tuple[int, ...]
"""Mode, inode number, link count, device and what else changes when an inode does."""
Names = dict[tuple[int, int], dict[bytes, Info]]
"""By the key of a directory, its own metadata under an empty name and that of its entries."""


class Reading:
    """Reads every file that it is asked for; ``read`` are their paths."""

    def __init__(self) -> None:
        self.read: list[bytes] = []
        self.before: list[File | None] = []

    def content(
        self, fd: int, info: os.stat_result, path: bytes, before: File | None
    ) -> tuple[int, bytes | None, bytes | None]:
        self.read.append(path)
        self.before.append(before)
        data = Path(f"/proc/self/fd/{fd}").read_bytes()
        if len(data) <= INLINE_MAX:
            return len(data), None, data or None
        return len(data), verity_digest(data), None


class Marking:
    """Remembers what was marked."""

    def __init__(self) -> None:
        self.directories: dict[tuple[int, int], UpperDirectory] = {}
        self.files: set[tuple[int, int]] = set()

    def directory(self, directory: UpperDirectory, fd: int) -> None:
        assert self.directories.get(directory.key) is not directory
        self.directories[directory.key] = directory

    def seen(self, fd: int, directory: UpperDirectory, name: bytes) -> None:
        assert stat.S_IFMT(os.fstat(fd).st_mode) != stat.S_IFDIR, (directory.path(), name)

    def linked(self, fd: int, directory: UpperDirectory, name: bytes) -> None:
        info = os.fstat(fd)
        self.files.add((info.st_dev, info.st_ino))

    def gone(self, directory: UpperDirectory) -> None:
        if self.directories.get(directory.key) is directory:
            del self.directories[directory.key]


class Watched:
    """A worktree with the state of its upperdir, which every look is compared with."""

    def __init__(self, tree: Worktree, warn: Callable[[str], None] | None = None) -> None:
        self.worktree = tree
        self.contents = Reading()
        self.marks = Marking()
        fd = os.open(tree.upper, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self.state = UpperState(tree.base, fd, self.contents, marks=self.marks, warn=warn)
        finally:
            os.close(fd)
        self.seen = snapshot(tree.upper)
        self.state.scan()
        self.check()

    def check(self) -> Directory:
        """The tree is what the mount shows, and what a fresh look at the upperdir says."""
        root = self.state.root
        assert lines(root) == lines(self.worktree.walk()) == lines(self.worktree.read())
        names: dict[int, list[bytes]] = {}
        for path, inode in walk(root):
            names.setdefault(id(inode), []).append(path)
        for path, inode in walk(root):
            if not isinstance(inode, Directory):
                known = sorted(name for name in self.state.names_of(inode) if name in names[id(inode)])
                assert known == names[id(inode)] or (not known and len(names[id(inode)]) == 1), path
        inside = set(snapshot(self.worktree.upper))
        assert self.marks.directories.keys() == inside
        assert {key for key, found in self.marks.directories.items() if found.key == key} == inside
        return root

    def dirty(self, *, whole: int = 0) -> dict[UpperDirectory, set[bytes] | None]:
        """What changed since the last call; of an inode with several names only one of them, if it had them all before.
        ``whole``: each directory that is a multiple of it is said to have changed as a whole."""
        before, self.seen = self.seen, snapshot(self.worktree.upper)
        return differing(before, self.seen, self.marks.directories, whole)

    def refresh(self, *, whole: int = 0) -> list[Operation]:
        """Look at what changed; the operations."""
        old = self.state.root
        self.contents.read.clear()
        new = self.state.refresh(self.dirty(whole=whole))
        self.check()
        found = operations(old, new, self.state.names_of, moved=self.state.moved)
        replay = Replay(old)
        for operation in found:
            replay.apply(operation)
        assert write_dump(replay.root) == write_dump(new)
        return found

    def told(self) -> list[str]:
        """The operations as text, without those on the times of directories."""
        return [
            " ".join([found.op, *(path.decode() for path in (found.path, found.link, found.was) if path is not None)])
            for found in self.refresh()
            if found.op != "mtime"
        ]


def snapshot(upper: Path) -> Names:
    """All names below a directory."""
    found: Names = {}
    stack = [os.fsencode(upper)]
    while stack:
        path = stack.pop()
        own = _info(path)
        names = found[own[3], own[1]] = {b"": own}
        for name in os.listdir(path):
            names[name] = info = _info(path + b"/" + name)
            if stat.S_ISDIR(info[0]):
                stack.append(path + b"/" + name)
    return found


def differing(
    before: Names, after: Names, directories: dict[tuple[int, int], UpperDirectory], whole: int
) -> dict[UpperDirectory, set[bytes] | None]:
    """What to look at; see ``Watched.dirty``."""
    dirty: dict[UpperDirectory, set[bytes] | None] = {}
    told: set[tuple[int, int]] = set()
    for number, key in enumerate(sorted(before.keys() & after.keys())):
        old, new = before[key], after[key]
        names = {name for name in old.keys() | new.keys() if old.get(name) != new.get(name)}
        for name in sorted(names):
            was, info = old.get(name), new.get(name)
            if was is None or info is None or stat.S_ISDIR(info[0]) or was[1] != info[1]:
                continue
            if info[2] > 1 and was[2] == info[2]:
                if (info[3], info[1]) in told:
                    names.discard(name)
                told.add((info[3], info[1]))
        if names and key in directories:
            dirty[directories[key]] = None if whole and number % whole == 0 else names - {b""}
    return dirty


def _info(path: bytes) -> Info:
    info = os.lstat(path)
    times = (info.st_mtime_ns, info.st_ctime_ns)
    return (info.st_mode, info.st_ino, info.st_nlink, info.st_dev, info.st_uid, info.st_gid, info.st_size, *times)
