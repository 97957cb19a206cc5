"""What pages show of a store, for all requests of one server: what is asked often is kept for a while."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import TYPE_CHECKING, Generic, TypeVar

from stratum.api.history import diff
from stratum.api.log import reasons
from stratum.api.objectfile import ChunkHashes, ObjectFile
from stratum.api.reading import Found, found_in, opened
from stratum.api.status import status
from stratum.api.timeline import Moment, Timeline, in_reflog, tips
from stratum.api.usage import disk_usage
from stratum.api.worktrees import list_worktrees
from stratum.errors import BusyError, NotFoundError
from stratum.frozen import frozen
from stratum.hashes import sha256
from stratum.refs import is_hash, is_name
from stratum.tree.model import Directory, File, Inode

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.api.status import WorktreeStatus
    from stratum.api.usage import DiskUsage
    from stratum.serve.visibility import Visibility
    from stratum.store.metadata import CommitMeta

_Tips = tuple[str, bytes]
"""A stratum, and the hash of what its tags and worktrees are at."""
Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")

CHANGES_MAX = 20_000
"""Changed paths of two commits that are counted and listed."""
WORKTREES_MAX = 300
"""Worktrees that are looked at for one page."""
REPOSITORIES_MAX = 200
_CHECKED_MAX = 64 << 20
"""A file of more bytes is shown as a mount would show it, and not compared with its digest before."""
_USAGE_SECONDS = 60
_AT_ONCE = 3
"""Differences that are made at the same time."""
_WAIT = 10.0


class Kept(Generic[Key, Value]):
    """What was made lately, at most so many. Threads may share one."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[Key, Value] = OrderedDict()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """What belongs to the key, made where it is missing."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
        made = make()
        with self._lock:
            self._kept[key] = made
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return made


@frozen
class Changed:
    """A path that differs: ``kind`` as ``tree.diff`` has it, and the bytes gained there."""

    path: bytes
    kind: str
    size_change: int


@frozen
class Changes:
    """What differs between two commits: the paths, how many of each kind, the bytes gained, and whether that is all."""

    changes: list[Changed]
    counts: dict[str, int]
    size: int
    whole: bool


@frozen
class Noted:
    """A commit of a list: its metadata, the tags and worktrees of its stratum that are at it, and what made it."""

    moment: Moment
    meta: CommitMeta
    tags: list[str]
    worktrees: list[str]
    why: str | None


@frozen
class Names:
    """What names the commits of a stratum: commit -> tags, commit -> worktrees, commit -> why somebody came to it."""

    tags: dict[str, list[str]]
    worktrees: dict[str, list[str]]
    why: dict[str, str]

    def noted(self, moment: Moment, meta: CommitMeta) -> Noted:
        """What there is to tell of a commit."""
        commit = moment.commit
        return Noted(moment, meta, self.tags.get(commit, []), self.worktrees.get(commit, []), self.why.get(commit))


