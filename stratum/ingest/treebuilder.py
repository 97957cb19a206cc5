"""The members of an archive become a tree, their contents objects of a transaction. Nothing is unpacked to the disk.

Because the tree is built in memory, a name leads nowhere else: '..' is refused, a leading '/' means the tree's root,
and nothing can be put below a symbolic link. A name that comes again replaces what it was, as when an archive is
extracted. Directories that have no member of their own get mode 0755, owner 0:0 and time 0, or what the base of the
layer has at their path. Of what kind the archive is, is the matter of those who use this (``ingest.tarball``,
``ingest.zipped``, ``ingest.sevenzip``): their members look as those of a tar.

``METADATA_MAX`` bounds the memory for a tree.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator

from stratum.errors import StratumError, UsageError, path_text
from stratum.ingest.attributes import stored_xattrs
from stratum.ingest.staging import IN_MEMORY_MAX
from stratum.store.transaction import Transaction
from stratum.tree import tarheader as tar
from stratum.tree.limits import check_path
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink, lookup
from stratum.tree.tarstream import TarMember

METADATA_MAX = 1 << 30
"""Most bytes that names, link targets and attributes of one tree may have together, with ``_ENTRY_COST`` for each."""

_KNOWN_PARENTS = 1000
_ENTRY_COST = 100
_TEXT_ACL = b"SCHILY.acl."
_IMPLICIT = (stat.S_IFDIR | 0o755, 0, 0, 0)


class TreeBuilder:
    """Builds the tree of an archive that ``what`` names in errors, member by member, its objects staged in ``tx``.

    ``base`` is the tree that it will be a layer over: hard links may lead there. ``devices``: device nodes are taken.
    What is wrong with a member is ``StratumError``, which names it.
    """

    def __init__(self, tx: Transaction, what: str, base: Directory | None, devices: bool) -> None:
        self._tx = tx
        self._what = what
        self._base = base
        self._devices = devices
        self._metadata = 0
        self._parents: dict[bytes, Directory] = {}
        self._acls = 0
        self.root = self._implicit(base)

    def add(self, member: TarMember, data: Iterator[bytes]) -> None:
        """Put one member into the tree."""
        header = member.header
        names = self.names(header.name)
        kind = header.kind
        self._acls += any(keyword.startswith(_TEXT_ACL) for keyword in header.records)
        if kind == tar.DIRECTORY or (kind == tar.REGULAR and header.name.endswith(b"/")):
            self._add_directory(header, names)
            return
        if not names:
            raise self._refused(header.name, "stands for the top of the tree and is no directory")
        parent = self._parent(names, header.name)
        inode = self._linked(header) if kind == tar.HARD_LINK else self._leaf(member, data)
        self._count(header.name, inode)
        if isinstance(parent.children.get(names[-1]), Directory):
            self._parents.clear()
        parent.children[names[-1]] = inode

    def warnings(self) -> list[str]:
        """What was left out, a line each."""
        if not self._acls:
            return []
        return [f"{self._what}: the ACLs of {self._acls} members are left out: they are written as text (tar --acls)"]

    # Names

    def names(self, path: bytes) -> list[bytes]:
        """The names on the way to ``path``. ``StratumError`` where it leads out, or is too long."""
        names = [name for name in path.split(b"/") if name not in (b"", b".")]
        if problem := check_path(len(names) + sum(map(len, names))):
            raise self._refused(path, problem)
        if b".." in names:
            raise self._refused(path, "leads out of the archive with '..'")
        return names

    def _parent(self, names: list[bytes], path: bytes) -> Directory:
        """The directory of an entry; what is missing on the way is made."""
        key = b"/".join(names[:-1])
        found = self._parents.get(key)
        if found is not None:
            return found
        directory, below = self.root, self._base
        for number, name in enumerate(names[:-1]):
            child = directory.children.get(name)
            inner = below.children.get(name) if below is not None else None
            below = inner if isinstance(inner, Directory) else None
            if child is None:
                child = directory.children[name] = self._implicit(below)
                self._count(b"/".join(names[: number + 1]), child)
            elif not isinstance(child, Directory):
                raise self._refused(
                    path, f"is below {path_text(b'/'.join(names[: number + 1]))}, which is no directory"
                )
            directory = child
        if len(self._parents) >= _KNOWN_PARENTS:
            self._parents.clear()
        self._parents[key] = directory
        return directory

    @staticmethod
    def _implicit(below: Directory | None) -> Directory:
        return Directory(*(below.metadata() if below is not None else _IMPLICIT))

    # Entries

    def _add_directory(self, header: tar.TarHeader, names: list[bytes]) -> None:
        common = self._common(header, stat.S_IFDIR)
        if not names:
            directory = self.root
        else:
            parent = self._parent(names, header.name)
            found = parent.children.get(names[-1])
            directory = found if isinstance(found, Directory) else Directory(0, 0, 0, 0)
            parent.children[names[-1]] = directory
        directory.mode, directory.uid, directory.gid, directory.mtime, directory.xattrs = common
        self._count(header.name, directory)

    def _linked(self, header: tar.TarHeader) -> Inode:
        target = b"/".join(self.names(header.linkname))
        inode = lookup(self.root, target)
        if inode is None and self._base is not None:
            inode = lookup(self._base, target)
        if inode is None or isinstance(inode, Directory):
            problem = "which is not in the archive before it" if inode is None else "which is a directory"
            raise self._refused(header.name, f"is a hard link to {path_text(header.linkname)}, {problem}")
        return inode

    def _leaf(self, member: TarMember, data: Iterator[bytes]) -> Inode:
        header = member.header
        if header.kind == tar.REGULAR:
            return self._file(member, data)
        if header.kind == tar.SYMLINK:
            return Symlink(*self._common(header, stat.S_IFLNK, mode=0o777), target=header.linkname)
        if header.kind == tar.FIFO:
            return Special(*self._common(header, stat.S_IFIFO))
        rdev = os.makedev(header.devmajor, header.devminor)
        whiteout = header.kind == tar.CHARACTER_DEVICE and rdev == 0  # no device; a patch deletes with it
        if not (self._devices or whiteout):
            raise StratumError(
                f"{self._what}: {path_text(header.name)} is a device node", hint="take device nodes with --devices"
            )
        kind = stat.S_IFCHR if header.kind == tar.CHARACTER_DEVICE else stat.S_IFBLK
        return Special(*self._common(header, kind), rdev=rdev)

    def _file(self, member: TarMember, data: Iterator[bytes]) -> File:
        common = self._common(member.header, stat.S_IFREG)
        if member.size <= INLINE_MAX:
            return File(*common, size=member.size, content=b"".join(data) or None)
        if member.size <= IN_MEMORY_MAX:
            return File(*common, size=member.size, digest=self._tx.add_bytes(b"".join(data)))
        return File(*common, size=member.size, digest=self._tx.add_pieces(data, member.size))

    def _common(
        self, header: tar.TarHeader, kind: int, mode: int | None = None
    ) -> tuple[int, int, int, int, tuple[tuple[bytes, bytes], ...]]:
        try:
            xattrs = stored_xattrs(header.xattrs)
        except StratumError as exc:
            raise StratumError(f"{self._what}: {path_text(header.name)}: {exc.message}", hint=exc.hint) from None
        permissions = header.mode if mode is None else mode
        return (kind | permissions, header.uid, header.gid, header.mtime, xattrs)

    def _count(self, path: bytes, inode: Inode) -> None:
        """Bound the memory that the tree, and the dump made of it, will need."""
        extra = sum(len(name) + len(value) for name, value in inode.xattrs)
        self._metadata += _ENTRY_COST + len(path) - path.rfind(b"/") + extra
        if isinstance(inode, Symlink):
            self._metadata += len(inode.target)
        if self._metadata > METADATA_MAX:
            raise StratumError(
                f"{self._what} has more names and attributes than fit into {METADATA_MAX} bytes",
                hint="unpack it yourself, and import the directory",
            )

    def _refused(self, path: bytes, problem: str) -> StratumError:
        return UsageError(f"{self._what}: {path_text(path)} {problem}")
