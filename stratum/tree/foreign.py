"""Dumps that somebody else wrote: whatever ``mkcomposefs --from-file`` of composefs 1.0.8 makes an image of.

They may be unsorted, have link counts and backing paths of their own, numbers that are cut to their width, more
inline content than ``INLINE_MAX``, and so on. Two things that mkcomposefs lets pass are refused: hard links to
directories, because the result is no tree, and malformed digests where they matter, because what it then writes
is not in the dump but left over in its memory.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Iterator
from typing import Final, NamedTuple

from stratum.errors import DamagedError
from stratum.tree.escape import unescape
from stratum.tree.limits import (
    NAME_MAX,
    TARGET_MAX,
    XATTR_NAME_MAX,
    XATTR_TEXT_MAX,
    XATTRS_HEADER,
    XATTRS_MAX,
    xattr_size,
)
from stratum.tree.model import Directory, File, ForeignFile, Inode, Special, Symlink, Xattrs, object_path
from stratum.tree.quirks import Quirks

CONTENT_MAX: Final = 5000
_SECOND = 1_000_000_000
_U16 = 0xFFFF
_U32 = 0xFFFFFFFF
_U64 = 0xFFFFFFFFFFFFFFFF
_NLINK_ZERO = 1 << 32  # an explicit count of 0; counts are taken modulo 2**32, and a plain 0 would mean "derive it"
_FIELDS = 11
_DIGITS_MAX = 22  # of a 64-bit number in base 8
_XATTR_CACHE = 4096
# What strtoull(3) takes in the C locale for a field without spaces.
_NUMBER = {10: re.compile(rb"[\t\v\f\r]*([+-]?)([0-9]+)"), 8: re.compile(rb"[\t\v\f\r]*([+-]?)([0-7]+)")}
_DIGEST = re.compile(rb"[0-9a-fA-F]{64}")
_TYPES = frozenset((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, stat.S_IFBLK, stat.S_IFCHR, stat.S_IFSOCK, stat.S_IFIFO))


class ForeignTree(NamedTuple):
    """A tree and what the dump says of it that a tree cannot; ``write_image`` takes both."""

    root: Directory
    quirks: Quirks


def read_foreign_dump(dump: bytes) -> ForeignTree:
    """The tree that a composefs-dump(5) file describes; ``DamagedError`` naming the line where it is none."""
    return _Reader().read(dump)


class _HardLink(Inode):
    """Stands in a directory until all lines are read and its target can be looked up."""

    __slots__ = ("line", "target", "visited", "where")

    def __init__(self, where: tuple[Directory, bytes], target: bytes | None, line: int) -> None:
        super().__init__(0, 0, 0, 0)
        self.where = where
        self.target = target
        self.line = line
        self.visited = False


class _Line(NamedTuple):
    """The fields of a line that make an inode."""

    size: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    time: tuple[int, int]
    payload: bytes | None
    content: bytes | None
    digest: bytes | None
    xattrs: Xattrs


class _Reader:
    def __init__(self) -> None:
        self._root: Directory | None = None
        self._parents: dict[bytes, Directory] = {}  # by the path as written, up to and with its last slash
        self._links: list[_HardLink] = []
        self._linked: dict[int, _Linked] = {}
        self._xattrs: dict[bytes, Xattrs] = {b"": ()}
        self._quirks = Quirks()

    def read(self, dump: bytes) -> ForeignTree:
        number = 1
        try:
            for number, line in enumerate(_lines(dump), 1):
                self._add(line, number)
            if self._root is None:
                raise DamagedError("is missing: the dump is empty")
            for link in self._links:
                number = link.line
                if not link.visited:
                    self._resolve(link)
        except DamagedError as exc:
            raise DamagedError(f"line {number} of the dump {exc.message}") from None
        for linked in self._linked.values():
            declared = linked.inode.nlink or 1
            linked.inode.nlink = 0 if declared == linked.links + 1 else declared
        return ForeignTree(self._root, self._quirks)

    def _add(self, line: bytes, number: int) -> None:
        if b"\0" in line:
            raise DamagedError("has a NUL byte")
        fields = line.split(b" ", _FIELDS)
        missing = _FIELDS - len(fields)
        if missing > 0:
            fields += [b""] * missing
        path = _string(fields[0])
        if not path:
            raise DamagedError("has no path")
        mode_field = fields[2]
        is_link = mode_field.startswith(b"@")
        mode = _number(mode_field[1:] if is_link else mode_field, 8) & _U32
        if stat.S_IFMT(mode) not in _TYPES:
            raise DamagedError("has a mode without a file type")
        if path == b"/":
            if stat.S_IFMT(mode) != stat.S_IFDIR or is_link:
                raise DamagedError("has a root that is no directory")
            if self._root is not None:
                raise DamagedError("is the second root directory")
            root = self._inode(fields, mode)
            assert isinstance(root, Directory), "by its mode"
            self._root = root
            return
        parent, name = self._place(path)
        if not is_link:
            parent.children[name] = self._inode(fields, mode)
            return
        if stat.S_IFMT(mode) == stat.S_IFDIR:
            raise DamagedError("is a hard link that is a directory")
        link = _HardLink((parent, name), _optional_string(fields[8]), number)
        parent.children[name] = link
        self._links.append(link)

    def _place(self, path: bytes) -> tuple[Directory, bytes]:
        """The directory that an entry goes into and its name there."""
        if self._root is None:
            raise DamagedError("comes before the root directory")
        cut = path.rfind(b"/") + 1
        parent = self._directory(path[:cut])
        if parent is None:
            raise DamagedError("has no parent directory above it")
        name = path[cut:]
        if not name or name in (b".", b"..") or len(name) > NAME_MAX:
            raise DamagedError(f"has a name of {len(name)} bytes that is not valid")
        if name in parent.children:
            raise DamagedError("is there twice")
        return parent, name

    def _directory(self, prefix: bytes) -> Directory | None:
        """The directory that a path's beginning, which ends with a slash or is empty, stands for."""
        known = self._parents.get(prefix)
        if known is not None:
            return known
        inode: Inode | None = self._root
        for name in prefix.split(b"/"):
            if name:
                inode = inode.children.get(name) if isinstance(inode, Directory) else None
        if not isinstance(inode, Directory):
            return None
        self._parents[prefix] = inode
        return inode

    def _inode(self, fields: list[bytes], mode: int) -> Inode:
        line = self._parse(fields, mode)
        kind = stat.S_IFMT(mode)
        seconds, nanoseconds = line.time
        nlink = 0 if line.nlink == 1 or kind == stat.S_IFDIR else line.nlink or _NLINK_ZERO
        common = (mode & _U16, line.uid, line.gid, seconds * _SECOND + nanoseconds, line.xattrs, nlink)
        inode: Inode
        if kind == stat.S_IFREG:
            inode = _file(line, common)
        elif kind == stat.S_IFDIR:
            inode = Directory(*common)
        elif kind == stat.S_IFLNK:
            assert line.payload, "checked by _parse"
            inode = Symlink(*common, target=line.payload)
        else:
            device = kind in (stat.S_IFCHR, stat.S_IFBLK)
            inode = Special(*common, rdev=line.rdev if device else 0)
            if line.size:
                self._quirks.sizes[id(inode)] = line.size
        if nanoseconds >= _SECOND:
            self._quirks.times[id(inode)] = line.time
        return inode

    def _parse(self, fields: list[bytes], mode: int) -> _Line:
        size, nlink, uid = _number(fields[1]), _number(fields[3]), _number(fields[4])
        # mkcomposefs looks at the user ID to see whether the two that follow it are numbers.
        gid, rdev = (_number(field, default=0 if uid else None) for field in (fields[5], fields[6]))
        payload, content, digest = (
            _optional_string(fields[8]),
            None if fields[9] == b"-" else unescape(fields[9]),
            _optional_string(fields[10]),
        )
        if content is not None and len(content) != size:
            raise DamagedError(f"has content of {len(content)} bytes but a size of {size}")
        if payload is not None and len(payload) > TARGET_MAX:
            raise DamagedError(f"has a payload of {len(payload)} bytes; {TARGET_MAX} is the limit")
        if stat.S_IFMT(mode) == stat.S_IFLNK:
            if not payload:
                raise DamagedError("is a symbolic link without a target")
        elif content is not None and size > CONTENT_MAX:
            raise DamagedError(f"has content of {size} bytes; {CONTENT_MAX} is the limit")
        time = _time(fields[7])
        text = fields[_FIELDS] if len(fields) > _FIELDS else b""
        xattrs = self._xattrs.get(text)
        if xattrs is None:
            if len(self._xattrs) >= _XATTR_CACHE:
                self._xattrs = {b"": ()}
            xattrs = self._xattrs[text] = _read_xattrs(text)
        return _Line(
            size, mode, nlink & _U32, uid & _U32, gid & _U32, rdev & _U32, time, payload, content, digest, xattrs
        )

    def _resolve(self, link: _HardLink) -> None:
        """Put what a hard link leads to, over other hard links maybe, in its place and in theirs."""
        chain: list[_HardLink] = []
        inode: Inode = link
        while isinstance(inode, _HardLink):
            if inode.visited:
                raise DamagedError("is a hard link that leads to itself")
            inode.visited = True
            chain.append(inode)
            inode = self._target(inode)
        if isinstance(inode, Directory):
            raise DamagedError("is a hard link to a directory")
        for step in chain:
            directory, name = step.where
            directory.children[name] = inode
            self._quirks.link_names.add((id(directory), name))
        self._linked.setdefault(id(inode), _Linked(inode)).links += len(chain)

    def _target(self, link: _HardLink) -> Inode:
        if link.target is None:
            raise DamagedError("is a hard link without a target")
        path = link.target.rstrip(b"/")
        cut = path.rfind(b"/") + 1
        parent = self._directory(path[:cut])
        if not path:
            assert self._root is not None, "links are resolved last"
            return self._root
        inode = None if parent is None else parent.children.get(path[cut:])
        if inode is None:
            raise DamagedError("is a hard link to nothing")
        return inode


