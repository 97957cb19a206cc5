"""A zip archive becomes a tree, as a tar does (``ingest.treebuilder``). Read by the standard library's ``zipfile``.

What zip says differently: names are UTF-8 where that is said or where they are, else bytes as they stand (written on
Unix) or code page 437 (elsewhere, where '\\' parts directories, too); permissions, symbolic links and fifos are in the
Unix attributes, other files get 0644 and directories 0755; owners are root's, as ``unzip`` has it; times are those of
the extended timestamp, of NTFS, or of DOS, which has no time zone and is taken for UTC.

An archive is anybody's: it may grow as any other (``compression.check_expansion``), and takes so much memory
(``MEMORY_MAX``) and no more. Checksums are checked. Encrypted members are refused.
"""

from __future__ import annotations

import lzma
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timezone

from stratum.errors import DamagedError, StratumError, UsageError, path_text
from stratum.ingest.compression import check_expansion
from stratum.ingest.treebuilder import TreeBuilder
from stratum.progress import Progress
from stratum.store.transaction import Transaction
from stratum.sys.limits import MemoryLimitError, bounded_memory
from stratum.tree import tarheader as tar
from stratum.tree.limits import TARGET_MAX
from stratum.tree.model import Directory
from stratum.tree.tarstream import TarMember

MAGIC = (b"PK\3\4", b"PK\5\6", b"PK\7\x08")
MEMORY_MAX = 1 << 30

_PIECE = 256 << 10
_SMALL_PIECE = 4096  # of what is unpacked without regard to how much comes of it: bzip2, lzma
_ENCRYPTED = 0x1
_UTF8 = 0x800
_UNIX, _MACOS = 3, 19
_DOS_LIKE = frozenset((0, 6, 10, 11, 14))
_DOS_READ_ONLY, _DOS_DIRECTORY = 0x01, 0x10
_UNICODE_PATH, _EXTENDED_TIME, _NTFS = 0x7075, 0x5455, 0x000A
_EPOCH_OF_NTFS = 11_644_473_600 * 10_000_000
_SECOND = 1_000_000_000
_ERRORS = (
    *(zipfile.BadZipFile, zipfile.LargeZipFile, zlib.error, lzma.LZMAError, struct.error, EOFError, UnicodeError),
    *(ValueError, OverflowError, IndexError, OSError),
)


