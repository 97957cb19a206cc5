"""Directories of refs and of the file system, listed as C4M texts.

Text that names something that is there is a path, ``-`` is standard input, everything else names a commit or a
worktree, also a path in it (REF:/PATH).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING

from stratum.c4.ids import C4Id, id_of_digest
from stratum.c4.listing import Lister, nothing_there
from stratum.errors import StratumError, UsageError, os_error_text
from stratum.progress import Progress
from stratum.tree.model import Directory, File

if TYPE_CHECKING:
    from stratum.api.session import Session

STDIN = "-"
SPOOLS = "/var/tmp"  # noqa: S108  # the file has no name
"""Where what does not fit into memory is spooled: ``/tmp`` is memory on many machines."""
_IN_MEMORY = 32 << 20


@dataclass(frozen=True, slots=True)
class Options:
    """How to look at trees: ``groups`` says which files are hard links of one another, ``outside`` follows links
    out of a directory of the file system, ``offline`` fetches nothing, ``rereads`` believes nothing that is
    remembered of objects that were read before."""

    groups: bool = False
    outside: bool = False
    offline: bool = False
    progress: Progress | None = None
    rereads: bool = False


DEFAULTS = Options()


class Spool:
    """Bytes written and read again, in memory while they are few."""

    def __init__(self) -> None:
        self._file = SpooledTemporaryFile(_IN_MEMORY, dir=SPOOLS)  # noqa: SIM115
        self._end = 0

    def write(self, data: bytes) -> int:
        """Where ``data`` begins."""
        start = self._end
        try:
            self._file.seek(start)
            self._file.write(data)
        except OSError as exc:
            raise StratumError(f"cannot write below {SPOOLS}: {os_error_text(exc)}") from None
        self._end += len(data)
        return start

    def read(self, start: int, size: int) -> bytes:
        """What was written there."""
        self._file.seek(start)
        return self._file.read(size)

    def close(self) -> None:
        """Forget it all."""
        self._file.close()


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory, listed: its text is ``lister.text()``, its listings are in ``spool``."""

    lister: Lister
    spool: Spool
    ids: Callable[[File], C4Id]
    id: C4Id
    size: int | None


def is_path(text: str) -> bool:
    """Whether it names a file or directory, and no ref."""
    return text == STDIN or os.path.lexists(text)


@contextmanager
def listed(session: Session, text: str, options: Options = DEFAULTS) -> Iterator[Tree]:
    """The directory that ``text`` names, for the length of the block, in which its contents stay where they are.
    ``UsageError`` for a file."""
    with found(session, text, options) as tree:
        if not isinstance(tree, Tree):
            raise UsageError(f"{text} is a file, and only a directory has a listing")
        yield tree


@contextmanager
def found(session: Session, text: str, options: Options = DEFAULTS) -> Iterator[Tree | tuple[File, C4Id]]:
    """What a directory or a ref is: a tree, or a file and its ID. ``NotFoundError``, ``UsageError`` for what is
    neither, ``StratumError`` for what cannot be read."""
    if is_path(text):
        from stratum.ingest.identify import c4id_of, identify_directory

        root = identify_directory(text, jobs=session.config.jobs)
        top = os.fsencode(os.path.abspath(text))
        outside = _Outside(session.config.jobs, options).id_at if options.outside else nothing_there
        with _listing(root, c4id_of, options, top=top, outside=outside) as tree:
            yield tree
        return
    from stratum.api.c4ids import FileIds
    from stratum.api.naming import with_paths
    from stratum.api.reading import found_in, kind_of
    from stratum.api.unreal import bring_inodes
    from stratum.store.c4cache import C4Cache

    ref, paths = with_paths(session, text, [])
    with found_in(session, ref, ["/", *paths]) as (whole, *inside):
        there = inside[0] if inside else whole
        tree_root, inode = whole.inode, there.inode
        if not isinstance(inode, (Directory, File)) or not isinstance(tree_root, Directory):
            raise UsageError(f"{text} is {kind_of(inode)}", hint="only files and directories have C4 IDs")
        needed = inode if isinstance(inode, File) else tree_root  # links lead anywhere in the tree
        bring_inodes(session, [there.commit], [needed], offline=options.offline, progress=options.progress)
        remembered = None if options.rereads else C4Cache(session.store.layout)
        if isinstance(inode, File):
            ids = FileIds(session, Directory(0o40755, 0, 0, 0, children={b"file": inode}))
            ids.read(options.progress, remembered)
            yield inode, ids(inode)
            return
        ids = FileIds(session, tree_root)
        ids.read(options.progress, remembered)
        start = tuple(name for name in there.path.split(b"/") if name)
        with _listing(tree_root, ids, options, start=start) as tree:
            yield tree


@contextmanager
def _listing(
    root: Directory,
    ids: Callable[[File], C4Id],
    options: Options,
    *,
    start: tuple[bytes, ...] = (),
    top: bytes | None = None,
    outside: Callable[[bytes], C4Id | None] = nothing_there,
) -> Iterator[Tree]:
    spool = Spool()
    try:
        lister = Lister(root, ids, spool, start=start, groups=options.groups, top=top, outside=outside)
        done = lister.run()
        assert done.c4id is not None
        yield Tree(lister, spool, ids, done.c4id, done.size)
    finally:
        spool.close()


class _Outside:
    """IDs of what links lead to out of a directory, by the rules of the kernel; a directory that is being listed for
    it has none."""

    def __init__(self, jobs: int, options: Options) -> None:
        self._jobs = jobs
        self._options = options
        self._known: dict[bytes, C4Id | None] = {}

    def id_at(self, path: bytes) -> C4Id | None:
        """The ID of the file or directory at an absolute path; None for anything else, and for what cannot be read."""
        if path not in self._known:
            self._known[path] = None
            with suppress(StratumError, OSError):
                self._known[path] = self._read(path)
        return self._known[path]

    def _read(self, path: bytes) -> C4Id | None:
        from stratum.ingest.identify import c4id_of, identify_directory, identify_file

        kind = stat.S_IFMT(os.lstat(path).st_mode)
        if kind == stat.S_IFREG:
            return id_of_digest(identify_file(os.fsdecode(path))[0])
        if kind != stat.S_IFDIR:
            return None
        root = identify_directory(os.fsdecode(path), jobs=self._jobs)
        with _listing(root, c4id_of, self._options, top=path, outside=self.id_at) as tree:
            return tree.id
