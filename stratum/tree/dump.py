"""The canonical dump: a tree as composefs-dump(5) text.

One line an entry, depth-first, names in byte order::

    PATH SIZE MODE NLINK UID GID RDEV MTIME PAYLOAD CONTENT DIGEST [XATTR=VALUE ...]

Canonical means: escapes as composefs-info writes them, size 0 for everything but regular files and symlinks (there the
length of the target), derived link counts, xattrs sorted by name, the first name of a hard-linked inode in dump order
carries it and the others are ``@`` lines, files of at most ``INLINE_MAX`` bytes are inline and all others are objects.
Equal trees have equal dumps, byte for byte, and every dump has an image: what composefs refuses is refused here.
"""

from __future__ import annotations

import re
import stat
from collections.abc import Container, Iterator, Mapping
from typing import NamedTuple

from stratum.errors import DamagedError, StratumError, UnsupportedError
from stratum.tree.escape import (
    escape,
    escape_optional,
    escape_xattrs_text,
    unescape,
)
from stratum.tree.limits import (
    FILE_SIZE_MAX,
    TARGET_MAX,
    XATTR_TEXT_MAX,
    check_inode,
    check_name,
    check_whiteout_marks,
    check_xattrs,
)
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink, Xattrs

_SECOND = 1_000_000_000
_NO_DATA = (b"-", b"-", b"-")
_SHOWN_MAX = 1000


class Span(NamedTuple):
    """Bytes ``start`` to ``end`` of another dump: whole lines."""

    start: int
    end: int


Piece = bytes | Span
"""Some lines of a dump: new ones, or what another has."""

NOTHING_KEPT: Mapping[int, Span] = {}
NOTHING_READ: Mapping[int, tuple[Span, Inode]] = {}


def write_dump(root: Directory) -> bytes:
    """The canonical dump of the tree at ``root``.

    ``UnsupportedError`` naming the path where the tree holds something that no commit can (``tree.limits``).
    """
    (dump,) = dump_pieces(root)
    assert isinstance(dump, bytes)
    return dump


def dump_pieces(
    root: Directory,
    kept: Mapping[int, Span] = NOTHING_KEPT,
    lines_of: Mapping[int, tuple[Span, Inode]] = NOTHING_READ,
    other: bytes = b"",
) -> list[Piece]:
    """The canonical dump in pieces, of which no two neighbours could be one. ``UnsupportedError`` as ``write_dump``.

    ``kept`` has the lines in another dump, ``other``, of those directories, with all below, that need not be looked
    into (``tree.splice``), by ``id``; ``lines_of`` has those of inodes with one name there (``tree.lazy``).
    """
    if id(root) in kept:
        return [kept[id(root)]]
    links = count_links(root, kept)
    first_path: dict[int, bytes] = {}
    lines: list[bytes] = []
    pieces: list[Piece] = []

    def add(path: bytes, inode: Inode) -> None:
        if type(inode) is Directory:
            lines.append(_line(path, inode, directory_nlink(inode), None))
            return
        key = id(inode)
        nlink = links.get(key, 1)
        target = None
        if nlink > 1:
            target = first_path.get(key)
            if target is None:
                first_path[key] = path
        lines.append(_line(path, inode, nlink, target))

    add(b"/", root)
    stack: list[tuple[bytes, Directory, Iterator[bytes]]] = [(b"/", root, iter(sorted(root.children)))]
    while stack:
        prefix, directory, names = stack[-1]
        for name in names:
            inode = directory.children[name]
            path = prefix + escape(name)
            span = kept.get(id(inode)) or _line_in(other, lines_of, path, inode, links)
            if span is not None:
                _add_lines(pieces, lines)
                _add_span(pieces, span)
                continue
            if problem := check_name(name):
                raise _cannot_store(path, problem)
            add(path, inode)
            if type(inode) is Directory:
                stack.append((path + b"/", inode, iter(sorted(inode.children))))
                break
        else:
            if problem := check_whiteout_marks(directory):
                raise _cannot_store(prefix, problem)
            stack.pop()
    _add_lines(pieces, lines)
    return pieces


