"""Headers of the tar format: POSIX.1-2001 ustar and pax, and what GNU tar adds. Pure.

Written are ustar headers with a pax header before them where ustar has no room, with fixed bytes for equal members.
Read is everything that GNU tar, bsdtar, Go and Python write; every number in a header comes from outside and is
checked. Extended attributes are ``SCHILY.xattr.NAME`` records, with '%' and '=' in NAME escaped as GNU tar does.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field

from stratum.errors import DamagedError
from stratum.tree.model import Directory, File, Inode, Special, Symlink, Xattrs

BLOCK = 512
END = bytes(2 * BLOCK)
"""What an archive ends with."""

REGULAR = b"0"
HARD_LINK = b"1"
SYMLINK = b"2"
CHARACTER_DEVICE = b"3"
BLOCK_DEVICE = b"4"
DIRECTORY = b"5"
FIFO = b"6"
_SPECIAL = {stat.S_IFCHR: CHARACTER_DEVICE, stat.S_IFBLK: BLOCK_DEVICE, stat.S_IFIFO: FIFO}

XATTR_PREFIX = b"SCHILY.xattr."
MEMBER_SIZE_MAX = 1 << 53
_OCTAL_7 = 0o7777777
_OCTAL_11 = 0o77777777777
USTAR_SIZE_MAX = _OCTAL_11
"""A member of more bytes has a pax header."""
_SECOND = 1_000_000_000
_NAME_MAX = 100
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_OCTAL = re.compile(rb"[ ]*([0-7]{1,22})?[ ]*")
_RECORD_LENGTH = re.compile(rb"([1-9][0-9]{0,7}) ")
_PAX_NAME = b"././@PaxHeader"


@dataclass(frozen=True, slots=True)
class TarHeader:
    """One member: ``kind`` is the type flag, ``mode`` the permission bits, ``mtime`` nanoseconds since the epoch.

    ``size`` is that of the data in the archive, in bytes. ``records`` are the pax records that are no field here, by
    keyword.
    """

    name: bytes
    kind: bytes = REGULAR
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    size: int = 0
    mtime: int = 0
    linkname: bytes = b""
    devmajor: int = 0
    devminor: int = 0
    xattrs: Xattrs = ()
    records: Mapping[bytes, bytes] = field(default_factory=dict)


def padding(size: int) -> int:
    """The zero bytes that follow ``size`` bytes of data."""
    return -size % BLOCK


# Writing


def header_of(name: bytes, inode: Inode, first: bytes | None = None) -> TarHeader | None:
    """The header of the member ``name`` for an inode of a tree: of a hard link where it is in the archive as ``first``
    already, with a slash at the end of a directory's name; None for a socket, which no archive can hold."""
    kind, size, target, device = REGULAR, 0, b"", 0
    if isinstance(inode, Directory):
        kind, name = DIRECTORY, name.rstrip(b"/") + b"/"
    elif first is not None:
        kind, target = HARD_LINK, first
    elif isinstance(inode, File):
        size = inode.size
    elif isinstance(inode, Symlink):
        kind, target = SYMLINK, inode.target
    elif isinstance(inode, Special) and stat.S_IFMT(inode.mode) in _SPECIAL:
        kind, device = _SPECIAL[stat.S_IFMT(inode.mode)], inode.rdev
    else:
        return None
    return TarHeader(
        name,
        kind,
        mode=stat.S_IMODE(inode.mode),
        uid=inode.uid,
        gid=inode.gid,
        size=size,
        mtime=inode.mtime,
        linkname=target,
        devmajor=os.major(device),
        devminor=os.minor(device),
        xattrs=inode.xattrs,
    )


def write_header(header: TarHeader, *, pax_mode: int = 0o644) -> bytes:
    """The blocks of ``header``. Names and link targets may hold any byte but NUL.

    ``pax_mode``: the permission bits of the pax header before it, which only the canonical bytes of a format care for.
    """
    records = {XATTR_PREFIX + _escape_keyword(name): value for name, value in header.xattrs}
    texts = {b"path": header.name, b"linkpath": header.linkname}
    records.update({keyword: text for keyword, text in texts.items() if len(text) > _NAME_MAX})
    for keyword, number, limit in (
        (b"uid", header.uid, _OCTAL_7),
        (b"gid", header.gid, _OCTAL_7),
        (b"size", header.size, USTAR_SIZE_MAX),
    ):
        if number > limit:
            records[keyword] = b"%d" % number
    seconds, nanoseconds = divmod(header.mtime, _SECOND)
    if nanoseconds or not 0 <= seconds <= _OCTAL_11:
        records[b"mtime"] = _decimal_time(header.mtime)
    pax = b""
    if records:
        data = b"".join(_record(keyword, value) for keyword, value in sorted(records.items()))
        pax = _ustar(TarHeader(_PAX_NAME, b"x", pax_mode, size=len(data)), 0) + data + bytes(padding(len(data)))
    return pax + _ustar(header, seconds)


