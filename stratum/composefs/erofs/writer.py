"""A tree as an EROFS image, byte for byte what mkcomposefs 1.0.8 makes of the tree's dump.

Two passes over the inodes in image order: the first collects what they share (``_Survey``: extended attributes, the
oldest modification time), the second writes them into one buffer (``_Inodes``). What is known only when all inodes
have their place (inode numbers in directories, addresses of blocks and of shared attributes) is filled in afterwards.
"""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import BinaryIO, Final, NamedTuple

from stratum.composefs.erofs import layout
from stratum.composefs.erofs.directory import entries_size, split_names
from stratum.composefs.erofs.numbering import DirectoryNode, Numbering
from stratum.composefs.erofs.xattrs import InodeXattrs, XattrTable, entry, filter_bit
from stratum.errors import UnsupportedError
from stratum.tree.limits import overlay_marks, with_marks
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs
from stratum.tree.overlay import escape_xattrs, is_whiteout_device
from stratum.tree.quirks import Quirks

_METACOPY: Final = b"trusted.overlay.metacopy"
_REDIRECT: Final = b"trusted.overlay.redirect"
_METACOPY_SHA256: Final = bytes((0, 36, 0, 1))  # version, length of the whole value, flags, fs-verity algorithm
_ACL_NAMES: Final = (b"system.posix_acl_access", b"system.posix_acl_default")
_SECOND: Final = 1_000_000_000
_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_PAD = [bytes(length) for length in range(layout.BLOCK_SIZE)]

_DOTS: Final = (b".", b"..")

Time = tuple[int, int]


class _Entries(NamedTuple):
    """The names ``start`` to ``stop`` of a directory; the first that stands there itself has the number ``child``."""

    node: DirectoryNode
    start: int
    stop: int
    child: int


_Block = bytes | _Entries


def write_image(root: Directory, file: BinaryIO, quirks: Quirks | None = None) -> int:
    """Write the image of the tree at ``root`` to ``file`` and return its size in bytes.

    Raises ``UnsupportedError`` for a tree that no image can hold (``tree.limits`` says which); nothing is
    written then.
    """
    size = 0
    for piece in image_pieces(root, quirks):
        file.write(piece)
        size += len(piece)
    return size


def image_pieces(root: Directory, quirks: Quirks | None = None) -> Iterator[bytes | bytearray]:
    """The image of the tree at ``root`` in consecutive pieces; errors as ``write_image``, before the first piece."""
    numbering = Numbering(root, None if quirks is None else quirks.link_names)
    survey = _Survey(numbering, quirks or Quirks())
    inodes = _Inodes(survey)
    inodes.write_all()
    inodes.fill_in()
    yield inodes.buffer
    yield survey.table.area
    yield _PAD[-(len(inodes.buffer) + len(survey.table.area)) % layout.BLOCK_SIZE]
    for block in inodes.blocks:
        yield block if isinstance(block, bytes) else _block(inodes.entries(block))


def _metacopy(digest: bytes | None) -> bytes:
    return b"" if digest is None else _METACOPY_SHA256 + digest


def _is_backed(file: File) -> bool:
    """Whether the content of ``file`` is neither empty nor inline."""
    return file.size > 0 and not file.content


class _Survey:
    """What has to be known of all inodes before the first one is written."""

    def __init__(self, numbering: Numbering, quirks: Quirks) -> None:
        self.numbering = numbering
        self.sizes = quirks.sizes
        self._times = dict(quirks.times)
        root_time = quirks.times.get(id(numbering.root))
        if root_time is not None:
            self._times.update((id(i), root_time) for i in numbering.inodes[:1] + numbering.object_masks())
        self.table = XattrTable()
        self.xattrs: dict[int, Xattrs] = {}  # by inode number; without those of _backing_xattrs of a plain File
        self.shared_digests: set[bytes] = set()
        self._escaped: dict[Xattrs, Xattrs] = {(): ()}
        self.oldest = self._oldest()
        self.foreign = any(isinstance(inode, File) and type(inode) is not File for inode in numbering.inodes)
        self._collect()
        self.has_acl = self.table.has_name(*_ACL_NAMES)
        self.table.share(
            pair for digest in self.shared_digests for pair in backing_xattrs(digest, _object_path(digest))
        )

    def _oldest(self) -> Time:
        """The earliest modification time, which inodes without one of their own have."""
        inodes = self.numbering.inodes
        if self._times:
            return min(self.time(inode) for inode in inodes)
        return divmod(min(inode.mtime for inode in inodes), _SECOND)

    @property
    def odd_times(self) -> bool:
        """Whether there are modification times that are not the inodes' own."""
        return bool(self._times)

    def time(self, inode: Inode) -> Time:
        """The modification time of ``inode`` as (s, ns)."""
        return self._times.get(id(inode)) or divmod(inode.mtime, _SECOND)

    def _collect(self) -> None:
        seen: set[bytes] = set()
        for number, inode in enumerate(self.numbering.inodes):
            if type(inode) is File:
                if not self.foreign:
                    digest = inode.digest
                    if digest is not None and _is_backed(inode):
                        if digest in seen:
                            self.shared_digests.add(digest)
                        else:
                            seen.add(digest)
                        if not inode.xattrs:
                            continue
                    elif not inode.xattrs and not inode.size:
                        continue
            elif not inode.xattrs and type(inode) is Symlink:
                continue
            xattrs = self._image_xattrs(number, inode)
            if xattrs:
                self.xattrs[number] = xattrs
                self.table.count(xattrs)

    def _image_xattrs(self, number: int, inode: Inode) -> Xattrs:
        xattrs = self._escaped.get(inode.xattrs)
        if xattrs is None:
            xattrs = self._escaped[inode.xattrs] = escape_xattrs(inode.xattrs)
        if isinstance(inode, File):
            if _is_backed(inode) and (self.foreign or inode.digest is None):
                return tuple(sorted((*xattrs, *backing_xattrs(inode.digest, inode.payload))))
            return xattrs
        node = self.numbering.nodes.get(number)
        if node is None and type(inode) is not Special:
            return xattrs
        marks = overlay_marks(inode, holds_whiteouts=node is not None and node.holds_whiteouts, is_root=number == 0)
        return with_marks(xattrs, marks) if marks else xattrs