def _line_in(
    other: bytes, lines_of: Mapping[int, tuple[Span, Inode]], path: bytes, inode: Inode, links: Mapping[int, int]
) -> Span | None:
    """The line of an inode in another dump, where it has the same path there and just that name in both."""
    found = lines_of.get(id(inode))
    if found is None or id(inode) in links or not other.startswith(path + b" ", found[0].start):
        return None
    return found[0]


def _add_lines(pieces: list[Piece], lines: list[bytes]) -> None:
    """Make the lines so far, which are forgotten, a piece."""
    if lines:
        lines.append(b"")
        pieces.append(b"\n".join(lines))
        lines.clear()


def _add_span(pieces: list[Piece], span: Span) -> None:
    last = pieces[-1]
    if isinstance(last, Span) and last.end == span.start:
        pieces[-1] = Span(last.start, span.end)
    else:
        pieces.append(span)


def directory_nlink(directory: Directory) -> int:
    """The derived link count of a directory: 2 and one for each subdirectory."""
    return 2 + sum(type(child) is Directory for child in directory.children.values())


def count_links(root: Directory, left_out: Container[int] = ()) -> dict[int, int]:
    """``id(inode)`` -> number of names, for every non-directory with more than one name.

    Directories whose ``id`` is in ``left_out`` are not looked into.
    """
    seen: set[int] = set()
    links: dict[int, int] = {}
    stack = [root] if id(root) not in left_out else []
    while stack:
        for inode in stack.pop().children.values():
            key = id(inode)
            if type(inode) is Directory:
                if key not in left_out:
                    stack.append(inode)
                continue
            if key in seen:
                links[key] = links.get(key, 1) + 1
            else:
                seen.add(key)
    return links


def _shown(path: bytes) -> str:
    """An escaped path for a message."""
    text = path.decode("ascii")
    return text if len(text) <= _SHOWN_MAX else f"{text[:_SHOWN_MAX]}..."


def _cannot_store(path: bytes, problem: str) -> UnsupportedError:
    return UnsupportedError(f"{_shown(path)} {problem}", hint="a commit cannot hold it")


def _line(path: bytes, inode: Inode, nlink: int, link_target: bytes | None) -> bytes:
    """One line; ``path`` and ``link_target`` (None unless this is a further hard link) are escaped already."""
    if problem := check_inode(inode):
        raise _cannot_store(path, problem)
    size = rdev = 0
    payload = content = digest = b"-"
    if isinstance(inode, File):
        size = inode.size
        if inode.digest is not None:
            digest = inode.digest.hex().encode()
            payload = digest[:2] + b"/" + digest[2:]
        elif inode.content is not None:
            content = escape_optional(inode.content)
    elif isinstance(inode, Symlink):
        size = len(inode.target)
        payload = escape_optional(inode.target)
    elif isinstance(inode, Special):
        rdev = inode.rdev
    seconds, nanoseconds = divmod(inode.mtime, _SECOND)
    at = b""
    if link_target is not None:
        at, payload = b"@", link_target
    text = b"%b %d %b%o %d %d %d %d %d.%d %b %b %b" % (
        path,
        size,
        at,
        inode.mode,
        nlink,
        inode.uid,
        inode.gid,
        rdev,
        seconds,
        nanoseconds,
        payload,
        content,
        digest,
    )
    if not inode.xattrs:
        return text
    xattrs = escape_xattrs_text(inode.xattrs)
    if len(xattrs) > XATTR_TEXT_MAX:
        raise _cannot_store(
            path, f"has extended attributes of {len(xattrs)} bytes as text; {XATTR_TEXT_MAX} is the limit"
        )
    return text + b" " + xattrs


def read_dump(dump: bytes) -> Directory:
    """The tree that a canonical dump describes.

    Anything but a canonical dump of a commit's tree is refused with ``DamagedError`` naming the line: what this
    returns, ``write_dump`` turns back into exactly ``dump``. Time and memory are linear in the size of the dump,
    whatever is in it.
    """
    return _Reader().read(dump)


