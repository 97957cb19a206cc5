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
from binascii import unhexlify
from collections.abc import Container, Iterator, Mapping

from stratum.errors import DamagedError, StratumError, UnsupportedError, path_text
from stratum.tree.blocks import BLOCK_SIZE, Blocks, Span
from stratum.tree.escape import (
    escape,
    escape_optional,
    escape_xattrs_text,
    unescape,
)
from stratum.tree.limits import (
    FILE_SIZE_MAX,
    NAME_MAX,
    PATH_MAX,
    TARGET_MAX,
    XATTR_TEXT_MAX,
    check_inode,
    check_name,
    check_path,
    check_whiteout_marks,
    check_xattrs,
)
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink, Xattrs

_SECOND = 1_000_000_000
_NO_DATA = (b"-", b"-", b"-")


Piece = bytes | Span
"""Some lines of a dump: new ones, or what another has."""

NOTHING_KEPT: Mapping[int, Span] = {}
NOTHING_READ: Mapping[int, tuple[int, int, Inode]] = {}


def write_dump(root: Directory) -> bytes:
    """The canonical dump of the tree at ``root``.

    ``UnsupportedError`` naming the path where the tree holds something that no commit can (``tree.limits``).
    """
    return b"".join(piece for piece in dump_pieces(root) if isinstance(piece, bytes))


def dump_pieces(
    root: Directory,
    kept: Mapping[int, Span] = NOTHING_KEPT,
    lines_of: Mapping[int, tuple[int, int, Inode]] = NOTHING_READ,
    other: bytes = b"",
) -> Iterator[Piece]:
    """The canonical dump in pieces: new lines, about ``BLOCK_SIZE`` bytes at a time, and spans, of which no two
    neighbours could be one. ``UnsupportedError`` as ``write_dump``.

    ``kept`` has the lines in another dump, ``other``, of those directories, with all below, that need not be looked
    into (``tree.splice``), by ``id``; ``lines_of`` has those of inodes with one name there (``tree.lazy``).
    """
    if id(root) in kept:
        yield kept[id(root)]
        return
    links = count_links(root, kept)
    first: dict[int, tuple[bytes, bytes]] = {}  # of an inode with several names: directory's prefix, escaped name
    pieces = _Pieces()

    def add(prefix: bytes, name: bytes, inode: Inode) -> None:
        key, target = id(inode), None
        if type(inode) is Directory:
            nlink = directory_nlink(inode)
        elif (nlink := links.get(key, 1)) > 1:
            place = first.setdefault(key, (prefix, name))
            target = None if place == (prefix, name) else b"".join(place)
        pieces.add_line(_line(prefix + name, inode, nlink, target))

    add(b"/", b"", root)
    stack: list[tuple[bytes, int, Directory, Iterator[bytes]]] = [(b"/", 1, root, iter(sorted(root.children)))]
    while stack:
        prefix, length, directory, names = stack[-1]
        children = directory.children
        for name in names:
            inode = children[name]
            line = lines_of.get(id(inode))
            if line is not None and id(inode) not in links and _is_at(other, line[0], prefix, name):  # as are most
                pieces.add_span(line[0], line[1])
                continue
            escaped = escape(name)
            span = kept.get(id(inode)) or _line_in(other, lines_of, prefix + escaped, inode, links)
            if span is not None:
                pieces.add_span(*span)
                continue
            if problem := check_name(name) or check_path(length + len(name)):
                raise _cannot_store(prefix + escaped, problem)
            add(prefix, escaped, inode)
            if type(inode) is Directory:
                below = prefix + escaped + b"/"
                stack.append((below, length + len(name) + 1, inode, iter(sorted(inode.children))))
                break
            if pieces.done:
                yield from pieces.take()
        else:
            if problem := check_whiteout_marks(directory):
                raise _cannot_store(prefix, problem)
            stack.pop()
        yield from pieces.take()
    yield from pieces.rest()


class _Pieces:
    """What was made of a dump and not handed on yet."""

    def __init__(self) -> None:
        self.done: list[Piece] = []
        """Pieces that nothing can be added to."""
        self._lines: list[bytes] = []
        self._size = 0
        self._start = self._end = -1  # of a span

    def add_line(self, line: bytes) -> None:
        self._end_span()
        self._lines.append(line)
        self._size += len(line)
        if self._size >= BLOCK_SIZE:
            self._end_lines()

    def add_span(self, start: int, end: int) -> None:
        if self._end != start:
            self._end_lines()
            self._end_span()
            self._start = start
        self._end = end

    def take(self) -> list[Piece]:
        """The pieces that are done, which are forgotten."""
        done, self.done = self.done, []
        return done

    def rest(self) -> list[Piece]:
        """The last pieces."""
        self._end_lines()
        self._end_span()
        return self.take()

    def _end_lines(self) -> None:
        if self._lines:
            self._lines.append(b"")
            self.done.append(b"\n".join(self._lines))
            self._lines.clear()
            self._size = 0

    def _end_span(self) -> None:
        if self._end >= 0:
            self.done.append(Span(self._start, self._end))
            self._start = self._end = -1


