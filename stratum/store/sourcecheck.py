"""The part of a check that looks at where commits can be fetched from, and at what of them is not here.

An object that is missing is no damage where a source of the commit that needs it lists it: such objects are counted,
commit by commit. It is damage of the commit alone where only sources of others do, or where nobody would fetch it as
the commit is not marked partial; both can be mended. Where no source lists it, it is lost.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.store.findings import Finding, Telling
from stratum.store.residence import ResidenceCounts
from stratum.store.sources import SOURCES, CommitSource
from stratum.store.treecheck import batches, chosen, lines_of_all
from stratum.tree.contents import object_lines

if TYPE_CHECKING:
    from stratum.store.store import Store

UNMARKED = "objects are missing that its sources have, and it is not marked partial, so nobody would fetch them"
ELSEWHERE = "objects are missing that only the sources of other commits have"
UNREADABLE = "objects are missing, and where they are cannot be read"
"""The problems of a commit whose objects are missing, each after a number."""


@dataclass(frozen=True, slots=True)
class PartialCommit:
    """A commit of which objects are missing: what names it, how many are, and the sources that have them."""

    commit: str
    users: list[str]
    counts: ResidenceCounts
    sources: list[CommitSource]


class SourceCheck:
    """Of one check, whose ``findings`` get what is found."""

    def __init__(self, store: Store, findings: list[Finding]) -> None:
        self._store = store
        self._findings = findings
        self._named: dict[str, list[str]] = {}
        self._sources: dict[str, list[CommitSource]] = {}
        self._unreadable: set[str] = set()
        self.partial: list[PartialCommit] = []

    def commit(self, commit: str, users: list[str]) -> None:
        """Check what the commit says of its sources."""
        path = f"commits/{commit}.{SOURCES}"
        self._unreadable.add(commit)
        with Telling(self._findings, "sources", path, *users, commit=commit):
            sources = self._sources[commit] = self._store.sources.of(commit)
            self._unreadable.remove(commit)
            for source in sources:
                named = self._named.setdefault(source.manifest, [])
                named += [user for user in users if user not in named]
            if not sources and self._store.sources.is_partial(commit):  # the file is lost, if anything is missing
                self._unreadable.add(commit)

    def catalogs(self) -> None:
        """Check every catalog that a commit names."""
        for manifest, users in self._named.items():
            path = self._store.sources.catalog_path(manifest)
            name = str(path.relative_to(self._store.root))
            before = len(self._findings)
            with Telling(self._findings, "catalog", name, *users):
                try:
                    self._store.sources.catalog(manifest).check()
                except NotFoundError:
                    raise DamagedError("it is missing") from None
            if len(self._findings) > before:
                named = [commit for commit, found in self._sources.items() if manifest in {s.manifest for s in found}]
                self._unreadable.update(named)

    def lost(self, missing: Mapping[bytes, int], users: Mapping[str, list[str]], commits: Sequence[str]) -> set[bytes]:
        """Of the ``missing`` objects of ``commits`` (digest -> size), those to be told one by one: no source has them.

        ``users`` says what names a commit.
        """
        lost: set[bytes] = set()
        for batch in batches(commits) if missing else ():
            held = _held(self._store, batch)
            lacking = 0
            for digest in missing.keys() & held.keys():
                lacking |= held[digest][1]
            alike: dict[object, list[str]] = {}
            for commit in chosen(batch, lacking):
                alike.setdefault(self._told(commit), []).append(commit)
            for group in alike.values():
                lost.update(self._missing(group, users, batch, held, missing))
        return lost

    def _told(self, commit: str) -> object:
        """What is told of where the objects of a commit are; equal for those with the same sources."""
        sources = frozenset((source.reference, source.gone) for source in self._sources.get(commit, ()))
        return sources, commit in self._unreadable, self._store.sources.is_partial(commit)

    def _missing(
        self,
        group: Sequence[str],
        users: Mapping[str, list[str]],
        batch: Sequence[str],
        held: Mapping[bytes, tuple[int, int]],
        missing: Mapping[bytes, int],
    ) -> set[bytes]:
        """Tell of commits, for which the same is told, that some of what they need is ``missing``; what nobody has."""
        store = self._store
        places = {commit: batch.index(commit) for commit in group}
        all_bits = sum(1 << place for place in places.values())
        needed = {digest: size for digest, (size, bits) in held.items() if bits & all_bits}
        own = {digest: size for digest, size in needed.items() if digest in missing}
        lost = store.residence.lost(group[:1], own)
        nowhere = store.residence.lost(store.sources.commits(), lost)
        unreal = {digest: size for digest, size in own.items() if digest not in lost}
        listing = store.residence.listing(unreal, group[:1])[0]
        sums: dict[int, list[int]] = {}
        for digest, size in needed.items():
            counted = sums.setdefault(held[digest][1] & all_bits, [0] * 7)
            kind = 0 if digest not in own else 1 if digest not in lost else 2
            counted[2 * kind] += 1
            counted[2 * kind + 1] += size
            counted[6] += digest in nowhere
        for commit, place in places.items():
            held_here = (each for bits, each in sums.items() if bits >> place & 1)
            counts = [sum(column) for column in zip(*held_here, strict=True)]
            self._tell(commit, users.get(commit, [commit]), ResidenceCounts(*counts[:6]), counts[6], listing)
        return set() if group[0] in self._unreadable else set(nowhere)

    def _tell(
        self, commit: str, users: list[str], counts: ResidenceCounts, nowhere: int, listing: list[CommitSource]
    ) -> None:
        problems = [(counts.lost - nowhere, ELSEWHERE)]
        if not self._store.sources.is_partial(commit):
            problems.append((counts.unreal, UNMARKED))
        if commit in self._unreadable:
            problems.append((nowhere, UNREADABLE))
        for count, problem in problems:
            if count:
                path = f"commits/{commit}.{SOURCES}"
                self._findings.append(Finding("sources", path, f"{count} {problem}", users, commit=commit))
        self.partial.append(PartialCommit(commit, users, counts, listing))


def _held(store: Store, commits: Sequence[str]) -> dict[bytes, tuple[int, int]]:
    """The objects that ``commits`` need: digest -> (size, which of them do: a bit for each)."""
    held: dict[bytes, tuple[int, int]] = {}
    for lines, bits in lines_of_all(store, commits):
        for digest, size, _ in object_lines(lines):
            known = held.get(digest)
            held[digest] = (size, bits if known is None else known[1] | bits)
    return held
