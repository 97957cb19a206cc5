"""A tar archive becomes a tree, its file contents objects of a transaction. Nothing is unpacked to the disk.

Taken is what a directory's import takes, with the same rules: regular files (also sparse ones), directories, symbolic
links, fifos, hard links, owners, permissions, mtimes in nanoseconds and the attributes of ``ingest.attributes`` from
``SCHILY.xattr.*`` records; device nodes only where asked for. What names may be is in ``ingest.treebuilder``.

``compression.check_expansion`` bounds what compressed archives and sparse files may grow to.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path

from stratum.errors import NotFoundError, StratumError, UsageError, os_error_text
from stratum.ingest.compression import Read, check_expansion, decompressed, reader_of
from stratum.ingest.treebuilder import TreeBuilder
from stratum.progress import Progress
from stratum.store.transaction import Transaction
from stratum.tree.model import Directory
from stratum.tree.tarheader import BLOCK, looks_like_header
from stratum.tree.tarstream import TarReader

_READ = 256 << 10


def read_tar(
    tx: Transaction,
    read: Read,
    what: str,
    *,
    base: Directory | None = None,
    devices: bool = False,
    strict: bool = True,
    progress: Progress | None = None,
) -> tuple[Directory, list[str]]:
    """The tree in the (also compressed) archive that ``read`` gives, up to its end, its objects staged in ``tx``; and
    warnings, a line each.

    ``what`` names the archive in errors. ``base`` is the tree that it will be a layer over: hard links may lead there.
    ``strict`` refuses an archive that is cut short or goes on after its end; for one whose digest is checked it need
    not be.

    Raises ``DamagedError`` and ``StratumError`` naming the member; what was staged until then goes with the
    transaction.
    """
    builder = TreeBuilder(tx, what, base, devices)
    plain = decompressed(read, what)
    reader = TarReader(reader_of(iter(lambda: plain(_READ), b"")), what, strict=strict)
    _add_members(builder, reader, what, (lambda: progress(reader.position, None)) if progress is not None else None)
    return builder.root, builder.warnings()


def _add_members(builder: TreeBuilder, reader: TarReader, what: str, done: Callable[[], None] | None) -> None:
    expanded = 0
    for member in reader:
        if member.holes is not None:
            expanded += member.size
            check_expansion(expanded, reader.position + member.header.size, what)
        builder.add(member, reader.data(member))
        if done is not None:
            done()


def read_tar_file(
    tx: Transaction,
    path: Path,
    what: str,
    *,
    base: Directory | None = None,
    devices: bool = False,
    progress: Progress | None = None,
) -> tuple[Directory, list[str]]:
    """As ``read_tar``, of the file ``path``, which ``what`` names in errors. ``UsageError`` where it is no archive.

    ``progress`` is told how many bytes of the file were read.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFoundError(f"{what} does not exist") from None
    except OSError as exc:
        raise StratumError(f"cannot read {what}: {os_error_text(exc)}") from None

    taken = 0

    def read(size: int) -> bytes:
        nonlocal taken
        try:
            data = os.read(fd, size)
        except OSError as exc:
            raise StratumError(f"cannot read {what}: {os_error_text(exc)}") from None
        taken += len(data)
        return data

    try:
        total = os.fstat(fd).st_size or None
        builder = TreeBuilder(tx, what, base, devices)
        reader = TarReader(_checked(read, what), what)
        _add_members(builder, reader, what, (lambda: progress(taken, total)) if progress is not None else None)
        return builder.root, builder.warnings()
    finally:
        os.close(fd)


def _checked(read: Read, what: str) -> Read:
    """What ``read`` gives, decompressed, once its beginning is that of a tar archive. ``UsageError`` for what is no
    archive at all; one that is only damaged begins as one."""
    plain = decompressed(read, what)
    start = b""
    while len(start) < BLOCK and (piece := plain(BLOCK - len(start))):
        start += piece
    if not looks_like_header(start):
        raise UsageError(
            f"{what} is no archive that is known here",
            hint="known are tar (plain or with gzip, xz, zstd), zip, 7z, and what 'stratum export' wrote; unpack it"
            " yourself, and import the directory",
        )
    pieces: Iterator[bytes] = iter(lambda: plain(_READ), b"")
    return reader_of(itertools.chain((start,), pieces))
