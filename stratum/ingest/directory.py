"""A directory becomes a tree, its file contents objects of a transaction.

What is taken: regular files, directories, symbolic links, fifos, hard links (names of one inode stay names of one
inode), holes, owners, permissions, mtimes in nanoseconds and the attributes that ``ingest.attributes`` keeps. Sockets
are left out with a warning; device nodes are refused unless asked for. Names are bytes. Other file systems mounted
below are entered, as ``cp -a`` does, but for those that the kernel makes up (proc, sysfs ...), which are refused; for
``import_opened`` their mount points are empty directories. The store itself, where it is met, is left out with a
warning, and what was not wanted without one (``ingest.selection``).

The source may change meanwhile. A directory whose mtime or ctime moved while it was listed is listed again, a few
times; files are treated as ``ingest.staging`` says. Every step down is taken by descriptor, without following symbolic
links, and lands on the inode that was listed or fails; only the path given by the user may lead through links.
"""

from __future__ import annotations

import errno
import itertools
import os
import shlex
import stat
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from stratum.errors import ConflictError, NotFoundError, StratumError, UsageError, os_error_text
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.journal import Journal, Journalled
from stratum.ingest.owners import owners
from stratum.ingest.reader import FileReader, Pending, source_error
from stratum.ingest.seen import Seen
from stratum.ingest.selection import NOTHING, Excludes, LeftOut, Place, Selection, below
from stratum.ingest.staging import Signature, open_source, signature
from stratum.ingest.statcache import Found, StatCache, tells_changes
from stratum.ingest.unchanged import Listing
from stratum.progress import Progress
from stratum.store import Store
from stratum.store.transaction import Transaction
from stratum.sys.dirstack import OPEN_DIRECTORY, DirectoryStack
from stratum.sys.xattrs import read_xattrs
from stratum.tree.limits import NAME_MAX, PATH_MAX, refuse_long_path
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs
from stratum.tree.owners import without_strangers

_LISTINGS = 3
_TYPE = stat.S_IFMT
_Subdirectories = Iterator[tuple[str, bytes, os.stat_result]]
_Entered = tuple[Directory, Place, _Subdirectories]
_MADE_UP = frozenset(
    (
        *("binfmt_misc", "bpf", "cgroup", "cgroup2", "configfs", "debugfs", "efivarfs", "fusectl", "mqueue", "proc"),
        *("pstore", "securityfs", "selinuxfs", "sysfs", "tracefs"),
    )
)
"""File systems of the kernel whose files are not content: reading some waits, never ends or does something."""


def import_directory(
    store: Store,
    tx: Transaction,
    path: Path,
    *,
    jobs: int = 1,
    devices: bool = False,
    cache: bool = True,
    progress: Progress | None = None,
    listing: Listing | None = None,
    excludes: Excludes = NOTHING,
    left_out: LeftOut | None = None,
) -> tuple[Directory, list[str]]:
    """The tree of the directory ``path``, with its objects in ``tx`` or in the store; and warnings, a line each.

    ``jobs`` processes read files. ``devices`` takes device nodes too. ``cache`` remembers the source's inodes in the
    store, and trusts what it remembers (``ingest.statcache``). ``listing`` is filled with what was seen, and
    ``left_out`` with how much of it ``excludes`` left out.

    Raises ``NotFoundError`` or ``UsageError`` where ``path`` is no directory, ``ConflictError`` where the source
    changed in a way that no snapshot can be made of, ``StratumError`` naming the path for what cannot be read or
    stored. What was staged until then goes with the transaction, or serves the next one that takes it up: what a dead
    one that ``tx`` claimed had read of files which are still the same is not read again.
    """
    root = _open_root(path, store)
    try:
        source = os.fsencode(os.path.realpath(path))
        found = StatCache.load(store.objects, source) if cache else None
        leave = listing.leave if listing is not None else None
        selection = Selection(excludes, os.fstat(root).st_dev, left_out, leave)
        if listing is not None:
            listing.begin(os.fstat(root), excludes, selection.left_out)
        journal, dead = Journal(tx.directory), Journalled(tx.dead)
        failed = Unreadable(source, os.fstat(root).st_dev).error
        with (
            _telling(root, excludes, found, progress) as reading,
            FileReader(tx, store.objects, jobs=jobs, progress=reading, journal=journal, failed=failed) as reader,
        ):
            walk = _Walk(reader, found, dead, listing, selection, _identity(os.stat(store.root)), devices, failed)
            tree = walk.run(root, source)
            reader.finish()
            if found is not None:
                walk.save(found)
            if listing is not None:
                walk.describe(listing, tree)
            return tree, walk.told()
    finally:
        os.close(root)


