"""A tree in the making: another one, or none, and what is to be different in it. Pure.

The other tree is shared, not copied: only directories on the way to a change are made anew. What is new has no content
yet, but whatever stands for it; who finishes the tree gives it one.
"""

from __future__ import annotations

import stat
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from stratum.errors import ExistsError, NotFoundError, UsageError, path_text
from stratum.tree.limits import NAME_MAX, TARGET_MAX, check_inode, check_path
from stratum.tree.merge import Task, run_deep
from stratum.tree.model import Directory, File, Inode, Symlink, Xattrs


@dataclass(frozen=True, slots=True)
class Attributes:
    """Permissions, owner, time in ns and extended attributes; None is what was there before, or the default."""

    mode: int | None = None
    uid: int | None = None
    gid: int | None = None
    mtime: int | None = None
    xattrs: Xattrs | None = None


@dataclass(frozen=True, slots=True)
class New:
    """A regular file with ``content``, whatever that is, or where ``target`` is set a symbolic link.

    ``mtime`` is None for the time at which the tree is finished.
    """

    mode: int
    uid: int
    gid: int
    mtime: int | None
    xattrs: Xattrs
    content: Any = None
    target: bytes | None = None


@dataclass(slots=True)
class _Changed:
    """A directory that is to be different; ``mtime`` as that of ``New``."""

    mode: int
    uid: int
    gid: int
    mtime: int | None
    xattrs: Xattrs
    children: dict[bytes, Inode | New | _Changed] = field(default_factory=dict)


class TreeEdit:
    """What is to become of ``base`` (None: of an empty directory). Paths are absolute; none leads through a link."""

    def __init__(self, base: Directory | None = None) -> None:
        self._base = base
        self._root = _changed(base) if base is not None else _Changed(stat.S_IFDIR | 0o755, 0, 0, None, ())

    def put(self, path: bytes, content: Any, attributes: Attributes) -> None:
        """Have a regular file with ``content`` at ``path``, in place of anything but a directory."""
        directory, name = self._parent(path)
        found = directory.children.get(name)
        if isinstance(found, (Directory, _Changed)):
            raise ExistsError(f"{path_text(path)} is a directory", hint="remove it first")
        before = found if _is_file(found) else None
        made = _with(New(stat.S_IFREG | 0o644, 0, 0, None, (), content), before, attributes)
        self._place(directory, name, made, path)

    def link(self, path: bytes, target: bytes, attributes: Attributes) -> None:
        """Have a symbolic link to ``target`` at ``path``, in place of anything but a directory."""
        if not 0 < len(target) <= TARGET_MAX or b"\0" in target:
            raise UsageError(f"{path_text(path)}: a symbolic link leads to 1 to {TARGET_MAX} bytes without NUL")
        directory, name = self._parent(path)
        if isinstance(directory.children.get(name), (Directory, _Changed)):
            raise ExistsError(f"{path_text(path)} is a directory", hint="remove it first")
        made = _with(New(stat.S_IFLNK | 0o777, 0, 0, None, (), target=target), None, attributes)
        self._place(directory, name, made, path)

    def make_directory(self, path: bytes, attributes: Attributes) -> None:
        """Have a directory at ``path``, where nothing else is; one that is there gets the ``attributes`` that are
        given."""
        if path == b"/":
            _set(path, self._root, attributes)
            return
        directory, name = self._parent(path)
        found = directory.children.get(name)
        if found is None:
            made = _Changed(stat.S_IFDIR | 0o755, 0, 0, None, ())
            _set(path, made, attributes)
            directory.children[name] = made
            directory.mtime = None
        elif isinstance(found, (Directory, _Changed)):
            _set(path, self._opened(directory, name, found), attributes)
        else:
            raise ExistsError(f"{path_text(path)} is no directory", hint="remove it first")

    def remove(self, path: bytes) -> None:
        """Take away what is at ``path``, with all that is below it. ``NotFoundError``."""
        if path == b"/":
            raise UsageError("the top of a tree cannot be removed")
        directory, name = self._parent(path, make=False)
        if name not in directory.children:
            raise NotFoundError(f"the tree has no {path_text(path)}")
        del directory.children[name]
        directory.mtime = None

    def finish(self, now: int, content: Callable[[New, int], File]) -> Directory:
        """The tree. ``now`` (ns) is the time of what has none, ``content`` makes the file of what is new, given its
        time. Can be called again."""
        return run_deep(_finished(self._root, now, content))

    def _place(self, directory: _Changed, name: bytes, made: New, path: bytes) -> None:
        _check_attributes(path, made)
        directory.children[name] = made
        directory.mtime = None

    def _parent(self, path: bytes, *, make: bool = True) -> tuple[_Changed, bytes]:
        """The directory of ``path``, to be changed, and the name in it; missing ones are made with ``make``."""
        names = _names(path)
        if not names:
            raise ExistsError("/ is the top of the tree, and a directory")
        for name in names:
            _check(path, name)
        here = self._root
        for number, name in enumerate(names[:-1]):
            found = here.children.get(name)
            where = b"/" + b"/".join(names[: number + 1])
            if found is None and make:
                made = here.children[name] = _Changed(stat.S_IFDIR | 0o755, 0, 0, None, ())
                here.mtime = None
                here = made
            elif isinstance(found, (Directory, _Changed)):
                here = self._opened(here, name, found)
            elif found is None:
                raise NotFoundError(f"the tree has no {path_text(where)}")
            else:
                raise UsageError(f"{path_text(path)} is below {path_text(where)}, which is no directory")
        return here, names[-1]

    @staticmethod
    def _opened(parent: _Changed, name: bytes, found: Directory | _Changed) -> _Changed:
        if isinstance(found, Directory):
            found = parent.children[name] = _changed(found)
        return found


