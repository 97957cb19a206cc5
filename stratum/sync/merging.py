"""What a tag names where several moves of it were made beside each other. Pure.

It follows from the moves alone, so all who have the same ones show the same tree and the same conflicts, in whatever
order, and by way of whomever, these came.

- Removals count only where there is nothing else.
- The heads are merged one after the other, by time and ID, each with what the ones before gave, path by path
  (``tree.merge.rebase``). The ground of each step is what the last common moves showed. Where there are none, it is the
  nearest commit that both began with, by what their first moves say, else nothing.
- What merging several moves gave was written down by who made a move on it (``over``), and is taken from there: no
  older merge is made again.
- A path that both sides changed in different ways has the version of the later one, and what one side changed and the
  other removed stays as changed. Both are a **conflict**, with each move whose version is not shown, until a move says
  that it is settled. Where both sides settled it, differently, it is one anew.

How trees are merged here is a promise as a format is: who merges otherwise shows something else than the others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from stratum.errors import StratumError
from stratum.frozen import frozen
from stratum.sync.line import Heads, Line
from stratum.sync.moves import CONFLICTS_MAX, Contested, Move, Settled
from stratum.tree.merge import alike, rebase
from stratum.tree.model import Directory, Inode, lookup

MERGES_MAX, DEPTH_MAX = 1000, 50
"""Trees that are merged to find what one tag names, and merges that have to be made for the ground of another. More are
needed only where somebody made the moves up."""


class Value:
    """What moves show: a commit, or a tree that is perhaps none yet, or (neither) nothing; and the conflicts."""

    def __init__(
        self, commit: str | None, tree: Directory | None = None, conflicts: tuple[Contested, ...] = ()
    ) -> None:
        self.commit = commit
        self.tree = tree
        self.conflicts = conflicts
        self.whole: set[Settled] = set()  # the conflicts that are about all that is below the path


@frozen
class Conflict:
    """A path (raw bytes; with a slash at its end: all that is below), the move whose version is shown and the one whose
    is not."""

    path: bytes
    shown: str
    other: str


def conflicts_of(line: Line, value: Value) -> list[Conflict]:
    """What is in conflict where the heads of ``line`` show ``value``, by path."""
    found: dict[tuple[bytes, str], str] = {}
    for name in line.ordered(line.moves):
        found.update({(path, lost): won for path, won, lost in line.moves[name].conflicts})
    found.update({(path, lost): won for path, won, lost in value.conflicts})
    for move in line.moves.values():
        for settled in move.settles:
            found.pop(settled, None)
    known = ((path, won, lost) for (path, lost), won in found.items() if lost in line and won in line)
    return [Conflict(*one) for one in sorted(known)]


class Merger:
    """Finds what moves of one tag show. ``tree_of`` gives the tree of a commit, and may raise."""

    def __init__(self, line: Line, tree_of: Callable[[str], Directory]) -> None:
        self._line = line
        self._tree_of = tree_of
        self._values: dict[Heads, Value] = {}
        self._left = MERGES_MAX
        self._depth = 0

    def value(self, heads: Heads) -> Value:
        """What these moves show, none of which came before another. What ``tree_of`` raises; ``StratumError`` where it
        would take too many merges."""
        found = self._values.get(heads)
        if found is None:
            found = self._values[heads] = self._value(heads)
        return found

    def tree(self, value: Value) -> Directory:
        """Its tree, an empty one that nothing is known of where it is nothing."""
        if value.tree is None:
            value.tree = self._tree_of(value.commit) if value.commit is not None else _nothing()
        return value.tree

    def _value(self, heads: Heads) -> Value:
        line = self._line
        if len(heads) == 1:
            return Value(line.moves[heads[0]].commit)
        claim = line.claim(heads)
        if claim is not None:
            return Value(claim.over, None, claim.conflicts)
        names = line.ordered(name for name in heads if line.moves[name].commit is not None)
        if not names:
            return Value(None)
        value = self.value((names[0],))
        for number, name in enumerate(names[1:], 1):
            value = self._merged(names[:number], value, name)
        return Value(value.commit, value.tree, self._still(value))

    def _merged(self, names: Sequence[str], value: Value, name: str) -> Value:
        """What ``names``, which show ``value``, and the later ``name`` show together."""
        if self._left == 0 or self._depth == DEPTH_MAX:
            raise StratumError(f"the moves of the tag {self._line.moves[name].tag} are too entangled to be merged")
        self._left -= 1
        self._depth += 1
        later = self.value((name,))
        ground, common = self._ground(names, name)
        self._depth -= 1
        twice = self._settled(names, common) & self._settled([name], common)
        if later.commit is not None and later.commit == value.commit:
            return value
        known = ground.commit is not None
        if known and ground.commit == later.commit and not twice:
            return value
        if known and ground.commit == value.commit and not twice:
            return Value(later.commit, later.tree, value.conflicts)
        trees = [self.tree(one) for one in (ground, later, value)]
        merged = rebase(*trees, keep_changed=True)
        taken = {path: path in merged.taken for path in merged.conflicts}
        for path in twice - taken.keys():
            ours, theirs = lookup(trees[1], path), lookup(trees[2], path)
            if not alike(ours, theirs, deep=True):
                taken[path] = alike(lookup(merged.tree, path), theirs, deep=True)
        same = [side for side in (later, value) if side.tree is merged.tree]
        both = Value(same[0].commit if same else None, merged.tree, value.conflicts)
        both.whole |= value.whole
        for path, earlier in taken.items():
            self._contest(both, path, names, name, trees, earlier)
        return both

    def _ground(self, names: Sequence[str], name: str) -> tuple[Value, set[str]]:
        """What both sides began with, and all moves that they have in common."""
        line = self._line
        ours, theirs = line.before(names), line.before([name])
        common = ours & theirs
        if common:
            return self.value(line.newest(common)), common
        began = {commit for move in self._first(theirs) for commit in (move.commit, *move.lineage)}
        for move in self._first(ours):
            for commit in (move.commit, *move.lineage):
                if commit is not None and commit in began:
                    return Value(commit), common
        return Value(None), common

    def _first(self, names: Iterable[str]) -> list[Move]:
        return [self._line.moves[name] for name in sorted(names) if not self._line.moves[name].parents]

    def _settled(self, names: Iterable[str], common: set[str]) -> set[bytes]:
        """The paths of the conflicts that these moves, or those before them, settled since ``common``."""
        new = self._line.before(names) - common
        return {path for name in new for path, _ in self._line.moves[name].settles}

    def _contest(
        self, both: Value, path: bytes, names: Sequence[str], name: str, trees: Sequence[Directory], earlier: bool
    ) -> None:
        """Note the conflict at a path, with each move whose version is not shown; that is the later one's, but for
        ``earlier``. ``trees`` are those of the ground and of the sides."""
        before, *sides = (lookup(tree, path) for tree in trees)
        whole = not all(isinstance(side, Directory) for side in sides)
        changed = [one for one in names if not alike(self._at(one, path), before, deep=whole)] or list(names)
        found = [(path, changed[-1], name)] if earlier else [(path, name, one) for one in changed]
        both.conflicts += tuple(found)
        both.whole.update((path, lost) for _, _, lost in found if whole)

    def _still(self, value: Value) -> tuple[Contested, ...]:
        """The conflicts that are left in the end: one whose version is shown after all is none."""
        if not value.conflicts:
            return ()
        tree = self.tree(value)
        last = {(path, lost): won for path, won, lost in value.conflicts}
        left = []
        for (path, lost), won in last.items():
            whole = (path, lost) in value.whole
            if not alike(self._at(lost, path), lookup(tree, path), deep=whole):
                left.append((path, won, lost))
        return gathered(left)

    def _at(self, name: str, path: bytes) -> Inode | None:
        return lookup(self.tree(self.value((name,))), path)


def gathered(conflicts: Iterable[Contested], limit: int = CONFLICTS_MAX) -> tuple[Contested, ...]:
    """The conflicts, sorted; where there are more than ``limit``, those of directories as one, which has a slash at the
    end of its path."""
    found = sorted(set(conflicts))
    depth = max((path.count(b"/") for path, _, _ in found), default=0)
    while len(found) > limit and depth:
        depth -= 1
        found = sorted({(_cut(path, depth), won, lost) for path, won, lost in found})
    return tuple(found)[:limit]


def _cut(path: bytes, depth: int) -> bytes:
    """The path, or that of the directory in it which is ``depth`` names deep, with all that is below."""
    parts = path.split(b"/")
    return path if len(parts) <= depth + 1 else b"/".join(parts[: depth + 1]) + b"/"


def _nothing() -> Directory:
    unknown: Any = None
    return Directory(unknown, unknown, unknown, unknown, unknown)