def _is_at(other: bytes, start: int, prefix: bytes, name: bytes) -> bool:
    """Whether the line that begins there is of ``name``, one without escapes, in the directory of ``prefix``."""
    return other.startswith(b"%b%b " % (prefix, name), start) and b" " not in name and b"\\" not in name


def _line_in(
    other: bytes, lines_of: Mapping[int, tuple[int, int, Inode]], path: bytes, inode: Inode, links: Mapping[int, int]
) -> Span | None:
    """The line of an inode in another dump, where it has the same path there and just that name in both."""
    found = lines_of.get(id(inode))
    if found is None or id(inode) in links or not other.startswith(path + b" ", found[0]):
        return None
    return Span(found[0], found[1])


def directory_nlink(directory: Directory) -> int:
    """The derived link count of a directory: 2 and one for each subdirectory."""
    return 2 + sum(type(child) is Directory for child in directory.children.values())


_MARKS = 1 << 20
_PLACE = (_MARKS << 7) - 16
"""The bits of an address that have a mark of their own: nodes are 16 bytes or more apart."""


def count_links(root: Directory, left_out: Container[int] = ()) -> dict[int, int]:
    """``id(inode)`` -> number of names, for every non-directory with more than one name.

    Directories whose ``id`` is in ``left_out`` are not looked into.
    """
    # A bit for each place in memory where a node may be, which few share: a set of all nodes would take a hundred bytes
    # for each.
    marks, shared = bytearray(_MARKS), set[int]()
    for key in _ids(root, left_out):
        mark, bit = key >> 7 & _MARKS - 1, 1 << (key >> 4 & 7)
        if marks[mark] & bit:
            shared.add(key & _PLACE)
        else:
            marks[mark] |= bit
    if not shared:
        return {}
    counts: dict[int, int] = {}
    for key in _ids(root, left_out):
        if key & _PLACE in shared:
            counts[key] = counts.get(key, 0) + 1
    return {key: count for key, count in counts.items() if count > 1}


def _ids(root: Directory, left_out: Container[int]) -> Iterator[int]:
    """The ``id`` of the non-directory behind each name."""
    stack = [root] if id(root) not in left_out else []
    while stack:
        for inode in stack.pop().children.values():
            if type(inode) is not Directory:
                yield id(inode)
            elif id(inode) not in left_out:
                stack.append(inode)


def _cannot_store(path: bytes, problem: str) -> UnsupportedError:
    return UnsupportedError(f"{path_text(path)} {problem}", hint="a commit cannot hold it")


def _line(path: bytes, inode: Inode, nlink: int, link_target: bytes | None) -> bytes:
    """One line; ``path`` and ``link_target`` (None unless this is a further hard link) are escaped already."""
    if problem := check_inode(inode):
        raise _cannot_store(path, problem)
    return unchecked_line(path, inode, nlink, link_target)


def unchecked_line(path: bytes, inode: Inode, nlink: int, link_target: bytes | None = None) -> bytes:
    """One line, of an inode that is as ``tree.limits.check_inode`` has it, or a file of which no content is known."""
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


