"""What the commits that stay need: objects, and of what is stored the records and frames that their trees are made of.

All of it is read from tree records and the lines that they lead to (``store.coverage``): a thousand commits that differ
in little take a thousand small records, and the lines of one dump. Records and frames are checked as they are read, so
what is damaged or missing is told.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from stratum.frozen import frozen
from stratum.store.coverage import Coverage, Part, Read, lines_in
from stratum.tree.contents import digests_in

if TYPE_CHECKING:
    from stratum.store.layout import Layout
    from stratum.store.logcheck import Needs
    from stratum.store.treerecord import TreeRecord
    from stratum.store.trees import Trees

_Stamp = tuple[int, ...] | None


@frozen
class Stored:
    """How a commit's tree is stored: on which other, at which level, in which frames (SHA-256), and what tells whether
    the record is still the one that said so."""

    ground: str | None
    level: int
    frames: tuple[bytes, ...]
    stamp: _Stamp


class Needed:
    """What ``commits`` need: ``objects`` (digests of 32 bytes), and how they are ``stored``, with all that is beneath
    them; what segments of histories need (``Histories.roots``). The store's lock is held while anything is asked."""

    def __init__(self, layout: Layout, trees: Trees) -> None:
        self._directories = layout.commits, layout.grounds
        self._trees = trees
        self._read = Read()
        self._names: dict[bytes, bytes] = {}
        self.commits: set[str] = set()
        self.objects: set[bytes] = set()
        self.stored: dict[str, Stored] = {}
        self.logs: dict[object, Needs] = {}

    def add(self, commits: Iterable[str]) -> None:
        """These are needed as well. ``DamagedError``, ``NotFoundError`` where it cannot be known what they need."""
        coverage, new = Coverage(self._record), [commit for commit in commits if commit not in self.commits]
        for commit in new:
            self._take(coverage.add(commit))
        for part in coverage.parts():
            self._take(part)
        self.commits.update(new)

    def _take(self, part: Part) -> None:
        fresh = self._read.fresh(part)
        if fresh.stretches:
            data = part.data if part.frame is None else self._trees.checked_frame(part.frame)
            for lines, _ in lines_in(fresh, data):
                self.objects.update(digests_in(lines))

    def _record(self, commit: str) -> TreeRecord:
        stamp = self._stamp(commit)  # before it is read, so that what replaces it meanwhile is told
        record = self._trees.record(commit)
        frames = tuple(self._names.setdefault(ref.sha256, ref.sha256) for ref in record.frames)
        self.stored[commit] = Stored(record.ground, record.level, frames, stamp)
        return record

    def _stamp(self, commit: str) -> _Stamp:
        for directory in self._directories:
            try:
                info = os.lstat(directory / commit)
            except OSError:  # whoever reads it tells
                continue
            return info.st_ino, info.st_mtime_ns, info.st_size
        return None

    def beneath(self, commits: Iterable[str]) -> tuple[set[str], set[bytes]]:
        """(the records, the frames) that the trees of these commits, which were added, are made of.

        A record that was written anew since it was read is read again.
        """
        records, frames = set[str](), set[bytes]()
        for commit in commits:
            at: str | None = commit
            while at is not None and at not in records:
                stored = self.stored.get(at)
                if stored is None or stored.stamp != self._stamp(at):
                    self._record(at)
                    stored = self.stored[at]
                records.add(at)
                frames.update(stored.frames)
                at = stored.ground
        return records, frames
