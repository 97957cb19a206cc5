"""The canonical dump: a tree as composefs-dump(5) text.

One line an entry, depth-first, names in byte order::

    PATH SIZE MODE NLINK UID GID RDEV MTIME PAYLOAD CONTENT DIGEST [XATTR=VALUE ...]

Canonical means: escapes as composefs-info writes them, size 0 for everything but regular files and symlinks (there the
length of the target), derived link counts, xattrs sorted by name, the first name of a hard-linked inode in dump order
carries it and the others are ``@`` lines. Equal trees have equal dumps, byte for byte.
"""

from __future__ import annotations

import re
import stat

from stratum.errors import DamagedError
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs

_UNSAFE = re.compile(rb"[^!-\[\]-~]")  # anything but a graphic ASCII character, and the backslash
_UNSAFE_XATTR = re.compile(rb"[^!-<>-\[\]-~]")  # '=' too
_NAMED = {0x5C: b"\\\\", 0x0A: b"\\n", 0x0D: b"\\r", 0x09: b"\\t"}
_HEX = [_NAMED.get(byte, b"\\x%02x" % byte) for byte in range(256)]
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(.?))", re.DOTALL)
_UNNAMED = {b"\\": b"\\", b"n": b"\n", b"r": b"\r", b"t": b"\t"}
_SECOND = 1_000_000_000


def escape(value: bytes) -> bytes:
    """``value`` with everything that is not a graphic ASCII character escaped."""
    return _UNSAFE.sub(lambda m: _HEX[m[0][0]], value) if _UNSAFE.search(value) else value


def escape_optional(value: bytes | None) -> bytes:
    """An optional field: ``-`` for None, and a lone dash escaped."""
    if value is None:
        return b"-"
    return b"\\x2d" if value == b"-" else escape(value)


def escape_xattr(value: bytes) -> bytes:
    """An xattr's name or value: like ``escape``, and '=' too."""
    return _UNSAFE_XATTR.sub(lambda m: _HEX[m[0][0]], value) if _UNSAFE_XATTR.search(value) else value


def unescape(value: bytes) -> bytes:
    """The bytes that an escaped field stands for; ``DamagedError`` on a malformed escape."""
    return _ESCAPE.sub(_unescape_one, value) if b"\\" in value else value


def _unescape_one(match: re.Match[bytes]) -> bytes:
    if match[1] is not None:
        return bytes((int(match[1], 16),))
    plain = _UNNAMED.get(match[2])
    if plain is None:
        raise DamagedError(f"malformed escape {match[0]!r} in the dump")
    return plain


def write_dump(root: Directory) -> bytes:
    """The canonical dump of the tree at ``root``."""
    links = count_links(root)
    first_path: dict[int, bytes] = {}
    lines: list[bytes] = []

    def line(path: bytes, inode: Inode) -> bytes:
        if isinstance(inode, Directory):
            return _line(path, inode, directory_nlink(inode), None)
        key = id(inode)
        nlink = links.get(key, 1)
        target = None
        if nlink > 1:
            target = first_path.get(key)
            if target is None:
                first_path[key] = path
        return _line(path, inode, nlink, target)

    lines.append(line(b"/", root))
    stack = [(b"/", iter(sorted(root.children.items())))]
    while stack:
        prefix, children = stack[-1]
        for name, inode in children:
            path = prefix + escape(name)
            lines.append(line(path, inode))
            if type(inode) is Directory:
                stack.append((path + b"/", iter(sorted(inode.children.items()))))
                break
        else:
            stack.pop()
    lines.append(b"")
    return b"\n".join(lines)


def directory_nlink(directory: Directory) -> int:
    """The derived link count of a directory: 2 and one for each subdirectory."""
    return 2 + sum(type(child) is Directory for child in directory.children.values())


def count_links(root: Directory) -> dict[int, int]:
    """``id(inode)`` -> number of names, for every non-directory with more than one name."""
    seen: set[int] = set()
    links: dict[int, int] = {}
    stack = [root]
    while stack:
        for inode in stack.pop().children.values():
            if type(inode) is Directory:
                stack.append(inode)
                continue
            key = id(inode)
            if key in seen:
                links[key] = links.get(key, 1) + 1
            else:
                seen.add(key)
    return links


