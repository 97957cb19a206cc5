"""A tree as an EROFS image: in overlayfs's own dialect, byte for byte what mkcomposefs 1.0.8 makes of the tree's dump.

Two passes over the inodes in image order: the first collects what they have in common (``survey``), the second writes
them into one buffer. What is known only when all inodes have their place (inode numbers in directories, addresses of
blocks and of shared attributes) is filled in afterwards. Most inodes are files of which nothing is filled in, and all
of one size: these are passed over, and written when the buffer is given out.
"""

from __future__ import annotations

import stat
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final, NamedTuple

from stratum.composefs.erofs import layout
from stratum.composefs.erofs.directory import entries_size, split_names
from stratum.composefs.erofs.numbering import DirectoryNode, Numbering, ObjectMask
from stratum.composefs.erofs.survey import METACOPY_SHA256, SECOND, Survey
from stratum.composefs.erofs.xattrs import entry, filter_bit
from stratum.errors import UnsupportedError
from stratum.tree.model import Directory, File, Inode, Special, Symlink, object_path
from stratum.tree.overlay import METACOPY, REDIRECT, Dialect, is_whiteout_device

_U16: Final = 0xFFFF
_U32: Final = 0xFFFFFFFF
_DOTS: Final = (b".", b"..")


class _Entries(NamedTuple):
    """The names ``start`` to ``stop`` of a directory; the first that stands there itself has the number ``child``."""

    node: DirectoryNode
    start: int
    stop: int
    child: int


_Block = bytes | _Entries


def image_pieces(root: Directory, dialect: Dialect = Dialect.TRUSTED) -> Iterator[bytes | bytearray]:
    """The image of the tree at ``root`` in consecutive pieces, for overlays that speak ``dialect``.

    Before the first piece: ``UnsupportedError`` for a tree that no image can hold (``tree.limits`` says which).
    """
    survey = Survey(Numbering(root), dialect)
    inodes = _Inodes(survey)
    inodes.write_all()
    inodes.fill_in()
    yield from inodes.pieces()
    yield survey.table.area
    yield bytes(-(inodes.end + len(survey.table.area)) % layout.BLOCK_SIZE)
    for block in inodes.blocks:
        yield block if isinstance(block, bytes) else _block(inodes.entries(block))


_BATCH = 4096