@contextmanager
def _telling(
    root: int, excludes: Excludes, cache: StatCache | None, progress: Progress | None
) -> Iterator[Callable[[int, int], None] | None]:
    """What the reader calls, to have ``progress`` told of all that there is, too: as much as the last time or, where
    that is not known, what a process counts meanwhile."""
    if progress is None:
        yield None
        return
    before = cache.size if cache is not None else 0
    if before:
        yield lambda size, files: progress(size, before, files=files)
        return
    from stratum.ingest.counting import Counting

    with Counting(root, excludes) as counting:
        yield lambda size, files: progress(size, counting.look(), files=files)


def import_opened(
    store: Store, tx: Transaction, root: int, name: bytes, *, max_entries: int
) -> tuple[Directory, list[str]]:
    """As ``import_directory``, of the open directory ``root``, which is called ``name`` in messages and stays open.

    Read by this process alone, remembered nowhere, on one file system; more than ``max_entries`` are ``StratumError``.
    """
    selection = Selection(Excludes(one_file_system=True), os.fstat(root).st_dev)
    with FileReader(tx, store.objects) as reader:
        walk = _Walk(
            reader,
            None,
            Journalled(()),
            None,
            selection,
            _identity(os.stat(store.root)),
            False,
            source_error,
            max_entries,
        )
        tree = walk.run(root, name)
        reader.finish()
        return tree, walk.told()


def import_moved(
    store: Store,
    tx: Transaction,
    root: int,
    name: bytes,
    *,
    jobs: int = 1,
    devices: bool = False,
    progress: Progress | None = None,
    adopts: bool = True,
    failed: Callable[[OSError, str], StratumError] = source_error,
) -> tuple[Directory, list[str], set[tuple[int, int]]]:
    """As ``import_directory``, of the open directory ``root``, all of which is to be the store's; with the (device,
    inode) of each directory in it.

    ``name`` is what it is called in messages. ``adopts``: nobody reaches it by a path, so its files become objects as
    they are, where they can (``ingest.adopting``).
    """
    place, told = _identity(os.stat(store.root)), Selection(NOTHING, os.fstat(root).st_dev)
    with (
        _telling(root, NOTHING, None, progress) as reading,
        FileReader(tx, store.objects, jobs=jobs, progress=reading, failed=failed, adopts=adopts) as reader,
    ):
        walk = _Walk(reader, None, Journalled(()), None, told, place, devices, failed)
        tree = walk.run(root, name)
        reader.finish()
        return tree, walk.told(), walk.directories()


