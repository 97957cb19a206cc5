"""What a composefs image can hold, so that every tree that gets a commit can also get its image.

The numbers are those of composefs 1.0.8: whatever it refuses to put into an image is refused here, too.
"""

from __future__ import annotations

import stat
from collections.abc import Iterable
from functools import cache
from typing import Final

from stratum.errors import UnsupportedError, path_text
from stratum.tree.model import INLINE_MAX, Directory, File, Inode, Special, Symlink, Xattrs
from stratum.tree.overlay import (
    BY_STRATUM,
    OPAQUE,
    OPAQUE_XATTR_WHITEOUTS,
    OPAQUE_YES,
    WHITEOUT,
    WHITEOUTS,
    Dialect,
    is_whiteout_device,
)

NAME_MAX: Final = 255
PATH_MAX: Final = 4096
"""Bytes of a path from the root of its tree, with the leading slash and without escapes: the kernel takes no longer
one, and what is below it would have its whole path in every line of the dump."""
TARGET_MAX: Final = 4095
XATTR_NAME_MAX: Final = 255
XATTRS_MAX: Final = 32767
"""Bytes of all extended attributes of an inode, each counted with ``_XATTR_OVERHEAD``, all with ``XATTRS_HEADER``."""
XATTR_TEXT_MAX: Final = 65535
"""Bytes of all extended attributes of an inode as text in the dump, without the space before the first."""
FILE_SIZE_MAX: Final = 1 << 53
"""Bytes of a file that is not inline: its map has to fit into one block, 1024 chunks of at most 8 TiB."""

LONG_PATH_HINT: Final = "no commit can hold it, and few programs can use it; move it up or delete it, and try again"

XATTRS_HEADER: Final = 12
_XATTR_OVERHEAD = 7
_SIZE_T = (1 << 64) - 1

_MARK_NAMES = frozenset(dialect.own(mark) for dialect in Dialect for mark in (WHITEOUT, WHITEOUTS, OPAQUE))


def xattrs_size(xattrs: Xattrs) -> int:
    """The size of an inode's extended attributes as ``XATTRS_MAX`` counts it."""
    if not xattrs:
        return 0
    return XATTRS_HEADER + sum(xattr_size(name, value) for name, value in xattrs)


def xattr_size(name: bytes, value: bytes) -> int:
    """The size of one extended attribute as ``XATTRS_MAX`` counts it."""
    return _XATTR_OVERHEAD + len(name) + len(value)


def overlay_marks(inode: Inode, dialect: Dialect, *, holds_whiteouts: bool, is_root: bool) -> Xattrs:
    """The extended attributes that an image needs on ``inode`` besides its own (escaped) ones.

    They are what overlayfs's own metadata for whiteouts looks like from inside a mount, in both dialects: a whiteout
    device is stored as an empty file that bears them, and so does the directory around it. The image's root is opaque.
    """
    if type(inode) is Directory:
        marks: Xattrs = ()
        if holds_whiteouts:
            marks = _seen_inside(dialect, WHITEOUTS, b"") + _seen_inside(dialect, OPAQUE, OPAQUE_XATTR_WHITEOUTS)
        return (*marks, (dialect.own(OPAQUE), OPAQUE_YES)) if is_root else marks
    return _seen_inside(dialect, WHITEOUT, b"") if is_whiteout_device(inode) else ()


@cache
def _seen_inside(dialect: Dialect, mark: bytes, value: bytes) -> Xattrs:
    """What a mount shows as ``mark`` in each dialect, in an image of ``dialect``."""
    for_users = BY_STRATUM if dialect is Dialect.USER and not value else value
    values = {Dialect.TRUSTED: value, Dialect.USER: for_users}
    return tuple(pair for shown in Dialect for pair in dialect.escape(((shown.own(mark), values[shown]),)))


def with_marks(xattrs: Xattrs, marks: Iterable[tuple[bytes, bytes]]) -> Xattrs:
    """``xattrs`` (sorted, escaped) with ``marks`` set one after the other, sorted.

    Raises ``UnsupportedError`` where a mark would have to replace a longer value: composefs counts the bytes that are
    *added*, in an unsigned number, starting from zero, so that going below zero means too many.
    """
    merged = dict(xattrs)
    size = 0
    for name, value in marks:
        old = merged.pop(name, None)
        if old is not None:
            size = (size - _XATTR_OVERHEAD - len(name) - len(old)) & _SIZE_T if merged else 0
        size = (size + _XATTR_OVERHEAD + len(name) + len(value) + (0 if merged else XATTRS_HEADER)) & _SIZE_T
        if size > XATTRS_MAX:
            raise UnsupportedError(
                f"the extended attribute {name.decode()} is too long for an image with whiteouts",
                hint="remove the overlay.whiteout* and overlay.opaque attributes from the tree",
            )
        merged[name] = value
    return tuple(sorted(merged.items()))