def read_zip_file(
    tx: Transaction,
    path: str,
    what: str,
    *,
    base: Directory | None = None,
    progress: Progress | None = None,
) -> tuple[Directory, list[str]]:
    """The tree in the zip file at ``path``, which ``what`` names in errors, its objects staged in ``tx``; and warnings.

    ``base`` is the tree that it will be a layer over. Raises ``DamagedError`` and ``StratumError`` naming the member;
    what was staged until then goes with the transaction.
    """
    builder = TreeBuilder(tx, what, base, False)
    with _told(what), bounded_memory(MEMORY_MAX), zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        total = sum(member.compress_size for member in members)
        source = min(total, _size_of(archive))  # members may claim the same bytes
        taken = expanded = 0
        for member in members:
            name = _name(member)
            check_expansion(expanded + member.file_size, source, what)
            builder.add(_member(archive, member, name, what), _data(archive, member, name, what))
            expanded += member.file_size
            taken += member.compress_size
            if progress is not None:
                progress(taken, total)
    return builder.root, builder.warnings()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the library raises, as errors of ours."""
    try:
        yield
    except MemoryLimitError:
        raise StratumError(
            f"{what} needs more than {MEMORY_MAX} bytes of memory to unpack", hint="unpack it yourself"
        ) from None
    except NotImplementedError as exc:
        raise StratumError(
            f"{what} is packed in a way that is not known here: {exc}", hint="unpack it yourself"
        ) from None
    except StratumError:
        raise
    except _ERRORS as exc:
        raise DamagedError(f"{what} cannot be read as a zip archive: {exc}") from None


def _size_of(archive: zipfile.ZipFile) -> int:
    assert archive.fp is not None
    archive.fp.seek(0, 2)
    return archive.fp.tell()


def _member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: bytes, what: str) -> TarMember:
    """The member as one of a tar; the target of a symbolic link is read."""
    if member.flag_bits & _ENCRYPTED:
        raise StratumError(
            f"{what}: {path_text(name)} is encrypted", hint="unpack it yourself, and import the directory"
        )
    attributes = member.external_attr >> 16 if member.create_system in (_UNIX, _MACOS) else 0
    directory = name.endswith(b"/") or bool(member.external_attr & _DOS_DIRECTORY and not attributes)
    kind = stat.S_IFMT(attributes) or (stat.S_IFDIR if directory else stat.S_IFREG)
    mode = stat.S_IMODE(attributes)
    if not attributes:
        mode = 0o755 if directory else 0o444 if member.external_attr & _DOS_READ_ONLY else 0o644
    header = tar.TarHeader(name=name, mode=mode, mtime=_time(member))
    if kind == stat.S_IFDIR:
        return TarMember(replace(header, kind=tar.DIRECTORY), 0, 0)
    if kind == stat.S_IFLNK:
        if not 0 < member.file_size <= TARGET_MAX:
            raise DamagedError(f"{what}: {path_text(name)} is a symbolic link to {member.file_size} bytes")
        target = b"".join(_data(archive, member, name, what))
        if b"\0" in target:
            raise DamagedError(f"{what}: {path_text(name)} is a symbolic link to what is no path")
        return TarMember(replace(header, kind=tar.SYMLINK, linkname=target), 0, 0)
    if kind == stat.S_IFIFO:
        return TarMember(replace(header, kind=tar.FIFO), 0, 0)
    if kind != stat.S_IFREG:
        raise UsageError(
            f"{what}: {path_text(name)} is a device or a socket, of which a zip archive tells nothing more"
        )
    return TarMember(replace(header, size=member.file_size), member.file_size, 0)


def _data(archive: zipfile.ZipFile, member: zipfile.ZipInfo, name: bytes, what: str) -> Iterator[bytes]:
    """The content of a member, in pieces; just as many bytes as are told."""
    left = member.file_size
    known = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    with archive.open(member) as file:
        while piece := file.read(_PIECE if known else _SMALL_PIECE):
            left -= len(piece)
            yield piece
    if left:
        raise DamagedError(f"{what}: {path_text(name)} has {-left} bytes more than told, or less")


def _name(member: zipfile.ZipInfo) -> bytes:
    """The member's name as bytes, directories parted by slashes."""
    text = member.orig_filename
    if member.flag_bits & _UTF8:
        name = text.encode("utf-8", "surrogateescape")
    else:
        raw = text.encode("cp437")
        name = _unicode_path(member.extra, raw) or raw
        try:
            name.decode("utf-8")
        except UnicodeDecodeError:
            if member.create_system not in (_UNIX, _MACOS):
                name = text.encode("utf-8")
    if b"\0" in name:
        raise DamagedError(f"{path_text(name)} is a name with a NUL byte")
    return name.replace(b"\\", b"/") if member.create_system in _DOS_LIKE else name


def _unicode_path(extra: bytes, raw: bytes) -> bytes | None:
    """The name in Info-ZIP's field of Unicode, where it is of this very name."""
    field = _field(extra, _UNICODE_PATH)
    if field is None or len(field) < 6 or field[0] != 1 or struct.unpack_from("<I", field, 1)[0] != zlib.crc32(raw):
        return None
    return field[5:]


def _time(member: zipfile.ZipInfo) -> int:
    """When it was modified, in ns."""
    field = _field(member.extra, _EXTENDED_TIME)
    if field is not None and len(field) >= 5 and field[0] & 1:
        seconds: int = struct.unpack_from("<i", field, 1)[0]
        return seconds * _SECOND
    field = _field(member.extra, _NTFS)
    if field is not None and len(field) >= 16 and struct.unpack_from("<HH", field, 4) == (1, 24):
        ticks: int = struct.unpack_from("<Q", field, 8)[0]
        time = (ticks - _EPOCH_OF_NTFS) * 100
        return time if abs(time) < 1 << 62 else 0
    try:
        return int(datetime(*member.date_time, tzinfo=timezone.utc).timestamp()) * _SECOND
    except ValueError:
        return 0


def _field(extra: bytes, kind: int) -> bytes | None:
    """The first field of a kind in a member's extra data; None where there is none that is whole."""
    at = 0
    while at + 4 <= len(extra):
        found, size = struct.unpack_from("<HH", extra, at)
        if at + 4 + size > len(extra):
            return None
        if found == kind:
            return extra[at + 4 : at + 4 + size]
        at += 4 + size
    return None