def _open_root(path: Path, store: Store) -> int:
    try:
        fd = open_source(os.fspath(path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{path} does not exist") from None
    except NotADirectoryError:
        raise UsageError(f"{path} is not a directory", hint="an import takes a directory") from None
    except OSError as exc:
        raise StratumError(f"cannot open {path}: {os_error_text(exc)}") from None
    if Path(os.path.realpath(path)).is_relative_to(store.root):
        os.close(fd)
        raise UsageError(
            f"{path} is inside the store itself", hint="a worktree's changes are taken by 'stratum commit'"
        )
    return fd


def _identity(info: os.stat_result) -> tuple[int, int]:
    return info.st_dev, info.st_ino


class _Walk:
    """Lists a source, depth first, and builds its tree; file contents are left to the reader."""

    def __init__(
        self,
        reader: FileReader,
        cache: StatCache | None,
        journalled: Journalled,
        listing: Listing | None,
        selection: Selection,
        store: tuple[int, int],
        devices: bool,
        failed: Callable[[OSError, str], StratumError],
        max_entries: int = sys.maxsize,
    ) -> None:
        self.warnings: list[str] = []
        self._reader = reader
        self._cache = cache if cache else None
        self._journalled = journalled if journalled else None
        self._listing = listing
        self._selection = selection
        self._store = store
        self._devices = devices
        self._failed = failed
        self._max_entries = max_entries
        self._links: dict[tuple[int, int], Inode] = {}
        self._listed = Seen()
        self._numbers: dict[int, int] = {}  # one object for all files that have it as their mode, owner or group
        self._hits = 0
        self._now = 0
        self._top = 0  # length of the source's path
        self._owners = owners()

    def run(self, root: int, path: bytes) -> Directory:
        """The tree of the open directory ``root``, which stays open; ``path`` names it in messages."""
        prefix = path.rstrip(b"/")
        self._top = len(prefix)
        info = os.fstat(root)
        if _identity(info) == self._store:
            raise UsageError(f"{os.fsdecode(path)} is the store itself")
        tree, place, subdirectories = self._directory(root, prefix, Place(), info)
        frames = [(prefix, tree, place, subdirectories)]
        with DirectoryStack(os.dup(root)) as stack:
            while frames:
                prefix, node, place, subdirectories = frames[-1]
                for text, name, listed in subdirectories:
                    child = prefix + b"/" + name
                    entered = self._enter(stack, text, child, below(place, name), listed)
                    if entered is not None:
                        node.children[name] = entered[0]
                        frames.append((child, *entered))
                        break
                else:
                    frames.pop()
                    if frames:
                        stack.pop()
        return tree

    def told(self) -> list[str]:
        """All warnings, once everything is read."""
        found = self.warnings + self._reader.warnings
        if self._owners is not None:
            found += self._owners.told()
        if strangers := self._reader.strangers:
            more = f" and {len(strangers) - 1} more" if len(strangers) > 1 else ""
            found.append(f"the access list of {strangers[0]}{more} names users without an ID here, who are left out")
        return found

    def _kept(self, xattrs: Xattrs, path: bytes) -> Xattrs:
        try:
            kept = stored_xattrs(xattrs)
        except StratumError as exc:
            raise StratumError(f"cannot store {os.fsdecode(path)}: {exc.message}", hint=exc.hint) from None
        known = without_strangers(kept)
        if known is not kept:
            self._reader.strangers.append(os.fsdecode(path))
        return known

    def _owner(self, info: os.stat_result, name: str, directory: int) -> tuple[int, int]:
        if self._owners is None:
            return info.st_uid, info.st_gid
        return self._owners.of(info, name, directory)

    def _enter(
        self, stack: DirectoryStack, text: str, path: bytes, place: Place, listed: os.stat_result
    ) -> _Entered | None:
        """Open a subdirectory, push it and list it; None where it is left out."""
        if _identity(listed) == self._store:
            self.warnings.append(f"{os.fsdecode(path)} is the store itself; it is left out")
            return None
        try:
            fd = open_source(text, OPEN_DIRECTORY, stack.top)
        except FileNotFoundError:
            self.warnings.append(f"{os.fsdecode(path)} was removed while the tree was read; it is left out")
            return None
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.ENOTDIR):
                raise _replaced(path) from None
            raise self._failed(exc, os.fsdecode(path)) from None
        info = os.fstat(fd)
        stack.push(fd, info)
        refuse_long_path(path, len(path) - self._top)
        return self._directory(fd, path, place, info)

    def _directory(self, fd: int, path: bytes, place: Place, info: os.stat_result) -> _Entered:
        """The node of the open directory ``fd`` with everything in it but its subdirectories, which are returned."""
        try:
            info, entries = self._entries(fd, path, info)
            place, entries = self._selection.chosen(fd, place, info, entries)
            found = self._cache.find(info) if self._cache is not None else None
            if found is not None:
                self._hits += 1
            xattrs = found[0] if found is not None else self._kept(read_xattrs(fd), path)
        except OSError as exc:
            raise self._failed(exc, os.fsdecode(path)) from None
        node = Directory(info.st_mode, *self._owner(info, ".", fd), info.st_mtime_ns, xattrs)
        self._listed.add(signature(info), self._now, node)
        if self._listing is not None and not self._selection.is_beyond(info):
            self._listing.add(fd, info, place.path, entries)
        subdirectories = []
        pending: list[Pending] = []
        if len(path) - self._top + 1 + NAME_MAX > PATH_MAX:
            for text, _ in entries:
                child = path + b"/" + os.fsencode(text)
                refuse_long_path(child, len(child) - self._top)
        for text, entry in entries:
            name = os.fsencode(text)
            kind = entry.st_mode & 0o170000
            if kind == stat.S_IFDIR:
                if entry.st_dev != info.st_dev and self._selection.crosses:
                    _refuse_made_up(path + b"/" + name, entry.st_dev)
                subdirectories.append((text, name, entry))
            elif kind == stat.S_IFREG:
                node.children[name] = self._file(fd, text, entry, pending)
            else:
                other = self._other(fd, path, text, name, entry)
                if other is not None:
                    node.children[name] = other
        if pending:
            self._reader.read(fd, path, pending, gone=lambda file: _leave_out(node, file, path))
        return node, place, iter(subdirectories)

    def _entries(
        self, fd: int, path: bytes, info: os.stat_result
    ) -> tuple[os.stat_result, list[tuple[str, os.stat_result]]]:
        """(the directory's own state, its entries) of one listing in which it did not change."""
        if self._selection.is_beyond(info):
            return info, []
        for _ in range(_LISTINGS):
            self._now = time.time_ns()
            room = self._max_entries - len(self._listed)
            with os.scandir(fd) as listing:
                some = itertools.islice(listing, min(room + 1, sys.maxsize))
                entries = [(entry.name, status) for entry in some if (status := _status(entry)) is not None]
            if len(entries) > room:
                raise StratumError(f"{os.fsdecode(path) or '/'}: there are more than {self._max_entries} files")
            before, info = info, os.fstat(fd)
            if before.st_mtime_ns == info.st_mtime_ns and before.st_ctime_ns == info.st_ctime_ns:
                return info, entries
        self.warnings.append(
            f"{os.fsdecode(path) or '/'} kept changing while it was listed; it is stored as last listed"
        )
        return info, entries

    def _file(self, fd: int, text: str, info: os.stat_result, pending: list[Pending]) -> Inode:
        if info.st_nlink > 1:
            linked = self._links.get((info.st_dev, info.st_ino))
            if linked is not None:
                return linked
        owner = (info.st_uid, info.st_gid) if self._owners is None else self._owners.of(info, text, fd)
        mode, uid, gid = [self._numbers.setdefault(number, number) for number in (info.st_mode, *owner)]
        node = File(mode, uid, gid, info.st_mtime_ns, size=info.st_size)
        key = signature(info)
        found = self._cache.find(info) if self._cache is not None else None
        if found is not None:
            self._hits += 1
            node.xattrs, node.digest, node.content = found
            self._reader.pass_over(info.st_size)
        else:
            candidate = self._cache.candidate(info) if self._cache is not None else None
            before = self._journalled.find(key) if self._journalled is not None else None
            pending.append(Pending(os.fsencode(text), info, node, key, candidate=candidate, before=before))
        self._listed.add(key, self._now, node)
        if info.st_nlink > 1:
            self._links[(info.st_dev, info.st_ino)] = node
        return node

    def _other(self, fd: int, path: bytes, text: str, name: bytes, info: os.stat_result) -> Inode | None:
        """A symbolic link, fifo or device; None for what is left out."""
        if info.st_nlink > 1:
            linked = self._links.get((info.st_dev, info.st_ino))
            if linked is not None:
                return linked
        kind = _TYPE(info.st_mode)
        where = os.fsdecode(path + b"/" + name)
        if kind == stat.S_IFSOCK:
            self.warnings.append(f"{where} is a socket; it is left out")
            return None
        whiteout = kind == stat.S_IFCHR and info.st_rdev == 0  # no device; a patch tree deletes with it
        if kind in (stat.S_IFCHR, stat.S_IFBLK) and not (self._devices or whiteout):
            raise StratumError(
                f"{where} is a device node", hint="leave it out (--exclude), or take device nodes with --devices"
            )
        try:
            node = self._read_other(fd, text, info, where)
        except FileNotFoundError:
            self.warnings.append(f"{where} was removed while the tree was read; it is left out")
            return None
        except OSError as exc:
            if exc.errno == errno.EINVAL:  # readlink(2) of something else
                raise _replaced(path + b"/" + name) from None
            raise self._failed(exc, where) from None
        self._listed.add(signature(info), self._now, node)
        if info.st_nlink > 1:
            self._links[(info.st_dev, info.st_ino)] = node
        return node

    def _read_other(self, fd: int, text: str, info: os.stat_result, where: str) -> Inode:
        found = self._cache.find(info) if self._cache is not None else None
        if found is not None:
            self._hits += 1
            xattrs, _, target = found
        else:
            # The kernel has no listxattr that takes a directory and a name; the last component is not followed.
            xattrs = self._kept(read_xattrs(f"/proc/self/fd/{fd}/{text}"), os.fsencode(where))
            target = os.fsencode(os.readlink(text, dir_fd=fd)) if stat.S_ISLNK(info.st_mode) else None
        common = (info.st_mode, *self._owner(info, text, fd), info.st_mtime_ns, xattrs)
        if target is not None:
            return Symlink(*common, target=target)
        return Special(*common, rdev=info.st_rdev if not stat.S_ISFIFO(info.st_mode) else 0)

    def save(self, cache: StatCache) -> None:
        """Remember what was found, where that differs from what was known."""
        if self._hits == len(self._listed) == len(cache):
            cache.touch()
            return
        cache.save((key, _as_found(node)) for key, node in self._trusted())

    def _trusted(self) -> Iterator[tuple[Signature, Inode]]:
        """What was listed and will be the same the next time, if it is listed the same."""
        unlike_listed = self._reader.unlike_listed
        for key, listed, node in self._listed:
            if (
                tells_changes(key[4], listed)
                and id(node) not in unlike_listed
                and (not isinstance(node, File) or node.size == key[2])
            ):
                yield key, node

    def directories(self) -> set[tuple[int, int]]:
        """Device and inode number of each directory."""
        return {key[:2] for key, _, node in self._listed if isinstance(node, Directory)}

    def describe(self, listing: Listing, tree: Directory) -> None:
        """Complete ``listing``, to which the entries of every directory of ``tree`` were added."""
        if self.warnings or self._reader.warnings:
            return
        if sum(1 for _ in self._trusted()) == len(self._listed):
            listing.final = tree


def _leave_out(parent: Directory, file: Pending, path: bytes) -> None:
    """Take a file that is gone out of its directory; other names of it may be in the tree already."""
    if file.info.st_nlink > 1:
        raise ConflictError(
            f"{os.fsdecode(path + b'/' + file.name)}, which has several names, was removed while the tree was read",
            hint="run it again",
        )
    del parent.children[file.name]


def _status(entry: os.DirEntry[str]) -> os.stat_result | None:
    """lstat(2) of an entry; None where it is gone again."""
    try:
        return entry.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None


def _as_found(node: Inode) -> Found:
    if isinstance(node, File):
        return node.xattrs, node.digest, node.content
    return node.xattrs, None, node.target if isinstance(node, Symlink) else None


def _refuse_made_up(path: bytes, device: int) -> None:
    """Refuse a mount point of a file system whose files are not content."""
    from stratum.sys.mountinfo import read

    number = f"{os.major(device)}:{os.minor(device)}"
    found = next((entry.fstype for entry in read() if entry.device == number), None)
    if found in _MADE_UP:
        raise UsageError(
            f"{os.fsdecode(path)} is a file system of the kernel ({found}), which holds no files to keep",
            hint="--one-file-system leaves out all that is mounted below, --exclude PATTERN what you name",
        )


class Unreadable:
    """Says of what cannot be read in the directory ``source``, on ``device``, how an import goes on without it."""

    def __init__(self, source: bytes, device: int) -> None:
        self._source = source.rstrip(b"/")
        self._device = device

    def error(self, exc: OSError, where: str) -> StratumError:
        """What to raise for ``where``, a path."""
        found = source_error(exc, where)
        inside = os.fsdecode(os.fsencode(where).removeprefix(self._source))
        if isinstance(found, ConflictError) or not inside:
            return found
        out = f"leave it out: --exclude {shlex.quote(inside)}"
        if self._is_elsewhere(where):
            out += ", or all that is mounted below: --one-file-system"
        return StratumError(found.message, hint=f"{found.hint}; or {out}" if found.hint else out)

    def _is_elsewhere(self, where: str) -> bool:
        try:
            return os.lstat(where).st_dev != self._device
        except OSError:
            return False


def _replaced(path: bytes) -> ConflictError:
    return ConflictError(
        f"{os.fsdecode(path)} was replaced by something else while the tree was read", hint="run it again"
    )
