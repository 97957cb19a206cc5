"""An image that ``writer`` made, read from any buffer: inodes by number, names, attributes, contents. Pure.

Nothing is believed of the image but that it is bytes: whatever it says, an answer or ``DamagedError`` comes in a time
that its size bounds. An inode is named by its **nid**: where it lies, in slots. A mapped file that gets shorter
meanwhile is another matter: reading such memory is a signal.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import pairwise
from mmap import mmap
from stat import S_ISDIR, S_ISLNK, S_ISREG
from typing import Final, NamedTuple

from stratum.composefs.erofs import layout
from stratum.errors import DamagedError

Buffer = bytes | bytearray | memoryview | mmap

_PREFIXES: Final = {0: b""} | {index: prefix for prefix, index in layout.XATTR_PREFIXES}
_LAYOUTS: Final = (layout.FLAT_PLAIN, layout.FLAT_INLINE, layout.CHUNK_BASED)
_NAMES_BITS: Final = 9
_NAMES_MASK: Final = (1 << _NAMES_BITS) - 1
"""A block holds fewer names than this: 12 bytes a record and one of a name."""
_NAME_MAX: Final = 255
_TARGET_MAX: Final = 4095
_NSEC_MAX: Final = 999_999_999


class Node(NamedTuple):
    """An inode: what stat shows of it, and where the rest lies. Times in seconds and nanoseconds; ``union`` is a block,
    a device number or the format of a chunk map, ``xattrs`` and ``body`` are offsets in the image."""

    mode: int
    size: int
    nlink: int
    uid: int
    gid: int
    mtime: int
    mtime_ns: int
    union: int
    form: int
    xattrs: int
    body: int


class Name(NamedTuple):
    """A name in a directory; ``after`` is where a reading that goes on behind it starts, ``kind`` a file type as
    directory entries have it (``layout.FILE_TYPES``)."""

    name: bytes
    nid: int
    kind: int
    after: int


class Image:
    """The image in ``buffer``, which may not change. ``DamagedError`` where it has no superblock of ours."""

    def __init__(self, buffer: Buffer) -> None:
        self._buffer = buffer
        self._end = len(buffer)
        start = layout.SUPERBLOCK_OFFSET
        if self._end < layout.INODES_OFFSET:
            raise DamagedError(f"an image of {self._end} bytes")
        magic, _, _, bits, _, root, inodes, seconds, nanoseconds, blocks, meta, xattrs = layout.SUPERBLOCK.unpack(
            buffer[start : start + layout.SUPERBLOCK.size]
        )
        composefs, form, flags, _ = layout.COMPOSEFS_HEADER.unpack(buffer[: layout.COMPOSEFS_HEADER.size])
        if magic != layout.SUPERBLOCK_MAGIC or composefs != layout.COMPOSEFS_MAGIC:
            raise DamagedError("what is to be an image begins as none does")
        if bits != layout.BLOCK_BITS or form != layout.COMPOSEFS_FORMAT or meta != 0:
            raise DamagedError("the image is of another format")
        self.root: int = root
        self.inodes: int = inodes
        self.blocks: int = blocks
        self.has_acl = bool(flags & layout.COMPOSEFS_HAS_ACL)
        self._mtime: tuple[int, int] = (seconds, min(nanoseconds, _NSEC_MAX))
        self._shared = xattrs << layout.BLOCK_BITS

    def node(self, nid: int) -> Node:
        """The inode ``nid``. ``DamagedError``."""
        offset = nid * layout.SLOT_SIZE
        if not 0 <= offset <= self._end - layout.COMPACT_INODE.size:
            raise DamagedError(f"the image has no inode {nid}")
        buffer = self._buffer
        form = buffer[offset]
        if form & layout.EXTENDED:
            if offset > self._end - layout.EXTENDED_INODE.size:
                raise DamagedError(f"the image ends in inode {nid}")
            form, count, mode, _, size, union, _, uid, gid, mtime, mtime_ns, nlink = layout.EXTENDED_INODE.unpack_from(
                buffer, offset
            )
            xattrs = offset + layout.EXTENDED_INODE.size
            mtime_ns = min(mtime_ns, _NSEC_MAX)
        else:
            form, count, mode, nlink, size, _, union, _, uid, gid, _ = layout.COMPACT_INODE.unpack_from(buffer, offset)
            xattrs = offset + layout.COMPACT_INODE.size
            mtime, mtime_ns = self._mtime
        form &= ~layout.EXTENDED
        if form not in _LAYOUTS:
            raise DamagedError(f"inode {nid} of the image has a form that no writer gives")
        body = xattrs + layout.XATTR_HEADER.size + 4 * (count - 1) if count else xattrs
        return Node(mode, size, nlink, uid, gid, mtime, mtime_ns, union, form, xattrs, body)

    def names(self, nid: int, start: int = 0) -> Iterator[Name]:
        """What is in a directory, ``.`` and ``..`` too, from ``start`` on: 0, or the ``after`` of a name.
        ``DamagedError``."""
        node = self._directory(nid)
        number, skip = start >> _NAMES_BITS, start & _NAMES_MASK
        for block in range(number, -(-node.size // layout.BLOCK_SIZE)):
            records, names = _Names(nid, self._block(node, block)).all()
            last = len(names) - 1
            for index in range(skip, len(names)):
                inner, _, kind = records[index]
                after = (block << _NAMES_BITS) + index + 1 if index < last else (block + 1) << _NAMES_BITS
                yield Name(names[index], inner, kind, after)
            skip = 0

    def lookup(self, nid: int, name: bytes) -> int | None:
        """The inode of that name in a directory. ``DamagedError``."""
        node = self._directory(nid)
        blocks = range(-(-node.size // layout.BLOCK_SIZE))
        at = bisect_right(blocks, name, key=lambda block: _Names(nid, self._block(node, block)).name(0)) - 1
        return None if at < 0 else _Names(nid, self._block(node, at)).find(name)

    def all(self) -> Iterator[int]:
        """Every inode, those with several names several times. ``DamagedError``."""
        yield self.root
        seen = {self.root}
        directories = [self.root]
        left = self._end // layout.DIRENT.size
        while directories:
            for name, nid, kind, _ in self.names(directories.pop()):
                left -= 1
                if left < 0:
                    raise DamagedError("directories of the image are the same data")
                if name in (b".", b".."):
                    continue
                yield nid
                if kind == layout.DIRECTORY and nid not in seen:
                    seen.add(nid)
                    directories.append(nid)

    def xattrs(self, node: Node) -> list[tuple[bytes, bytes]]:
        """The extended attributes as they are stored, those that inodes share first. ``DamagedError``."""
        if node.body == node.xattrs:
            return []
        data = bytes(self._buffer[node.xattrs : node.body])
        if len(data) < node.body - node.xattrs:
            raise DamagedError("the image ends in extended attributes")
        _, shared = layout.XATTR_HEADER.unpack_from(data)
        place = layout.XATTR_HEADER.size + shared * layout.XATTR_ID.size
        if place > len(data):
            raise DamagedError("an inode of the image says that it shares more attributes than it has")
        found = []
        for (identity,) in layout.XATTR_ID.iter_unpack(data[layout.XATTR_HEADER.size : place]):
            at = self._shared + 4 * identity
            head = bytes(self._buffer[at : at + layout.XATTR_ENTRY.size])
            if len(head) < layout.XATTR_ENTRY.size:
                raise DamagedError("a shared attribute lies behind the image's end")
            length, _, size = layout.XATTR_ENTRY.unpack(head)
            found.append(_xattr(bytes(self._buffer[at : at + layout.XATTR_ENTRY.size + length + size]), 0)[:2])
        while place < len(data):
            name, value, place = _xattr(data, place)
            found.append((name, value))
        return found

    def target(self, node: Node) -> bytes:
        """What a symbolic link leads to. ``DamagedError``."""
        target = self.content(node) if S_ISLNK(node.mode) and 0 < node.size <= _TARGET_MAX else b""
        if not target or b"\0" in target:
            raise DamagedError("a symbolic link of the image leads nowhere")
        return target

    def content(self, node: Node, start: int = 0, length: int | None = None) -> bytes:
        """``length`` bytes of content from ``start`` on, fewer at the end, of a node whose content is in the image.
        ``DamagedError``; so where it is not: ``is_elsewhere``."""
        if node.size > self._end or node.form == layout.CHUNK_BASED:
            raise DamagedError("the content of a file is not in the image")
        stop = node.size if length is None else min(start + length, node.size)
        parts = []
        while start < stop:
            number, skip = divmod(start, layout.BLOCK_SIZE)
            part = self._block(node, number)[skip : skip + stop - start]
            parts.append(part)
            start += len(part)
        return b"".join(parts)

    def _directory(self, nid: int) -> Node:
        node = self.node(nid)
        if not S_ISDIR(node.mode) or node.form == layout.CHUNK_BASED or node.size > self._end:
            raise DamagedError(f"inode {nid} of the image is no directory")
        return node

    def _block(self, node: Node, number: int) -> bytes:
        """The block ``number`` of a node's data, which is not empty."""
        start = number * layout.BLOCK_SIZE
        length = min(layout.BLOCK_SIZE, node.size - start)
        if node.form == layout.FLAT_INLINE and start + length == node.size:
            offset = node.body
        else:
            offset = (node.union + number) * layout.BLOCK_SIZE
        data = bytes(self._buffer[offset : offset + length])
        if len(data) < length or not data:
            raise DamagedError("data of the image lies behind its end")
        return data


