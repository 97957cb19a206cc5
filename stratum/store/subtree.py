"""What differs between the trees of two commits: all of it, or at one path.

The records of trees (``store.treerecord``) say what two trees have in common: where both are stored on one ground, what
both have of it; where not, frames. None of that is read. So a line of a thousand commits costs what changed in it, and
not a thousand dumps.

Records and frames are checked as they are read. That a whole dump has its commit's name is not: that would be the whole
dump. Whoever relies on it compares that, too (``Commits.verify``).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import TYPE_CHECKING

from stratum.errors import DamagedError
from stratum.store.coverage import Part, Stretches, in_frames, lines_in, passed_on, without
from stratum.tree.blocks import lines_of
from stratum.tree.contents import has_path
from stratum.tree.escape import escape

if TYPE_CHECKING:
    from stratum.store.trees import Chain, Trees

_LINKS = 3
"""The column of a line that says how many names the inode has: a name elsewhere is no change of this one."""
_KEPT = 16
"""Records, and frames, that are not read again at once."""

Lines = frozenset[bytes]
_Key = str | bytes


class Differing:
    """The lines of dumps that differ from those of others. All raise ``NotFoundError``, ``DamagedError``."""

    def __init__(self, trees: Trees) -> None:
        self._trees = trees
        self._record = lru_cache(_KEPT)(trees.record)
        self._frame = lru_cache(_KEPT)(trees.checked_frame)
        self._pair = lru_cache(1)(self._between)

    def lines(self, commit: str) -> Iterator[bytes]:
        """All lines of the commit's dump."""
        with _reading(commit):
            yield from lines_of(self._trees.pieces(commit))

    def has(self, commit: str, path: bytes) -> bool:
        """Whether the commit has the ``path`` (from the root, raw bytes)."""
        with _reading(commit):
            return has_path(self._trees.pieces(commit), escape(path))

    def between(self, old: str, new: str) -> tuple[Lines, Lines]:
        """(lines of the old dump, lines of the new one) that the other does not have."""
        return self._pair(old, new)

    def _between(self, old: str, new: str) -> tuple[Lines, Lines]:
        with _reading(old):
            before = self._trees.chain(old, self._record)
        with _reading(new):
            after = self._trees.chain(new, self._record)
        theirs = {commit for commit, _ in after}
        met = next((commit for commit, _ in before if commit in theirs), None)
        left, right = _made_of(before, met), _made_of(after, met)
        with _reading(old):
            lost = self._lines(before, left, right)
        with _reading(new):
            came = self._lines(after, right, left)
        return lost - came, came - lost

    def _lines(self, chain: Chain, parts: dict[_Key, Part], others: dict[_Key, Part]) -> Lines:
        """The lines in ``parts``, of a tree with this chain, that are not in the same place in ``others``."""
        found = set[bytes]()
        for key, part in parts.items():
            other = others.get(key)
            rest = part.stretches if other is None else list(without(part.stretches, _places(other.stretches)))
            if rest and part.frame is None and not part.data:  # of a dump that both are stored on
                number = next(number for number, (commit, _) in enumerate(chain) if commit == part.of)
                for below in _made_of(chain[number:], None, rest).values():
                    found.update(self._read(below))
            elif rest:
                found.update(self._read(part._replace(stretches=rest)))
        return frozenset(found)

    def _read(self, part: Part) -> Iterator[bytes]:
        data = part.data if part.frame is None else self._frame(part.frame)
        for lines, _ in lines_in(part, data):
            yield from lines_of(lines)


def _made_of(chain: Chain, met: str | None, wanted: Stretches | None = None) -> dict[_Key, Part]:
    """What a dump is made of, or what is ``wanted`` of it: lines of its records and frames, and from ``met`` on, which
    others are stored on as well, of the dump of that one."""
    found: dict[_Key, Part] = {}
    wanted = wanted if wanted is not None else [(0, chain[0][1].size, 1)]
    for commit, record in chain:
        if commit == met:
            found[commit] = Part(commit, None, b"", wanted)
            break
        if wanted and wanted[-1][1] > record.size:
            raise DamagedError(f"the tree of commit {commit} is shorter than what is stored on it wants")
        own, below = passed_on(record, wanted)
        if own:
            found[commit] = Part(commit, None, record.lines, own)
        for ref, stretches in in_frames(record, wanted):
            found[ref.sha256] = Part(commit, ref, b"", stretches)
        wanted = below
    return found


def _places(stretches: Stretches) -> Sequence[tuple[int, int]]:
    return [(start, end) for start, end, _ in stretches]


class Subtree:
    """What is at ``path`` (from the root, raw bytes) and below it, in commits. Raises as ``Differing``."""

    def __init__(self, differing: Differing, path: bytes) -> None:
        self._differing = differing
        self._path = path
        escaped = escape(path)
        self._own = escaped + b" "
        self._inside = escaped.rstrip(b"/") + b"/"

    def is_in(self, commit: str) -> bool:
        """Whether the commit has the path."""
        return self._differing.has(commit, self._path)

    def change(self, old: str, new: str) -> str | None:
        """What the new commit did at the path or below: ``added`` it, ``deleted`` it, or ``modified`` something; None
        where all is as it is in the old one."""
        lost, came = (self._here(lines) for lines in self._differing.between(old, new))
        if {tuple(told(line)) for line in lost} == {tuple(told(line)) for line in came}:
            return None
        had, has = (any(line.startswith(self._own) for line in lines) for lines in (lost, came))
        if had == has:  # the line of the path itself is in both
            return "modified"
        return "added" if has else "deleted"

    def _here(self, lines: Lines) -> list[bytes]:
        return [line for line in lines if line.startswith((self._own, self._inside))]


def told(line: bytes) -> list[bytes]:
    """What a line says of its inode, but for how many names it has."""
    fields = line.split(b" ")
    del fields[_LINKS : _LINKS + 1]
    return fields


@contextmanager
def _reading(commit: str) -> Iterator[None]:
    """Have errors say which commit they are of."""
    try:
        yield
    except DamagedError as exc:
        if commit in exc.message:
            raise
        raise DamagedError(f"the tree of commit {commit}: {exc.message}", hint="run 'stratum fsck'") from None