_NUMBER = rb"(0|[1-9][0-9]{0,9})"
LINE = re.compile(
    rb"([!-~]+) (0|[1-9][0-9]{0,15}) (@?)([1-7][0-7]{4,5}) ([1-9][0-9]{0,9}) "  # path, size, mode, links
    + rb" ".join([_NUMBER] * 3)  # uid, gid, rdev
    + rb" ((?:0|-?[1-9][0-9]{0,18})\.(?:0|[1-9][0-9]{0,8})) ([!-~]+) ([!-~]+) ([!-~]+)(?: ([ -~]+))?\n"
)
_XATTR_CACHE = 4096

# The most frequent line: a file with an object, one name, and neither extended attributes nor escapes in its name. What
# is captured: directory, name, size, all from mode to device number, seconds, nanoseconds, digest.
_PLAIN_FILE = re.compile(
    rb"([!-~]*/)([!-\-0-\[\]-~][!-.0-\[\]-~]{0,254}) ([1-9][0-9]{1,15}) "
    rb"(10[0-7]{4} 1 (?:0|[1-9][0-9]{0,8}) (?:0|[1-9][0-9]{0,8}) 0) "
    rb"([1-9][0-9]{0,10})\.(0|[1-9][0-9]{0,8}) ([0-9a-f]{2})/([0-9a-f]{62}) - \7\8\n"
)


class _Open:
    """A directory whose entries are being read; ``prefix`` is its escaped path with a slash behind it."""

    __slots__ = ("children", "directory", "last", "nlink", "prefix", "subdirectories")

    def __init__(self, prefix: bytes, directory: Directory, nlink: int) -> None:
        self.prefix = prefix
        self.directory = directory
        self.children = directory.children
        self.nlink = nlink
        self.subdirectories = 0
        self.last = b""


class _Linked:
    """An inode with several names: its line without the payload, and how many of its names were read."""

    __slots__ = ("fields", "inode", "names")

    def __init__(self, inode: Inode, fields: tuple[bytes, ...]) -> None:
        self.inode = inode
        self.fields = fields
        self.names = 1


class InodeReader:
    """What is between the path and the end of a line, as an inode."""

    def __init__(self) -> None:
        self._modes: dict[bytes, tuple[int, int]] = {}
        self._xattrs: dict[bytes, Xattrs] = {}

    def read(self, fields: tuple[bytes, ...]) -> Inode:
        """The inode of a line, from the groups of ``LINE``; ``DamagedError`` without saying which line."""
        mode, kind = self._modes.get(fields[3]) or self._mode(fields[3])
        uid, gid, rdev = int(fields[5]), int(fields[6]), int(fields[7])
        if uid >> 32 or gid >> 32 or rdev >> 32:
            raise DamagedError("has a user, group or device number beyond 32 bits")
        seconds, _, nanoseconds = fields[8].partition(b".")
        mtime = int(seconds) * _SECOND + int(nanoseconds)
        if len(seconds) > 18 and not -(1 << 63) <= int(seconds) < 1 << 63:
            raise DamagedError("has a modification time beyond 64 bits")
        text = fields[12]
        xattrs = () if text is None else self._xattrs.get(text) or self._read_xattrs(text)
        if kind == stat.S_IFREG:
            return _read_file(fields, mode, uid, gid, mtime, xattrs)
        if kind == stat.S_IFLNK:
            return _read_symlink(fields, mode, uid, gid, mtime, xattrs)
        if fields[9:12] != _NO_DATA or fields[1] != b"0":
            raise DamagedError("has data of a regular file but is none")
        if kind == stat.S_IFDIR and not rdev:
            return Directory(mode, uid, gid, mtime, xattrs)
        special = Special(mode, uid, gid, mtime, xattrs, rdev=rdev)
        if problem := check_inode(special):
            raise DamagedError(problem)
        return special

    def _mode(self, field: bytes) -> tuple[int, int]:
        mode = int(field, 8)
        if mode >> 16:
            raise DamagedError("has a mode beyond 16 bits")
        self._modes[field] = mode, stat.S_IFMT(mode)
        return self._modes[field]

    def _read_xattrs(self, text: bytes) -> Xattrs:
        if len(text) > XATTR_TEXT_MAX:
            raise DamagedError(f"has extended attributes of more than {XATTR_TEXT_MAX} bytes")
        pairs = []
        for field in text.split(b" "):
            name, equals, value = field.partition(b"=")
            if not equals:
                raise DamagedError("has an extended attribute without '='")
            pairs.append((unescape(name), unescape(value)))
        xattrs = tuple(pairs)
        if escape_xattrs_text(xattrs) != text:
            raise DamagedError("has an escape that is not in canonical form")
        if problem := check_xattrs(xattrs):
            raise DamagedError(problem)
        if len(self._xattrs) >= _XATTR_CACHE:
            self._xattrs.clear()
        self._xattrs[text] = xattrs
        return xattrs


