"""A tree on which operations are carried out one by one. Pure.

What an operation does not touch stays the object that it was, so a state of the tree costs what changed since the one
before. An operation on a path says nothing of other names of its inode: they keep what they had, and each of them has
an operation of its own that links it to the new inode.
"""

from __future__ import annotations

import stat

from stratum.errors import DamagedError, path_text
from stratum.frozen import frozen
from stratum.tree.model import Directory, File, Inode, Symlink, lookup, with_xattrs
from stratum.tree.oplog import Record, inode_of

_NO_CHANGE = frozenset(("base", "gap", "version"))
_NEW = frozenset(("create", "mkdir", "symlink", "special", "link"))
_CHANGED = frozenset(("write", "setattr", "mtime"))


@frozen
class Operation:
    """One change of one path (absolute, raw bytes).

    ``op`` is ``create``, ``write`` (another content), ``mkdir``, ``symlink``, ``special``, ``link``, ``setattr``,
    ``rename``, ``delete`` or ``mtime`` (only the modification time of a directory).

    ``inode`` is what is there now; of a directory, without what is in it; of ``rename``, what was moved. Where ``link``
    is set, it is instead the inode that is at that path, and ``inode`` is None; else no other path has it yet.
    ``was`` is the old path of what was renamed, with all that is below; a file that was there before is replaced.
    """

    op: str
    path: bytes
    inode: Inode | None = None
    link: bytes | None = None
    was: bytes | None = None


class Replay:
    """A tree that begins as ``base``, which is not changed."""

    def __init__(self, base: Directory) -> None:
        self._root = base
        self._own: dict[int, Directory] = {}  # directories that nobody else has, by ``id``
        self._last: tuple[bytes, Directory] | None = None  # the directory of the last operation, which is one of them

    @property
    def root(self) -> Directory:
        """The tree as it is now; operations that follow do not change it."""
        self._own.clear()
        self._last = None
        return self._root

    def apply(self, operation: Operation | Record) -> None:
        """Carry out one operation, or what a record says of it.

        ``base``, ``gap`` and ``version`` change nothing. ``DamagedError`` where the tree is not one on which the
        operation can have been done, or the record is damaged; the tree stays as it was then.
        """
        op, path = operation.op, operation.path
        if op in _NO_CHANGE or path is None:
            return
        if op == "rename":
            self._rename(path, operation.was)
        elif op == "delete":
            self._delete(path)
        elif op in _NEW or op in _CHANGED:
            if isinstance(operation, Operation):
                inode = operation.inode
            else:
                inode = None if operation.entry is None else inode_of(operation.entry)
            self._set(op, path, inode, operation.link)
        else:
            raise _impossible(op, path, "no such operation is known")

    def lookup(self, path: bytes) -> Inode | None:
        """What is at ``path`` now; a directory may change with the next operation."""
        return lookup(self._root, path)

    def _set(self, op: str, path: bytes, inode: Inode | None, link: bytes | None) -> None:
        found = self.lookup(path)
        if (found is None) != (op in _NEW):
            raise _impossible(op, path, "it is not there" if found is None else "it is there already")
        if link is None:
            if inode is not None and not isinstance(inode, Directory):
                inode = with_xattrs(inode, inode.xattrs)  # another path may have that object, and this is no link to it
        else:
            inode = self.lookup(link)
            if inode is None or isinstance(inode, Directory):
                raise _impossible(op, path, f"it is a hard link to {path_text(link)}, where no file is")
        if inode is None or not _fits(op, found, inode, link):
            raise _impossible(op, path, "it does not say what is there now")
        if isinstance(inode, Directory):
            self._set_directory(op, path, found, inode)
        else:
            parent, name = self._parent(op, path)
            parent.children[name] = inode

    def _set_directory(self, op: str, path: bytes, found: Inode | None, inode: Directory) -> None:
        """Give the directory at ``path``, which may be a new one, the metadata of ``inode``."""
        if path == b"/":
            directory = self._root = self._owned(self._root)
        else:
            parent, name = self._parent(op, path)
            directory = self._owned(found if isinstance(found, Directory) else inode.with_children({}))
            parent.children[name] = directory
        directory.mode, directory.uid, directory.gid, directory.mtime, directory.xattrs = inode.metadata()

    def _delete(self, path: bytes) -> None:
        found = self.lookup(path)
        if found is None or path == b"/":
            raise _impossible("delete", path, "it is not there")
        if isinstance(found, Directory) and found.children:
            raise _impossible("delete", path, "something is in the directory")
        parent, name = self._parent("delete", path)
        self._forget(found)
        del parent.children[name]

    def _rename(self, path: bytes, was: bytes | None) -> None:
        if was is None or b"/" in (path, was) or path == was or path.startswith(was + b"/"):
            raise _impossible("rename", path, "it does not say what had another name before")
        moved, there = self.lookup(was), self.lookup(path)
        if moved is None:
            raise _impossible("rename", path, f"{path_text(was)} is not there")
        if there is not None and (isinstance(there, Directory) or isinstance(moved, Directory)):
            raise _impossible("rename", path, "it is there already")
        target, name = self._parent("rename", path)
        source, old_name = self._parent("rename", was)
        del source.children[old_name]
        target.children[name] = moved
        if isinstance(moved, Directory):
            self._last = None

    def _forget(self, inode: Inode) -> None:
        if isinstance(inode, Directory):
            self._own.pop(id(inode), None)
            self._last = None

    def _parent(self, op: str, path: bytes) -> tuple[Directory, bytes]:
        """The directory of a path, as one that may be written to, and the name in it."""
        above, _, name = path.rpartition(b"/")
        if self._last is not None and self._last[0] == above:
            return self._last[1], name
        if not name or path[:1] != b"/":
            raise _impossible(op, path, "it is no path of a tree")
        parts = above.split(b"/")[1:] if above else []
        if not isinstance(self.lookup(above), Directory) or b"" in parts:
            raise _impossible(op, path, "the directory that it would be in is not there")
        directory = self._root = self._owned(self._root)
        for part in parts:
            child = directory.children[part]
            assert isinstance(child, Directory)
            directory.children[part] = directory = self._owned(child)
        self._last = above, directory
        return directory, name

    def _owned(self, directory: Directory) -> Directory:
        if id(directory) not in self._own:
            directory = directory.with_children(dict(directory.children))
            self._own[id(directory)] = directory
        return directory


def _fits(op: str, found: Inode | None, inode: Inode, link: bytes | None) -> bool:
    """Whether an operation can put ``inode`` where ``found`` is."""
    kind = stat.S_IFMT(inode.mode)
    if found is not None and stat.S_IFMT(found.mode) != kind:
        return False
    if op == "link":
        return link is not None
    if op in ("create", "write"):
        return isinstance(inode, File)
    if op in ("mkdir", "mtime"):
        return isinstance(inode, Directory)
    if op == "symlink":
        return isinstance(inode, Symlink)
    return op != "special" or not isinstance(inode, (File, Directory, Symlink))


def _impossible(op: str, path: bytes, why: str) -> DamagedError:
    return DamagedError(
        f"the operation {op!r} cannot be carried out on {path_text(path)}: {why}",
        hint="the log of the history does not fit its base; 'stratum fsck' tells more",
    )
