"""Paths of which no history is kept. Pure.

A pattern is one of ``fnmatch``, and has to fit the whole path of what is excluded, or of a directory that it is in:
``*`` stands for slashes too, so ``*/node_modules`` is every directory of that name with all that is in it.

A log has to give the very tree that its records tell of, so what is excluded is not left out of a tree, but stays in it
as it was when the log last told of it.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Sequence

from stratum.tree.model import Directory, Inode

_REMEMBERED_MAX = 50_000


class Excluding:
    """What the ``patterns`` of one worktree exclude."""

    def __init__(self, patterns: Sequence[str]) -> None:
        self._match = re.compile("|".join(map(fnmatch.translate, patterns))).match if patterns else None
        self.unfit: set[bytes] = set()
        """Paths of what no log can hold, which are excluded too."""
        self._known: dict[bytes, tuple[Directory, Directory | None, Directory]] = {}

    def __bool__(self) -> bool:
        return self._match is not None or bool(self.unfit)

    def names(self, path: bytes) -> bool:
        """Whether just this path is excluded."""
        return path in self.unfit or (self._match is not None and self._match(os.fsdecode(path)) is not None)

    def covers(self, path: bytes) -> bool:
        """Whether ``path`` is excluded: itself, or by a directory that it is in."""
        if not self:
            return False
        at = 0
        while at >= 0:
            at = path.find(b"/", at + 1)
            if self.names(path[:at] if at >= 0 else path):
                return True
        return False

    def applied(self, shown: Directory, recorded: Directory) -> Directory:
        """The tree ``shown``, but for what is excluded, which is as in ``recorded``, what the log tells.

        The cost is that of what differs, where it is called again and again of trees that follow one another.
        """
        if not self:
            return shown
        if len(self._known) > _REMEMBERED_MAX:
            self._known.clear()
        todo: list[tuple[bytes, Directory, Directory | None]] = [(b"", shown, recorded)]
        for path, directory, before in todo:  # grows while it is gone through
            for name, child in directory.children.items():
                if isinstance(child, Directory) and not self.names(inner := path + b"/" + name):
                    old = _child(before, name)
                    below = old if isinstance(old, Directory) else None
                    if child is not below and not self._knows(inner, child, below):
                        todo.append((inner, child, below))
        for path, directory, before in reversed(todo):
            self._known[path] = (directory, before, self._merged(path, directory, before))
        return self._known[b""][2]

    def _knows(self, path: bytes, shown: Directory, before: Directory | None) -> bool:
        """Whether what becomes of a directory is known since the last time."""
        known = self._known.get(path)
        return known is not None and known[0] is shown and before is not None and before in (known[1], known[2])

    def _merged(self, path: bytes, shown: Directory, before: Directory | None) -> Directory:
        children: dict[bytes, Inode] = {}
        changed = False
        for name, child in shown.children.items():
            new: Inode | None = child
            if self.names(inner := path + b"/" + name):
                new = _child(before, name)
            elif isinstance(child, Directory) and child is not _child(before, name):
                new = self._known[inner][2]
            if new is not None:
                children[name] = new
            changed = changed or new is not child
        for name, child in before.children.items() if before is not None else ():
            if name not in shown.children and self.names(path + b"/" + name):
                children[name] = child
                changed = True
        return shown.with_children(children) if changed else shown


def _child(directory: Directory | None, name: bytes) -> Inode | None:
    return directory.children.get(name) if directory is not None else None
