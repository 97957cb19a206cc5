"""From what changed to records of the log.

A batch begins with what has no path: gaps, and the commit that a new epoch begins with. Then come versions that paths
had and lost again, in the order in which they were closed; then the operations, which end with the tree that was read.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stratum.errors import UnsupportedError
from stratum.history.capture import Captured
from stratum.sys.actors import Actor
from stratum.tree.model import Directory, File, Inode, content_unknown, lookup
from stratum.tree.operations import Operation
from stratum.tree.oplog import Record, entry_of, when_text

_DEFAULT_MODE = stat.S_IFREG | 0o600


class Mark(NamedTuple):
    """A record without a path: ``base`` with its commit, or ``gap``."""

    op: str
    why: str
    commit: str | None = None


class Version(NamedTuple):
    """A content that the file ``path`` had at ``when`` (ns). ``is_later``: perhaps not before the new tree was read."""

    path: bytes
    captured: Captured
    when: int
    mode: int
    actor: Actor | None
    is_later: bool = False


def sift(versions: Sequence[Version], old: Directory, new: Directory | None) -> tuple[list[int], list[int]]:
    """Of ``versions``, in the order of their closes: which are to be told as lost, and which are for the next batch.

    Lost are those that neither tree tells of: not what a path had in ``old`` until then, nor what it has in ``new``,
    nor the same as the one before. For the next batch are those that may have come after what ``new`` has. Without a
    new tree, all are lost.
    """
    chains: dict[bytes, list[int]] = {}
    for place, version in enumerate(versions):
        chains.setdefault(version.path, []).append(place)
    lost: list[int] = []
    later: list[int] = []
    for path, places in chains.items():
        contents = [_content(versions[place].captured) for place in places]
        final = _content_at(new, path) if new is not None else None
        end = max((at for at, content in enumerate(contents) if content == final), default=-1)
        before, told = _content_at(old, path), []
        for at, (place, content) in enumerate(zip(places, contents, strict=True)):
            if at > end and new is not None and versions[place].is_later:
                later.append(place)
            elif content != before:
                told.append((place, content))
                before = content
        if told and told[-1][1] == final:
            told.pop()
        lost += [place for place, _ in told]
    return sorted(lost), sorted(later)


def _content(captured: Captured) -> object:
    if captured.unknown is not None:
        return (captured.size, captured.signature[3])  # two of them may be of one size, and differ
    return (captured.size, captured.digest, captured.content)


def _content_at(root: Directory, path: bytes) -> object:
    inode = lookup(root, path)
    if not isinstance(inode, File):
        return None
    return (inode.size, inode.mtime) if content_unknown(inode) else inode.content_key()


class Telling:
    """Makes the records of one batch, numbered from ``first``. ``old`` and ``new`` are the trees before and after;
    ``actors`` says by whose doing a path, or what is in it, changed; ``why`` for which reason a content is unknown."""

    def __init__(
        self,
        first: int,
        now: int,
        old: Directory,
        new: Directory,
        actors: Mapping[bytes, Actor],
        why: Callable[[bytes, File], str],
    ) -> None:
        self.records: list[Record] = []
        self.unfit: set[bytes] = set()
        """Paths of what no log can hold, such as a file of exabytes. Operations on them are left out."""
        self._first = first
        self._now = when_text(now)
        self._latest = now
        self._old = old
        self._new = new
        self._actors = actors
        self._why = why

    @property
    def _next(self) -> int:
        return self._first + len(self.records)

    def mark(self, mark: Mark) -> None:
        """Tell of a gap, or of a new epoch."""
        self.records.append(Record(self._next, self._now, mark.op, commit=mark.commit, why=mark.why or None))

    def version(self, version: Version) -> None:
        """Tell of a content that is not there any more."""
        captured = version.captured
        inode = self._around(version)
        inode.size, inode.digest, inode.content = captured.size, captured.digest, captured.content
        inode.mtime = captured.signature[3]
        when = when_text(min(version.when, self._latest))
        self._add(
            "version", version.path, when, version.actor or self.actor(version.path), entry=inode, why=captured.unknown
        )

    def _around(self, version: Version) -> File:
        """A file with the metadata that a version most probably had; its owner is never that of an open file, whose IDs
        may be mapped."""
        for tree in (self._new, self._old):
            found = lookup(tree, version.path)
            if isinstance(found, File):
                return File(*found.metadata())
        parent = lookup(self._new, version.path.rpartition(b"/")[0])
        uid, gid = (parent.uid, parent.gid) if parent is not None else (0, 0)
        return File(version.mode or _DEFAULT_MODE, uid, gid, 0)

    def operation(self, operation: Operation) -> None:
        """Tell of one change."""
        inode, why, op = operation.inode, None, operation.op
        if op == "rename":
            inode = None
        elif isinstance(inode, File) and content_unknown(inode):
            why = self._why(operation.path, inode)
            if op == "setattr" and _content_at(self._old, operation.path) != (inode.size, inode.mtime):
                op = "write"  # another one, which is not known either
        self._add(
            op,
            operation.path,
            self._now,
            self.actor(operation.path),
            entry=inode,
            link=operation.link,
            was=operation.was,
            why=why,
        )

    def _add(
        self,
        op: str,
        path: bytes,
        when: str,
        actor: Actor | None,
        *,
        entry: Inode | None = None,
        link: bytes | None = None,
        was: bytes | None = None,
        why: str | None = None,
    ) -> None:
        try:
            text = entry_of(entry) if entry is not None else None
        except UnsupportedError:
            if op != "version":
                self.unfit.add(path)
            return
        by, container = (actor.name, actor.container) if actor is not None else (None, None)
        self.records.append(
            Record(
                self._next, when, op, path, entry=text, link=link, was=was, why=why, by=by or None, container=container
            )
        )

    def actor(self, path: bytes) -> Actor | None:
        """By whose doing ``path`` changed: that of what is nearest above, where nothing is known of it."""
        while path:
            found = self._actors.get(path)
            if found is not None:
                return found
            path = path.rpartition(b"/")[0]
        return self._actors.get(b"/")