class Looking:
    """Reads one store. All raise ``NotFoundError`` for what is not there, and ``DamagedError``."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._hashes = ChunkHashes()
        self._timelines = Kept[_Tips, Timeline](16)
        self._newest = Kept[_Tips, str | None](1000)
        self._changes = Kept[tuple[str, str], Changes](4)
        self._few = threading.BoundedSemaphore(_AT_ONCE)
        self._usage_lock = threading.Lock()
        self._usage: tuple[float, DiskUsage] | None = None

    def names(self, who: Visibility) -> list[str]:
        """The strata that exist for somebody."""
        return [] if self.session.no_store_yet else [name for name in self.session.store.names() if who.reads(name)]

    def sees_all(self, who: Visibility) -> bool:
        """Whether no stratum is hidden from somebody."""
        return all(map(who.reads, self.session.store.names()))

    def stratum(self, name: str, who: Visibility) -> str:
        """The name of a stratum that is there for somebody; ``NotFoundError`` says the same of all others."""
        if not is_name(name) or not who.reads(name) or not self.session.store.namespaces.exists(name):
            raise NotFoundError(f"there is no stratum {name}")
        return name

    def worktrees(self, name: str) -> list[WorktreeStatus]:
        """The worktrees of a stratum; none where they are too many to look at each."""
        few = len(self.session.store.worktrees.names(name)) <= WORKTREES_MAX
        return status(self.session, name)[0].worktrees if few else []

    def held(self, names: Iterable[str]) -> Iterator[tuple[str, WorktreeStatus]]:
        """The worktrees of strata that somebody has, or left work in: at most ``WORKTREES_MAX``."""
        session, found = self.session, 0
        for name in names:
            for tree, records in list_worktrees(session, name):
                if not records and session.store.worktrees.lease(name, tree.worktree) is None:
                    continue
                for stratum in status(session, str(tree)):
                    yield from ((name, now) for now in stratum.worktrees if now.mounts or now.held or now.waiting)
                found += 1
                if found == WORKTREES_MAX:
                    return

    def repositories(self, who: Visibility) -> list[tuple[str, list[str]]]:
        """(name, tags) of repositories that are no strata and exist for somebody: at most ``REPOSITORIES_MAX``."""
        if self.session.no_store_yet:
            return []
        strata = set(self.session.store.names())
        names = [name for name in self.session.store.repositories.names() if name not in strata and who.reads(name)]
        return [(name, self.pushed(name)) for name in names[:REPOSITORIES_MAX]]

    def pushed(self, name: str) -> list[str]:
        """The tags in a repository that name images and other artifacts, and no commits."""
        found = self.session.store.repositories.tags(name)
        return [tag for tag, pushed in found.items() if pushed.commit is None]

    def shared_with(self, name: str) -> list[tuple[str, bool]]:
        """The peers with which a stratum is shared, and whether they may write."""
        peers = self.session.store.peers.now().peers.values()
        return [(peer.name, peer.strata[name]) for peer in peers if name in peer.strata]

    def commit(self, name: str, ref: str) -> str:
        """The commit that a tag of the stratum is at, or that has this hash and is one of its history."""
        store = self.session.store
        if is_hash(ref):
            there = store.commits.exists(ref)
            if there and (self.timeline(name).has(ref) or in_reflog(store, name, ref)):
                return ref
            raise NotFoundError(f"{name} has no commit {ref}")
        commit = store.tags.find(name, ref) if is_name(ref) else None
        if commit is None:
            raise NotFoundError(f"{name} has no tag {ref}")
        return commit

    def timeline(self, name: str) -> Timeline:
        """The history of a stratum as it is now."""
        at = tips(self.session.store, name)
        return self._timelines.get(_key(name, at), lambda: Timeline(self.session.store, at))

    def newest(self, name: str) -> CommitMeta | None:
        """The newest commit of a stratum."""
        at = tips(self.session.store, name)

        def first() -> str | None:
            return next((moment.commit for moment in Timeline(self.session.store, at).upto(1)), None)

        commit = self._newest.get(_key(name, at), first)
        return self.session.store.commits.meta(commit) if commit is not None else None

    def named(self, name: str) -> Names:
        """What names the commits of a stratum."""
        store = self.session.store
        tags: dict[str, list[str]] = {}
        worktrees: dict[str, list[str]] = {}
        for tag, commit in store.tags.list(name).items():
            tags.setdefault(commit, []).append(tag)
        for tree in store.worktrees.list(name):
            worktrees.setdefault(tree.commit, []).append(tree.worktree)
        return Names(tags, worktrees, reasons(store, [name]))

    def noted(self, moments: list[Moment], names: Names) -> list[Noted]:
        """What there is to tell of commits."""
        return [names.noted(moment, self.session.store.commits.meta(moment.commit)) for moment in moments]

    @contextmanager
    def found(self, commit: str, path: bytes) -> Iterator[Found]:
        """What is at a path of a commit."""
        with found_in(self.session, commit, [os.fsdecode(path)]) as (found,):
            yield found

    def window(self, commit: str, path: bytes, start: int, size: int) -> tuple[File, bytes]:
        """A file, and ``size`` bytes of it from ``start`` on. ``UnsupportedError`` where its content is not here."""
        with opened(self.session, commit, os.fsdecode(path), offline=True) as (file, fd):
            if file.digest is None:
                return file, (file.content or b"")[start : start + size]
            checked = file.size <= _CHECKED_MAX
            with ObjectFile(os.dup(fd), file.digest, file.size, self._hashes, checked=checked) as content:
                content.seek(start)
                pieces = []
                while size > 0 and (piece := content.read(size)):
                    pieces.append(piece)
                    size -= len(piece)
                return file, b"".join(pieces)

    def changes(self, old: str, new: str) -> Changes:
        """What changed from one commit to another. ``BusyError`` where that many ask for such."""
        return self._changes.get((old, new), lambda: self._compared(old, new))

    def _compared(self, old: str, new: str) -> Changes:
        with self.turn():
            some = islice(diff(self.session, old, new), CHANGES_MAX + 1)
            # Not the inodes: a directory has with it the dump that it comes from.
            found = [Changed(change.path, change.kind, change.size_change) for change in some]
        kept = found[:CHANGES_MAX]
        counts = dict(Counter(change.kind for change in kept))
        return Changes(kept, counts, sum(change.size_change for change in kept), len(found) <= CHANGES_MAX)

    @contextmanager
    def turn(self) -> Iterator[None]:
        """A turn to do what takes long, so that few do at the same time."""
        if not self._few.acquire(timeout=_WAIT):
            raise BusyError("many ask for much at this moment", hint="try again in a minute")
        try:
            yield
        finally:
            self._few.release()

    def usage(self) -> tuple[float, DiskUsage]:
        """(seconds since then, what used the disk then)."""
        with self._usage_lock:
            now = time.monotonic()
            if self._usage is None or now - self._usage[0] > _USAGE_SECONDS:
                self._usage = now, disk_usage(self.session)
            return now - self._usage[0], self._usage[1]


def _key(name: str, at: tuple[str, ...]) -> _Tips:
    return name, sha256("".join(at).encode()).digest()


def entries(directory: Directory, wanted: str) -> list[tuple[bytes, Inode]]:
    """The entries of a directory, directories first; with ``wanted``, those whose names have it."""
    found = list(directory.children.items())
    if wanted:
        lower = wanted.lower()
        found = [item for item in found if lower in item[0].decode("utf-8", "surrogateescape").lower()]
    return sorted(found, key=lambda item: (not isinstance(item[1], Directory), item[0]))
