"""What one path is after an operation, from the records that bear on it alone. Pure.

It is what carrying out all records (``tree.replay``) gives there, at the cost of the few that matter. The inode of a
hard link is that of another path before, and what was renamed is what another name had: those are traced in their turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from stratum.tree.model import Directory, Inode, lookup
from stratum.tree.oplog import Record, inode_of

About = Callable[[bytes], Sequence[Record]]
"""The records that bear on a path, oldest first: of it and what is below, renames of what it is in, every base."""

_STEPS_MAX = 10_000


class WholeTreeError(Exception):
    """It is a directory, or not to be told from the records of some paths: all records have to be carried out."""


def traced(about: About, ground: Directory, path: bytes, first: int, last: int) -> Inode | None:
    """What is at ``path``, which is no directory, after the records ``first`` to ``last`` were carried out on
    ``ground``; None where nothing is. ``WholeTreeError``; ``DamagedError``."""
    for _ in range(_STEPS_MAX):
        step = _last_step(about(path), path, first, last)
        if step is None:
            inode = lookup(ground, path)
            if isinstance(inode, Directory):
                raise WholeTreeError
            return inode
        if isinstance(step, Inode):
            return step
        path, last = step
        if not path:
            return None
    raise WholeTreeError


def _last_step(records: Sequence[Record], path: bytes, first: int, last: int) -> Inode | tuple[bytes, int] | None:
    """What is at ``path`` by the last of ``records`` that tells of it: the inode, or the path that it was at after an
    earlier operation; no path where nothing is there. None where none tells."""
    for record in reversed(records):
        op, found, was = record.op, record.path, record.was
        if found is None or op == "version" or not first <= record.n <= last:
            continue
        if found == path:
            return _at(record)
        if op == "rename" and was is not None:
            if path.startswith(found + b"/"):
                return was + path[len(found) :], record.n - 1
            if path == was or path.startswith(was + b"/"):
                return b"", record.n
        if found.startswith(path.rstrip(b"/") + b"/"):
            raise WholeTreeError  # something was in it then
    return None


def _at(record: Record) -> Inode | tuple[bytes, int]:
    """What a record of a path leaves there."""
    if record.op == "delete":
        return b"", record.n
    source = record.was if record.op == "rename" else record.link
    if source is not None:
        return source, record.n - 1
    assert record.entry is not None
    inode = inode_of(record.entry)
    if isinstance(inode, Directory):
        raise WholeTreeError
    return inode