def read_dump(dump: Blocks) -> Directory:
    """The tree that a canonical dump describes, given whole or as blocks of whole lines.

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
_XATTR_CACHE_SIZE = 1 << 23

# The most frequent line, from the name on: a file with an object, one name, and neither extended attributes nor escapes
# in its name. What is captured: name, size, all from mode to device number, seconds, nanoseconds, digest. The size has
# yet to be within its bounds.
PLAIN_FILE = re.compile(
    rb"([!-\-0-\[\]-~][!-.0-\[\]-~]{0,254}) ([1-9][0-9]{1,15}) "
    rb"(10[0-7]{4} 1 (?:0|[1-9][0-9]{0,8}) (?:0|[1-9][0-9]{0,8}) 0) "
    rb"([1-9][0-9]{0,10})\.(0|[1-9][0-9]{0,8}) ([0-9a-f]{2})/([0-9a-f]{62}) - \6\7\n"
)


class _Open:
    """A directory whose entries are being read; ``prefix`` is its escaped path with a slash behind it, which has
    ``length`` bytes without escapes."""

    __slots__ = ("children", "directory", "last", "length", "nlink", "prefix", "subdirectories")

    def __init__(self, prefix: bytes, length: int, directory: Directory, nlink: int) -> None:
        self.prefix = prefix
        self.length = length
        self.directory = directory
        self.children = directory.children
        self.nlink = nlink
        self.subdirectories = 0
        self.last = b""


class _Linked:
    """An inode with several names: where the first is, its line without path and payload, how many were read."""

    __slots__ = ("directory", "fields", "inode", "name", "names")

    def __init__(self, directory: Directory, name: bytes, inode: Inode, fields: tuple[bytes, ...]) -> None:
        self.directory = directory
        self.name = name
        self.inode = inode
        self.fields = fields
        self.names = 1


class InodeReader:
    """What is between the path and the end of a line, as an inode."""

    def __init__(self) -> None:
        self._modes: dict[bytes, tuple[int, int]] = {}
        self._xattrs: dict[bytes, Xattrs] = {}
        self._xattrs_size = 0  # of their texts

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
        self._xattrs_size += len(text)
        if len(self._xattrs) >= _XATTR_CACHE or self._xattrs_size > _XATTR_CACHE_SIZE:
            self._xattrs.clear()
            self._xattrs_size = len(text)
        self._xattrs[text] = xattrs
        return xattrs


class _Reader:
    """Reads canonical lines in their one order, so that each is checked against the one before it."""

    def __init__(self) -> None:
        self._stack: list[_Open] = []
        self._tree: Directory | None = None
        self._number = 0  # of the line in hand
        self._linked: dict[int, _Linked] = {}  # by ``id`` of the inode
        self._inode = InodeReader().read
        self._metadata: dict[bytes, tuple[int, int, int]] = {}  # mode, owner and group by their text

    def read(self, dump: Blocks) -> Directory:
        try:
            for block in (dump,) if isinstance(dump, bytes) else dump:
                self._block(block)
            if self._tree is None:
                self._number = 1
                raise DamagedError("is missing: the dump is empty")
            while self._stack:
                self._close()
        except StratumError as exc:
            raise DamagedError(f"line {self._number} of the dump {exc.message}", hint=_HINT) from None
        for linked in self._linked.values():
            if linked.names != int(linked.fields[2]):
                name = path_text(escape(linked.name))
                raise DamagedError(f"the dump has not all names of the hard-linked {name}", hint=_HINT)
        return self._tree

    def _block(self, block: bytes) -> None:
        """Read some whole lines."""
        match, position, size = LINE.match, 0, len(block)
        while position < size:
            if self._tree is not None:
                position, plain = self._plain_files(block, position)
                self._number += plain
                if position == size:
                    break
            self._number += 1
            found = match(block, position)
            if found is None:
                raise DamagedError("is not in canonical form" if self._tree else "is not one of a dump")
            if self._tree is None:
                self._tree = self._root(found.groups())
            else:
                self._entry(found.groups())
            position = found.end()

    def _root(self, fields: tuple[bytes, ...]) -> Directory:
        root = self._inode(fields)
        if fields[0] != b"/" or fields[2] or not isinstance(root, Directory):
            raise DamagedError("is not the root directory")
        self._stack.append(_Open(b"/", 1, root, int(fields[4])))
        return root

    def _plain_files(self, dump: bytes, position: int) -> tuple[int, int]:
        """Read lines of ``PLAIN_FILE`` as ``_entry`` would, as far as they follow one another in the innermost
        directory and nothing is wrong with them; (where the first other line begins, how many)."""
        parent, known, match, number = self._stack[-1], self._metadata, PLAIN_FILE.match, 0
        children, last, above, cut = parent.children, parent.last, parent.prefix, len(parent.prefix)
        if parent.length + NAME_MAX > PATH_MAX:
            return position, 0  # each path has to be measured
        while dump.startswith(above, position) and (found := match(dump, position + cut)) is not None:
            name, size_text, text, seconds, nanoseconds, shard, rest = found.groups()
            size, metadata = int(size_text), known.get(text)
            if name <= last or not INLINE_MAX < size <= FILE_SIZE_MAX:
                break
            if metadata is None:
                mode, _, uid, gid, _ = text.split(b" ")
                metadata = known[text] = int(mode, 8), int(uid), int(gid)
            mtime = int(seconds) * _SECOND + int(nanoseconds)
            children[name] = File(*metadata, mtime, size=size, digest=unhexlify(shard + rest))
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
        length = parent.length + len(name)
        if problem := check_name(name) or check_path(length):
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
            stack.append(_Open(path + b"/", length + 1, inode, int(fields[4])))
        elif fields[4] != b"1":
            self._linked[id(inode)] = _Linked(parent.directory, name, inode, fields[1:2] + fields[3:9] + fields[10:])

    def _close(self) -> None:
        """The last entry of the innermost directory was read."""
        directory = self._stack.pop()
        if directory.nlink != 2 + directory.subdirectories:
            raise DamagedError(f"ends {path_text(directory.prefix)}, whose link count does not match it")
        if problem := check_whiteout_marks(directory.directory):
            raise DamagedError(f"ends {path_text(directory.prefix)}, which {problem}")

    def _link(self, fields: tuple[bytes, ...]) -> Inode:
        linked = self._first_name(fields[9])
        if linked is None:
            raise DamagedError("is a hard link to nothing above it")
        if linked.fields != fields[1:2] + fields[3:9] + fields[10:]:
            raise DamagedError("differs from the file that it is a hard link to")
        linked.names += 1
        return linked.inode

    def _first_name(self, path: bytes) -> _Linked | None:
        """The inode whose first name is at an escaped path; looked up in the tree, as paths take much more memory."""
        top, *parents, last = path.split(b"/") if b"/" in path else (path, b"")
        place: Inode | None = None if top else self._tree
        for name in parents:
            place = place.children.get(_canonical(name)) if type(place) is Directory else None
        if type(place) is not Directory:
            return None
        name = _canonical(last)
        linked = self._linked.get(id(place.children.get(name)))
        return linked if linked is not None and linked.directory is place and linked.name == name else None


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
