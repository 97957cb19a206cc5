"""One look at what may have changed in an upperdir, of which everything else is known (``ingest.uppernodes``).

Directories are found by their names, from the top, and known by their inodes: one that is not where it was is looked
for where something else has come. What is found on the way is looked at too, until nothing is left to look at; only
then the directories are merged anew, from the deepest.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Collection, Mapping
from operator import is_not
from typing import Protocol

from stratum.ingest.reader import source_error
from stratum.ingest.statcache import tells_changes
from stratum.ingest.upperentry import OPEN_ENTRY, UpperEntries, UpperEntry, is_whiteout, merged_directory, metadata
from stratum.ingest.uppernodes import Number, UpperDirectory, UpperInode, UpperNodes
from stratum.sys.dirstack import MAX_OPEN, OPEN_DIRECTORY
from stratum.sys.handles import handle_of
from stratum.sys.syscalls import birth_time
from stratum.tree import overlay
from stratum.tree.limits import NAME_MAX, PATH_MAX, check_name
from stratum.tree.model import Directory, File, Inode, content_unknown

_ATTEMPTS = 3
_GONE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


class Contents(Protocol):
    """What says which content files have."""

    def content(
        self, fd: int, info: os.stat_result, path: bytes, before: File | None
    ) -> tuple[int, bytes | None, bytes | None]:
        """Size, digest and inline content of the upper file open as ``fd`` (O_PATH) and found as ``info``: what it
        holds, or (size, None, None) where that is not known. ``before`` is what was known of it, or of what it took
        the place of. Of an empty file it is asked only where that was not empty: whoever writes it anew may just have
        begun."""


class Marks(Protocol):
    """What is told of all that events can come from, before it is looked at, so that no change falls between."""

    def directory(self, directory: UpperDirectory, fd: int) -> None:
        """A directory that was not known is about to be listed."""

    def seen(self, fd: int, directory: UpperDirectory, name: bytes) -> None:
        """An entry that is no directory, open as ``fd`` (O_PATH), is about to be looked at."""

    def linked(self, fd: int, directory: UpperDirectory, name: bytes) -> None:
        """A file, open as ``fd`` (O_PATH), has more than one name: its events may come under any of them, or none."""

    def gone(self, directory: UpperDirectory) -> None:
        """A directory is not in the upperdir any more."""


class Tangled(Exception):  # noqa: N818  (no error: what is known has to be forgotten)
    """A directory is seen in one that is known to be in it."""


class Look:
    """One look; used once. ``closed`` are the numbers of inodes that are read whatever their times say.

    ``moved`` is new path -> old path of what was renamed and is another object now.
    """

    def __init__(
        self,
        nodes: UpperNodes,
        root: int,
        entries: UpperEntries,
        contents: Contents,
        marks: Marks,
        closed: Collection[object] = (),
    ) -> None:
        self.moved: dict[bytes, bytes] = {}
        self._nodes = nodes
        self._entries = entries
        self._contents = contents
        self._marks = marks
        self._closed = closed
        self._is_first = nodes.root.merged is None
        self._fds: dict[UpperDirectory, int] = {nodes.root: root}  # the top first, then the one used longest ago
        self._pending: dict[UpperDirectory, set[bytes] | None] = {}
        self._waiting: dict[UpperDirectory, set[bytes] | None] = {}  # for their directory to be found
        self._found = False  # whether they may be found now
        self._misses: dict[UpperDirectory, int] = {}
        self._drafts: dict[UpperDirectory, dict[bytes, Inode]] = {}
        self._looked: set[UpperDirectory] = set()
        self._listed: set[UpperDirectory] = set()
        self._detached: dict[UpperDirectory, None] = {}
        self._origins: dict[UpperDirectory, tuple[UpperDirectory | None, bytes]] = {}  # before this look
        self._went: dict[Number, tuple[UpperInode, tuple[UpperDirectory, bytes]]] = {}  # that lost their last name
        self._moved_files: list[tuple[UpperInode, UpperDirectory, bytes]] = []  # with the old name
        self._copied_up: dict[UpperDirectory, bytes] = {}  # new ones, with their redirects
        self._copied_files: list[tuple[UpperDirectory, bytes, bytes]] = []
        self._verified: set[Number] = set()
        self._at = b""  # the name that is looked at in the directory that is, if any
        self._now = 0

    def run(self, pending: Mapping[UpperDirectory, set[bytes] | None]) -> None:
        """Look at what is ``pending``: names in directories, None for all of them. ``Tangled``, and what
        ``UpperState.refresh`` raises."""
        depths = {directory: _depth(directory) for directory in pending}
        for directory in sorted(pending, key=depths.__getitem__, reverse=True):
            self._want(directory, pending[directory])
        try:
            self._look_at_all()
        finally:
            for fd in list(self._fds.values())[1:]:
                os.close(fd)
        self._merge()
        for directory in self._detached:
            if not self._is_attached(directory):
                self._forget(directory)
        if not self._is_first:
            self._tell_moved()

    # what to look at

    def _want(self, directory: UpperDirectory, names: set[bytes] | None) -> None:
        """Look at names in a directory, and at the directory, before all else."""
        wanted = self._pending.pop(directory, set())
        if wanted is None or names is None:
            wanted = None
        else:
            wanted.update(names)
        self._pending[directory] = wanted

    def _wait(self, directory: UpperDirectory, names: set[bytes] | None) -> None:
        before = self._waiting.get(directory, set())
        self._waiting[directory] = None if before is None or names is None else before | names

    def _look_at_all(self) -> None:
        while True:
            while self._pending:
                directory, names = self._pending.popitem()
                self._at = b""
                fd = self._open(directory) if self._is_attached(directory) else None
                if fd is None:
                    self._wait(directory, names)
                    continue
                try:
                    self._look(directory, fd, names)
                except OSError as exc:
                    if exc.errno != errno.ENOENT or directory.parent is None:  # else it was removed meanwhile
                        where = os.fsdecode(os.path.join(directory.path(), self._at))
                        raise source_error(exc, f"{where} in the upper directory") from exc
                    self._miss(directory)
            if not self._waiting or not self._found:
                return
            self._found = False
            waiting, self._waiting = self._waiting, {}
            for directory, names in waiting.items():
                if self._misses.get(directory, 0) <= _ATTEMPTS:
                    self._want(directory, names)

    def _is_attached(self, directory: UpperDirectory) -> bool:
        inner = directory
        while inner.parent is not None:
            if inner.parent.subdirectories.get(inner.name) is not inner:
                return False
            inner = inner.parent
        return inner is self._nodes.root

    def _open(self, directory: UpperDirectory) -> int | None:
        """A descriptor of a directory, which stays open for a while; None where something else has its name."""
        way = []
        for inner in directory.above():
            if inner in self._fds:
                break
            way.append(inner)
        fd = self._fds[inner]
        if inner.parent is not None:
            self._fds[inner] = self._fds.pop(inner)
        for inner in reversed(way):
            try:
                child = os.open(inner.name, OPEN_DIRECTORY, dir_fd=fd)
            except OSError as exc:
                if exc.errno not in _GONE:
                    raise source_error(exc, f"{os.fsdecode(inner.path())} in the upper directory") from exc
                self._miss(inner)
                return None
            info = os.fstat(child)
            if (info.st_dev, info.st_ino) != inner.key:
                os.close(child)
                self._miss(inner)
                return None
            if len(self._fds) > MAX_OPEN:
                oldest = next(iter(list(self._fds)[1:]))
                os.close(self._fds.pop(oldest))
            self._fds[inner] = fd = child
        return fd

    def _miss(self, directory: UpperDirectory) -> None:
        """Look for a directory that is not where it was: at what is there now, and in what else is looked at."""
        self._misses[directory] = misses = self._misses.get(directory, 0) + 1
        if misses <= _ATTEMPTS and directory.parent is not None:
            self._want(directory.parent, {directory.name})
            self._found = True

    # looking

    def _look(self, directory: UpperDirectory, fd: int, names: set[bytes] | None) -> None:
        """Look at names in an open directory, and at its own metadata and what of the base shows in it."""
        if not directory.is_marked:
            self._marks.directory(directory, fd)
            directory.is_marked = True
        self._looked.add(directory)
        self._now = time.time_ns()
        info, path = os.fstat(fd), directory.path()
        if info.st_nlink == 0:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        self._entries.check_owner(info, path)
        private, xattrs = self._entries.attributes(fd, path)
        lower: Directory | None = self._entries.base
        if directory.parent is not None:
            lower = self._entries.lower_directory(directory.parent.lower, directory.name, private, path)
        xattr_whiteouts = private.get(overlay.OPAQUE) == overlay.OPAQUE_XATTR_WHITEOUTS
        is_new = directory.merged is None
        is_other = lower is not directory.lower or xattr_whiteouts != directory.xattr_whiteouts
        directory.lower, directory.xattr_whiteouts = lower, xattr_whiteouts
        directory.redirect = private.get(overlay.REDIRECT) if directory.parent is not None else None
        if is_new and directory.redirect is not None:
            self._copied_up[directory] = directory.redirect
        if names is None or is_new or is_other:
            self._list(directory, fd, anew=is_other)
        else:
            prefix = path.rstrip(b"/") + b"/"
            for name in names:
                if check_name(name) is None:
                    self._take(directory, fd, prefix, name, anew=False)
        directory.metadata = metadata(os.fstat(fd), xattrs)

    def _list(self, directory: UpperDirectory, fd: int, *, anew: bool) -> None:
        """Look at all names, also those that are known and have gone; ``anew``: what shows below is another one."""
        lower, prefix = directory.lower, directory.path().rstrip(b"/") + b"/"
        self._listed.add(directory)
        for _ in range(_ATTEMPTS):
            before = os.fstat(fd)
            names = list(map(os.fsencode, os.listdir(fd)))
            self._drafts[directory] = dict(lower.children) if lower is not None else {}
            directory.omits = False
            present = set(names)
            for name in [name for name in directory.known if name not in present]:
                self._forget_file(directory, name)
            for name in [name for name in directory.subdirectories if name not in present]:
                self._detach(directory.subdirectories[name])
            for name in names:
                self._take(directory, fd, prefix, name, anew=anew)
            after = os.fstat(fd)
            if (after.st_mtime_ns, after.st_ctime_ns) == (before.st_mtime_ns, before.st_ctime_ns):
                break

    def _take(self, directory: UpperDirectory, fd: int, prefix: bytes, name: bytes, *, anew: bool) -> None:
        """Look at one name."""
        self._at = name
        known = None if anew else directory.known.get(name)
        if known is not None and len(prefix) + len(name) <= PATH_MAX and self._stays(known, fd, name):
            # The name as the object that it is elsewhere: there are as many as files.
            self._set(directory, known.name if known.name == name else name, known.inode)
            return
        try:
            entry = os.open(name, OPEN_ENTRY, dir_fd=fd)
        except FileNotFoundError:
            self._forget_file(directory, name)
            self._forget_subdirectory(directory, name)
            self._set(directory, name, directory.lower.children.get(name) if directory.lower is not None else None)
            return
        try:
            info = os.fstat(entry)
            if len(prefix) + len(name) > PATH_MAX:
                directory.omits = True
                self._entries.warn(f"{os.fsdecode(prefix + name)[:200]}... has too long a path, and is left out")
                self._leave_out(directory, name)
            elif stat.S_ISDIR(info.st_mode):
                self._forget_file(directory, name)
                self._take_directory(directory, name, entry, info)
            elif is_whiteout(info):
                self._leave_out(directory, name)
            else:
                self._forget_subdirectory(directory, name)
                self._take_file(directory, UpperEntry(entry, info, name, prefix + name))
        finally:
            os.close(entry)

    def _leave_out(self, directory: UpperDirectory, name: bytes) -> None:
        self._forget_file(directory, name)
        self._forget_subdirectory(directory, name)
        self._set(directory, name, None)

    # directories

    def _take_directory(self, parent: UpperDirectory, name: bytes, fd: int, info: os.stat_result) -> None:
        key = (info.st_dev, info.st_ino)
        found = self._nodes.directories.get(key)
        own = handle(fd)
        if found is not None and found.handle != own:  # its inode number was given to another one
            self._detach(found)
            if found.parent is not None:
                self._want(found.parent, {found.name})
            found = None
        there = parent.subdirectories.get(name)
        if there is not None and there is not found:
            self._detach(there)
        if found is None:
            found = self._nodes.directories[key] = UpperDirectory(key, own, parent, name)
            parent.subdirectories[name] = found
            self._want(found, None)
            return
        if there is found:
            self._want(found, set())
        else:
            self._attach(found, parent, name)
        self._set(parent, name, found.merged)

    def _attach(self, directory: UpperDirectory, parent: UpperDirectory, name: bytes) -> None:
        """A known directory was found at another place."""
        if directory in parent.above():
            raise Tangled
        length = len(directory.path())
        self._origins.setdefault(directory, (directory.parent, directory.name))
        if directory.parent is not None:
            self._detach(directory)
            self._want(directory.parent, {directory.name})
        self._detached.pop(directory, None)
        directory.parent, directory.name = parent, name
        parent.subdirectories[name] = directory
        self._found = True
        self._want(directory, set())
        longer = len(directory.path()) - length
        for inner in directory.below() if longer else ():
            if inner.omits or (longer > 0 and len(inner.path()) + 1 + NAME_MAX > PATH_MAX):
                self._want(inner, None)

    def _detach(self, directory: UpperDirectory) -> None:
        """A directory is not where it was known to be."""
        parent = directory.parent
        if parent is not None and parent.subdirectories.get(directory.name) is directory:
            del parent.subdirectories[directory.name]
            self._origins.setdefault(directory, (parent, directory.name))
            self._detached[directory] = None

    def _forget_subdirectory(self, directory: UpperDirectory, name: bytes) -> None:
        there = directory.subdirectories.get(name)
        if there is not None:
            self._detach(there)

    # other entries

    def _take_file(self, directory: UpperDirectory, entry: UpperEntry) -> None:
        """Look at an entry that is no directory and no whiteout."""
        info, name = entry.info, entry.name
        number = self._nodes.number((info.st_dev, info.st_ino))
        here = directory.known.get(name)
        if here is not None and here.number != number:
            self._forget_file(directory, name)
            here = None
        self._marks.seen(entry.fd, directory, name)
        if info.st_nlink > 1:
            self._marks.linked(entry.fd, directory, name)
        entry.info = info = os.fstat(entry.fd)
        known, moved_from = (here, None) if here is not None else self._known(directory, name, number, info)
        if info.st_nlink < known.count() and number not in self._verified:
            self._verified.add(number)
            for other, other_name in known.places():
                self._want(other, {other_name})
        before = known.inode
        inode, trusted = self._read(directory, entry, before)
        if inode is None:
            self._leave_out(directory, name)
            return
        if before is not None and _are_equal(before, inode):
            inode = before
        elif moved_from is not None and not _was_born_after(entry.fd, abs(known.ctime)):
            self._moved_files.append((known, *moved_from))
        elif before is None and overlay.REDIRECT in entry.private:
            self._copied_files.append((directory, name, entry.private[overlay.REDIRECT]))
        self._nodes.set_inode(known, inode, entry.info, trusted=trusted)
        for other, other_name in known.places():
            self._set(other, other_name, inode)

    def _known(
        self, directory: UpperDirectory, name: bytes, number: Number, info: os.stat_result
    ) -> tuple[UpperInode, tuple[UpperDirectory, bytes] | None]:
        """The inode that has come at a name, and where it was before, if this is no further name of it."""
        known = self._nodes.inodes.get(number)
        moved_from = None
        if known is None and number in self._went:
            known, moved_from = self._went.pop(number)
        elif known is None:
            known = UpperInode(number)
        elif info.st_nlink <= known.count():
            moved_from = known.places()[0]
        self._nodes.add(known, directory, name)
        return known, moved_from

    def _stays(self, known: UpperInode, fd: int, name: bytes) -> bool:
        """Whether the name in the directory ``fd`` is still one of the inode, which did not change."""
        try:
            info = os.stat(name, dir_fd=fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return (
            known.ctime == info.st_ctime_ns
            and known.mtime == info.st_mtime_ns
            and known.size == info.st_size
            and known.number == self._nodes.number((info.st_dev, info.st_ino))
            and (known.more is None or known.count() <= info.st_nlink)
            and known.number not in self._closed
            and not (isinstance(known.inode, File) and content_unknown(known.inode))
        )

    def _read(self, directory: UpperDirectory, entry: UpperEntry, before: Inode | None) -> tuple[Inode | None, bool]:
        """What an entry stands for, and whether its times will tell of each change from now on."""
        if not isinstance(before, File) and directory.lower is not None:
            before = directory.lower.children.get(entry.name)
        known = before if isinstance(before, File) else None
        inode = None
        for _ in range(_ATTEMPTS):
            info, entry.has_data = entry.info, False
            inode = self._entries.inode(entry, directory.lower, xattr_whiteouts=directory.xattr_whiteouts)
            if isinstance(inode, File) and (entry.has_data or _was_emptied(entry, known)):
                size, inode.digest, inode.content = self._contents.content(entry.fd, info, entry.path, known)
                inode.size = info.st_size if size == info.st_size else size  # one object for both, as there are many
            after = os.fstat(entry.fd)
            if _stamp(after) == _stamp(info):
                return inode, tells_changes(info.st_ctime_ns, self._now)
            entry.info = after
        return inode, False

    def _forget_file(self, directory: UpperDirectory, name: bytes) -> None:
        known = self._nodes.remove(directory, name)
        if known is not None:
            self._went[known.number] = known, (directory, name)

    # what shows

    def _set(self, directory: UpperDirectory, name: bytes, inode: Inode | None) -> None:
        """What shows at a name from now on; None: nothing."""
        draft = self._drafts.get(directory)
        if draft is None:
            if directory.merged is None:
                return  # it is still to be listed
            if directory.merged.children.get(name) is inode:
                return
            draft = self._drafts[directory] = dict(directory.merged.children)
        if inode is None:
            draft.pop(name, None)
        else:
            draft[name] = inode

    def _merge(self) -> None:
        """Make the directories that changed, from the deepest, and those that they are in."""
        levels: dict[int, set[UpperDirectory]] = {}
        for directory in self._looked.union(self._drafts):
            if self._is_attached(directory):
                levels.setdefault(_depth(directory), set()).add(directory)
        for depth in range(max(levels, default=-1), -1, -1):
            for directory in levels.get(depth, ()):
                directory.merged = self._merged(directory)
                if directory.parent is not None:
                    self._set(directory.parent, directory.name, directory.merged)
                    levels.setdefault(depth - 1, set()).add(directory.parent)

    def _merged(self, directory: UpperDirectory) -> Directory:
        before, children = directory.merged, self._drafts.pop(directory, None)
        if before is not None:
            if children is None or (directory in self._listed and _are_same(children, before.children)):
                children = before.children
            own = directory.metadata
            if children is before.children and before.metadata() == (
                *own[:4],
                overlay.directory_xattrs(own[4], children.values()),
            ):
                return before
        assert children is not None
        return merged_directory(directory.metadata, directory.lower, children)

    def _forget(self, directory: UpperDirectory) -> None:
        """A directory has gone, with all that is in it."""
        for inner in directory.below():
            self._marks.gone(inner)
            if self._nodes.directories.get(inner.key) is inner:
                del self._nodes.directories[inner.key]
            for name in list(inner.known):
                self._nodes.remove(inner, name)
        directory.parent = None

    # what was moved

    def _tell_moved(self) -> None:
        for directory in (*self._origins, *self._copied_up):
            if self._is_attached(directory):
                self._tell(directory, b"", self._old_path(directory))
        for known, old_directory, old_name in self._moved_files:
            above = self._old_path(old_directory)
            if known.directory is not None and above is not None:
                self._tell(known.directory, known.name, above + b"/" + old_name)
        for directory, name, redirect in self._copied_files:
            above = b"" if redirect.startswith(b"/") else self._old_path(directory)
            if above is not None:
                self._tell(directory, name, above + b"/" + redirect.lstrip(b"/"))

    def _tell(self, directory: UpperDirectory, name: bytes, was: bytes | None) -> None:
        path = directory.within(name) if name else directory.path()
        if was is not None and was != path:
            self.moved[path] = was

    def _old_path(self, directory: UpperDirectory) -> bytes | None:
        """Where a directory was before this look, without a slash for the top; None where that is not known."""
        parts: list[bytes] = []
        inner: UpperDirectory | None = directory
        while inner is not None and inner is not self._nodes.root:
            redirect = self._copied_up.get(inner, inner.name)
            if redirect.startswith(b"/"):
                parts.append(redirect)
                break
            inner, name = self._origins.get(inner, (inner.parent, redirect))
            parts.append(b"/" + name)
        return b"".join(reversed(parts)) if inner is not None else None


def handle(fd: int) -> bytes:
    """The handle of what ``fd`` is open on; empty where its file system has none."""
    try:
        return handle_of(fd)
    except OSError:
        return b""


def _depth(directory: UpperDirectory) -> int:
    return sum(1 for _ in directory.above()) - 1


def _stamp(info: os.stat_result) -> tuple[int, int, int]:
    return (info.st_size, info.st_mtime_ns, info.st_ctime_ns)


def _was_born_after(fd: int, ctime: int) -> bool:
    """Whether an inode is another one than the one with its number that had this change time, or may be."""
    born = birth_time(fd)
    return born is None or born > ctime


def _was_emptied(entry: UpperEntry, before: File | None) -> bool:
    return before is not None and before.size > 0 and not entry.info.st_size and overlay.METACOPY not in entry.private


def _are_equal(one: Inode, two: Inode) -> bool:
    return type(one) is type(two) and one.metadata() == two.metadata() and one.content_key() == two.content_key()


def _are_same(one: dict[bytes, Inode], two: dict[bytes, Inode]) -> bool:
    """Whether two directories hold the same objects."""
    return len(one) == len(two) and not any(map(is_not, map(one.get, two), two.values()))
