"""A directory of files named by C4 IDs that grows subdirectories: the layout of TreeStore.

::

    c4k9...            while there are few: files in the root
    c4/c4k9...         when they became more than ``SPLIT``, all of them one level down
    c4/5Y/c45Y...      and so on, by two characters of the ID a level, each directory when it has too many

A content is in the deepest directory that there is on the way of its ID: so its own program looks for it. That program
moves files one by one, and may be killed, or read by us, in between; so here each directory on the way is looked at.
Where this module splits a directory, the new one appears at once with all that belongs there (hard links), so nobody
ever looks in vain. Names that begin with a dot are nobody's content: files in progress, and what ``content.treestore``
keeps beside.

Nothing here follows a symbolic link: what is one is damage.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator
from contextlib import suppress

from stratum.c4.ids import ALPHABET, C4Id, is_id
from stratum.errors import DamagedError
from stratum.sys.atomic import is_temporary, temporary_name
from stratum.sys.syscalls import RENAME_NOREPLACE, RESOLVE_BENEATH, RESOLVE_NO_SYMLINKS, openat2, renameat2

SPLIT = 4096
"""A directory with more contents than this is split."""
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_FILE = os.O_RDONLY | os.O_NONBLOCK
_STEP = 2
_RECOUNT = 256
_KNOWN_MAX = 1 << 16
_DIGITS = set(ALPHABET)
_NO_LINKS = {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS}


class Trie:
    """The names of contents below a directory, which methods get as a descriptor ``root``. For all threads.

    ``levels``: so many directories are made above each new content, however few there are. ``where`` names it in
    errors. All raise ``OSError``, and ``DamagedError`` for a symbolic link where none belongs.
    """

    def __init__(self, where: str, *, split: int = SPLIT, levels: int = 0) -> None:
        self._where = where
        self._split = split
        self._levels = levels
        self._known: set[str] = set()
        self._settled: set[str] = set()
        self._counts: dict[str, tuple[int, int]] = {}  # directory -> (contents, how many puts ago that was counted)

    # Looking

    def open(self, root: int, c4id: C4Id) -> int | None:
        """A descriptor of the content's file, to be read; None where there is none."""
        found = self._find(root, c4id, _FILE)
        return None if found is None else found[0]

    def stat(self, root: int, c4id: C4Id) -> os.stat_result | None:
        """The content's file; None where there is none."""
        found = self._find(root, c4id, os.O_PATH)
        if found is None:
            return None
        os.close(found[0])
        return found[1]

    def _find(self, root: int, c4id: C4Id, flags: int) -> tuple[int, os.stat_result] | None:
        for _ in range(2):  # it may move down while this looks for it
            for directory in self._chain(root, c4id):
                try:
                    fd = self._open(root, _join(directory, c4id), flags)
                except FileNotFoundError:
                    continue
                info = os.fstat(fd)
                if not stat.S_ISREG(info.st_mode):
                    os.close(fd)
                    raise DamagedError(f"{self._where}/{_join(directory, c4id)} is not a regular file")
                return fd, info
        return None

    def entries(self, root: int) -> Iterator[tuple[C4Id, os.stat_result]]:
        """Every content and its file. What is added or removed meanwhile may or may not be among them."""
        yield from self._entries(root, "")

    def _entries(self, root: int, directory: str) -> Iterator[tuple[C4Id, os.stat_result]]:
        depth, below = _depth(directory), []
        try:
            fd = self._open(root, directory or ".", _DIRECTORY)
        except FileNotFoundError:
            return
        try:
            names = os.listdir(fd)
            inner = {name for name in names if _is_step(name)}
            for name in names:
                if name in inner:
                    below.append(_join(directory, name))
                elif is_id(name):
                    if name[depth : depth + _STEP] in inner and _is_there(fd, f"{name[depth : depth + _STEP]}/{name}"):
                        continue  # a split was killed before it took this name away
                    with suppress(FileNotFoundError):
                        info = os.stat(name, dir_fd=fd, follow_symlinks=False)
                        if stat.S_ISREG(info.st_mode):
                            yield C4Id(name), info
        finally:
            os.close(fd)
        for each in below:
            if _depth(each) <= len(ALPHABET) and self._is_directory(root, each):
                yield from self._entries(root, each)

    # Changing: the caller holds the store's lock

    def place(self, root: int, c4id: C4Id, temporary: str) -> int:
        """Give the file ``temporary`` in ``root`` the content's name, instead of what has it; a descriptor of the
        directory, for the caller to sync and close. Splits nothing."""
        try:
            chain, directory = self._leaf(root, c4id)
        except FileNotFoundError:  # somebody took a directory away
            self._known.clear()
            self._settled.clear()
            chain, directory = self._leaf(root, c4id)
        try:
            os.rename(temporary, c4id, src_dir_fd=root, dst_dir_fd=directory)
        except BaseException:
            os.close(directory)
            raise
        self._remove_from(root, chain[1:], c4id)
        count, age = self._counts.get(chain[0], (self._split, 0))
        self._counts[chain[0]] = (count + 1, age + 1)
        return directory

    def make_durable(self, root: int, c4id: C4Id) -> None:
        """Have the directories on the way of the ID be durable, whoever made them."""
        for directory in self._chain(root, c4id):
            if directory and directory not in self._settled:
                parent = self._open(root, directory.rpartition("/")[0] or ".", _DIRECTORY)
                try:
                    os.fsync(parent)
                finally:
                    os.close(parent)
                if len(self._settled) < _KNOWN_MAX:
                    self._settled.add(directory)

    def _leaf(self, root: int, c4id: C4Id) -> tuple[list[str], int]:
        """The directories on the way of the ID, and a descriptor of the first of them."""
        self._make_levels(root, c4id)
        chain = list(self._chain(root, c4id))
        return chain, self._open(root, chain[0] or ".", _DIRECTORY)

    def remove(self, root: int, c4id: C4Id) -> bool:
        """Remove the content, durably; whether there was one."""
        return self._remove_from(root, self._chain(root, c4id), c4id)

    def _remove_from(self, root: int, directories: Iterator[str] | list[str], c4id: C4Id) -> bool:
        done = False
        for each in directories:
            try:
                directory = self._open(root, each or ".", _DIRECTORY)
            except FileNotFoundError:  # somebody took it away
                continue
            try:
                os.unlink(c4id, dir_fd=directory)
                os.fsync(directory)
                done = True
            except FileNotFoundError:
                pass
            finally:
                os.close(directory)
        return done

    def grow(self, root: int, c4id: C4Id) -> None:
        """Split the directory that the content was placed in, where that has too many by now."""
        directory = next(self._chain(root, c4id))
        count, age = self._counts.get(directory, (self._split + 1, 0))
        if count <= self._split and age < _RECOUNT:
            return
        fd = self._open(root, directory or ".", _DIRECTORY)
        try:
            names = [name for name in os.listdir(fd) if is_id(name)]
            self._counts[directory] = (len(names), 0)
            if len(names) <= self._split:
                return
            self._divide(fd, _depth(directory), names)
            self._counts.pop(directory)
            os.fsync(fd)
        finally:
            os.close(fd)

    def _divide(self, fd: int, depth: int, names: list[str]) -> None:
        """Move the contents ``names`` of a directory one level down."""
        for name in filter(is_temporary, os.listdir(fd)):
            if stat.S_ISDIR(os.stat(name, dir_fd=fd, follow_symlinks=False).st_mode):  # of a split that was killed
                _clear(fd, name)
        groups: dict[str, list[str]] = {}
        for name in names:
            groups.setdefault(name[depth : depth + _STEP], []).append(name)
        for step, group in groups.items():
            self._move_down(fd, step, group)
            if len(group) > self._split:
                inner = self._open(fd, step, _DIRECTORY)
                try:
                    self._divide(inner, depth + _STEP, group)
                finally:
                    os.close(inner)

    def _move_down(self, fd: int, step: str, group: list[str]) -> None:
        beside = temporary_name()
        os.mkdir(beside, 0o777, dir_fd=fd)
        try:
            for name in group:
                os.link(name, f"{beside}/{name}", src_dir_fd=fd, dst_dir_fd=fd, follow_symlinks=False)
            _sync(fd, beside)
            renameat2(fd, beside, fd, step, RENAME_NOREPLACE)
        except OSError as exc:
            _clear(fd, beside)
            if exc.errno != errno.EEXIST and exc.errno not in _NO_LINKS:
                raise
            self._move_each(fd, step, group)
            return
        os.fsync(fd)
        for name in group:
            os.unlink(name, dir_fd=fd)

    def _move_each(self, fd: int, step: str, group: list[str]) -> None:
        """The same where the directory is there already, or the file system has no hard links."""
        with suppress(FileExistsError):
            os.mkdir(step, 0o777, dir_fd=fd)
        inner = self._open(fd, step, _DIRECTORY)
        try:
            for name in group:
                os.rename(name, name, src_dir_fd=fd, dst_dir_fd=inner)
            os.fsync(inner)
        finally:
            os.close(inner)

    def _make_levels(self, root: int, c4id: C4Id) -> None:
        for end in range(_STEP, _STEP * self._levels + 1, _STEP):
            directory = _way(c4id, end)
            if directory in self._known:
                continue
            parent = self._open(root, _way(c4id, end - _STEP) or ".", _DIRECTORY)
            try:
                with suppress(FileExistsError):
                    os.mkdir(c4id[end - _STEP : end], 0o777, dir_fd=parent)
            finally:
                os.close(parent)

    # Directories

    def _chain(self, root: int, c4id: C4Id) -> Iterator[str]:
        """The directories on the way of the ID, from the deepest one up to the root, which is ``""``."""
        end = 0
        while end + _STEP <= len(c4id) and self._is_directory(root, _way(c4id, end + _STEP)):
            end += _STEP
        return (_way(c4id, each) for each in range(end, -1, -_STEP))

    def _is_directory(self, root: int, directory: str) -> bool:
        if directory in self._known:
            return True
        try:
            fd = self._open(root, directory, os.O_PATH | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return False
        os.close(fd)
        if len(self._known) < _KNOWN_MAX:
            self._known.add(directory)
        return True

    def _open(self, root: int, path: str, flags: int) -> int:
        try:
            return openat2(root, path, flags, resolve=RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS)
        except OSError as exc:
            if exc.errno in (errno.ELOOP, errno.EXDEV):
                raise DamagedError(
                    f"{self._where}/{path} is, or is below, a symbolic link, which a store has none of",
                    hint="somebody changed the store by hand; nothing was read from it",
                ) from None
            raise


def _way(c4id: str, end: int) -> str:
    return "/".join(c4id[start : start + _STEP] for start in range(0, end, _STEP))


def _join(directory: str, name: str) -> str:
    return f"{directory}/{name}" if directory else name


def _depth(directory: str) -> int:
    """How many characters of an ID lead to the directory."""
    return len(directory.replace("/", ""))


def _is_step(name: str) -> bool:
    return len(name) == _STEP and _DIGITS.issuperset(name)


def _is_there(fd: int, path: str) -> bool:
    try:
        os.stat(path, dir_fd=fd, follow_symlinks=False)
    except OSError:
        return False
    return True


def _sync(fd: int, name: str) -> None:
    directory = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _clear(fd: int, name: str) -> None:
    """Remove a directory of files, as far as possible."""
    with suppress(OSError):
        inner = os.open(name, _DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=fd)
        try:
            for each in os.listdir(inner):
                os.unlink(each, dir_fd=inner)
        finally:
            os.close(inner)
        os.rmdir(name, dir_fd=fd)