def _names(path: bytes) -> list[bytes]:
    return [name for name in path.split(b"/") if name]


def _check(path: bytes, name: bytes) -> None:
    problem = check_path(len(path))
    if len(name) > NAME_MAX:
        problem = f"has a name of {len(name)} bytes; {NAME_MAX} is the limit"
    elif b"\0" in name or name in (b".", b".."):
        problem = "has a name that no file can have"
    if problem:
        raise UsageError(f"{path_text(path)} {problem}")


def _changed(directory: Directory) -> _Changed:
    return _Changed(*directory.metadata(), children=dict(directory.children))


def _is_file(found: Any) -> bool:
    return isinstance(found, File) or (isinstance(found, New) and found.target is None)


def _with(made: New, before: Any, wanted: Attributes) -> New:
    """``made`` with the attributes that are wanted, or else those of the file that was there, but for its time."""
    if before is not None:
        made = replace(made, mode=before.mode, uid=before.uid, gid=before.gid, xattrs=before.xattrs)
    kind = stat.S_IFMT(made.mode)
    return replace(
        made,
        mode=made.mode if wanted.mode is None else kind | stat.S_IMODE(wanted.mode),
        uid=made.uid if wanted.uid is None else wanted.uid,
        gid=made.gid if wanted.gid is None else wanted.gid,
        mtime=wanted.mtime,
        xattrs=made.xattrs if wanted.xattrs is None else wanted.xattrs,
    )


def _set(path: bytes, directory: _Changed, wanted: Attributes) -> None:
    old = directory
    new = replace(
        old,
        mode=old.mode if wanted.mode is None else stat.S_IFDIR | stat.S_IMODE(wanted.mode),
        uid=old.uid if wanted.uid is None else wanted.uid,
        gid=old.gid if wanted.gid is None else wanted.gid,
        mtime=old.mtime if wanted.mtime is None else wanted.mtime,
        xattrs=old.xattrs if wanted.xattrs is None else wanted.xattrs,
    )
    _check_attributes(path, new)
    old.mode, old.uid, old.gid, old.mtime, old.xattrs = new.mode, new.uid, new.gid, new.mtime, new.xattrs


def _check_attributes(path: bytes, made: New | _Changed) -> None:
    problem = check_inode(Inode(stat.S_IFDIR, made.uid, made.gid, made.mtime or 0, made.xattrs))
    if problem:
        raise UsageError(f"{path_text(path)} {problem}")


def _finished(changed: _Changed, now: int, content: Callable[[New, int], File]) -> Task[Directory]:
    children: dict[bytes, Inode] = {}
    for name, child in changed.children.items():
        if isinstance(child, _Changed):
            children[name] = yield _finished(child, now, content)
        elif isinstance(child, New):
            time = now if child.mtime is None else child.mtime
            children[name] = _symlink(child, time) if child.target is not None else content(child, time)
        else:
            children[name] = child
    time = now if changed.mtime is None else changed.mtime
    return Directory(changed.mode, changed.uid, changed.gid, time, changed.xattrs, children=children)


def _symlink(new: New, time: int) -> Symlink:
    assert new.target is not None
    return Symlink(new.mode, new.uid, new.gid, time, new.xattrs, target=new.target)
