"""The part of a check that looks at where commits can be fetched from, and at what of them is not here.

An object that is missing is no damage where a source of the commit that needs it lists it: such objects are counted,
commit by commit. It is damage of the commit alone where only sources of others do, or where nobody would fetch it as
the commit is not marked partial; both can be mended. Where no source lists it, it is lost.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.store.findings import Finding, Telling
from stratum.store.residence import ResidenceCounts
from stratum.store.sources import SOURCES, CommitSource
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

    def lost(self, missing: Mapping[bytes, int], users: Mapping[str, list[str]], commits: Iterable[str]) -> set[bytes]:
        """Of the ``missing`` objects of ``commits`` (digest -> size), those to be told one by one: no source has them.

        ``users`` says what names a commit.
        """
        lost: set[bytes] = set()
        for commit in commits if missing else ():
            needed = {digest: size for digest, size, _ in object_lines(self._store.commits.dump(commit))}
            own = {digest: size for digest, size in needed.items() if digest in missing}
            if own:
                lost.update(self._missing(commit, users.get(commit, [commit]), needed, own))
        return lost

    def _missing(
        self, commit: str, users: list[str], needed: Mapping[bytes, int], missing: Mapping[bytes, int]
    ) -> set[bytes]:
        """Tell of a commit that ``missing`` of its ``needed`` objects are; those that nobody has."""
        store = self._store
        lost = store.residence.lost([commit], missing)
        nowhere = store.residence.lost(store.sources.commits(), lost)
        path = f"commits/{commit}"
        problems = [(len(lost) - len(nowhere), ELSEWHERE)]
        if not store.sources.is_partial(commit):
            problems.append((len(missing) - len(lost), UNMARKED))
        if commit in self._unreadable:
            problems.append((len(nowhere), UNREADABLE))
        for count, problem in problems:
            if count:
                self._findings.append(Finding("sources", path, f"{count} {problem}", users, commit=commit))
        here, unreal = set(needed) - set(missing), set(missing) - set(lost)
        counts = ResidenceCounts(
            len(here),
            sum(map(needed.__getitem__, here)),
            len(unreal),
            sum(map(needed.__getitem__, unreal)),
            len(lost),
            sum(lost.values()),
        )
        listing = store.residence.listing({digest: needed[digest] for digest in unreal}, [commit])[0]
        self.partial.append(PartialCommit(commit, users, counts, listing))
        return set() if commit in self._unreadable else set(nowhere)