def backing_xattrs(digest: bytes | None, payload: bytes | None) -> Xattrs:
    """What makes overlayfs take a file's content from ``payload`` in the data layer, with or without a digest."""
    metacopy = (_METACOPY, _metacopy(digest))
    return (metacopy, (_REDIRECT, b"/" + payload)) if payload else (metacopy,)


def _object_path(digest: bytes) -> bytes:
    return digest.hex("/", 31).encode()


# The extended attributes of a file that has none of its own and shares its content with no other file.
_BACKED_HEAD = (
    layout.XATTR_HEADER.pack(_U32 & ~(filter_bit(_METACOPY) | filter_bit(_REDIRECT)), 0)
    + entry(_METACOPY, _METACOPY_SHA256 + bytes(32))[: -len(bytes(32))]
)
_REDIRECT_ENTRY = entry(_REDIRECT, b"/" + bytes(65))
_BACKED_MIDDLE = _REDIRECT_ENTRY[: -65 - 2]
_BACKED_END = _REDIRECT_ENTRY[-2:]
_BACKED_COUNT = (len(_BACKED_HEAD) + 32 + len(_BACKED_MIDDLE) + 65 + 2 - layout.XATTR_HEADER.size) // 4 + 1


@dataclass(slots=True)
class _Body:
    """What an inode's data is: ``tail`` follows the inode, ``blocks`` are elsewhere.

    A tail that cannot be kept in one block becomes another block, ``spill``.
    """

    size: int = 0
    tail: bytes = b""
    blocks: list[_Block] = field(default_factory=list)
    spill: bytes = b""
    chunk_format: int | None = None
    rdev: int = 0