class _Names:
    """A block of the directory ``nid``: records of fixed size, (inode, where its name begins, type), then the names."""

    def __init__(self, nid: int, data: bytes) -> None:
        self.nid = nid
        self.data = data
        size = layout.DIRENT.size
        first = layout.DIRENT.unpack_from(data)[1] if len(data) >= size else 0
        if not size <= first <= len(data) or first % size:
            raise DamagedError(f"a block of the directory {nid} of the image has no names")
        self.count: int = first // size

    def record(self, index: int) -> tuple[int, int, int]:
        """A record by its number."""
        return layout.DIRENT.unpack_from(self.data, index * layout.DIRENT.size)

    def name(self, index: int) -> bytes:
        """The name of a record, whatever it is."""
        begin = self.record(index)[1]
        if index + 1 < self.count:
            return self.data[begin : self.record(index + 1)[1]]
        return self.data[begin:].rstrip(b"\0")

    def find(self, name: bytes) -> int | None:
        """The inode of that name, if the names are in order."""
        index = bisect_left(range(self.count), name, key=self.name)
        return self.record(index)[0] if index < self.count and self.name(index) == name else None

    def all(self) -> tuple[list[tuple[int, int, int]], list[bytes]]:
        """All records and their names; ``DamagedError`` where they are none."""
        data = self.data
        records = list(layout.DIRENT.iter_unpack(data[: self.count * layout.DIRENT.size]))
        bounds = [record[1] for record in records]
        bounds.append(len(data))
        names = [data[begin:end] for begin, end in pairwise(bounds)]
        names[-1] = names[-1].rstrip(b"\0")
        joined = b"".join(names)
        if b"" in names or b"\0" in joined or b"/" in joined:
            raise DamagedError(f"the directory {self.nid} of the image has what is no name")
        if bounds[0] + len(joined) > len(data) or max(map(len, names)) > _NAME_MAX:
            raise DamagedError(f"the directory {self.nid} of the image has names that overlap")
        return records, names


def is_elsewhere(node: Node) -> bool:
    """Whether it is a file whose content is an object, of which the image has the digest only."""
    return node.form == layout.CHUNK_BASED and S_ISREG(node.mode)


def _xattr(data: bytes, place: int) -> tuple[bytes, bytes, int]:
    """(name, value, where the next begins) of the attribute at ``place``."""
    start = place + layout.XATTR_ENTRY.size
    if start > len(data):
        raise DamagedError("an extended attribute of the image has no end")
    length, index, size = layout.XATTR_ENTRY.unpack_from(data, place)
    prefix = _PREFIXES.get(index)
    stop = start + length + size
    if prefix is None or stop > len(data):
        raise DamagedError("an extended attribute of the image is none")
    return prefix + data[start : start + length], data[start + length : stop], layout.align(stop, 4)