class _Linked:
    """An inode that hard links lead to, and how many."""

    __slots__ = ("inode", "links")

    def __init__(self, inode: Inode) -> None:
        self.inode = inode
        self.links = 0


def _lines(dump: bytes) -> Iterator[bytes]:
    """The lines without their newlines; the last may have none."""
    start = 0
    while start < len(dump):
        end = dump.find(b"\n", start)
        if end < 0:
            end = len(dump)
        yield dump[start:end]
        start = end + 1


def _string(field: bytes) -> bytes:
    """An escaped field that is a C string: it ends at an escaped NUL."""
    return unescape(field).partition(b"\0")[0] if b"\\" in field else field


def _optional_string(field: bytes) -> bytes | None:
    return None if field == b"-" else _string(field)


def _number(field: bytes, base: int = 10, *, default: int | None = None) -> int:
    """A 64-bit number; negative ones wrap around, larger ones are cut to the largest. ``default`` for no number."""
    if field.isdigit() and base == 10 and len(field) < 20:
        return int(field)
    match = _NUMBER[base].fullmatch(field)
    if match is None:
        if default is None:
            raise DamagedError(f"has {field[:40].decode('ascii', 'backslashreplace')!r} instead of a number")
        return default
    digits = match[2].lstrip(b"0")
    value = int(digits or b"0", base) if len(digits) <= _DIGITS_MAX else _U64 + 1
    if value > _U64:
        return _U64
    return -value & _U64 if match[1] == b"-" else value