class _Inodes:
    """Writes the inodes behind the superblock, notes what is to be filled in, and collects the blocks."""

    def __init__(self, survey: _Survey) -> None:
        self.survey = survey
        self.numbering = survey.numbering
        self.buffer = bytearray(layout.INODES_OFFSET)
        self.nids = array("Q")
        self.blocks: list[_Block] = []
        self._tails: list[tuple[int, _Entries]] = []  # offset of a directory's last part
        self._addresses: list[tuple[int, int, int | None]] = []  # offset, block, chunk format in the lower half
        self._shared: list[tuple[int, int]] = []  # offset of the IDs, how many

    def write_all(self) -> None:
        """Write every inode and pad to where the shared extended attributes begin."""
        numbering, xattrs = self.numbering, self.survey.xattrs
        plain = not self.survey.odd_times
        for number, inode in enumerate(numbering.inodes):
            if isinstance(inode, File):
                if plain and type(inode) is File and number not in xattrs and self._plain_file(number, inode):
                    continue
                self._put(number, inode, _file_body(inode))
            elif isinstance(inode, Directory):
                self._directory(number, numbering.nodes[number])
            elif isinstance(inode, Symlink):
                self._put(number, inode, _Body(len(inode.target), inode.target, spill=_block(inode.target)))
            elif isinstance(inode, Special):
                self._special(number, inode)
            else:
                raise TypeError(f"an image cannot hold a {type(inode).__name__}")
        self.buffer += _PAD[-len(self.buffer) % layout.SLOT_SIZE]

    def _plain_file(self, number: int, file: File) -> bool:
        """Write the most frequent kind of file, an object of its own in one chunk without attributes of its own.

        Returns False, having done nothing, for any other.
        """
        digest, size, mtime = file.digest, file.size, divmod(file.mtime, _SECOND)
        if digest is None or digest in self.survey.shared_digests or not 0 < size <= 1 << layout.CHUNK_BITS_MAX:
            return False
        if mtime == self.survey.oldest or file.nlink or file.content:
            return False
        buffer = self.buffer
        buffer += _PAD[-len(buffer) % layout.SLOT_SIZE]  # the map is one aligned word, in one block wherever it comes
        self.nids.append(len(buffer) // layout.SLOT_SIZE)
        bits = (size - 1).bit_length()
        buffer += layout.EXTENDED_INODE.pack(
            layout.CHUNK_BASED | layout.EXTENDED,
            _BACKED_COUNT,
            file.mode,
            0,
            size,
            bits - layout.BLOCK_BITS if bits > layout.BLOCK_BITS else 0,
            number,
            file.uid,
            file.gid,
            *mtime,
            self.numbering.link_counts.get(id(file), 1),
        )
        buffer += b"".join((_BACKED_HEAD, digest, _BACKED_MIDDLE, _object_path(digest), _BACKED_END, layout.HOLE))
        return True

    def _directory(self, number: int, node: DirectoryNode) -> None:
        bounds = split_names(node.names)
        child = node.first_child
        parts: list[_Entries] = []
        for start, stop in pairwise(bounds):
            parts.append(_Entries(node, start, stop, child))
            child += sum(name not in node.links and name not in _DOTS for name in node.names[start:stop])
        last = entries_size(node.names[bounds[-2] :])
        tail = last if last <= layout.TAIL_MAX else 0
        whole = parts[:-1] if tail else parts
        body = _Body(len(whole) * layout.BLOCK_SIZE + tail, bytes(tail), list[_Block](whole))
        self._put(number, node.directory, body, links=2 + len(node.subdirectories))
        if tail:
            self._tails.append((len(self.buffer) - tail, parts[-1]))

    def _special(self, number: int, inode: Special) -> None:
        if type(inode) is Special and is_whiteout_device(inode):
            self._put(number, inode, _Body(), mode=stat.S_IFREG | stat.S_IMODE(inode.mode))
        else:
            self._put(number, inode, _Body(rdev=inode.rdev), declared=self.survey.sizes.get(id(inode), 0))

    def _put(
        self,
        number: int,
        inode: Inode,
        body: _Body,
        *,
        mode: int | None = None,
        links: int | None = None,
        declared: int | None = None,
    ) -> None:
        """Write one inode; ``declared`` is the size that decides about its form where ``body.size`` does not."""
        xattrs = self._xattrs(number, inode)
        mtime = self.survey.time(inode)
        if links is None:
            links = inode.nlink & _U32 if inode.nlink else self.numbering.link_counts.get(id(inode), 1)
        compact = (
            mtime == self.survey.oldest
            and max(links, inode.uid, inode.gid) <= _U16
            and (body.size if declared is None else declared) <= _U32
        )
        head = layout.COMPACT_INODE.size if compact else layout.EXTENDED_INODE.size
        if xattrs is not None:
            head += len(xattrs.data)
        if not self._make_room(head, len(body.tail), whole=isinstance(inode, Symlink)):
            body.blocks.append(body.spill)
            body.tail = b""
        buffer = self.buffer
        start = len(buffer)
        self.nids.append(start // layout.SLOT_SIZE)
        if body.blocks:
            self._addresses.append((start + layout.UNION_OFFSET, len(self.blocks), body.chunk_format))
            self.blocks += body.blocks
        chunked = body.chunk_format is not None
        form = layout.CHUNK_BASED if chunked else layout.FLAT_INLINE if body.tail else layout.FLAT_PLAIN
        count = 0 if xattrs is None else (len(xattrs.data) - layout.XATTR_HEADER.size) // 4 + 1
        union = body.chunk_format or body.rdev
        mode = inode.mode if mode is None else mode
        if compact:
            buffer += layout.COMPACT_INODE.pack(
                form, count, mode, links, body.size, 0, union, number, inode.uid, inode.gid, 0
            )
        else:
            buffer += layout.EXTENDED_INODE.pack(
                form | layout.EXTENDED, count, mode, 0, body.size, union, number, inode.uid, inode.gid, *mtime, links
            )
        if xattrs is not None:
            if xattrs.shared:
                self._shared.append((len(buffer) + layout.XATTR_HEADER.size, xattrs.shared))
            buffer += xattrs.data
        buffer += body.tail

    def _xattrs(self, number: int, inode: Inode) -> InodeXattrs | None:
        xattrs = self.survey.xattrs.get(number, ())
        if type(inode) is File and not self.survey.foreign and inode.digest is not None and _is_backed(inode):
            xattrs = tuple(sorted((*xattrs, *backing_xattrs(inode.digest, _object_path(inode.digest)))))
        return self.survey.table.encode(xattrs) if xattrs else None

    def _make_room(self, head: int, tail: int, *, whole: bool) -> bool:
        """Pad so that an inode of ``head`` bytes may begin and the ``tail`` bytes behind it are in one block.

        ``whole``: the inode has to be in that block, too. Returns False where the tail has to go elsewhere.
        """
        end = len(self.buffer)
        start = layout.align(end, layout.SLOT_SIZE)
        fits = True
        if whole:
            total = head + tail
            if start // layout.BLOCK_SIZE != (start + total - 1) // layout.BLOCK_SIZE:
                start = layout.align(start, layout.BLOCK_SIZE)
            fits = total < layout.BLOCK_SIZE
        else:
            room = layout.BLOCK_SIZE - (start + head) % layout.BLOCK_SIZE
            if room < tail:
                moved = start + layout.align(room, layout.SLOT_SIZE)
                fits = tail <= layout.BLOCK_SIZE - (moved + head) % layout.BLOCK_SIZE
                start = moved if fits else layout.align(start, layout.BLOCK_SIZE)
        self.buffer += _PAD[start - end]
        return fits

    def fill_in(self) -> None:
        """Fill in what depends on every inode's place: the superblock, addresses and directory entries."""
        buffer, table = self.buffer, self.survey.table
        end = len(buffer)
        base = end % layout.BLOCK_SIZE // 4
        for offset, count in self._shared:
            ids = [number + base for number in struct.unpack_from(f"<{count}I", buffer, offset)]
            struct.pack_into(f"<{count}I", buffer, offset, *ids)
        first_block = layout.align(end + len(table.area), layout.BLOCK_SIZE) // layout.BLOCK_SIZE
        for offset, block, chunk_format in self._addresses:
            address = first_block + block
            if chunk_format is not None:
                address = address & ~_U16 | chunk_format
            struct.pack_into("<I", buffer, offset, address)
        for offset, entries in self._tails:
            data = self.entries(entries)
            buffer[offset : offset + len(data)] = data
        layout.COMPOSEFS_HEADER.pack_into(
            buffer,
            0,
            layout.COMPOSEFS_MAGIC,
            layout.COMPOSEFS_FORMAT,
            layout.COMPOSEFS_HAS_ACL if self.survey.has_acl else 0,
            1 if self.numbering.holds_whiteouts else 0,
        )
        layout.SUPERBLOCK.pack_into(
            buffer,
            layout.SUPERBLOCK_OFFSET,
            layout.SUPERBLOCK_MAGIC,
            0,
            layout.FEATURE_COMPAT,
            layout.BLOCK_BITS,
            0,
            self.nids[0],
            len(self.numbering.inodes),
            *self.survey.oldest,
            first_block + len(self.blocks),
            layout.INODES_OFFSET // layout.BLOCK_SIZE,
            end // layout.BLOCK_SIZE,
        )

    def entries(self, part: _Entries) -> bytes:
        """The entries of a part of a directory."""
        node, child = part.node, part.child
        nids, types, links = self.nids, self.numbering.types, node.links
        names = node.names[part.start : part.stop]
        pack = layout.DIRENT.pack
        offset = layout.DIRENT.size * len(names)
        records = []
        for name in names:
            if name in links:
                number = self.numbering.link_numbers[id(links[name])]
            elif name == b".":
                number = node.number
            elif name == b"..":
                number = node.parent.number
            else:
                number = child
                child += 1
            records.append(pack(nids[number], offset, types[number]))
            offset += len(name)
        records += names
        return b"".join(records)


def _file_body(file: File) -> _Body:
    """The data of a regular file: its content, or a map of chunks without data, or nothing."""
    if not file.size:
        return _Body()
    content = file.content
    if content:
        rest = len(content) % layout.BLOCK_SIZE
        if rest > layout.TAIL_MAX:
            rest = 0
        stop = len(content) - rest
        blocks: list[_Block] = [
            _block(content[i : min(i + layout.BLOCK_SIZE, stop)]) for i in range(0, stop, layout.BLOCK_SIZE)
        ]
        tail = content[stop:]
        return _Body(file.size, tail, blocks, _block(tail))
    bits, chunks = layout.chunks_of(file.size)
    if chunks > layout.CHUNKS_MAX:
        raise UnsupportedError(f"an image cannot hold a file of {file.size} bytes")
    # A map that does not fit behind its inode takes a whole block, of which it fills as much as it has chunks.
    spill = layout.HOLE * layout.CHUNKS_MAX
    return _Body(file.size, layout.HOLE * chunks, spill=spill, chunk_format=bits - layout.BLOCK_BITS)


def _block(data: bytes) -> bytes:
    return data.ljust(layout.BLOCK_SIZE, b"\0")