class _Reader:
    """Reads canonical lines in their one order, so that each is checked against the one before it."""

    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._linked: dict[bytes, _Linked] = {}  # by escaped path
        self._inode = InodeReader().read
        self._metadata: dict[bytes, tuple[int, int, int]] = {}  # mode, owner and group by their text

    def read(self, dump: bytes) -> Directory:
        match = LINE.match
        position, size, number = 0, len(dump), 1
        try:
            found = match(dump, position)
            if found is None:
                raise DamagedError("is not one of a dump" if dump else "is missing: the dump is empty")
            root = self._root(found.groups())
            position = found.end()
            while position < size:
                position, plain = self._plain_files(dump, position)
                number += plain
                if position == size:
                    break
                number += 1
                found = match(dump, position)
                if found is None:
                    raise DamagedError("is not in canonical form")
                self._entry(found.groups())
                position = found.end()
            while self._stack:
                self._close()
        except StratumError as exc:
            raise DamagedError(f"line {number} of the dump {exc.message}", hint=_HINT) from None
        for path, linked in self._linked.items():
            if linked.names != int(linked.fields[2]):
                raise DamagedError(f"the dump has not all names of the hard-linked {_shown(path)}", hint=_HINT)
        return root

    def _root(self, fields: tuple[bytes, ...]) -> Directory:
        root = self._inode(fields)
        if fields[0] != b"/" or fields[2] or not isinstance(root, Directory):
            raise DamagedError("is not the root directory")
        self._stack.append(_Open(b"/", root, int(fields[4])))
        return root

    def _plain_files(self, dump: bytes, position: int) -> tuple[int, int]:
        """Read lines of ``_PLAIN_FILE`` as ``_entry`` would, as far as they follow one another in the innermost
        directory and nothing is wrong with them; (where the first other line begins, how many)."""
        parent, known, match, number = self._stack[-1], self._metadata, _PLAIN_FILE.match, 0
        children, last = parent.children, parent.last
        while (found := match(dump, position)) is not None:
            prefix, name, size_text, text, seconds, nanoseconds, shard, rest = found.groups()
            size, metadata = int(size_text), known.get(text)
            if prefix != parent.prefix or name <= last or not INLINE_MAX < size <= FILE_SIZE_MAX:
                break
            if metadata is None:
                mode, _, uid, gid, _ = text.split(b" ")
                metadata = known[text] = int(mode, 8), int(uid), int(gid)
            mtime = int(seconds) * _SECOND + int(nanoseconds)
            children[name] = File(*metadata, mtime, size=size, digest=bytes.fromhex((shard + rest).decode("ascii")))
            last, position, number = name, found.end(), number + 1
        parent.last = last
        return position, number

    def _entry(self, fields: tuple[bytes, ...]) -> None:
        path = fields[0]
        cut = path.rfind(b"/") + 1
        prefix = path[:cut]
        stack = self._stack
        while stack[-1].prefix != prefix:
            self._close()
            if not stack:
                raise DamagedError("has no parent directory above it, or is out of order")
        parent = stack[-1]
        name = _canonical(path[cut:])
        if problem := check_name(name):
            raise DamagedError(problem)
        if name <= parent.last:
            raise DamagedError("is out of order or there twice")
        parent.last = name
        if fields[2]:
            parent.children[name] = self._link(fields)
            return
        inode = parent.children[name] = self._inode(fields)
        if type(inode) is Directory:
            parent.subdirectories += 1
            stack.append(_Open(path + b"/", inode, int(fields[4])))
        elif fields[4] != b"1":
            self._linked[path] = _Linked(inode, fields[1:2] + fields[3:9] + fields[10:])

    def _close(self) -> None:
        """The last entry of the innermost directory was read."""
        directory = self._stack.pop()
        if directory.nlink != 2 + directory.subdirectories:
            raise DamagedError(f"ends {_shown(directory.prefix)}, whose link count does not match it")
        if problem := check_whiteout_marks(directory.directory):
            raise DamagedError(f"ends {_shown(directory.prefix)}, which {problem}")

    def _link(self, fields: tuple[bytes, ...]) -> Inode:
        linked = self._linked.get(fields[9])
        if linked is None:
            raise DamagedError("is a hard link to nothing above it")
        if linked.fields != fields[1:2] + fields[3:9] + fields[10:]:
            raise DamagedError("differs from the file that it is a hard link to")
        linked.names += 1
        return linked.inode