def _escape_keyword(name: bytes) -> bytes:
    return name.replace(b"%", b"%25").replace(b"=", b"%3D")


def _unescape_keyword(name: bytes) -> bytes:
    return name.replace(b"%3D", b"=").replace(b"%25", b"%")


def _decimal_time(time: int) -> bytes:
    seconds, nanoseconds = divmod(abs(time), _SECOND)
    fraction = b".%09d" % nanoseconds if nanoseconds else b""
    return b"%b%d%b" % (b"-" if time < 0 else b"", seconds, fraction.rstrip(b"0"))


def _record(keyword: bytes, value: bytes) -> bytes:
    """``LENGTH KEYWORD=VALUE``; the length counts its own digits."""
    rest = b" %b=%b\n" % (keyword, value)
    length = len(rest) + len(b"%d" % len(rest))
    if len(b"%d" % length) + len(rest) != length:
        length += 1
    return b"%d%b" % (length, rest)


def _ustar(header: TarHeader, seconds: int) -> bytes:
    """One ustar block; what does not fit is in the pax header before it and is cut, or 0, here."""
    start = b"".join(
        (
            header.name[:_NAME_MAX].ljust(_NAME_MAX, b"\0"),
            b"%07o\0" % header.mode,
            b"%07o\0" % (header.uid if header.uid <= _OCTAL_7 else 0),
            b"%07o\0" % (header.gid if header.gid <= _OCTAL_7 else 0),
            b"%011o\0" % (header.size if header.size <= USTAR_SIZE_MAX else 0),
            b"%011o\0" % (seconds if 0 <= seconds <= _OCTAL_11 else 0),
        )
    )
    end = b"".join(
        (
            header.kind,
            header.linkname[:_NAME_MAX].ljust(_NAME_MAX, b"\0"),
            b"ustar\x0000",
            bytes(64),
            b"%07o\0%07o\0" % (header.devmajor, header.devminor),
            bytes(167),
        )
    )
    return b"%b%06o\0 %b" % (start, sum(start) + sum(end) + 8 * 32, end)


# Reading


@dataclass(frozen=True, slots=True)
class RawHeader:
    """One ustar, GNU or old header block as it stands, before any pax record."""

    block: bytes
    name: bytes
    kind: bytes
    size: int
    linkname: bytes


def read_block(block: bytes, where: str) -> RawHeader:
    """The header in a block of 512 bytes; ``DamagedError`` (naming ``where``) for anything else."""
    said = _OCTAL.fullmatch(block[148:156].replace(b"\0", b" "))
    if said is None or not _checksum_is(int(said[1] or b"0", 8), block):
        raise DamagedError(f"{where} is not a tar header")
    kind = block[156:157]
    name = _text(block[:100])
    if block[257:263] == b"ustar\0" and (prefix := _text(block[345:500])):
        name = prefix + b"/" + name
    if kind == b"\0":  # before POSIX a directory was a name that ends in a slash
        kind = DIRECTORY if name.endswith(b"/") else REGULAR
    size = _number(block[124:136], where)
    if not 0 <= size <= MEMBER_SIZE_MAX:
        raise DamagedError(f"{where} has a size that cannot be")
    return RawHeader(block, name, kind, size, _text(block[157:257]))


def looks_like_header(block: bytes) -> bool:
    """Whether the first block of a file is that of a tar archive, be it damaged: what is none has no right checksum and
    no magic word. A file of zeros is an empty archive."""
    if len(block) < BLOCK:
        return False
    said = _OCTAL.fullmatch(block[148:156].replace(b"\0", b" "))
    return (
        not block.strip(b"\0")
        or block[257:262] == b"ustar"
        or (said is not None and _checksum_is(int(said[1] or b"0", 8), block))
    )


