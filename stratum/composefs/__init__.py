"""Trees as composefs images, and the fs-verity digests that name their objects. Pure: no I/O of its own."""

from __future__ import annotations


def image_from_dump(dump: bytes) -> bytes:
    """The image that ``mkcomposefs --from-file`` of composefs 1.0.8 makes of a composefs-dump(5) file.

    Raises ``DamagedError`` naming the line where that refuses the dump, ``UnsupportedError`` where it is the image
    that is not possible.
    """
    from stratum.composefs.erofs import image_pieces
    from stratum.tree.foreign import read_foreign_dump

    return b"".join(image_pieces(*read_foreign_dump(dump)))