def _time(field: bytes) -> tuple[int, int]:
    seconds, _, nanoseconds = field.partition(b".")
    unsigned = _number(seconds)
    return (unsigned ^ 1 << 63) - (1 << 63), _number(nanoseconds) & _U32


def _file(line: _Line, common: tuple[int, int, int, int, Xattrs, int]) -> File:
    digest, payload, content = None, line.payload, line.content or None
    if content is not None or not line.size:
        return File(*common, size=line.size, content=content)
    if line.digest is not None:
        match = _DIGEST.match(line.digest)
        if match is None:
            raise DamagedError("has a malformed digest")
        digest = bytes.fromhex(match[0].decode("ascii"))
        if payload == object_path(digest):
            return File(*common, size=line.size, digest=digest)
    return ForeignFile(*common, size=line.size, digest=digest, payload=payload)


def _read_xattrs(text: bytes) -> Xattrs:
    """The extended attributes, the last of each name, sorted."""
    if len(text) > XATTR_TEXT_MAX:
        raise DamagedError(f"has extended attributes of more than {XATTR_TEXT_MAX} bytes")
    fields = text.split(b" ")
    if not fields[-1]:  # one space at the end
        fields.pop()
    pairs: dict[bytes, bytes] = {}
    size = XATTRS_HEADER
    for field in fields:
        escaped, equals, value_field = field.partition(b"=")
        if not equals:
            raise DamagedError("has an extended attribute without '='")
        name, value = _string(escaped), unescape(value_field)
        if not 0 < len(name) <= XATTR_NAME_MAX:
            raise DamagedError(f"has an extended attribute with a name of {len(name)} bytes")
        old = pairs.pop(name, None)
        size += xattr_size(name, value) - (0 if old is None else xattr_size(name, old))
        if size > XATTRS_MAX:
            raise DamagedError(f"has extended attributes of more than {XATTRS_MAX} bytes")
        pairs[name] = value
    return tuple(sorted(pairs.items()))
