"""One upperdir over one base commit, open, with the directories in it that the kernel tells of; what all have together.

Paths below it are opened without following symlinks, whatever a writer does with them meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.errors import NotFoundError, StratumError
from stratum.history.dirt import AnyDirectory, Dirt, NewDirectory, Paths
from stratum.history.versions import Key
from stratum.ingest.upperstate import UpperDirectory, UpperState
from stratum.store.layout import storage_error
from stratum.store.upperdirs import out_of_reach
from stratum.sys.actors import Actor, Actors
from stratum.sys.fanotify import FAN_MODIFY, FAN_ONDIR
from stratum.sys.handles import handle_of, identity
from stratum.sys.syscalls import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, fd_path, openat2
from stratum.tree.model import File

if TYPE_CHECKING:
    from stratum.history.capture import Capturer
    from stratum.history.contents import Contents
    from stratum.history.events import Groups
    from stratum.history.largefiles import LargeFiles
    from stratum.history.publishing import Publisher
    from stratum.history.strict import Strictness
    from stratum.store import Store
    from stratum.store.worktree import Worktree
    from stratum.tree.model import Directory

Handle = bytes
Place = tuple["Epoch", "AnyDirectory", bytes]
"""An entry of a directory of an upperdir."""

_TRIES = 20
_PLACES_MAX = 10_000
_LINKS_MAX = 10_000
_ACTORS_KEPT = 60.0  # seconds: what a program did just before its end is heard of later
_UPPER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_ENTRY = os.O_PATH | os.O_NOFOLLOW
_READ = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
_BENEATH = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS


class Common:
    """The store, how it is heard of, and what the kernel's handles mean. ``groups`` is None where there are no events;
    ``breathe`` is called in the middle of long work, and listens; ``hear_out`` hears all that was told by now."""

    def __init__(
        self,
        store: Store,
        groups: Groups | None,
        capturer: Capturer,
        publisher: Publisher,
        large: LargeFiles,
        strict: Strictness,
        breathe: Callable[[], None],
        hear_out: Callable[[], None],
    ) -> None:
        self.store = store
        self.groups = groups
        self.capturer = capturer
        self.publisher = publisher
        self.large = large
        self.strict = strict
        self.breathe = breathe
        self.hear_out = hear_out
        self.trees = Trees(store)
        self.actors = Actors(kept=_ACTORS_KEPT)
        self.directories: dict[Handle, tuple[Epoch, AnyDirectory]] = {}
        """The directories that the kernel tells of."""
        self.linked: dict[Handle, Epoch] = {}
        """The files with several names that it tells of."""
        self._places: dict[Handle, tuple[Epoch, AnyDirectory, bytes]] = {}
        self._older: dict[Handle, tuple[Epoch, AnyDirectory, bytes]] = {}

    def put(
        self, handle: Handle, epoch: Epoch, directory: AnyDirectory, name: bytes, *, only_new: bool = False
    ) -> None:
        """Remember, for a while, which entry of which directory a file was the last time that something was told of
        it; ``only_new``: unless one is remembered already."""
        if only_new and self.place(handle) is not None:
            return
        if len(self._places) >= _PLACES_MAX:
            self._older, self._places = self._places, {}
        self._places[handle] = (epoch, directory, name)

    def place(self, handle: Handle | None) -> tuple[Epoch, AnyDirectory, bytes] | None:
        """What was remembered of it."""
        if handle is None:
            return None
        return self._places.get(handle) or self._older.get(handle)

    def forget(self, epoch: Epoch) -> None:
        """Forget all handles of an upperdir."""
        self.directories = {handle: item for handle, item in self.directories.items() if item[0] is not epoch}
        self.linked = {handle: item for handle, item in self.linked.items() if item is not epoch}
        for places in (self._places, self._older):
            for handle in [handle for handle, item in places.items() if item[0] is epoch]:
                del places[handle]


def is_same_place(one: Place, two: Place) -> bool:
    """Whether two entries are one: a directory that is new is another object than the same one once it is known."""
    if one[0] is not two[0] or one[2] != two[2]:
        return False
    return one[1] is two[1] or one[1].path() == two[1].path()


class Trees:
    """Trees of commits that worktrees have as their bases, each opened once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._open: dict[str, Directory] = {}

    def of(self, commit: str) -> Directory:
        """The tree of a commit. ``StratumError``."""
        if commit not in self._open:
            self._open[commit] = self._store.commits.open_tree(commit)
        return self._open[commit]

    def keep(self, commits: set[str]) -> None:
        """Forget all others."""
        self._open = {commit: tree for commit, tree in self._open.items() if commit in commits}


