"""What was moved from one tree to another. Pure.

An inode that has gone from one path and come at another was renamed; so may be what the caller says, as a directory
that was written to meanwhile is another object. Moves are tried on a copy of the old tree, in the order of their
targets from the top: what cannot be moved is not, and is found as deleted and made by whoever compares what came out.
Where something else that is still to be moved is in the way, as when two directories change places, it waits under a
name of its own at the top.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping, Sequence
from itertools import compress, count, islice
from operator import is_not

from stratum.errors import DamagedError
from stratum.tree.diff import same_lines
from stratum.tree.model import Directory, Inode, lookup
from stratum.tree.replay import Operation, Replay

Item = tuple[bytes, "Inode | None", "Inode | None"]
"""A path and what is there in the old tree and in the new one, which are not the same object."""

_ASIDE = b"/.stratum-moved-%d"
_SEARCHED_MAX = 1_000_000


def order_key(path: bytes) -> bytes:
    """What paths are sorted by to be in the order of a dump."""
    return path.replace(b"/", b"\0")


def in_order(items: Sequence[Item]) -> list[Item]:
    """``items`` in the order of a dump."""
    return sorted(items, key=lambda item: order_key(item[0]))


class Moves:
    """What was moved between two trees; ``done`` are the operations that move it."""

    def __init__(self, old: Directory, new: Directory) -> None:
        self.done: list[Operation] = []
        self._old = old
        self._new = new
        self._tree = Replay(old)
        self._targets: dict[bytes, bytes] = {}  # new path -> old path
        self._pending: dict[bytes, bytes] = {}  # the other way round; those that were moved go
        self._places: dict[bytes, bytes] = {}  # old path of what was moved -> where it is now
        self._origins: dict[bytes, bytes] = {}  # the other way round
        self._ready: set[bytes] = set()  # directories that are in their place, and stay there
        self._searched = 0
        self._aside = 0

    @property
    def root(self) -> Directory:
        """The old tree with what was moved by now."""
        return self._tree.root

    def differences(self) -> list[Item]:
        """What differs between the trees, without regard to moves."""
        return self._walk(match=False)

    def find(self, hints: Mapping[bytes, bytes]) -> list[Item]:
        """Look for moves; what differs, which is complete where there are none. ``hints`` are new path -> old path."""
        for path, was in hints.items():
            there, here = lookup(self._old, was), lookup(self._new, path)
            if there is None or here is None or stat.S_IFMT(there.mode) != stat.S_IFMT(here.mode):
                continue
            if lookup(self._new, was) is not there and lookup(self._old, path) is not here:
                self._match(was, path)
        return self._walk(match=True)

    def _match(self, was: bytes, path: bytes) -> None:
        if path not in self._targets and was not in self._pending and was != path and b"/" not in (was, path):
            self._targets[path] = was
            self._pending[was] = path

    def _walk(self, *, match: bool) -> list[Item]:
        """Both trees side by side, level by level, so that what was moved as a whole is not looked into."""
        items: list[Item] = []
        came: dict[int, list[bytes]] = {}
        went: dict[int, list[bytes]] = {}
        level: list[tuple[bytes, bytes, Inode | None, Inode | None]] = [(b"/", b"/", self._old, self._new)]
        for path, was in self._targets.items():
            level.append((was, path, lookup(self._old, was), lookup(self._new, path)))
        while level:
            if match:
                for was, path, a, b in level:
                    if a is not None:
                        went.setdefault(id(a), []).append(was)
                    if b is not None:
                        came.setdefault(id(b), []).append(path)
                for _, _, a, b in level:
                    for inode in (a, b):
                        key = id(inode)
                        while inode is not None and went.get(key) and came.get(key):
                            self._match(went[key].pop(), came[key].pop())
            items += [(path, a, b) for _, path, a, b in level if a is not b]
            below = []
            for was, path, a, b in level:
                moved = self._targets.get(path) == was
                a_inside = a if isinstance(a, Directory) and (moved or was not in self._pending) else None
                b_inside = b if isinstance(b, Directory) and (moved or path not in self._targets) else None
                if a_inside is not b_inside:
                    old_prefix, new_prefix = was.rstrip(b"/") + b"/", path.rstrip(b"/") + b"/"
                    below += [
                        (old_prefix + name, new_prefix + name, x, y) for name, x, y in _differing(a_inside, b_inside)
                    ]
            level = below
        return items

    def make(self) -> bool:
        """Move what was found, as far as it can be; whether there was anything."""
        for path in sorted(self._targets, key=lambda path: (path.count(b"/"), path)):
            was = self._targets[path]
            if self._place_of(was) != path and self._make_room(path, was):
                self._rename(self._place_of(was), path, was)
            self._pending.pop(was)
        return bool(self._targets)

    def _make_room(self, path: bytes, was: bytes) -> bool:
        """Have the directories that ``path`` is to be in, and nothing in its place that cannot be replaced."""
        parents = []
        end = path.rfind(b"/")
        while end > 0 and path[:end] not in self._ready:
            parents.append(path[:end])
            end = path.rfind(b"/", 0, end)
        for parent in reversed(parents):
            there, is_pending = self._tree.lookup(parent), self._is_pending(parent)
            if is_pending or not isinstance(there, Directory):
                if there is not None and not (self._put_aside(parent) if is_pending else self._delete(parent)):
                    return False
                wanted = lookup(self._new, parent)
                if not isinstance(wanted, Directory) or not self._do(Operation("mkdir", parent, wanted)):
                    return False
            self._ready.add(parent)
        there = self._tree.lookup(path)
        if there is None:
            return True
        if self._is_pending(path):
            return self._put_aside(path)
        if isinstance(there, Directory):
            return self._put_aside(path) if self._holds_pending(path) else self._delete(path)
        return not isinstance(self._tree.lookup(self._place_of(was)), Directory) or self._delete(path)

    def _place_of(self, was: bytes) -> bytes:
        """Where what was at ``was`` in the old tree is now."""
        return _translated(was, self._places)

    def _origin_of(self, path: bytes) -> bytes:
        """Where what is at ``path`` now was in the old tree, if it was there."""
        return _translated(path, self._origins)

    def _is_pending(self, path: bytes) -> bool:
        """Whether what is at ``path`` now is still to be moved."""
        was = self._origin_of(path)
        return was in self._pending and self._place_of(was) == path

    def _holds_pending(self, path: bytes) -> bool:
        """Whether something in a directory may still be to be moved. Looked for within limits: it need not be known."""
        self._searched += len(self._pending)
        if self._searched > _SEARCHED_MAX:
            return True
        return any(self._place_of(was).startswith(path + b"/") for was in self._pending)

    def _put_aside(self, path: bytes) -> bool:
        """Give what is at ``path`` another name, at the top."""
        while True:
            name = _ASIDE % self._aside
            self._aside += 1
            if self._tree.lookup(name) is None and lookup(self._new, name) is None:
                return self._rename(path, name, self._origin_of(path))

    def _rename(self, place: bytes, path: bytes, was: bytes) -> bool:
        if not self._do(Operation("rename", path, lookup(self._old, was), was=place)):
            return False
        if self._origins.get(place) == was:
            del self._origins[place]
        self._places[was] = path
        self._origins[path] = was
        return True

    def _delete(self, path: bytes) -> bool:
        """Delete what is at ``path``, with all that is below."""
        paths = [path]
        for found in paths:
            inode = self._tree.lookup(found)
            if isinstance(inode, Directory):
                paths += [found + b"/" + name for name in sorted(inode.children)]
        return all(self._do(Operation("delete", found)) for found in reversed(paths))

    def _do(self, operation: Operation) -> bool:
        try:
            self._tree.apply(operation)
        except DamagedError:  # a hint that was wrong
            return False
        self.done.append(operation)
        return True


def _translated(path: bytes, places: Mapping[bytes, bytes]) -> bytes:
    """``path`` with what ``places`` says of it, or of the nearest directory above that it tells of."""
    if not places:
        return path
    end = len(path)
    while end > 0:
        place = places.get(path[:end])
        if place is not None:
            return place + path[end:]
        end = path.rfind(b"/", 0, end)
    return path


def _differing(old: Directory | None, new: Directory | None) -> list[tuple[bytes, Inode | None, Inode | None]]:
    """The names in a directory at which the two are not the same object, and what they have there.

    Nothing is done in Python for each name that did not change: a directory may have very many.
    """
    before: Mapping[bytes, Inode] = old.children if old is not None else {}
    after: Mapping[bytes, Inode] = new.children if new is not None else {}
    if not before:
        return [(name, None, inode) for name, inode in after.items()]
    shorter = min(len(before), len(after))
    if next(compress(count(), map(is_not, before, after)), shorter) == shorter:  # the same names in the same order
        names = list(compress(after, map(is_not, before.values(), after.values())))
        names += islice(after if len(after) > shorter else before, shorter, None)
    else:
        names = list(compress(after, map(is_not, map(before.get, after), after.values())))
        if len(before) + sum(name not in before for name in names) > len(after):
            names += before.keys() - after.keys()
    pairs = [(name, before.get(name), after.get(name)) for name in names]
    return [pair for pair in pairs if not same_lines(pair[1], pair[2])]
