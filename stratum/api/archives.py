"""A commit, or what is at one path of it, as a tar or zip archive, made while it is read.

Tar holds all that a tree says but sockets, for which it has no form. Zip holds directories, regular files and symbolic
links, with permissions and times; a file with several names is in it several times. In both, names begin with that of
the path, or with what the caller calls the whole. Zip names are text: of others, each byte that is none is ``%XX``.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime, timezone
from typing import TYPE_CHECKING, BinaryIO

from stratum.api.reading import found_in
from stratum.api.unreal import bring_inodes
from stratum.errors import UsageError
from stratum.transfer.packs import file_pieces
from stratum.tree import tarheader
from stratum.tree.model import Directory, File, Inode, Symlink, walk

if TYPE_CHECKING:
    from collections.abc import Callable
    from zipfile import ZipFile, ZipInfo

    from stratum.api.session import Session

KINDS = ("tar", "zip")
_ZIP_FIRST, _ZIP_LAST = (1980, 1, 1, 0, 0, 0), (2107, 12, 31, 23, 59, 58)

Open = "Callable[[bytes], BinaryIO]"
Members = Iterator[tuple[bytes, Inode]]


def archive(session: Session, text: str, path: str, kind: str, whole: str) -> Iterator[bytes]:
    """The bytes of an archive (of ``KINDS``) of what ``path`` is in what ``text`` names, in pieces; ``whole`` is the
    name that the root has in it.

    All content has to be here, nothing is fetched: ``UnsupportedError`` says what is not. Raises as ``found_in``
    before the first piece; ``DamagedError`` in between for an object that is not what its name says.
    """
    if kind not in KINDS:
        raise UsageError(f"an archive is one of {', '.join(KINDS)}")
    with found_in(session, text, [path]) as (found,):
        bring_inodes(session, [found.commit], [found.inode], offline=True)
    top = os.path.basename(found.path) or os.fsencode(whole)

    def open_object(digest: bytes) -> BinaryIO:
        return os.fdopen(session.store.objects.open(digest), "rb")

    return (_tar if kind == "tar" else _zip)(_members(top, found.inode), open_object)


def _members(top: bytes, inode: Inode) -> Members:
    """What is in the archive, by its names there."""
    if not isinstance(inode, Directory):
        yield top, inode
        return
    for path, child in walk(inode):
        yield (top + path).rstrip(b"/"), child


def _tar(members: Members, open_object: Callable[[bytes], BinaryIO]) -> Iterator[bytes]:
    first_names: dict[int, bytes] = {}
    for name, inode in members:
        first = first_names.setdefault(id(inode), name)
        header = tarheader.header_of(name, inode, first if first is not name else None)
        if header is None:
            continue
        yield tarheader.write_header(header)
        if isinstance(inode, File) and first is name:
            yield from file_pieces(open_object, inode)
            yield bytes(tarheader.padding(inode.size))
    yield tarheader.END


class _Taken(io.RawIOBase):
    """What was written, to be taken away; nobody can seek in it."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:  # type: ignore[override]  # what ZipFile writes is bytes
        self._parts.append(bytes(data))
        return len(data)

    def take(self) -> bytes:
        """All of it."""
        data = b"".join(self._parts)
        self._parts.clear()
        return data


def _zip(members: Members, open_object: Callable[[bytes], BinaryIO]) -> Iterator[bytes]:
    from zipfile import ZipFile

    out = _Taken()
    with ZipFile(out, "w") as made:
        for name, inode in members:
            yield from _zip_member(made, _zip_info(name, inode), inode, open_object, out)
    yield out.take()


def _zip_member(
    made: ZipFile, info: ZipInfo, inode: Inode, open_object: Callable[[bytes], BinaryIO], out: _Taken
) -> Iterator[bytes]:
    if isinstance(inode, File):
        with made.open(info, "w", force_zip64=inode.size > 1 << 31) as member:
            for piece in file_pieces(open_object, inode):
                member.write(piece)
                yield out.take()
    elif isinstance(inode, Directory):
        made.writestr(info, b"")
    elif isinstance(inode, Symlink):
        made.writestr(info, inode.target)
    yield out.take()


def _zip_info(name: bytes, inode: Inode) -> ZipInfo:
    from zipfile import ZIP_DEFLATED, ZipInfo

    when = _ZIP_FIRST
    with suppress(ValueError, OverflowError):
        time = datetime.fromtimestamp(inode.mtime // 10**9, timezone.utc)
        when = min(max(time.timetuple()[:6], _ZIP_FIRST), _ZIP_LAST)
    info = ZipInfo(_zip_name(name) + ("/" if isinstance(inode, Directory) else ""), when)
    info.create_system = 3  # Unix: who unpacks it looks for the mode
    info.external_attr = inode.mode << 16
    info.compress_type = ZIP_DEFLATED
    return info


def _zip_name(name: bytes) -> str:
    """A name as text: what is none, and what would part it elsewhere, by its numbers."""
    text = name.decode("utf-8", "surrogateescape")
    return "".join(
        char if char.isprintable() and char != "\\" else "".join(f"%{byte:02X}" for byte in os.fsencode(char))
        for char in text
    )