_HINT = "Stratum did not write it"


def _canonical(field: bytes) -> bytes:
    """Unescape a field that is not optional."""
    if b"\\" not in field:
        return field
    value = unescape(field)
    if escape(value) != field:
        raise DamagedError("has an escape that is not in canonical form")
    return value


def _canonical_optional(field: bytes) -> bytes | None:
    """Unescape an optional field."""
    if field == b"-":
        return None
    value = unescape(field)
    if escape_optional(value) != field:
        raise DamagedError("has an escape that is not in canonical form")
    return value


def _read_file(fields: tuple[bytes, ...], mode: int, uid: int, gid: int, mtime: int, xattrs: Xattrs) -> File:
    size = int(fields[1])
    payload, content_field, digest = fields[9:12]
    if fields[7] != b"0":
        raise DamagedError("has a device number but is no device")
    if size <= INLINE_MAX:
        content = _canonical_optional(content_field)
        if payload != b"-" or digest != b"-" or len(content or b"") != size:
            raise DamagedError(f"is a file of {size} bytes without just that as its content")
        return File(mode, uid, gid, mtime, xattrs, size=size, content=content)
    if size > FILE_SIZE_MAX:
        raise DamagedError(f"is a file of {size} bytes; {FILE_SIZE_MAX} is the limit")
    if content_field != b"-" or len(digest) != 64 or payload[:2] + payload[3:] != digest or payload[2:3] != b"/":
        raise DamagedError(f"is a file of {size} bytes without just an object as its content")
    try:
        raw = bytes.fromhex(digest.decode("ascii"))
    except ValueError:
        raise DamagedError("has a malformed digest") from None
    if digest != digest.lower():
        raise DamagedError("has a digest in capitals")
    return File(mode, uid, gid, mtime, xattrs, size=size, digest=raw)


def _read_symlink(fields: tuple[bytes, ...], mode: int, uid: int, gid: int, mtime: int, xattrs: Xattrs) -> Symlink:
    target = _canonical_optional(fields[9])
    if target is None or b"\0" in target or len(target) > TARGET_MAX:
        raise DamagedError(f"is a symbolic link without a target of 1 to {TARGET_MAX} bytes")
    if fields[10] != b"-" or fields[11] != b"-" or fields[7] != b"0" or int(fields[1]) != len(target):
        raise DamagedError("is a symbolic link with more than a target, or of another size")
    return Symlink(mode, uid, gid, mtime, xattrs, target=target)
