"""A 7z archive becomes a tree, as a tar does (``ingest.treebuilder``). Read by ``py7zr``, the extra ``archives``.

Permissions and symbolic links are in the Unix attributes, other files get 0644 and directories 0755; owners are root's.
An archive is anybody's: it may grow as any other (``compression.check_expansion``), and takes so much memory
(``MEMORY_MAX``) and no more. Checksums are checked. Encrypted archives are refused.
"""

from __future__ import annotations

import os
import stat
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, StratumError, UnsupportedError, UsageError, path_text
from stratum.ingest.compression import check_expansion
from stratum.ingest.staging import IN_MEMORY_MAX
from stratum.ingest.treebuilder import TreeBuilder
from stratum.progress import Progress
from stratum.store.layout import storing
from stratum.store.transaction import Transaction
from stratum.sys.limits import MemoryLimitError, bounded_memory
from stratum.tree import tarheader as tar
from stratum.tree.limits import TARGET_MAX
from stratum.tree.model import Directory
from stratum.tree.tarstream import TarMember

if TYPE_CHECKING:
    from py7zr.py7zr import ArchiveFile

MAGIC = b"7z\xbc\xaf\x27\x1c"
MEMORY_MAX = 1 << 30

_PIECE = 1 << 20
_UNIX_EXTENSION = 0x8000
_EPOCH_OF_NTFS = 11_644_473_600 * 10_000_000


def read_sevenzip_file(
    tx: Transaction,
    path: str,
    what: str,
    *,
    base: Directory | None = None,
    progress: Progress | None = None,
) -> tuple[Directory, list[str]]:
    """The tree in the 7z file at ``path``, which ``what`` names in errors, its objects staged in ``tx``; and warnings.

    ``base`` is the tree that it will be a layer over. Raises ``UnsupportedError`` where there is no ``py7zr``,
    ``DamagedError`` and ``StratumError`` naming the member; what was staged until then goes with the transaction.
    """
    try:
        import py7zr
        import py7zr.io
    except ImportError:
        raise UnsupportedError(
            f"{what} is a 7z archive, and the Python package py7zr is not here to read it",
            hint=f"install it beside stratum ({sys.executable} -m pip install py7zr), or unpack it yourself",
        ) from None

    builder = TreeBuilder(tx, what, base, False)
    with open(path, "rb") as file, _told(what), bounded_memory(MEMORY_MAX), py7zr.SevenZipFile(file) as archive:
        members = list(archive.files)
        if archive.needs_password():
            raise py7zr.PasswordRequired(None, "")
        check_expansion(_size_of(members), os.fstat(file.fileno()).st_size, what)
        unpacking = _Unpacking(builder, tx, what, members, progress)

        class Factory(py7zr.io.WriterFactory):
            def create(self, filename: str) -> Any:
                return unpacking.content(filename)

        with unpacking:
            archive.extractall(factory=Factory())
    return builder.root, builder.warnings()


def _size_of(members: list[ArchiveFile]) -> int:
    return sum(member.uncompressed or 0 for member in members)


@contextmanager
def _told(what: str) -> Iterator[None]:
    """What the library raises, as errors of ours: of bytes that are none it raises about everything there is."""
    import py7zr

    try:
        yield
    except StratumError:
        raise
    except (MemoryLimitError, MemoryError):
        raise StratumError(
            f"{what} needs more than {MEMORY_MAX} bytes of memory to unpack", hint="unpack it yourself"
        ) from None
    except py7zr.PasswordRequired:
        raise StratumError(f"{what} is encrypted", hint="unpack it yourself, and import the directory") from None
    except py7zr.UnsupportedCompressionMethodError as exc:
        raise StratumError(
            f"{what} is packed in a way that is not known here: {exc}",
            hint="unpack it yourself, and import the directory",
        ) from None
    except Exception as exc:  # the library ends on damage with whatever its code came upon
        raise DamagedError(f"{what} cannot be read as a 7z archive: {exc or type(exc).__name__}") from None


