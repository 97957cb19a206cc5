"""One file with the image of a tree: written, and looked at."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import TYPE_CHECKING

from stratum.store.layout import storing

if TYPE_CHECKING:
    from pathlib import Path

    from stratum.tree.model import Directory

IMAGE_MODE = 0o644
_BLOCK_SIZE = 4096
_MAGIC_AT, _BLOCKS_AT = 1024, 1024 + 36
"""Where an image's superblock (``composefs.erofs.layout``) has its magic number, and the number of blocks."""
_NUMBER = struct.Struct("<I")
_MAGIC = 0xE0F5E1E2


def is_whole(fd: int) -> bool:
    """Whether the open file is an image that nobody else can have written, and has as many blocks as it says."""
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode) or info.st_uid not in (0, os.geteuid()) or info.st_mode & 0o022:
        return False
    head = os.pread(fd, _BLOCKS_AT + _NUMBER.size, 0)
    if len(head) < _BLOCKS_AT + _NUMBER.size or _NUMBER.unpack_from(head, _MAGIC_AT)[0] != _MAGIC:
        return False
    return bool(_NUMBER.unpack_from(head, _BLOCKS_AT)[0] * _BLOCK_SIZE == info.st_size)


def write_image(root: Directory, fd: int) -> None:
    """Write the image of the tree ``root`` to the open file. ``OSError``."""
    with open(fd, "wb", buffering=1 << 20, closefd=False) as file:
        file.writelines(pieces_of(root))


def new_image(root: Directory, path: Path) -> None:
    """Write the image of the tree ``root`` to the new file ``path``, durably. ``StratumError``."""
    with storing(f"write {path.name}"):
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, IMAGE_MODE)
        try:
            write_image(root, fd)
            os.fsync(fd)
        finally:
            os.close(fd)


def pieces_of(root: Directory) -> Iterator[bytes | bytearray]:
    """The image of the tree ``root``, in pieces."""
    from stratum.composefs.erofs.writer import image_pieces

    return image_pieces(root)
