"""Sizes, numbers and structures of the EROFS on-disk format, little-endian (Linux fs/erofs/erofs_fs.h).

An image as composefs lays it out::

    0               composefs header (32 bytes), zeros
    1024            superblock (128 bytes)
    1152            inodes, each on a 32-byte slot, breadth-first from the root: inode, extended attributes, tail data
    next slot       extended attributes that several inodes share
    next block      directory blocks and file blocks, in inode order
"""

from __future__ import annotations

import struct
from typing import Final

BLOCK_BITS: Final = 12
BLOCK_SIZE: Final = 1 << BLOCK_BITS
SLOT_SIZE: Final = 32
TAIL_MAX: Final = BLOCK_SIZE // 2
"""The last part of a directory or inline file follows its inode up to this size, and gets a block of its own beyond."""

COMPOSEFS_MAGIC: Final = 0xD078629A
COMPOSEFS_FORMAT: Final = 1
COMPOSEFS_HAS_ACL: Final = 1
COMPOSEFS_HEADER = struct.Struct("<IIII16x")  # magic, format, flags, composefs version

SUPERBLOCK_OFFSET: Final = 1024
SUPERBLOCK_MAGIC: Final = 0xE0F5E1E2
FEATURE_COMPAT: Final = 0x2 | 0x4  # mtime, xattr name filter
# magic, checksum, compatible features, block size bits, extension slots, root nid, inodes, build time (s, ns), blocks,
# block of the metadata, block of the shared xattrs; UUID, volume name and other features are zero.
SUPERBLOCK = struct.Struct("<IIIBBHQqIIII80x")
INODES_OFFSET: Final = SUPERBLOCK_OFFSET + SUPERBLOCK.size

# format, xattr count, mode, links, size, reserved, union (block, rdev or chunk format), number, uid, gid, reserved
COMPACT_INODE = struct.Struct("<HHHHIIIIHHI")
# format, xattr count, mode, reserved, size, union, number, uid, gid, mtime (s, ns), links, reserved
EXTENDED_INODE = struct.Struct("<HHHHQIIIIqII16x")
UNION_OFFSET: Final = 16  # in either form
EXTENDED: Final = 1  # bit 0 of an inode's format; the data layout is in the bits above

FLAT_PLAIN: Final = 0 << 1
FLAT_INLINE: Final = 2 << 1
CHUNK_BASED: Final = 4 << 1

DIRENT = struct.Struct("<QHBx")  # nid, offset of the name in its block, file type
FILE_TYPES: Final = {8: 1, 4: 2, 2: 3, 6: 4, 1: 5, 12: 6, 10: 7}  # by mode >> 12
REGULAR: Final = 1
DIRECTORY: Final = 2

XATTR_HEADER = struct.Struct("<IB7x")  # name filter (a bit is 0 for a name that may be there), shared attributes
XATTR_ENTRY = struct.Struct("<BBH")  # length of the name, prefix index, length of the value
XATTR_ID = struct.Struct("<I")  # a shared attribute: offset in 4-byte units from the shared attributes' block
XATTR_PREFIXES: Final = (
    (b"user.", 1),
    (b"system.posix_acl_access", 2),
    (b"system.posix_acl_default", 3),
    (b"trusted.", 4),
    (b"security.", 6),
)
XATTR_FILTER_SEED: Final = 0x25BBE08F
XATTR_SHARED_MAX: Final = 128

HOLE: Final = b"\xff\xff\xff\xff"
"""An entry of a chunk map that has no data: the file's content is in the object directory."""
CHUNK_BITS_MAX: Final = BLOCK_BITS + 31
CHUNKS_MAX: Final = 1024


def align(offset: int, size: int) -> int:
    """``offset`` rounded up to a multiple of ``size``, a power of two."""
    return (offset + size - 1) & -size


def chunks_of(size: int) -> tuple[int, int]:
    """(chunk size as a power of two, number of chunks) for a file of ``size`` > 0 bytes: as few chunks as possible.

    The number is computed in 64 bits as composefs does it, which comes to 0 at the very end of that range.
    """
    bits = min(max((size - 1).bit_length(), BLOCK_BITS), CHUNK_BITS_MAX)
    return bits, ((size + (1 << bits) - 1) & 0xFFFFFFFFFFFFFFFF) >> bits
