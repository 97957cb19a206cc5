"""The operations that make one tree of another. Pure.

What is moved keeps its contents, so it is found first (``tree.moves``); the rest is the difference that is left then.
Subtrees that both trees share as one object are skipped without a look inside.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence

from stratum.tree.diff import linked_names
from stratum.tree.model import Directory, File, Inode, Symlink, lookup
from stratum.tree.moves import Item, Moves, in_order, order_key
from stratum.tree.replay import Operation

__all__ = ["NamesOf", "Operation", "operations"]

NamesOf = Callable[[Inode], Sequence[bytes]]


def operations(
    old: Directory,
    new: Directory,
    names_of: NamesOf | None = None,
    *,
    moved: Mapping[bytes, bytes] | None = None,
) -> list[Operation]:
    """What makes ``new`` of ``old``, in an order in which each operation leaves a tree: what was renamed, with the
    directories that it needs; deletions, deepest first; what is new or changed, from the top; times of directories.

    ``names_of`` tells all paths in ``new`` of an inode that is no directory and has several, and nothing of others;
    without it all of both trees is walked for them. ``moved`` has old paths by new ones, of what may have been renamed
    and changed since.
    """
    if old is new:
        return []
    moves = Moves(old, new)
    items = moves.find(moved or {})
    if moves.make():  # whatever was moved, the last tree is the new one
        items = Moves(moves.root, new).differences()
    return moves.done + _Difference(moves.root, new, names_of).operations(in_order(items))


class _Difference:
    """What is between two trees, once nothing is moved any more.

    Of an inode with several names that is in the new tree only, the first name in the order of a dump is made, and the
    others are linked to it.
    """

    def __init__(self, old: Directory, new: Directory, names_of: NamesOf | None) -> None:
        self._old = old
        self._new = new
        self._names_of = names_of
        self._old_names: dict[int, list[tuple[bytes, bytes]]] | None = None
        self._new_names: dict[int, list[tuple[bytes, bytes]]] | None = None
        self._old_links: dict[int, tuple[bytes, bool]] = {}  # the first name, and whether a name still has the inode
        self._main_names: dict[int, bytes | None] = {}  # of inodes in ``new``, by ``id``; None: it has one name

    def operations(self, items: Sequence[Item]) -> list[Operation]:
        """The operations for ``items``, which are in the order of a dump."""
        made = [Operation("delete", path) for path, a, b in reversed(items) if a is not None and _is_made_anew(a, b)]
        times: list[Operation] = []
        for path, a, b in items:
            if b is None:
                continue
            before = None if a is None or _is_made_anew(a, b) else a
            if isinstance(b, Directory):
                _directory(path, before, b, made, times)
            else:
                self._other(path, before, b, made)
        return made + times

    def _other(self, path: bytes, before: Inode | None, inode: Inode, made: list[Operation]) -> None:
        """What is to be done for an inode that is no directory, where there is ``before``, of the same type."""
        main = self._main_name(path, inode)
        link = None if main == path else main
        if before is None:
            op = "link" if link is not None else _making(inode)
        elif before.content_key() != inode.content_key():
            op = "write"
        elif before.metadata() != inode.metadata() or self._is_linked_anew(path, before, main):
            op = "setattr"
        else:
            return
        made.append(Operation(op, path, inode if link is None else None, link))

    def _main_name(self, path: bytes, inode: Inode) -> bytes:
        """The name of the inode, at ``path`` and elsewhere in the new tree, that its others are linked to: one that it
        has in the old tree already, else the first."""
        key = id(inode)
        if key not in self._main_names:
            if self._names_of is not None:
                names = [name for name in self._names_of(inode) if lookup(self._new, name) is inode]
            else:
                if self._new_names is None:
                    self._new_names = linked_names(self._new)
                names = [b"".join(name) for name in self._new_names.get(key, ())]
            known = [name for name in names if lookup(self._old, name) is inode]
            self._main_names[key] = min(known or names, key=order_key) if len(names) > 1 else None
        return self._main_names[key] or path

    def _is_linked_anew(self, path: bytes, before: Inode, main: bytes) -> bool:
        """Whether an inode that is equal to the one ``before`` has other names, and the operations on those names do
        not see to that."""
        if self._old_names is None:
            self._old_names = linked_names(self._old)
        key = id(before)
        if key not in self._old_names:
            return path != main
        if key not in self._old_links:
            names = [b"".join(name) for name in self._old_names[key]]
            self._old_links[key] = names[0], any(lookup(self._new, name) is before for name in names)
        return self._old_links[key] != (main, False)


def _directory(
    path: bytes, before: Inode | None, directory: Directory, made: list[Operation], times: list[Operation]
) -> None:
    if before is None:
        made.append(Operation("mkdir", path, directory))
    elif before.metadata() != directory.metadata():
        if before.metadata()[:3] == directory.metadata()[:3] and before.xattrs == directory.xattrs:
            times.append(Operation("mtime", path, directory))
        else:
            made.append(Operation("setattr", path, directory))


def _is_made_anew(old: Inode, new: Inode | None) -> bool:
    """Whether the old inode is deleted to make room for the new one: it is of another type, or can never change."""
    if new is None or stat.S_IFMT(old.mode) != stat.S_IFMT(new.mode):
        return True
    return not isinstance(old, File) and old.content_key() != new.content_key()


def _making(inode: Inode) -> str:
    if isinstance(inode, File):
        return "create"
    return "symlink" if isinstance(inode, Symlink) else "special"
