"""The tree that a worktree shows, with the content of its upperdir stored in a transaction."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.ingest.reader import FEW, FileReader, Pending, source_error
from stratum.ingest.remembered import LARGE_MIN, RememberingReader
from stratum.ingest.upperdir import read_upperdir
from stratum.ingest.upperentry import Warn
from stratum.store.objects import Objects
from stratum.store.transaction import Transaction
from stratum.tree.model import INLINE_MAX, Directory, File, lookup
from stratum.tree.overlay import Dialect

if TYPE_CHECKING:
    from stratum.progress import Progress


def store_upperdir(
    tx: Transaction,
    objects: Objects,
    base: Directory,
    upperdir: Path,
    warn: Warn,
    progress: Progress | None = None,
    *,
    dialect: Dialect = Dialect.TRUSTED,
) -> Directory:
    """Read ``upperdir`` over ``base`` (``ingest.upperdir.read_upperdir``), staging every file's content in ``tx``, but
    for those that are in the store and did not change since (``ingest.remembered``). ``dialect`` is that of the
    mounts that wrote it.

    Where there is much to read, a worker process does it for each CPU that this process may use. Raises what reading
    raises, and ``StratumError`` in the kernel's words where the store cannot be written.
    """
    told = (lambda size, files: progress(size, None, files=files)) if progress is not None else None
    with FileReader(tx, objects, jobs=len(os.sched_getaffinity(0)), here=FEW, progress=told) as reader:
        remembering = RememberingReader(reader, objects, upperdir)
        root = read_upperdir(base, upperdir, remembering, warn=warn, dialect=dialect)
        remembering.remember(reader.unlike_listed)
    for warning in reader.warnings:
        warn(warning)
    return root


def hash_upperdir(
    objects: Objects, base: Directory, upperdir: Path, warn: Warn, *, dialect: Dialect = Dialect.TRUSTED
) -> Directory:
    """The same tree without storing anything: contents are only hashed."""
    reader = RememberingReader(_Hasher(), objects, upperdir)
    return read_upperdir(base, upperdir, reader, warn=warn, dialect=dialect)


def compare_upperdir(
    objects: Objects,
    base: Directory,
    upperdir: Path,
    trees: Sequence[Directory],
    warn: Warn | None = None,
    *,
    at_a_glance: bool = False,
    metadata_tells: bool = True,
    dialect: Dialect = Dialect.TRUSTED,
) -> Directory:
    """The same tree, to be compared with ``trees``: a file that has another size than each of them has at its path, or
    other metadata, unless that is not enough (``metadata_tells``), is not read, and has no content.

    With ``at_a_glance``, a large file that has the size and metadata of one in ``trees`` is taken to be that one, so
    the cost does not grow with the bytes. It need not be: a program may have set its time back.
    """
    reader = RememberingReader(_Hasher(), objects, upperdir)
    alike = _Alike(trees, at_a_glance, metadata_tells)
    return read_upperdir(base, upperdir, reader, warn=warn, dialect=dialect, knows=alike.knows)


class _Alike:
    """Finds what may be equal to a file of ``trees``."""

    def __init__(self, trees: Sequence[Directory], at_a_glance: bool, metadata_tells: bool) -> None:
        self._trees = trees
        self._at_a_glance = at_a_glance
        self._metadata_tells = metadata_tells

    def knows(self, path: bytes, size: int, node: File) -> bool:
        """Whether a file of ``size`` bytes need not be read; then ``node`` is as it will be."""
        alike = self._alike(path, size, node)
        if alike is not None and self._at_a_glance and size >= LARGE_MIN:
            node.size, node.digest = size, alike.digest
        elif alike is not None or size <= INLINE_MAX:
            return False
        else:
            node.size = size
        return True

    def _alike(self, path: bytes, size: int, file: File) -> File | None:
        for tree in self._trees:
            node = lookup(tree, path)
            if not isinstance(node, File) or node.size != size:
                continue
            if not self._metadata_tells or node.metadata() == file.metadata():
                return node
        return None


class _Hasher:
    """A content reader that stores nothing."""

    def read(self, directory: int, path: bytes, files: Sequence[Pending]) -> None:
        """Hash files that ``read_upperdir`` hands over open."""
        from stratum.ingest.copying import SourceError, copy_hashed
        from stratum.sys.holes import is_sparse

        for file in files:
            size, node = file.info.st_size, file.node
            try:
                if size <= INLINE_MAX:
                    node.content = os.pread(directory, INLINE_MAX, 0) or None
                    node.size = len(node.content or b"")
                else:
                    node.digest, node.size = copy_hashed(directory, None, size, sparse=is_sparse(file.info))
            except (OSError, SourceError) as exc:
                error = exc.error if isinstance(exc, SourceError) else exc
                raise source_error(error, os.fsdecode(os.path.join(path, file.name))) from None

    def finish(self) -> None:
        """Everything has been read already."""
