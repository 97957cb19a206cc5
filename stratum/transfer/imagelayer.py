"""A layer of a tree as the tar archive of an OCI image layer (image-spec 1.1, "Image Layer Filesystem Changeset").

Members come in the order of the tree, the layer's own directory first as ``./``, with nothing in their headers but what
the tree says, so equal layers have equal bytes. Deletions are ``.wh.NAME`` files, opaque directories hold
``.wh..wh..opq``. overlayfs's own attributes, which are plain data in a tree, are escaped by one level: a program that
unpacks the layer into an overlay as root then shows them and does not obey them.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from typing import BinaryIO

from stratum.errors import UnsupportedError
from stratum.transfer.packs import object_pieces
from stratum.tree import overlay, tarheader
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Whiteout, Xattrs, walk

_MARKER = b".wh."
_OPAQUE_MARKER = b".wh..wh..opq"
_KINDS = {
    stat.S_IFCHR: tarheader.CHARACTER_DEVICE,
    stat.S_IFBLK: tarheader.BLOCK_DEVICE,
    stat.S_IFIFO: tarheader.FIFO,
}


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
            yield tarheader.write_header(_header(path.rstrip(b"/") + b"/", inode, tarheader.DIRECTORY))
            if inode.opaque:
                yield _marker(absolute[1:], _OPAQUE_MARKER)
            continue
        first = names.setdefault(id(inode), path)
        if first is not path:
            yield tarheader.write_header(_header(path, inode, tarheader.HARD_LINK, linkname=first))
            continue
        yield tarheader.write_header(_leaf_header(path, inode))
        if isinstance(inode, File):
            if inode.digest is None:
                yield inode.content or b""
            else:
                yield from object_pieces(open_object, inode.digest, inode.size)
            yield bytes(tarheader.padding(inode.size))
    yield tarheader.END


def _marker(directory: bytes, name: bytes) -> bytes:
    return tarheader.write_header(tarheader.TarHeader(b"/".join(filter(None, (directory, name)))))


def _leaf_header(path: bytes, inode: Inode) -> tarheader.TarHeader:
    if isinstance(inode, File):
        return _header(path, inode, tarheader.REGULAR, size=inode.size)
    if isinstance(inode, Symlink):
        return _header(path, inode, tarheader.SYMLINK, linkname=inode.target)
    assert isinstance(inode, Special)
    kind = _KINDS.get(stat.S_IFMT(inode.mode))
    if kind is None or overlay.is_whiteout_device(inode):
        what = "a socket" if kind is None else "a character device 0:0"
        raise UnsupportedError(
            f"/{os.fsdecode(path)} is {what}, which an image layer cannot hold",
            hint="push it as an artifact, without '--as image'",
        )
    return _header(path, inode, kind, devmajor=os.major(inode.rdev), devminor=os.minor(inode.rdev))


def _header(
    path: bytes,
    inode: Inode,
    kind: bytes,
    *,
    size: int = 0,
    linkname: bytes = b"",
    devmajor: int = 0,
    devminor: int = 0,
) -> tarheader.TarHeader:
    return tarheader.TarHeader(
        path,
        kind,
        mode=stat.S_IMODE(inode.mode),
        uid=inode.uid,
        gid=inode.gid,
        size=size,
        mtime=inode.mtime,
        linkname=linkname,
        devmajor=devmajor,
        devminor=devminor,
        xattrs=_escaped(inode.xattrs),
    )


def _escaped(xattrs: Xattrs) -> Xattrs:
    for dialect in overlay.Dialect:
        xattrs = dialect.escape(xattrs)
    return xattrs
