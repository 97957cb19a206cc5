"""How commits are related, whoever knows their ancestors. Pure.

A commit can have several histories and even be its own ancestor (``store.ancestry``): nothing here goes the same way
twice.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from heapq import heappop, heappush

from stratum.frozen import frozen

ANCESTORS_MAX = 1000
"""No more ancestors of one commit are recorded or sent."""


@frozen
class Recorded:
    """Ancestors of one commit, nearest first. ``whole``: the last one has no parent."""

    ancestors: tuple[str, ...] = ()
    whole: bool = False


@frozen
class Lineage:
    """A commit and its ancestors, ``distance`` by ID, nearest first. ``whole``: there are no others."""

    distance: dict[str, int]
    whole: bool


@frozen
class Meeting:
    """What two commits have in common: the common ancestors (or the one itself) that are no ancestors of another such.

    ``sure``: the histories of both are known as far as it takes to say so.
    """

    commits: tuple[str, ...]
    sure: bool


@frozen
class Ground:
    """What to compare two sides with: the commits that may be where they parted, one where that is ``sure``."""

    commits: tuple[str, ...]
    sure: bool


class Lineages(ABC):
    """The ancestors of commits, as far as ``has`` and ``known``, which others bring in, tell."""

    @abstractmethod
    def has(self, commit: str) -> bool:
        """Whether the commit is here, and ``known`` knows it."""

    @abstractmethod
    def known(self, commit: str) -> Recorded:
        """The nearest ancestors of a commit that is here.

        ``whole`` tells that whatever is farther is an ancestor of one of them that is here, or is not at all.
        """

    def lineage(
        self, commit: str, *, until: str | None = None, limit: int | None = None, beyond: Collection[str] | None = None
    ) -> Lineage:
        """The commit and its ancestors; none behind ``until``, nor behind one that is not in ``beyond`` (where given),
        nor more than ``limit``."""
        distance: dict[str, int] = {}
        queue, whole = [(0, commit)], True
        while queue:
            steps, current = heappop(queue)
            if current in distance:
                continue
            if limit is not None and len(distance) == limit:
                return Lineage(distance, False)
            distance[current] = steps
            if current == until:
                return Lineage(distance, False)
            stop = beyond is not None and current != commit and current not in beyond
            if stop or not self.has(current):
                continue
            known = self.known(current)
            whole = whole and known.whole
            for number, other in enumerate(known.ancestors, steps + 1):
                if other not in distance:
                    heappush(queue, (number, other))
        return Lineage(distance, whole)

    def descends(self, commit: str, ancestor: str) -> bool:
        """Whether ``ancestor`` is the commit itself or one of its ancestors, as far as is known."""
        return ancestor in self.lineage(commit, until=ancestor).distance

    def meeting(self, ours: str, theirs: str) -> Meeting:
        """Where the histories of two commits meet.

        Where each is said to descend from the other, ``theirs`` is taken to be the later one.
        """
        if self.descends(theirs, ours):
            return Meeting((ours,), True)
        if self.descends(ours, theirs):
            return Meeting((theirs,), True)
        left, right = self.lineage(ours), self.lineage(theirs)
        common = [commit for commit in right.distance if commit in left.distance]
        nearest: list[str] = []
        behind: set[str] = set()
        for commit in common:
            if commit not in behind:
                nearest.append(commit)
                behind.update(other for other in self.lineage(commit).distance if other != commit)
        nearest = [commit for commit in nearest if commit not in behind] or nearest
        if not nearest:
            return Meeting((), left.whole and right.whole)
        return Meeting(tuple(nearest), len(nearest) == 1 and self.has(nearest[0]))

    def ground(self, head: str, fork: str, target: str) -> Ground:
        """What to compare a line of work that began at ``fork`` and is at ``head`` now, and ``target``, with.

        Where the two meet, or where the work began if that was later; where they do not meet, where it began. All that
        may be it where that is not known. Every commit of it is here, as long as ``fork`` and ``head`` are.
        """
        meeting = self.meeting(head, target)
        if not meeting.sure:
            return Ground(tuple(dict.fromkeys((fork, head, *filter(self.has, meeting.commits)))), sure=False)
        if not meeting.commits:
            return Ground((fork,), sure=True)
        (met,) = meeting.commits
        began_later = fork != met != head and self.descends(head, fork) and self.descends(fork, met)
        return Ground((fork if began_later else met,), sure=True)


def spanning(lineages: Lineages, commit: str, going: Collection[str]) -> Recorded:
    """What is to be recorded with a commit that stays while those ``going`` leave the store: its nearest ancestors, up
    to the first ones that stay, so that its history goes on behind the gap."""
    found = lineages.lineage(commit, limit=ANCESTORS_MAX + 1, beyond=going)
    ancestors = tuple(found.distance)[1:]
    stay = any(other not in going and lineages.has(other) for other in ancestors)
    return Recorded(ancestors, found.whole and bool(ancestors) and not stay)