def check_whiteout_marks(directory: Directory) -> str | None:
    """Why the marks of whiteouts cannot be set on ``directory`` and the whiteout devices in it, or None."""
    whiteouts = [child for child in directory.children.values() if type(child) is Special and is_whiteout_device(child)]
    for inode in (directory, *whiteouts) if whiteouts else ():
        if any(name in _MARK_NAMES for name, _ in inode.xattrs):
            try:
                marks = overlay_marks(inode, Dialect.TRUSTED, holds_whiteouts=True, is_root=False)
                with_marks(Dialect.TRUSTED.escape(inode.xattrs), marks)
            except UnsupportedError as exc:
                return f"has whiteouts that cannot be stored: {exc.message}"
    return None


_NOT_NAMES = frozenset((b"", b".", b".."))


def check_name(name: bytes) -> str | None:
    """Why ``name`` cannot be a name in a directory, or None."""
    if name in _NOT_NAMES or b"/" in name or b"\0" in name:
        return "is not a valid file name"
    if len(name) > NAME_MAX:
        return f"has a name of {len(name)} bytes; {NAME_MAX} is the limit"
    return None


def refuse_long_path(path: bytes, length: int | None = None) -> None:
    """Raise ``UnsupportedError`` where ``path``, of which the last ``length`` bytes (default: all) are below the top of
    the tree, is too long. For whoever reads a tree, so that it is seen before there is more of it."""
    length = len(path) if length is None else length
    if length > PATH_MAX:
        raise UnsupportedError(f"{path_text(path)} {check_path(length)}", hint=LONG_PATH_HINT)


def check_path(length: int) -> str | None:
    """Why a path of so many bytes, counted as ``PATH_MAX`` is, cannot be in a tree, or None."""
    return f"has a path of {length} bytes; {PATH_MAX} is the limit" if length > PATH_MAX else None


def check_xattrs(xattrs: Xattrs) -> str | None:
    """Why ``xattrs`` cannot be in an image, or None. Their text in the dump has a limit of its own (``dump``)."""
    previous = b""
    for name, _ in xattrs:
        if not name or len(name) > XATTR_NAME_MAX or b"\0" in name:
            return f"has the extended attribute {name[:40]!r}, which is not a valid name"
        if name <= previous:
            return f"has the extended attribute {name[:40]!r} twice or out of order"
        previous = name
    size = xattrs_size(xattrs)
    if size > XATTRS_MAX:
        return f"has extended attributes of {size} bytes; {XATTRS_MAX} is the limit"
    return None


def check_inode(inode: Inode) -> str | None:
    """Why an inode of a canonical tree cannot be in a commit, as the end of a sentence about it, or None."""
    if not (0 <= inode.uid < 1 << 32 and 0 <= inode.gid < 1 << 32):
        return "has a user or group ID beyond 32 bits"
    if not -(1 << 63) <= inode.mtime // 1_000_000_000 < 1 << 63:
        return "has a modification time beyond 64 bits"
    if inode.xattrs and (problem := check_xattrs(inode.xattrs)):
        return problem
    kind = stat.S_IFMT(inode.mode)
    if isinstance(inode, File):
        return _check_file(inode) if kind == stat.S_IFREG else _WRONG_TYPE
    if isinstance(inode, Symlink):
        if kind != stat.S_IFLNK:
            return _WRONG_TYPE
        if not 0 < len(inode.target) <= TARGET_MAX or b"\0" in inode.target:
            return f"is a symbolic link to {len(inode.target)} bytes; 1 to {TARGET_MAX} without NUL are possible"
    elif isinstance(inode, Special):
        return _check_special(inode, kind)
    elif kind != stat.S_IFDIR:
        return _WRONG_TYPE
    return None


_WRONG_TYPE = "has a mode that is not its type's"


def _check_file(file: File) -> str | None:
    if file.size <= INLINE_MAX:
        if file.digest is not None or len(file.content or b"") != file.size or file.content == b"":
            return f"is a file of {file.size} bytes, which must be its content and nothing else"
    elif file.digest is None or len(file.digest) != 32 or file.content is not None:
        return f"is a file of {file.size} bytes, which must be the digest of an object and nothing else"
    if file.size > FILE_SIZE_MAX:
        return f"is a file of {file.size} bytes; {FILE_SIZE_MAX} is the limit"
    return None


def _check_special(special: Special, kind: int) -> str | None:
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        return None if 0 <= special.rdev < 1 << 32 else "has a device number beyond 32 bits"
    if kind not in (stat.S_IFIFO, stat.S_IFSOCK):
        return "is of an unknown file type"
    return "has a device number but is no device" if special.rdev else None
