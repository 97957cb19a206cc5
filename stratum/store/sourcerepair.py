"""Mending what tells of where commits can be fetched from, and having damaged objects fetched from there again.

A commit whose sources are damaged gets those back that can be known: where it was pulled from, as its metadata say, and
what other commits of the store say of the objects that it lacks. Whether such a place still has them is not asked here,
and what is fetched from it later is compared with its name.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, StratumError
from stratum.frozen import replace
from stratum.store.findings import Finding
from stratum.store.sourcecheck import ELSEWHERE, UNMARKED, UNREADABLE
from stratum.store.sources import PARTIAL, CommitSource, read_sources, write_sources
from stratum.tree.contents import objects_of

if TYPE_CHECKING:
    from stratum.store.store import Store

FetchCatalog = Callable[[CommitSource], bytes]
"""Makes the catalog of an artifact anew from what the place says; ``StratumError``."""

_MANIFEST = re.compile(r"sha256:[0-9a-f]{64}")
_PULLED = {"pull": "pull", "repair": "pull", "import": "import"}


class SourceRepair:
    """Of one repair, whose ``take`` puts the path of a finding into quarantine. Each method that mends a finding says
    what it did, or None."""

    def __init__(self, store: Store, take: Callable[[Finding], str | None], fetch_catalog: FetchCatalog | None) -> None:
        self._store = store
        self._take = take
        self._fetch_catalog = fetch_catalog

    def catalog(self, finding: Finding) -> str | None:
        """Fetch a catalog anew. Where that cannot be, and nothing is missing, nobody needs it."""
        manifest = f"sha256:{finding.path.split('/')[1]}"
        named = [(commit, source) for commit in self._commits() for source in self._named(commit, manifest)]
        fetch = self._fetch_catalog
        for source in dict.fromkeys(source for _, source in named):
            if fetch is None:
                break
            try:
                data = fetch(source)
            except StratumError as exc:
                finding.problem += f"; it cannot be fetched anew: {exc.message}"
                continue
            self._take(finding)
            with self._store.begin(f"repairing {finding.path}") as tx:
                self._store.sources.put_catalog(tx, manifest, data)
            return f"fetched anew from {source.place}"
        if any(self._store.sources.is_partial(commit) and self._missing(commit) for commit, _ in named):
            return None
        taken = self._take(finding)
        with self._store.begin(f"repairing {finding.path}") as tx:
            for commit, source in named:
                self._store.sources.forget(tx, commit, source.reference)
                self._store.sources.clear_partial(commit)
        return f"{taken or 'gone'}; all is here that it is needed for, so that this source is forgotten"

    def sources(self, finding: Finding) -> str | None:
        """Mend what a commit says of its sources, or have it say so where it does not."""
        commit, store = finding.commit, self._store
        assert commit is not None
        if finding.problem.endswith(UNMARKED):
            self._mark(commit)
            return "marked partial, so that they are fetched when they are read"
        taken = None if finding.problem.endswith((ELSEWHERE, UNREADABLE)) else self._take(finding)
        told = None if self._told(commit) else self._from_origin(commit)
        if told is not None:
            with store.begin(f"repairing {finding.path}") as tx:
                store.sources.record(tx, commit, told, None)
        found = self._inherit(commit)
        if found is None:
            finding.problem += "; nothing tells where what is missing is"
            return None
        known = f"what is missing is fetched from {found}" if found else "all of the commit is here"
        return f"{taken}; {known}" if taken else known

    def let_be_fetched(self, finding: Finding) -> str | None:
        """Have every commit that needs a damaged object fetch it again; None where not all can."""
        if finding.digest is None or finding.size is None or not finding.needed_by:
            return None
        objects = {finding.digest: finding.size}
        lost = self._store.residence.lost(self._store.sources.commits(), objects)
        if lost:
            return None
        for commit in finding.needed_by:
            self._inherit(commit, objects)
            self._mark(commit)
        sources = self._store.residence.sources_of(finding.digest)
        return f"it is fetched from {sources[0].place} when it is read"

    def mark_again(self, finding: Finding) -> None:
        """After something that was no marker was taken from a marker's place."""
        directory, _, name = finding.path.partition("/")
        commit = name.removesuffix(f".{PARTIAL}")
        if directory == "commits" and commit != name and self._missing(commit):
            self._mark(commit)

    def _inherit(self, commit: str, objects: dict[bytes, int] | None = None) -> str | None:
        """Give a commit the sources of others that have what it lacks; the places of all that it needs then, "" where
        it lacks nothing, None where some of it is nowhere."""
        store = self._store
        missing = self._missing(commit) if objects is None else objects
        lost = store.residence.lost([commit], missing)
        listing = [source for source in store.residence.listing(lost)[0] if source.gone is None]
        nowhere = store.residence.lost(store.sources.commits(), lost)
        with store.begin(f"repairing commit {commit}") as tx:
            for source in listing:
                store.sources.record(tx, commit, replace(source, kind="inherited"), None)
        if missing:
            self._mark(commit)
        if nowhere:
            return None
        places = [source.place for source in store.residence.listing(missing, [commit])[0]]
        return ", ".join(dict.fromkeys(places))

    def _missing(self, commit: str) -> dict[bytes, int]:
        try:
            return self._store.residence.missing(objects_of(self._store.commits.dump(commit)))
        except DamagedError:
            return {}

    def _mark(self, commit: str) -> None:
        with self._store.begin(f"repairing commit {commit}") as tx:
            self._store.sources.set_partial(tx, commit)

    def _commits(self) -> list[str]:
        return list(self._store.sources.commits())

    def _named(self, commit: str, manifest: str) -> list[CommitSource]:
        return [source for source in self._told(commit) if source.manifest == manifest]

    def _told(self, commit: str) -> list[CommitSource]:
        try:
            return self._store.sources.of(commit)
        except DamagedError:
            return []

    def _from_origin(self, commit: str) -> CommitSource | None:
        """The source that a commit was pulled from, where its metadata say that and the catalog is there."""
        try:
            meta = self._store.commits.meta(commit)
        except StratumError:
            return None
        origin = meta.origin or {}
        kind, where, manifest = (origin.get(key) for key in ("kind", "reference", "manifest"))
        if kind not in _PULLED or not isinstance(where, str) or not isinstance(manifest, str):
            return None
        if not _MANIFEST.fullmatch(manifest) or manifest not in self._store.sources.manifests():
            return None
        place, at, _ = where.partition("@")
        if not at and "?" not in where:  # where a tag is followed by how the place is reached, it does no harm
            place = where.rpartition(":")[0]
        source = CommitSource(f"{place}@{manifest}", manifest, None, meta.timestamp, _PULLED[kind])
        try:
            return read_sources(write_sources([source]), "its metadata")[0]
        except StratumError:
            return None