class Epoch:
    """The upperdir that ``name+worktree`` has now, over the tree of the commit ``base``."""

    def __init__(self, common: Common, name: str, worktree: str, contents: Contents) -> None:
        """``NotFoundError`` where there is no such worktree, ``StratumError``."""
        self._common = common
        self._contents = contents
        self._links: dict[Handle, Key] = {}
        self._gone: list[UpperDirectory] = []
        self.gone_paths: dict[AnyDirectory, bytes] = {}
        """The paths that directories had which went with the last batch: there may be more to be told of them."""
        self._path = common.store.layout.worktree(name, worktree)
        tree, self._fd = self._open(name, worktree)
        self.base = tree.base_commit
        self._new: dict[Handle, NewDirectory] = {}
        self.dirt = Dirt()
        self.closed: set[Key] = set()
        """Files that were closed since the last batch: those that were mapped may have changed without a trace."""
        self.strict = False
        """Whether openers are held up until what was closed is taken."""
        try:
            self._key = identity(os.fstat(self._fd))
            dialect = common.store.worktrees.readable(tree)
            if dialect is None:
                raise out_of_reach(str(tree), common.store.dialect)
            self.state = UpperState(common.trees.of(self.base), self._fd, contents, marks=self, dialect=dialect)
        except BaseException:
            os.close(self._fd)
            raise

    def _open(self, name: str, worktree: str) -> tuple[Worktree, int]:
        """The worktree and the upperdir that belong together: of one directory, as they come and go with it."""
        store = self._common.store
        for _ in range(_TRIES):
            tree = store.worktrees.get(name, worktree)
            try:
                outer = store.layout.open_beneath(self._path, os.O_PATH | os.O_DIRECTORY)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise storage_error(exc, f"look at {self._path}") from None
            try:
                upper = os.open("upperdir", _UPPER, dir_fd=outer)
                again = store.worktrees.get(name, worktree).base_commit
                if again == tree.base_commit and identity(os.lstat(self._path)) == identity(os.fstat(outer)):
                    return tree, upper
                os.close(upper)
            except FileNotFoundError:
                continue
            except OSError as exc:
                raise storage_error(exc, f"open {self._path / 'upperdir'}") from None
            finally:
                os.close(outer)
        raise StratumError(f"the worktree {name}+{worktree} is changed as fast as it is looked at")

    def is_current(self) -> bool:
        """Whether the worktree has this upperdir still. ``NotFoundError`` where there is no worktree any more."""
        try:
            return identity(os.lstat(self._path / "upperdir")) == self._key
        except OSError:
            if os.path.lexists(self._path):
                return False
            raise NotFoundError(f"{self._path} is not there any more") from None

    def close(self) -> None:
        """Forget it."""
        self._common.forget(self)
        self.state.close()
        os.close(self._fd)

    def unmark(self) -> None:
        """Have the kernel tell no more of its directories."""
        groups = self._common.groups
        if groups is None:
            return
        for epoch, directory in list(self._common.directories.values()):
            if epoch is self:
                with suppress(OSError, StratumError):
                    fd = self.open_entry(directory.path())
                    try:
                        groups.unmark_directory(fd)
                    finally:
                        os.close(fd)

    # What is told

    def note(self, directory: AnyDirectory, name: bytes, mask: int, actor: Actor | None) -> None:
        """The kernel told of an entry of a directory, or of the directory itself (``.``)."""
        if name in (b"", b"."):
            self.dirt.add(directory, None)
        elif mask & ~FAN_ONDIR == FAN_MODIFY:
            self.dirt.add_modified(directory, name, actor)
        else:
            self.dirt.add(directory, name, actor)

    def note_linked(self, handle: Handle) -> None:
        """The kernel told of a file with several names."""
        if handle in self._links:
            self.closed.add(self._links[handle])
            self.dirt.touch()

    def path_of_linked(self, handle: Handle) -> bytes | None:
        """A path that a file with several names has."""
        return next(iter(self.state.paths_of(self._links[handle])), None) if handle in self._links else None

    # Files

    def open_entry(self, path: bytes) -> int:
        """An O_PATH descriptor of what is at ``path``, of a symlink itself. ``OSError``."""
        return openat2(self._fd, path.lstrip(b"/") or b".", _ENTRY, resolve=_BENEATH)

    def has(self, path: bytes, key: tuple[int, int]) -> bool:
        """Whether the file with this device and inode number is at ``path``."""
        try:
            fd = self.open_entry(path)
        except OSError:
            return False
        try:
            return identity(os.fstat(fd)) == key
        finally:
            os.close(fd)

    def is_open_for_writing(self, path: bytes) -> bool:
        """Whether ``path`` is a regular file that somebody has open for writing, as far as that can be told."""
        return self._key_if_open(path) is not None

    def _key_if_open(self, path: bytes) -> Key | None:
        """Device and inode number of the file, if it is open for writing."""
        try:
            entry = self.open_entry(path)
        except OSError:
            return None
        try:
            info = os.fstat(entry)
            if not stat.S_ISREG(info.st_mode):
                return None
            fd = os.open(fd_path(entry), _READ)
        except OSError:
            return None
        finally:
            os.close(entry)
        try:
            return identity(info) if self._common.capturer.is_open_for_writing(fd) else None
        finally:
            os.close(fd)

    def settle_modified(self, dirt: Dirt, paths: Paths, still_open: set[Key]) -> None:
        """Files that were written to are dirty, but for those that are still open, which are put into ``still_open``:
        their close is told of, too. But what was empty is so no more."""
        for directory, names in dirt.modified.items():
            known = dirt.names.get(directory, set())
            if known is None:
                continue
            for name in names - known:
                key = self._key_if_open(paths.of((directory, name)))
                if key is not None:
                    still_open.add(key)
                if key is None or _was_empty(directory, name):
                    dirt.names.setdefault(directory, set())
                    dirt.add(directory, name)
        dirt.modified.clear()

    def mark(self, handle: Handle, directory: AnyDirectory, fd: int) -> None:
        """Have the kernel tell of the directory ``fd``, which has this handle. ``StratumError``."""
        common = self._common
        common.directories[handle] = (self, directory)
        if isinstance(directory, NewDirectory):
            self._new[handle] = directory
        if common.groups is not None:
            common.groups.mark_directory(fd)
        if self.strict:
            common.strict.mark_directory(fd)

    def read(self, dirt: Dirt, closed: set[Key], *, scan: bool) -> tuple[Directory, dict[bytes, bytes]]:
        """The tree, with what is dirty looked at, or all of it; old paths by new ones of what was moved.

        Directories that were new are known then, or gone. Raises what ``ingest.upperstate`` raises.
        """
        new, self._new = self._new, {}
        gone, self._gone, self.gone_paths = self._gone, [], {}
        moved: dict[bytes, bytes] = {}
        try:
            if scan:
                self.state.scan()
                moved.update(self.state.moved)
            names = {
                directory: names for directory, names in dirt.names.items() if isinstance(directory, UpperDirectory)
            }
            root = self.state.refresh(names, closed=closed)
        except BaseException:
            self._new = new | self._new
            self._gone += gone
            raise
        self._forget([*new.items(), *((directory.handle, directory) for directory in gone)])
        return root, moved | dict(self.state.moved)

    def _forget(self, directories: Iterable[tuple[Handle, AnyDirectory]]) -> None:
        known = self._common.directories
        for handle, directory in directories:
            if handle in known and known[handle][1] is directory:
                del known[handle]

    def be_strict(self, strict: bool) -> None:
        """Have openers held up from now on, or no more."""
        self.strict = strict
        for epoch, directory in list(self._common.directories.values()) if strict else ():
            if epoch is self:
                with suppress(OSError):
                    fd = self.open_entry(directory.path())
                    try:
                        self._common.strict.mark_directory(fd)
                    finally:
                        os.close(fd)
        for key in self._links.values() if strict else ():
            for path in self.state.paths_of(key)[:1]:
                with suppress(OSError):
                    fd = self.open_entry(path)
                    try:
                        self._common.strict.mark_file(fd)
                    finally:
                        os.close(fd)

    # What the incremental reading of the upperdir calls (``ingest.upperstate.Marks``)

    def directory(self, directory: UpperDirectory, fd: int) -> None:
        """A directory is about to be listed: have the kernel tell of it from now on."""
        self._common.breathe()
        self._contents.newest = max(self._contents.newest, os.fstat(fd).st_ctime_ns)
        if self._common.groups is not None:
            self.mark(handle_of(fd), directory, fd)

    def seen(self, fd: int, directory: UpperDirectory, name: bytes) -> None:
        """An entry that is no directory is about to be looked at. Where the kernel told of it by another name, it goes
        on to do so, as overlayfs has found it by that: also when that name, and its directory, are gone."""
        common = self._common
        if common.groups is None:
            return
        handle, here = handle_of(fd), (self, directory, name)
        place = common.place(handle)
        if place is None or place != here:
            common.put(handle, *here)
        if place is not None and not is_same_place(place, here):
            self.linked(fd, directory, name)

    def mark_linked(self, handle: Handle, directory: AnyDirectory, name: bytes) -> None:
        """A file got another name, which is this: have the kernel tell of it by whatever name."""
        with suppress(OSError):
            fd = self.open_entry(directory.path().rstrip(b"/") + b"/" + name)
            try:
                if handle_of(fd) == handle:
                    self._mark_file(handle, fd)
            finally:
                os.close(fd)

    def linked(self, fd: int, directory: UpperDirectory, name: bytes) -> None:
        """A file has several names: have the kernel tell of it by whatever name."""
        self._mark_file(handle_of(fd), fd)

    def _mark_file(self, handle: Handle, fd: int) -> None:
        common = self._common
        if common.groups is None or common.linked.get(handle) is self:
            return
        if len(self._links) >= _LINKS_MAX:
            self._forget_links()
        common.linked[handle] = self
        self._links[handle] = identity(os.fstat(fd))
        common.groups.mark_file(fd)
        if self.strict:
            common.strict.mark_file(fd)

    def _forget_links(self) -> None:
        """Forget files that are not there any more."""
        for handle in [handle for handle, key in self._links.items() if not self.state.paths_of(key)]:
            del self._links[handle]
            self._common.linked.pop(handle, None)

    def gone(self, directory: UpperDirectory) -> None:
        """A directory is not there any more. What is still told of it is understood until the next batch."""
        self.dirt.forget(directory)
        self.gone_paths[directory] = directory.path()
        self._gone.append(directory)


def _was_empty(directory: AnyDirectory, name: bytes) -> bool:
    """Whether an entry was an empty file at the last look."""
    known = directory.known.get(name) if isinstance(directory, UpperDirectory) else None
    return known is not None and isinstance(known.inode, File) and not known.inode.size