class _Unpacking:
    """Takes the contents of members from the library, which hands them over one after the other."""

    def __init__(
        self, builder: TreeBuilder, tx: Transaction, what: str, members: list[ArchiveFile], progress: Progress | None
    ) -> None:
        self._builder = builder
        self._tx = tx
        self._what = what
        self._progress = progress
        self._done = 0
        self._total = _size_of(members)
        self._open: _Content | None = None
        self._files: dict[str, tuple[ArchiveFile, bytes]] = {}
        for member in members:
            name = member.filename.encode("utf-8", "surrogateescape")
            key = os.fsdecode(b"/".join(builder.names(name)))
            if member.is_directory:
                builder.add(TarMember(_header(member, name, tar.DIRECTORY), 0, 0), iter(()))
            elif key in self._files:
                raise DamagedError(f"{what}: there are two files {path_text(name)}")
            else:
                self._files[key] = (member, name)

    def content(self, filename: str) -> _Content:
        """What the content of the member that the library calls so is written to."""
        self._open = _Content(self, self._tx, *self._files.pop(filename))
        return self._open

    def take(self, member: ArchiveFile, name: bytes, pieces: Iterator[bytes], size: int) -> None:
        """Put a member with its content into the tree."""
        kind = stat.S_IFMT(_unix(member)) or stat.S_IFREG
        if kind == stat.S_IFLNK:
            if not 0 < size <= TARGET_MAX or b"\0" in (target := b"".join(pieces)):
                raise DamagedError(f"{self._what}: {path_text(name)} is a symbolic link to what is no path")
            header = _header(member, name, tar.SYMLINK, target)
            self._builder.add(TarMember(header, 0, 0), iter(()))
        elif kind == stat.S_IFREG and not (member.is_symlink or member.is_junction):
            self._builder.add(TarMember(_header(member, name, tar.REGULAR), size, 0), pieces)
        else:
            raise UsageError(f"{self._what}: {path_text(name)} is neither a file nor a directory nor a symbolic link")
        self._done += size
        if self._progress is not None:
            self._progress(self._done, self._total)

    def __enter__(self) -> _Unpacking:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: object, trace: object) -> None:
        """Close what is open. ``DamagedError`` where all went well, and members did not come."""
        if self._open is not None:
            self._open.file.close()
        for _, name in self._files.values():
            if kind is None:
                raise DamagedError(f"{self._what}: {path_text(name)} is named there, and has no content")


class _Content:
    """A file that the library writes a member to (``py7zr.io.Py7zIO``)."""

    def __init__(self, unpacking: _Unpacking, tx: Transaction, member: ArchiveFile, name: bytes) -> None:
        self._unpacking = unpacking
        self._member = member
        self._name = name
        self.file = SpooledTemporaryFile(max_size=IN_MEMORY_MAX, dir=str(tx.directory))  # noqa: SIM115  (``close``)
        self._size = 0

    def write(self, data: bytes) -> int:
        with storing("keep a file of an archive"):
            self.file.write(data)
        self._size += len(data)
        return len(data)

    def seekable(self) -> bool:
        return False

    def flush(self) -> None:
        """Nothing waits."""

    def size(self) -> int:
        return self._size

    def close(self) -> None:
        """All of it was written."""
        with self.file as file:
            file.seek(0)
            self._unpacking.take(self._member, self._name, iter(lambda: file.read(_PIECE), b""), self._size)


def _unix(member: ArchiveFile) -> int:
    """The member's ``st_mode``; 0 where it has none."""
    attributes = int(member.file_properties().get("attributes") or 0)
    return attributes >> 16 if attributes & _UNIX_EXTENSION else 0


def _header(member: ArchiveFile, name: bytes, kind: bytes, target: bytes = b"") -> tar.TarHeader:
    unix = _unix(member)
    mode = stat.S_IMODE(unix)
    if not unix:
        mode = 0o755 if kind == tar.DIRECTORY else 0o444 if member.readonly else 0o644
    ticks = int(member.lastwritetime or _EPOCH_OF_NTFS)
    time = (ticks - _EPOCH_OF_NTFS) * 100
    return tar.TarHeader(name=name, kind=kind, mode=mode, mtime=time if abs(time) < 1 << 62 else 0, linkname=target)
