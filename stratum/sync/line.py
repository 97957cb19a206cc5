"""The moves of one tag as a graph. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stratum.sync.moves import Move

Heads = tuple[str, ...]
"""IDs of moves of which none came before another, sorted."""


class Line:
    """All moves of one tag that a store knows: a move is added after its parents."""

    def __init__(self) -> None:
        self.moves: dict[str, Move] = {}
        self._heads: set[str] = set()
        self._merged: dict[Heads, str] = {}
        self._of_commit: dict[str, Heads] = {}
        self._first_of_commit: dict[str, Heads] = {}

    def __contains__(self, name: object) -> bool:
        return name in self.moves

    def add(self, name: str, move: Move) -> bool:
        """Add the move with the ID ``name``; whether its parents are here. One that is here already is fine."""
        if name in self.moves:
            return True
        if not all(parent in self.moves for parent in move.parents):
            return False
        self.moves[name] = move
        self._heads.difference_update(move.parents)
        self._heads.add(name)
        if len(move.parents) > 1:
            before = self._merged.get(move.parents)
            self._merged[move.parents] = name if before is None else min(name, before)
            self._note(move.over, move.parents)
        self._note(move.commit, (name,))
        return True

    def _note(self, commit: str | None, heads: Heads) -> None:
        if commit is not None:
            self._of_commit[commit] = heads
            self._first_of_commit.setdefault(commit, heads)

    @property
    def heads(self) -> Heads:
        """The moves that no other was made on."""
        return tuple(sorted(self._heads))

    def known(self, names: Iterable[str]) -> Heads:
        """Those of ``names`` that are here, without what came before others of them."""
        return self.newest(self.before(self._here(names)))

    def _here(self, names: Iterable[str]) -> Iterable[str]:
        """Those of ``names`` that are here; of a set at the cost of the smaller of both."""
        return names & self.moves.keys() if isinstance(names, set) else filter(self.moves.__contains__, names)

    def before(self, names: Iterable[str]) -> set[str]:
        """These moves and all that came before."""
        seen: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name not in seen:
                seen.add(name)
                waiting += self.moves[name].parents
        return seen

    def newest(self, closed: set[str]) -> Heads:
        """Of a set that has with each move all that came before: those that no other in it was made on."""
        older = {parent for name in closed for parent in self.moves[name].parents}
        return tuple(sorted(closed - older))

    def claim(self, heads: Heads) -> Move | None:
        """A move that was made on just these heads, several, and so tells what merging them gave."""
        name = self._merged.get(heads)
        return self.moves[name] if name is not None else None

    def at(self, commit: str) -> Heads | None:
        """Moves with which the tag showed the commit, the last ones."""
        return self._of_commit.get(commit)

    def first_at(self, commit: str) -> Heads:
        """Moves with which the tag showed the commit, the first ones; none where it never did."""
        return self._first_of_commit.get(commit, ())

    def ordered(self, names: Iterable[str]) -> list[str]:
        """By time, then by ID: of what contradicts each other the last one counts."""
        return sorted(names, key=lambda name: (self.moves[name].time, name))

    def since(self, known: Iterable[str]) -> Iterator[str]:
        """The moves that are none of ``known`` and did not come before one, parents before what was made on them."""
        told = self.before(self._here(known))
        return (name for name in self.moves if name not in told)
