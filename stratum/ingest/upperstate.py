"""The tree that an upperdir over a base tree shows, kept current while it is written to.

The tree is the one that ``ingest.upperdir`` reads, with two exceptions, as the history of a worktree goes on whatever
is written there: what has too long a path is left out, and so are extended attributes that are more than a tree can
hold, with a warning. What changed is said by whoever watches, as names in directories. Those are looked at and nothing
else, so a change costs what changed, also in a directory of 100,000 files. The names are hints: what is not as it was
known to be, is found; what is said for nothing, changes nothing.

Inodes stay the same objects where type, metadata and content are what they were, under whatever name, so that
``tree.operations`` finds what changed, and what was moved, without a look at the rest. A file is read (``Contents``)
where its size or its times changed, or where they need not tell: it changed less than a tenth of a second before it was
looked at, or its content was not known.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Mapping, Sequence
from types import TracebackType

from stratum.errors import StratumError
from stratum.ingest.reader import source_error
from stratum.ingest.upperentry import UpperEntries, Warn
from stratum.ingest.upperlook import Contents, Look, Marks, Tangled, handle
from stratum.ingest.uppernodes import UpperDirectory, UpperNodes
from stratum.sys.dirstack import OPEN_DIRECTORY
from stratum.sys.xattrs import read_fd_xattrs
from stratum.tree.diff import linked_names
from stratum.tree.model import Directory, Inode, Xattrs
from stratum.tree.overlay import Dialect

__all__ = ["Contents", "Marks", "UpperDirectory", "UpperState"]


class UpperState:
    """What an upperdir shows over ``base``. A context manager; ``upper`` is an open directory, which is not taken over.

    ``root`` is the tree as of the last look (``base`` before the first), ``moved`` has old paths by new ones of what
    was renamed between the last two, as far as it is not the same object. ``contents`` says what files hold,
    ``marks`` is told of each directory before it is listed. ``dialect`` is that of the mount. ``warn`` gets a line for
    each socket, and for what is left out.
    """

    def __init__(
        self,
        base: Directory,
        upper: int,
        contents: Contents,
        *,
        marks: Marks,
        dialect: Dialect = Dialect.TRUSTED,
        warn: Warn | None = None,
    ) -> None:
        self.root = base
        self.moved: Mapping[bytes, bytes] = {}
        self._base = base
        self._contents = contents
        self._marks = marks
        self._entries = _Lenient(base, dialect, warn)
        self._base_links: dict[int, list[tuple[bytes, bytes]]] | None = None
        self._renamed: list[tuple[bytes, bytes]] | None = None  # directories of the base: their path there, and here
        try:
            self._fd = os.open(b".", OPEN_DIRECTORY, dir_fd=upper)
        except OSError as exc:
            raise source_error(exc, "the upper directory") from None
        self._nodes = self._nothing_known()
        self._forgotten: list[UpperDirectory] = []  # that were marked, and may have gone since

    def scan(self) -> Directory:
        """The tree, with everything looked at; files that did not change are not read again."""
        return self._look(dict.fromkeys(self._nodes.directories.values()))

    def refresh(
        self,
        dirty: Mapping[UpperDirectory, Collection[bytes] | None],
        *,
        closed: Iterable[tuple[int, int]] = (),
    ) -> Directory:
        """The tree, with these names looked at in these directories (None: all names), and the directories themselves.

        ``closed`` are inodes, by device and number, that a writer closed: they are read again also where size and times
        say that nothing changed, as those of a mapped file need not tell. A directory that has gone is passed over.

        ``DamagedError`` where the upperdir does not fit the base, ``StratumError`` in the kernel's words where it
        cannot be read; what is known is forgotten then, and the next call looks at everything.
        """
        if self._nodes.root.merged is None:
            return self.scan()
        pending: dict[UpperDirectory, set[bytes] | None] = {}
        for directory, names in dirty.items():
            if self._nodes.directories.get(directory.key) is directory:
                pending[directory] = None if names is None else set(names)
        numbers = {self._nodes.number(key) for key in closed}
        for number in numbers:
            known = self._nodes.inodes.get(number)
            for directory, name in known.places() if known is not None else ():
                wanted = pending.setdefault(directory, set())
                if wanted is not None:
                    wanted.add(name)
        return self._look(pending, numbers) if pending else self.root

    def names_of(self, inode: Inode) -> Sequence[bytes]:
        """All paths of an inode of ``root`` that is no directory and has several names; () for others. Among them may
        be paths that it does not have, where it is one of the base's."""
        known = self._nodes.linked.get(id(inode))
        if known is not None:
            return [directory.within(name) for directory, name in known.places()]
        if self._base_links is None:
            self._base_links = linked_names(self._base)
        names = [b"".join(name) for name in self._base_links.get(id(inode), ())]
        if not names:
            return ()
        if self._renamed is None:
            redirected = [directory for directory in self._nodes.directories.values() if directory.redirect is not None]
            self._renamed = [(_lower_path(directory) + b"/", directory.path() + b"/") for directory in redirected]
        moved = [path + name[len(lower) :] for lower, path in self._renamed for name in names if name.startswith(lower)]
        return list(dict.fromkeys(names + moved))

    def paths_of(self, key: tuple[int, int]) -> Sequence[bytes]:
        """The paths, as of the last look, of the upper file with this device and inode number."""
        known = self._nodes.inodes.get(self._nodes.number(key))
        return [directory.within(name) for directory, name in known.places()] if known is not None else ()

    def close(self) -> None:
        """Let go of the upperdir."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> UpperState:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _look(self, pending: Mapping[UpperDirectory, set[bytes] | None], closed: Collection[object] = ()) -> Directory:
        try:
            look = Look(self._nodes, self._fd, self._entries, self._contents, self._marks, closed)
            try:
                look.run(pending)
            except Tangled:  # directories were moved while they were looked at, so that nothing that is known holds
                self._forget()
                look = Look(self._nodes, self._fd, self._entries, self._contents, self._marks)
                look.run({self._nodes.root: None})
        except BaseException:
            self._forget()
            raise
        root = self._nodes.root.merged
        assert root is not None
        for directory in self._forgotten:
            again = self._nodes.directories.get(directory.key)
            if again is None or again.handle != directory.handle:
                self._marks.gone(directory)
        self._forgotten.clear()
        self.root, self.moved, self._renamed = root, look.moved, None
        return root

    def _forget(self) -> None:
        self._forgotten += self._nodes.directories.values()
        self._nodes = self._nothing_known()

    def _nothing_known(self) -> UpperNodes:
        info = os.fstat(self._fd)
        return UpperNodes((info.st_dev, info.st_ino), handle(self._fd))


class _Lenient(UpperEntries):
    """Leaves out extended attributes that no tree can hold."""

    def attributes(self, target: int, path: bytes) -> tuple[dict[bytes, bytes], Xattrs]:
        try:
            return super().attributes(target, path)
        except StratumError as exc:
            self.warn(f"{exc.message}; its extended attributes are left out")
            return self.dialect.split(read_fd_xattrs(target))[0], ()


def _lower_path(directory: UpperDirectory) -> bytes:
    """The base's path of what shows in an upper directory, which it has; empty for the top."""
    parts: list[bytes] = []
    for inner in directory.above():
        if inner.redirect is not None and inner.redirect.startswith(b"/"):
            parts.append(inner.redirect)
            break
        if inner.parent is not None:
            parts.append(b"/" + (inner.redirect or inner.name))
    return b"".join(reversed(parts))
