"""The part of a check that looks at names, kinds, owners and modes: nothing is opened but directories.

Everything in a store but what worktrees hold belongs to the owner of the store and is writable by nobody else, and no
symbolic link is in it but the tags.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from stratum.errors import DamagedError
from stratum.refs import is_hash, is_name
from stratum.store.blobs import Blobs
from stratum.store.bootmounts import is_record_name
from stratum.store.budget import BUDGET
from stratum.store.findings import Finding, Kind
from stratum.store.histories import is_history_file
from stratum.store.keeping import RESIDENCE
from stratum.store.layout import ANCESTORS, DIRECTORIES, FORMAT_FILE, Layout
from stratum.store.moves import LOG, MOVES, OWNED, STATE
from stratum.store.moving import OWNER, left_by
from stratum.store.objects import Objects
from stratum.store.offers import DIRECTORIES as OFFERED
from stratum.store.peerbook import FILES as PEER_FILES
from stratum.store.peerbook import PEERS
from stratum.store.pins import PINS
from stratum.store.records import DIRECTORIES as RECORDS
from stratum.store.records import is_record_name as is_service_record
from stratum.store.repositories import PARTS, REFERRERS
from stratum.store.sources import CATALOG, LOCK, PARTIAL, SOURCES, WHOLE
from stratum.sys.atomic import is_temporary
from stratum.sys.locks import is_locked

QUARANTINE = "quarantine"
_SERVICES = {directory.partition("/")[0] for directory in RECORDS}
_PUSHED = {"blobs", "repositories", "offers"}
_LAZY = {"sources", "landing", "ahead", "profiles", "histories", "grounds", "frames", "moving", PEERS}
_TOP = {
    FORMAT_FILE,
    BUDGET,
    "lock",
    "watch.lock",
    "cache",
    QUARANTINE,
    "lost+found",
    "mounts",
    *_LAZY,
    *_PUSHED,
    *_SERVICES,
    *DIRECTORIES,
}
_STRATUM = {"tags", "worktrees", "history", "log.jsonl", PINS, RESIDENCE, MOVES, f"{MOVES}.lock"}
_BESIDE = {ANCESTORS, SOURCES, PARTIAL}
_WORKTREE = {"upperdir", "workdir", "meta.toml", "lease.toml", "switch.toml", "mark"}
_THE_KERNELS = {"upperdir", "workdir"}
"""Worktree directories with owners and modes of their own."""


class Survey:
    """A walk over the store at ``layout``; objects themselves are left to whoever reads them (``look``)."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._owner = layout.root.lstat().st_uid

    def findings(self) -> Iterator[Finding]:
        """Everything that is out of place."""
        root = self._layout.root
        for name in self._names(root):
            path = root / name
            if name in _TOP or name.startswith(".tmp-"):
                yield from self.look(
                    path, directory=name in (*DIRECTORIES, *_SERVICES, *_LAZY, *_PUSHED, "cache", "mounts", QUARANTINE)
                )
            else:
                yield self._stray(path)
        yield from self._object_directories()
        yield from self._stored_trees()
        yield from self._refs()
        for name in self._names(self._layout.boot_mounts):
            path = self._layout.boot_mounts / name
            yield from self.look(path) if is_record_name(name) else (self._stray(path),)
        yield from self._services()
        yield from self._peers()
        yield from self._catalogs()
        yield from self._profiles()
        yield from self._landing()
        yield from self._moving()
        yield from self._pushed()
        for name in self._names(self._layout.removed_histories):
            yield from self.look(self._layout.removed_histories / name, directory=True)
            yield from self._histories(self._layout.removed_histories / name)
        yield from self._scratch()

    def look(self, path: Path, *, directory: bool = False, writable: bool = True) -> Iterator[Finding]:
        """What is wrong with the kind, owner or mode of one entry; a file that is not ``writable`` has no w bit."""
        try:
            info = path.lstat()
        except FileNotFoundError:
            return
        if stat.S_ISLNK(info.st_mode):
            yield self._finding("symlink", path, f"a symbolic link to {os.readlink(path)!a}; a store has none there")
            return
        if not (stat.S_ISDIR if directory else stat.S_ISREG)(info.st_mode):
            yield self._finding("stray", path, f"it is no {'directory' if directory else 'regular file'}")
            return
        if info.st_uid != self._owner:
            yield self._finding("permissions", path, f"it belongs to user {info.st_uid}, the store to {self._owner}")
        if info.st_mode & (0o022 if writable else 0o222):
            whom = "others" if info.st_mode & 0o022 else "its owner"
            yield self._finding("permissions", path, f"it is writable by {whom} (mode {info.st_mode & 0o7777:04o})")

    def _object_directories(self) -> Iterator[Finding]:
        for path, is_ours in Objects(self._layout).directories():
            yield from self.look(path, directory=True) if is_ours else (self._stray(path),)

    def _stored_trees(self) -> Iterator[Finding]:
        """Commits with what lies beside them, grounds, and frames."""
        for name in self._names(self._layout.commits):
            commit, _, what = name.partition(".")
            known = is_hash(commit) and (name == commit or what in _BESIDE)
            yield from self._file(self._layout.commits / name, known)
        for name in self._names(self._layout.grounds):
            yield from self._file(self._layout.grounds / name, is_hash(name))
        for shard in self._names(self._layout.frames):
            directory = self._layout.frames / shard
            if len(shard) != 2 or not is_hash(shard + "0" * 62):
                yield self._stray(directory)
                continue
            yield from self.look(directory, directory=True)
            for name in self._names(directory):
                yield from self._file(directory / name, is_hash(shard + name))

    def _file(self, path: Path, known: bool) -> Iterator[Finding]:
        yield from self.look(path) if known else (self._stray(path),)

    def _refs(self) -> Iterator[Finding]:
        for name in self._names(self._layout.refs):
            path = self._layout.refs / name
            if name.endswith(".lock"):
                yield from self.look(path)
            elif is_name(name):
                yield from self._contents(path, _STRATUM, directories={"tags", "worktrees", "history", MOVES})
                for part in self._names(path / MOVES):
                    yield from self._file(path / MOVES / part, part in (LOG, OWNED, STATE))
                for part in ("tags", "worktrees"):
                    if not os.path.lexists(path / part) and os.path.lexists(path):
                        yield self._finding("directory", path / part, "it is missing")
                yield from self._worktrees(path / "worktrees")
                yield from self._histories(path / "history")
                for tag in self._names(path / "tags"):
                    if not is_name(tag):
                        yield self._stray(path / "tags" / tag)
            else:
                yield self._stray(path)

    def _services(self) -> Iterator[Finding]:
        """What services keep: folders of record files, and what a killed writer left beside these."""
        for name in _SERVICES - set(RECORDS):
            below = {directory.partition("/")[2] for directory in RECORDS if directory.startswith(f"{name}/")}
            for entry in self._names(self._layout.root / name):
                path = self._layout.root / name / entry
                yield from self.look(path, directory=True) if entry in below else (self._stray(path),)
        for directory in RECORDS:
            for entry in self._names(self._layout.root / directory):
                path = self._layout.root / directory / entry
                known = is_service_record(entry) or is_temporary(entry)
                yield from self.look(path) if known else (self._stray(path),)

    def _peers(self) -> Iterator[Finding]:
        """The key of this host and the book of its peers."""
        for name in self._names(self._layout.root / PEERS):
            path = self._layout.root / PEERS / name
            yield from self.look(path) if name in PEER_FILES or is_temporary(name) else (self._stray(path),)

    def _catalogs(self) -> Iterator[Finding]:
        for name in self._names(self._layout.sources):
            path = self._layout.sources / name
            if is_hash(name):
                yield from self._contents(path, {CATALOG, WHOLE})
            else:
                yield from self.look(path) if name == LOCK else (self._stray(path),)

    def _profiles(self) -> Iterator[Finding]:
        for name in self._names(self._layout.profiles):
            path = self._layout.profiles / name
            yield from self.look(path) if is_hash(name) or is_temporary(name) else (self._stray(path),)

    def _landing(self) -> Iterator[Finding]:
        """What is in it comes and goes and is nobody's but its owner's; links are in none of it."""
        for place in (self._layout.landing, self._layout.ahead):
            for name in self._names(place):
                path = place / name
                yield from self.look(path, directory=_is_directory(path))
                for file in self._names(path) if _is_directory(path) else ():
                    yield from self.look(path / file)

    def _moving(self) -> Iterator[Finding]:
        """Directories on their way into the store (``store.moving``), of which nobody is left to go on."""
        for name in self._names(self._layout.moving):
            directory = self._layout.moving / name
            yield from self.look(directory, directory=True)
            if _is_directory(directory) and not is_locked(directory / OWNER):
                yield self._finding("moving", directory, left_by(self._layout, directory))

    def _pushed(self) -> Iterator[Finding]:
        """What others pushed, and computed artifacts; blobs are looked at by who reads them."""
        yield from self.look(self._layout.blobs / "sha256", directory=True)
        for path, is_ours in Blobs(self._layout).directories():
            yield from self.look(path, directory=True) if is_ours else (self._stray(path),)
        for top, parts in ((self._layout.offers, OFFERED), *((path, PARTS) for path in self._repositories())):
            for part in self._names(top):
                if part not in parts:
                    yield self._stray(top / part)
                    continue
                yield from self.look(top / part, directory=True)
                for name in self._names(top / part):
                    yield from self.look(top / part / name, directory=part == REFERRERS)

    def _repositories(self) -> Iterator[Path]:
        for name in self._names(self._layout.repositories):
            yield self._layout.repositories / name

    def _worktrees(self, directory: Path) -> Iterator[Finding]:
        for name in self._names(directory):
            path = directory / name
            if name.endswith(".lock"):
                yield from self.look(path)
            elif is_name(name) or (name.startswith(".") and name.endswith(".retired")):
                yield from self._contents(path, _WORKTREE, kept=_THE_KERNELS)
            else:
                yield self._stray(path)

    def _histories(self, directory: Path) -> Iterator[Finding]:
        for name in self._names(directory):
            path = directory / name
            if not is_name(name):
                yield self._stray(path)
                continue
            yield from self.look(path, directory=True)
            for file in self._names(path):
                known = is_history_file(file) or is_temporary(file)
                yield from self.look(path / file) if known else (self._stray(path / file),)

    def _scratch(self) -> Iterator[Finding]:
        """Transactions and caches: what is in them is checked by whoever uses it."""
        for name in self._names(self._layout.tmp):
            path = self._layout.tmp / name
            yield from self.look(path, directory=name != "lock" and _is_directory(path))
        cache = self._layout.root / "cache"
        for name in self._names(cache):
            yield from self.look(cache / name, directory=True)
            for file in self._names(cache / name):
                path = cache / name / file
                if path.parent != self._layout.trees or not _is_directory(path):  # those have owners of their commits
                    yield from self.look(path)

    def _contents(
        self, path: Path, names: set[str], *, directories: set[str] | None = None, kept: set[str] | None = None
    ) -> Iterator[Finding]:
        """The directory ``path`` and its entries, which are called ``names``."""
        yield from self.look(path, directory=True)
        for name in self._names(path):
            entry = path / name
            if name not in names:
                yield self._stray(entry)
            elif kept is not None and name in kept:
                if _is_symlink(entry):
                    yield from self.look(entry, directory=True)
            else:
                yield from self.look(entry, directory=directories is not None and name in directories)

    def _names(self, directory: Path) -> list[str]:
        """The names in a directory; none where it is no directory, which whoever looks at it tells."""
        try:
            return self._layout.names_in(directory) if stat.S_ISDIR(directory.lstat().st_mode) else []
        except (FileNotFoundError, DamagedError):
            return []

    def _stray(self, path: Path) -> Finding:
        if _is_symlink(path):
            return self._finding("symlink", path, f"a symbolic link to {os.readlink(path)!a}; a store has none there")
        found = self._finding("stray", path, "no store has such a file")
        found.harmless = True
        return found

    def _finding(self, kind: Kind, path: Path, problem: str) -> Finding:
        return Finding(kind, str(path.relative_to(self._layout.root)), problem)


def _is_symlink(path: Path) -> bool:
    return stat.S_ISLNK(_mode(path))


def _is_directory(path: Path) -> bool:
    return stat.S_ISDIR(_mode(path))


def _mode(path: Path) -> int:
    try:
        return path.lstat().st_mode
    except FileNotFoundError:  # it is just being removed
        return 0
