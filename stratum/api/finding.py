"""``ls`` and ``find``: the entries of a commit, a worktree or a state of a history, and what became of them before."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from stratum.api.log import pairs
from stratum.api.naming import ref_or_mountpoint, with_paths
from stratum.api.reading import found_in
from stratum.api.session import Session
from stratum.errors import UsageError, quoted
from stratum.frozen import field, frozen
from stratum.tree.ignore import Pattern, parse_pattern
from stratum.tree.model import Directory, Inode, walk

if TYPE_CHECKING:
    from stratum.store.metadata import CommitMeta

KINDS = {
    "f": stat.S_IFREG,
    "d": stat.S_IFDIR,
    "l": stat.S_IFLNK,
    "p": stat.S_IFIFO,
    "s": stat.S_IFSOCK,
    "b": stat.S_IFBLK,
    "c": stat.S_IFCHR,
}
"""The letters of find(1) -> what the mode of such an inode has."""


@frozen
class Entry:
    """What is at ``path``, from the root; ``name`` is its path as a list of its directory shows it."""

    path: bytes
    name: bytes
    inode: Inode


@frozen
class Listed:
    """Entries in the order of their paths. ``left_out`` are those whose content nobody knows."""

    ref: str
    entries: list[Entry]
    left_out: list[bytes] = field(default_factory=list)


@frozen
class Changed:
    """What a commit did to a path: ``added``, ``deleted`` or ``modified``; ``mode`` says what it is, or was."""

    commit: CommitMeta
    change: str
    path: bytes
    mode: int


def ls(session: Session, text: str, path: str | None = None, *, recursive: bool = False) -> Listed:
    """What is in the directory ``path`` of what ``text`` names, or with ``recursive`` all that is below it; of anything
    else, itself. Raises as ``found_in``."""
    ref, paths = with_paths(session, text, [path] if path is not None else [])
    with found_in(session, ref, paths or ["/"]) as (found,):
        inode, above = found.inode, found.path.rstrip(b"/") + b"/"
        if not isinstance(inode, Directory):
            entries = [Entry(found.path, os.path.basename(found.path), inode)]
        elif recursive:
            entries = [Entry(above + below[1:], below[1:], child) for below, child in walk(inode) if below != b"/"]
        else:
            entries = [Entry(above + name, name, inode.children[name]) for name in sorted(inode.children)]
        return Listed(ref, entries, found.left_out)


class _Wanted:
    """Which paths: at or below ``above``, of these types (none: all), that fit a glob (none: all)."""

    def __init__(self, above: bytes, globs: Sequence[str], kinds: Sequence[str]) -> None:
        self._above = above.rstrip(b"/") + b"/"
        self._patterns = [_pattern(glob) for glob in globs]
        self._kinds = {KINDS[kind] for kind in kinds}

    def has(self, path: bytes, mode: int) -> bool:
        """``path`` is from the root of the commit."""
        if not path.startswith(self._above) or (self._kinds and stat.S_IFMT(mode) not in self._kinds):
            return False
        if not self._patterns:
            return True
        below, directory = path[len(self._above) :], stat.S_ISDIR(mode)
        name = below[below.rfind(b"/") + 1 :]
        return any(pattern.fits(below, name, directory) for pattern in self._patterns)


def _pattern(glob: str) -> Pattern:
    pattern = parse_pattern(os.fsencode(glob))
    if pattern is None or pattern.negative:
        raise UsageError(
            f"{quoted(glob)} is not a glob",
            hint="write '*.conf' for names, '/etc/**/*.conf' for paths, '[!a]*' for others",
        )
    return pattern


def find(session: Session, text: str, globs: Sequence[str] = (), kinds: Sequence[str] = ()) -> Listed:
    """All in what ``text`` names (REF, REF:/PATH, or a path at or below a mountpoint) that fits one of ``globs``, in
    the grammar of .gitignore: a name, or with a slash the path from the root, or from PATH, on. ``kinds`` are letters
    of ``KINDS``. Raises as ``found_in``."""
    ref, paths = with_paths(session, text, [])
    with found_in(session, ref, paths or ["/"]) as (found,):
        above = found.path.rstrip(b"/")
        wanted = _Wanted(above, globs, kinds)
        below = walk(found.inode) if isinstance(found.inode, Directory) else iter(())
        entries = [
            Entry(above + path, path[1:], inode)
            for path, inode in below
            if path != b"/" and wanted.has(above + path, inode.mode)
        ]
        return Listed(ref, entries, [path for path in found.left_out if wanted.has(path, stat.S_IFREG)])


def find_in_history(
    session: Session, text: str, globs: Sequence[str] = (), kinds: Sequence[str] = ()
) -> Iterator[Changed]:
    """What the commit that ``text`` names and its ancestors, as far as they are here, did to what ``find`` finds, the
    newest first: the oldest one added all that it has. ``NotFoundError``, ``UsageError``, ``DamagedError``."""
    from stratum.api.versions import path_in
    from stratum.store.ancestry import Ancestry
    from stratum.store.subtree import Differing

    ref, paths = with_paths(session, text, [])
    wanted = _Wanted(path_in(paths[0]) if paths else b"/", globs, kinds)
    store = session.store
    line = Ancestry(store).line(store.resolve_commit(ref_or_mountpoint(session, ref)))
    differing = Differing(store.trees)
    for step, following in pairs(line):
        if following is None:
            before, after = dict[bytes, _Told](), _fitting(differing.lines(step.commit), wanted)
        else:
            old, new = differing.between(following.commit, step.commit)
            before, after = _fitting(old, wanted), _fitting(new, wanted)
        meta = None
        for path in sorted(before.keys() | after.keys()):
            if before.get(path) != after.get(path):
                meta = meta or store.commits.meta(step.commit)
                change = "added" if path not in before else "deleted" if path not in after else "modified"
                yield Changed(meta, change, path, _mode(after.get(path) or before[path]))


_Told = list[bytes]


def _fitting(lines: Iterable[bytes], wanted: _Wanted) -> dict[bytes, _Told]:
    """Path -> what its line says, of the lines that are wanted."""
    from stratum.store.subtree import told
    from stratum.tree.escape import unescape

    found = {}
    for line in lines:
        fields = told(line)
        if len(fields) > 2:
            path = unescape(fields[0])
            if wanted.has(path, _mode(fields)):
                found[path] = fields
    return found


def _mode(fields: _Told) -> int:
    try:
        return int(fields[2].removeprefix(b"@"), 8)
    except ValueError:  # of a line that is there in part, and the same in both
        return 0
