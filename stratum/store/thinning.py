"""Which versions of files stay in histories, and which go with their age. Pure.

A version is what the log names an object for. It is *shown* for as long as a path has it, wherever that was renamed or
linked to; the versions that are shown at the end of the log stay, so that the worktree can be had as it is. Of those
that a path lost, as it was written again, replaced or deleted, stay

- all of the last 24 hours,
- the newest of each hour of the last 7 days and of each day of the last 30 days (UTC),
- the newest of each of those days that the path lost by being deleted.

A record whose time cannot be read keeps its version. What goes are contents: the record stays, and says that its
content was thinned out. Objects are counted, not records: where one stays for any reason, every record keeps it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

from stratum.errors import DamagedError
from stratum.store.retention import parse_time
from stratum.tree.oplog import Record, object_of

ALL = timedelta(hours=24)
HOURLY = timedelta(days=7)
DAILY = timedelta(days=30)

Named = tuple[bytes, int]
"""An object: digest and size."""


class Version(NamedTuple):
    """A version that its path lost: CHANGE, time (None where it cannot be read), object, whether by a deletion."""

    n: int
    when: datetime | None
    object: Named
    deleted: bool


class _Shown(NamedTuple):
    n: int
    when: str
    object: Named


_Node = dict[bytes, "_Node | _Shown | None"]


@dataclass(slots=True)
class Lineage:
    """What became of each version of a log: those that paths ``lost``, in their order, and the objects ``shown`` at its
    end."""

    lost: dict[bytes, list[Version]] = field(default_factory=dict)
    shown: dict[bytes, int] = field(default_factory=dict)


def lineage(records: Iterable[Record]) -> Lineage:
    """The lineage of a log, oldest record first. Records of which nothing is known before count for themselves."""
    found, tree = Lineage(), _Tree()
    for record in records:
        if record.op == "base":
            tree = _ended(found, tree)
        elif record.path is None:
            continue
        elif record.op == "version":
            _lose(found, record.path, _shown(record))
        elif record.op == "delete":
            for path, shown in tree.take(record.path):
                _lose(found, path, shown, deleted=True)
        elif record.op == "rename" and record.was is not None:
            for path, shown in tree.move(record.was, record.path):
                _lose(found, path, shown)
        else:
            new = tree.find(record.link) if record.link is not None else _shown(record)
            old = tree.put(record.path, new)
            if old is not None and (new is None or new.object != old.object):
                _lose(found, record.path, old)
    found.shown.update(shown.object for _, shown in tree.all())
    return found


def _ended(found: Lineage, tree: _Tree) -> _Tree:
    """An epoch ended: what it showed is what its paths lost."""
    for path, shown in tree.all():
        _lose(found, path, shown)
    return _Tree()


def _shown(record: Record) -> _Shown | None:
    named = None
    with suppress(DamagedError):
        named = object_of(record.entry) if record.entry is not None else None
    return None if named is None else _Shown(record.n, record.when, named)


def _lose(found: Lineage, path: bytes, shown: _Shown | None, *, deleted: bool = False) -> None:
    if shown is not None:
        version = Version(shown.n, parse_time(shown.when), shown.object, deleted)
        found.lost.setdefault(path, []).append(version)


class _Tree:
    """Which versions are where: directories by name, versions by name; names without a version are not in it."""

    def __init__(self) -> None:
        self._root: _Node = {}

    def find(self, path: bytes) -> _Shown | None:
        parent, name = self._parent(path)
        found = parent.get(name) if parent is not None else None
        return found if isinstance(found, _Shown) else None

    def put(self, path: bytes, shown: _Shown | None) -> _Shown | None:
        """Have ``path`` show a version, or none; what it showed before. Of a directory nothing changes."""
        parent, name = self._parent(path, make=shown is not None)
        if parent is None or isinstance(parent.get(name), dict):
            return None
        old = parent.pop(name, None)
        if shown is not None:
            parent[name] = shown
        return old if isinstance(old, _Shown) else None

    def take(self, path: bytes) -> list[tuple[bytes, _Shown]]:
        """Remove ``path`` with all below; what was there."""
        parent, name = self._parent(path)
        return list(_walk(path, parent.pop(name, None))) if parent is not None else []

    def move(self, was: bytes, path: bytes) -> list[tuple[bytes, _Shown]]:
        """Move ``was`` with all below to ``path``; what was there."""
        parent, name = self._parent(was)
        moved = parent.pop(name, None) if parent is not None else None
        replaced = self.take(path)
        if moved is not None:
            target, last = self._parent(path, make=True)
            if target is not None:
                target[last] = moved
        return replaced

    def all(self) -> Iterator[tuple[bytes, _Shown]]:
        return _walk(b"", self._root)

    def _parent(self, path: bytes, *, make: bool = False) -> tuple[_Node | None, bytes]:
        *parents, name = path[1:].split(b"/")
        node = self._root
        for part in parents:
            below = node.get(part)
            if not isinstance(below, dict):
                if not make:
                    return None, name
                below = node[part] = {}
            node = below
        return node, name


def _walk(path: bytes, node: _Node | _Shown | None) -> Iterator[tuple[bytes, _Shown]]:
    """Every version at ``path`` and below; iterative, as logs nest as deep as they like."""
    waiting: list[tuple[bytes, _Node | _Shown | None]] = [(path, node)]
    while waiting:
        path, node = waiting.pop()
        if isinstance(node, _Shown):
            yield path, node
        elif node:
            waiting += [(path + b"/" + name, below) for name, below in node.items()]


@dataclass(slots=True)
class Kept:
    """What stays of all histories: objects with their sizes, ``shown`` ones, which always do, and those ``lost`` by
    their paths, oldest first, with the time from which they are counted."""

    shown: dict[bytes, int] = field(default_factory=dict)
    lost: dict[bytes, tuple[datetime, int]] = field(default_factory=dict)

    def add(self, found: Lineage, now: datetime) -> None:
        """Count what stays of one history in."""
        self.shown.update(found.shown)
        for versions in found.lost.values():
            for version in staying(versions, now):
                digest, size = version.object
                when = version.when or now
                self.lost[digest] = max(when, self.lost[digest][0]) if digest in self.lost else when, size

    def limit(self, most: int) -> None:
        """Let the oldest go until all that stays has at most ``most`` bytes, as far as it may go."""
        total = sum((self.shown | {digest: size for digest, (_, size) in self.lost.items()}).values())
        for digest, (_, size) in sorted(self.lost.items(), key=lambda item: item[1][0]):
            if total <= most:
                return
            del self.lost[digest]
            total -= size if digest not in self.shown else 0

    def __contains__(self, digest: object) -> bool:
        return digest in self.shown or digest in self.lost


def staying(versions: Iterable[Version], now: datetime) -> list[Version]:
    """Those of the versions that one path lost, oldest first, that stay for a rule; newest first."""
    kept: list[Version] = []
    seen: set[object] = set()
    for version in sorted(versions, reverse=True, key=lambda version: version.n):
        when = version.when
        if when is None:
            kept.append(version)
            continue
        age, hour, day = now - when, ("hour", when.date(), when.hour), ("day", when.date())
        deletion = ("deletion", when.date())
        of_day = day not in seen or (version.deleted and deletion not in seen)
        if age < ALL or (age < HOURLY and hour not in seen) or (age < DAILY and of_day):
            kept.append(version)
        seen.update((hour, day, deletion) if version.deleted else (hour, day))
    return kept
