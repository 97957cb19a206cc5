"""A layer of a tree as the tar archive of an OCI image layer (image-spec 1.1, "Image Layer Filesystem Changeset").

Members come in the order of the tree, the layer's own directory first as ``./``, with nothing in their headers but what
the tree says, so equal layers have equal bytes. Deletions are ``.wh.NAME`` files, opaque directories hold
``.wh..wh..opq``. overlayfs's own attributes, which are plain data in a tree, are escaped by one level: a program that
unpacks the layer into an overlay as root then shows them and does not obey them.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import BinaryIO

from stratum.errors import UnsupportedError
from stratum.transfer.packs import file_pieces
from stratum.tree import overlay, tarheader
from stratum.tree.model import Directory, File, Inode, Special, Whiteout, Xattrs, walk

_MARKER = b".wh."
_OPAQUE_MARKER = b".wh..wh..opq"


def layer_archive(layer: Directory, open_object: Callable[[bytes], BinaryIO]) -> Iterator[bytes]:
    """The archive's bytes, in pieces; ``open_object(digest)`` opens a file's content.

    ``UnsupportedError`` for what an image layer cannot hold, ``DamagedError`` for an object that is not what its name
    says. Memory: one piece.
    """
    names: dict[int, bytes] = {}
    for absolute, inode in walk(layer):
        path = absolute[1:] or b"./"
        if isinstance(inode, Whiteout):
            directory, _, name = path.rpartition(b"/")
            yield _marker(directory, _MARKER + name)
            continue
        if path.rpartition(b"/")[2].startswith(_MARKER):
            raise UnsupportedError(
                f"{os.fsdecode(absolute)} has the name of a whiteout, which an image layer cannot hold",
                hint="push it as an artifact, without '--as image'",
            )
        if isinstance(inode, Directory):
            yield tarheader.write_header(_header(path, inode))
            if inode.opaque:
                yield _marker(absolute[1:], _OPAQUE_MARKER)
            continue
        first = names.setdefault(id(inode), path)
        yield tarheader.write_header(_header(path, inode, first if first is not path else None))
        if isinstance(inode, File) and first is path:
            yield from file_pieces(open_object, inode)
            yield bytes(tarheader.padding(inode.size))
    yield tarheader.END


def _marker(directory: bytes, name: bytes) -> bytes:
    return tarheader.write_header(tarheader.TarHeader(b"/".join(filter(None, (directory, name)))))


def _header(path: bytes, inode: Inode, first: bytes | None = None) -> tarheader.TarHeader:
    header = tarheader.header_of(path, inode, first)
    whiteout = isinstance(inode, Special) and overlay.is_whiteout_device(inode)
    if header is None or whiteout:
        what = "a character device 0:0" if whiteout else "a socket"
        raise UnsupportedError(
            f"/{os.fsdecode(path)} is {what}, which an image layer cannot hold",
            hint="push it as an artifact, without '--as image'",
        )
    return replace(header, xattrs=_escaped(inode.xattrs))


def _escaped(xattrs: Xattrs) -> Xattrs:
    for dialect in overlay.Dialect:
        xattrs = dialect.escape(xattrs)
    return xattrs