class _Backed:
    """How a file is written that has no attributes of its own and shares its content with no other file: inode, header,
    the attributes that name its object, and a map of one chunk, up to the next slot."""

    def __init__(self, dialect: Dialect) -> None:
        metacopy, redirect = dialect.own(METACOPY), dialect.own(REDIRECT)
        absent = _U32 & ~(filter_bit(metacopy) | filter_bit(redirect))
        self.head = layout.XATTR_HEADER.pack(absent, 0) + entry(metacopy, METACOPY_SHA256 + bytes(32))[:-32]
        named = entry(redirect, b"/" + bytes(65))
        self.middle, self.end = named[: -65 - 2], named[-2:] + layout.HOLE
        size = len(self.head) + 32 + len(self.middle) + 65 + len(self.end)
        self.count = (size - len(layout.HOLE) - layout.XATTR_HEADER.size) // 4 + 1
        whole = struct.Struct(
            f"{layout.EXTENDED_INODE.format}{len(self.head)}s32s{len(self.middle)}s65s{len(self.end)}s"
            f"{-(layout.EXTENDED_INODE.size + size) % layout.SLOT_SIZE}x"
        )
        self.pack = whole.pack
        self.slots = whole.size // layout.SLOT_SIZE


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

    def __init__(self, survey: Survey) -> None:
        self.survey = survey
        self.numbering = survey.numbering
        self._backed = _Backed(survey.dialect)
        self._buffer = bytearray(layout.INODES_OFFSET)
        self._runs: list[tuple[int, int, int]] = []  # place in the buffer, first and last number: not in the buffer
        self._left_out = 0  # their bytes
        self.nids = array("Q")
        self.blocks: list[_Block] = []
        # Offsets are in the buffer.
        self._tails: list[tuple[int, _Entries]] = []  # offset of a directory's last part
        self._addresses: list[tuple[int, int, int | None]] = []  # offset, block, chunk format in the lower half
        self._shared: list[tuple[int, int]] = []  # offset of the IDs, how many

    @property
    def end(self) -> int:
        """Where the next inode begins, in bytes of the image."""
        return len(self._buffer) + self._left_out

    def pieces(self) -> Iterator[bytes | bytearray]:
        """What is in the image before the shared attributes."""
        at = 0
        for place, first, last in self._runs:
            if place > at:
                yield self._buffer[at:place]
                at = place
            yield self._plain_records(first, last)
        yield self._buffer[at:]

    def write_all(self) -> None:
        """Write every inode and pad to where the shared extended attributes begin."""
        numbering, xattrs = self.numbering, self.survey.xattrs
        number, inodes = 0, numbering.inodes
        while number < len(inodes):
            inode = inodes[number]
            if isinstance(inode, File):
                if number not in xattrs and (count := self._plain_files(number)):
                    number += count
                    continue
                self._put(number, inode, _file_body(inode))
            elif isinstance(inode, Directory):
                self._directory(number, numbering.nodes[number])
            elif isinstance(inode, Symlink):
                self._put(number, inode, _Body(len(inode.target), inode.target, spill=_block(inode.target)))
            elif isinstance(inode, Special):
                if type(inode) is ObjectMask and (count := self._masks(number)):
                    number += count
                    continue
                self._special(number, inode)
            else:
                raise TypeError(f"an image cannot hold a {type(inode).__name__}")
            number += 1
        self._pad(layout.SLOT_SIZE)

    def _plain_files(self, first: int) -> int:
        """Leave room for files of the most frequent kind, number ``first`` and those that follow it at once; how many.

        They are objects of their own in one chunk, without attributes of their own.
        """
        inodes, xattrs, shared = self.numbering.inodes, self.survey.xattrs, self.survey.shared_digests
        (seconds, rest), largest = self.survey.oldest, 1 << layout.CHUNK_BITS_MAX
        oldest, last = seconds * SECOND + rest, first
        for number in range(first, min(first + _BATCH, len(inodes))):
            file = inodes[number]
            if type(file) is not File or number in xattrs or file.mtime == oldest:
                break
            if file.digest is None or file.digest in shared or file.size > largest:
                break
            last = number + 1
        if last == first:
            return 0
        self._pad(layout.SLOT_SIZE)  # the map is one aligned word, in one block wherever it comes
        slot, slots = self.end // layout.SLOT_SIZE, self._backed.slots
        self.nids.extend(range(slot, slot + slots * (last - first), slots))
        self._runs.append((len(self._buffer), first, last))
        self._left_out += slots * (last - first) * layout.SLOT_SIZE
        return last - first

    def _plain_records(self, first: int, last: int) -> bytes:
        """The inodes of a run of such files."""
        backed, inodes, links = self._backed, self.numbering.inodes, self.numbering.link_counts
        pack, head, middle, end = backed.pack, backed.head, backed.middle, backed.end
        records = []
        for number in range(first, last):
            file = inodes[number]
            assert isinstance(file, File), "a run is of files"
            assert file.digest is not None, "each has an object"
            bits = (file.size - 1).bit_length()
            records.append(
                pack(
                    layout.CHUNK_BASED | layout.EXTENDED,
                    backed.count,
                    file.mode,
                    0,
                    file.size,
                    bits - layout.BLOCK_BITS if bits > layout.BLOCK_BITS else 0,
                    number,
                    file.uid,
                    file.gid,
                    *divmod(file.mtime, SECOND),
                    links.get(id(file), 1) if links else 1,
                    head,
                    file.digest,
                    middle,
                    object_path(file.digest),
                    end,
                )
            )
        return b"".join(records)

    def _pad(self, size: int) -> None:
        self._buffer += bytes(-self.end % size)

    def _masks(self, first: int) -> int:
        """Write the object masks that follow one another from number ``first`` on; how many.

        They differ in their numbers alone. None of those that have attributes.
        """
        inodes, mask = self.numbering.inodes, self.numbering.inodes[first]
        if mask.xattrs:
            return 0
        stop = first
        while stop < len(inodes) and type(inodes[stop]) is ObjectMask:
            stop += 1
        mtime, owner, numbers = divmod(mask.mtime, SECOND), (mask.uid, mask.gid), range(first, stop)
        if mtime == self.survey.oldest and max(owner) <= _U16:
            size, pack = layout.COMPACT_INODE.size, layout.COMPACT_INODE.pack
            records = [pack(layout.FLAT_PLAIN, 0, mask.mode, 1, 0, 0, 0, number, *owner, 0) for number in numbers]
        else:
            size, pack = layout.EXTENDED_INODE.size, layout.EXTENDED_INODE.pack
            form = layout.FLAT_PLAIN | layout.EXTENDED
            records = [pack(form, 0, mask.mode, 0, 0, 0, number, *owner, *mtime, 1) for number in numbers]
        self._pad(layout.SLOT_SIZE)
        slot, slots = self.end // layout.SLOT_SIZE, size // layout.SLOT_SIZE
        self.nids.extend(range(slot, slot + slots * len(records), slots))
        self._buffer += b"".join(records)
        return len(records)

    def _directory(self, number: int, node: DirectoryNode) -> None:
        bounds = split_names(node.names)
        child = node.first_child
        parts: list[_Entries] = []
        for start, stop in pairwise(bounds):
            parts.append(_Entries(node, start, stop, child))
            if stop < bounds[-1]:
                child += sum(name not in node.links and name not in _DOTS for name in node.names[start:stop])
        last = entries_size(node.names[bounds[-2] :])
        tail = last if last <= layout.TAIL_MAX else 0
        whole = parts[:-1] if tail else parts
        body = _Body(len(whole) * layout.BLOCK_SIZE + tail, bytes(tail), list[_Block](whole))
        self._put(number, node.directory, body, links=2 + len(node.subdirectories))
        if tail:
            self._tails.append((len(self._buffer) - tail, parts[-1]))

    def _special(self, number: int, inode: Special) -> None:
        if type(inode) is Special and is_whiteout_device(inode):
            self._put(number, inode, _Body(), mode=stat.S_IFREG | stat.S_IMODE(inode.mode))
        else:
            self._put(number, inode, _Body(rdev=inode.rdev))

    def _put(
        self, number: int, inode: Inode, body: _Body, *, mode: int | None = None, links: int | None = None
    ) -> None:
        """Write one inode."""
        pairs = self.survey.all_xattrs(number, inode)
        xattrs = self.survey.table.encode(pairs) if pairs else None
        mtime = divmod(inode.mtime, SECOND)
        if links is None:
            links = self.numbering.link_counts.get(id(inode), 1)
        compact = mtime == self.survey.oldest and max(links, inode.uid, inode.gid) <= _U16 and body.size <= _U32
        head = layout.COMPACT_INODE.size if compact else layout.EXTENDED_INODE.size
        if xattrs is not None:
            head += len(xattrs.data)
        if not self._make_room(head, len(body.tail), whole=isinstance(inode, Symlink)):
            body.blocks.append(body.spill)
            body.tail = b""
        buffer = self._buffer
        self.nids.append(self.end // layout.SLOT_SIZE)
        if body.blocks:
            self._addresses.append((len(buffer) + layout.UNION_OFFSET, len(self.blocks), body.chunk_format))
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

    def _make_room(self, head: int, tail: int, *, whole: bool) -> bool:
        """Pad so that an inode of ``head`` bytes may begin and the ``tail`` bytes behind it are in one block.

        ``whole``: the inode has to be in that block, too. Returns False where the tail has to go elsewhere.
        """
        end = self.end
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
        self._buffer += bytes(start - end)
        return fits

    def fill_in(self) -> None:
        """Fill in what depends on every inode's place: the superblock, addresses and directory entries."""
        buffer, table, end = self._buffer, self.survey.table, self.end
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
    if file.digest is None:
        content = file.content or b""
        return _Body(len(content), content, spill=_block(content))
    bits, chunks = layout.chunks_of(file.size)
    if chunks > layout.CHUNKS_MAX:
        raise UnsupportedError(f"an image cannot hold a file of {file.size} bytes")
    # A map that does not fit behind its inode takes a whole block, of which it fills as much as it has chunks.
    spill = layout.HOLE * layout.CHUNKS_MAX
    return _Body(file.size, layout.HOLE * chunks, spill=spill, chunk_format=bits - layout.BLOCK_BITS)


def _block(data: bytes) -> bytes:
    return data.ljust(layout.BLOCK_SIZE, b"\0")