def _checksum_is(said: int, block: bytes) -> bool:
    """Whether ``said`` is the block's checksum, or the one of old programs that summed up signed bytes."""
    counted = block[:148] + block[156:]
    unsigned = sum(counted) + 8 * 32
    return said == unsigned or said == unsigned - 256 * sum(byte > 127 for byte in counted)


def _text(value: bytes) -> bytes:
    return value.partition(b"\0")[0]


def _number(value: bytes, where: str) -> int:
    """An octal number, or GNU's base-256."""
    if value[0] == 0xFF:
        return int.from_bytes(value, "big", signed=True)
    if value[0] == 0x80:
        return int.from_bytes(value[1:], "big")
    match = _OCTAL.fullmatch(_text(value))
    if match is None:
        raise DamagedError(f"{where} has a malformed number")
    return int(match[1] or b"0", 8)


def read_number(value: bytes, where: str) -> int:
    """A number of a header's field that is not negative."""
    number = _number(value, where)
    if number < 0:
        raise DamagedError(f"{where} has a malformed number")
    return number


def read_records(data: bytes, where: str) -> dict[bytes, bytes]:
    """The records of a pax header's data; ``DamagedError`` where they are malformed."""
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(data):
        match = _RECORD_LENGTH.match(data, position)
        end = position + int(match[1]) if match else 0
        if match is None or not match.end() < end <= len(data) or data[end - 1 : end] != b"\n":
            raise DamagedError(f"{where} has a malformed pax record")
        keyword, equals, value = data[match.end() : end - 1].partition(b"=")
        if not equals or not keyword:
            raise DamagedError(f"{where} has a malformed pax record")
        records[keyword] = value
        position = end
    return records


def read_header(raw: RawHeader, records: Mapping[bytes, bytes], where: str) -> TarHeader:
    """The member that ``raw`` and the pax ``records`` before it describe. An empty record stands for the default."""
    rest = dict(records)
    fields: dict[str, int] = {}
    for key, keyword, at in (
        ("uid", b"uid", raw.block[108:116]),
        ("gid", b"gid", raw.block[116:124]),
        ("size", b"size", raw.block[124:136]),
    ):
        text = rest.pop(keyword, b"")
        fields[key] = _decimal(text, where) if text else _number(at, where)
    time = rest.pop(b"mtime", b"")
    fields["mtime"] = _read_time(time, where) if time else _number(raw.block[136:148], where) * _SECOND
    devices = raw.kind in (CHARACTER_DEVICE, BLOCK_DEVICE)
    header = TarHeader(
        name=rest.pop(b"path", b"") or raw.name,
        kind=raw.kind,
        mode=_number(raw.block[100:108], where) & 0o7777,
        linkname=rest.pop(b"linkpath", b"") or raw.linkname,
        devmajor=_number(raw.block[329:337], where) if devices else 0,
        devminor=_number(raw.block[337:345], where) if devices else 0,
        xattrs=_read_xattrs(rest),
        records=rest,
        **fields,
    )
    if not (0 <= header.uid < 1 << 32 and 0 <= header.gid < 1 << 32 and 0 <= header.size <= MEMBER_SIZE_MAX):
        raise DamagedError(f"{where} has an owner or a size that cannot be")
    if not (0 <= header.devmajor < 1 << 12 and 0 <= header.devminor < 1 << 20):
        raise DamagedError(f"{where} has a device number that cannot be")
    if b"\0" in header.name or b"\0" in header.linkname:
        raise DamagedError(f"{where} has a name with a NUL byte")
    return header


def _decimal(text: bytes, where: str) -> int:
    if not text.isdigit() or len(text) > 19:
        raise DamagedError(f"{where} has a malformed number")
    return int(text)


def _read_time(text: bytes, where: str) -> int:
    match = _TIME.fullmatch(text)
    if match is None:
        raise DamagedError(f"{where} has a malformed time")
    time = int(match[2]) * _SECOND + int((match[3] or b"")[:9].ljust(9, b"0"))
    return -time if match[1] else time


def _read_xattrs(records: dict[bytes, bytes]) -> Xattrs:
    """Take the extended attributes out of ``records``."""
    found = {}
    for keyword in [keyword for keyword in records if keyword.startswith(XATTR_PREFIX)]:
        found[_unescape_keyword(keyword[len(XATTR_PREFIX) :])] = records.pop(keyword)
    return tuple(sorted(found.items()))