def _line(path: bytes, inode: Inode, nlink: int, link_target: bytes | None) -> bytes:
    """One line; ``path`` and ``link_target`` (None unless this is a further hard link) are escaped already."""
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
        at, payload = b"@", b"\\x2d" if link_target == b"-" else link_target
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
    for name, value in inode.xattrs:
        text += b" %b=%b" % (escape_xattr(name), escape_xattr(value))
    return text


def read_dump(dump: bytes) -> Directory:
    """The tree that a canonical dump describes.

    Anything but a canonical dump of a commit's tree is refused with ``DamagedError`` naming the line: what this
    returns, ``write_dump`` turns back into exactly ``dump``.
    """
    root = _Reader().read(dump)
    if write_dump(root) != dump:
        raise DamagedError("the dump is not in canonical form", hint="it was not written by Stratum; import the tree")
    return root


class _Reader:
    """Builds a tree from dump lines; hard links refer to lines above them."""

    def __init__(self) -> None:
        self.directories: dict[bytes, Directory] = {}  # by escaped path
        self.inodes: dict[bytes, Inode] = {}  # by escaped path; only those with several links

    def read(self, dump: bytes) -> Directory:
        number = 0
        try:
            for number, line in enumerate(dump.split(b"\n"), 1):  # noqa: B007  (used in the error)
                if line:
                    self._add(line)
        except (ValueError, IndexError, OverflowError) as exc:
            raise DamagedError(f"line {number} of the dump is malformed: {exc}") from None
        except DamagedError as exc:
            raise DamagedError(f"line {number} of the dump: {exc.message}") from None
        root = self.directories.get(b"/")
        if root is None:
            raise DamagedError("the dump has no root directory")
        return root

    def _add(self, line: bytes) -> None:
        fields = line.split(b" ")
        path = fields[0]
        if path == b"/":
            inode = self._inode(fields, fields[2])
            if not isinstance(inode, Directory) or self.directories:
                raise DamagedError("the root must be one directory, listed first")
            self.directories[path] = inode
            return
        parent_path, slash, escaped = path.rpartition(b"/")
        parent = self.directories.get(parent_path or b"/")
        if parent is None or not slash:
            raise DamagedError(f"{path!r} has no parent directory above it")
        name = unescape(escaped)
        if not name or name in (b".", b"..") or b"/" in name or b"\0" in name:
            raise DamagedError(f"{path!r} is not a valid path")
        if name in parent.children:
            raise DamagedError(f"{path!r} is listed twice")
        mode = fields[2]
        if mode[:1] == b"@":
            target = self.inodes.get(fields[8])
            if target is None:
                raise DamagedError(f"{path!r} is a hard link to nothing above it")
            parent.children[name] = target
            return
        inode = self._inode(fields, mode)
        parent.children[name] = inode
        if isinstance(inode, Directory):
            self.directories[path] = inode
        elif fields[3] != b"1":
            self.inodes[path] = inode

    def _inode(self, fields: list[bytes], mode_field: bytes) -> Inode:
        mode = int(mode_field, 8)
        uid, gid = int(fields[4]), int(fields[5])
        if not (0 <= uid < 1 << 32 and 0 <= gid < 1 << 32 and 0 <= mode < 1 << 16):
            raise DamagedError("mode, uid or gid out of range")
        seconds, _, nanoseconds = fields[7].partition(b".")
        mtime = int(seconds) * _SECOND + int(nanoseconds)
        xattrs = _read_xattrs(fields[11:])
        kind = stat.S_IFMT(mode)
        if kind == stat.S_IFREG:
            size, digest, content = int(fields[1]), None, None
            if fields[10] != b"-":
                digest = bytes.fromhex(fields[10].decode("ascii"))
            elif fields[9] != b"-":
                content = unescape(fields[9])
            return File(mode, uid, gid, mtime, xattrs, size=size, digest=digest, content=content)
        if kind == stat.S_IFDIR:
            return Directory(mode, uid, gid, mtime, xattrs)
        if kind == stat.S_IFLNK:
            return Symlink(mode, uid, gid, mtime, xattrs, target=unescape(fields[8]))
        if kind in (stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK):
            return Special(mode, uid, gid, mtime, xattrs, rdev=int(fields[6]))
        raise DamagedError(f"unknown file type in mode {mode:o}")


def _read_xattrs(fields: list[bytes]) -> Xattrs:
    xattrs = []
    for field in fields:
        name, equals, value = field.partition(b"=")
        if not equals:
            raise DamagedError("an extended attribute has no '='")
        xattrs.append((unescape(name), unescape(value)))
    return tuple(xattrs)
