"""The part of a check that looks at what others pushed, and at what is kept of computed artifacts; and mending that.

A blob that is damaged or missing is damage of the manifests that name it: pushing it again brings it back, as does
fetching for the commit what other sources have. A link that a repository lacks is made again. What is kept of a
computed artifact is made again when somebody asks for it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError, StratumError
from stratum.store import offers
from stratum.store.findings import Finding, Kind, Telling
from stratum.store.repositories import BLOBS, COMMITS, FRESH, MANIFESTS, PACKS, TAGS

if TYPE_CHECKING:
    from stratum.store.store import Store
    from stratum.store.survey import Survey

UNLINKED = "its manifest names a blob that the repository lacks and the store has"
_UNREADABLE = "it cannot be read"


class BlobCheck:
    """Of one check, whose ``findings`` get what is found."""

    def __init__(self, store: Store, survey: Survey, findings: list[Finding], *, read_data: bool) -> None:
        self._store, self._survey, self._findings, self._read_data = store, survey, findings, read_data
        self._users: dict[str, list[str]] = {}

    def run(self) -> None:
        """Check all of it."""
        for name in self._store.repositories.names():
            self._repository(name)
        self._sources()
        self._blobs()
        self._offers()

    def _tell(self, kind: Kind, path: str, problem: str, hurts: list[str]) -> None:
        self._findings.append(Finding(kind, path, problem, hurts))

    def _repository(self, name: str) -> None:
        repositories = self._store.repositories
        for sha in repositories.files(name, MANIFESTS):
            user = f"{name}@{sha[:12]}"
            self._users.setdefault(sha, []).append(user)
            with suppress(DamagedError):  # its blob is looked at
                for blob in named_blobs(repositories.manifest(name, sha) or b"{}"):
                    self._users.setdefault(blob, []).append(user)
                    if not any(repositories.has(name, part, blob) for part in (BLOBS, PACKS)):
                        self._lacks(name, blob, user)
        for part in (TAGS, COMMITS):
            for file in repositories.files(name, part):
                if not repositories.can_be_read(name, part, file):
                    self._tell("repository", self._path(name, part, file), _UNREADABLE, [name])
        for sha in repositories.files(name, PACKS):
            with Telling(self._findings, "repository", self._path(name, PACKS, sha), *self._users.get(sha, [name])):
                repositories.pack(name, sha)

    def _lacks(self, name: str, blob: str, user: str) -> None:
        path = self._path(name, BLOBS, blob)
        if self._store.blobs.size(blob) is not None:
            self._tell("repository", path, UNLINKED, [user])
        else:
            self._tell("blob", path, "it is missing", [user])

    def _path(self, name: str, part: str, file: str) -> str:
        return str(self._store.repositories.directory(name, part, file).relative_to(self._store.root))

    def _sources(self) -> None:
        """What partial commits are fetched from."""
        store = self._store
        for commit in store.sources.commits():
            if not store.sources.is_partial(commit):
                continue
            with suppress(StratumError):  # what of that is damaged is told of the commit
                for source in store.sources.of(commit):
                    for sha in self._needed(source.manifest) if source.is_own and source.gone is None else ():
                        self._users.setdefault(sha, []).append(commit[:12])
                        if store.blobs.size(sha) is None:
                            path = str(store.blobs.path(sha).relative_to(store.root))
                            self._tell("blob", path, "it is missing", self._store.users_of(commit) or [commit])

    def _needed(self, manifest: str) -> Iterator[str]:
        """The blobs with the objects of a source, but for those whose packs are computed."""
        packs = self._store.sources.catalog(manifest).packs
        computed = {
            sha for name in self._store.repositories.names() for sha in self._store.repositories.files(name, PACKS)
        }
        yield from (sha for pack in packs if (sha := pack.pack.sha256.hex()) not in computed)

    def _blobs(self) -> None:
        blobs = self._store.blobs
        for sha in blobs.list():
            path = blobs.path(sha)
            findings = list(self._survey.look(path))
            problem = None
            if self._read_data and not findings:
                try:
                    blobs.verify(sha)
                except NotFoundError:  # collected at this moment
                    continue
                except StratumError as exc:
                    problem = exc.message
            if problem is not None:
                findings.append(Finding("blob", str(path.relative_to(self._store.root)), problem))
            for finding in findings:
                finding.hurts += self._users.get(sha, [])
            self._findings += findings

    def _offers(self) -> None:
        kept = self._store.offers
        looks: tuple[tuple[str, Callable[[str], object]], ...] = (
            (offers.COMMITS, kept.of),
            (offers.PACKS, kept.pack),
            (offers.BLOBS, kept.blob),
        )
        for kind, look in looks:
            for name in kept.names(kind):
                if look(name) is None and os.path.lexists(kept.path(kind, name)):
                    self._tell("offer", str(kept.path(kind, name).relative_to(self._store.root)), _UNREADABLE, [])


def named_blobs(manifest: bytes) -> list[str]:
    """The blobs that have to be where a manifest is, which was taken once: the hex digits of their digests."""
    try:
        value = json.loads(manifest)
        blobs = [value["config"], *value["layers"]] if "layers" in value else []
        return [
            blob["digest"].partition(":")[2]
            for blob in blobs
            if not blob.get("urls") and "foreign" not in blob["mediaType"] and "distributable" not in blob["mediaType"]
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return []


class BlobRepair:
    """Of one repair, whose ``take`` puts the path of a finding into quarantine. Each method that mends a finding says
    what it did, or None."""

    def __init__(self, store: Store, take: Callable[[Finding], str | None]) -> None:
        self._store, self._take = store, take

    def blob(self, finding: Finding) -> str | None:
        """Out of the way, in all repositories too, so that the next push brings a whole one."""
        if not finding.path.startswith("blobs/"):
            return None
        path = self._store.root / finding.path
        try:
            inode = path.lstat().st_ino
        except FileNotFoundError:
            return None
        repositories = self._store.repositories
        for name in repositories.names():
            for part in (BLOBS, FRESH, MANIFESTS):
                repositories.drop(name, part, self._links(name, part, inode))
        taken = self._take(finding)
        finding.problem += "; pushing it again brings it back"
        return taken if not finding.hurts else None

    def _links(self, name: str, part: str, inode: int) -> list[str]:
        directory, found = self._store.repositories.directory(name, part), list[str]()
        for file in self._store.repositories.files(name, part):
            with suppress(FileNotFoundError):
                if (directory / file).lstat().st_ino == inode:
                    found.append(file)
        return found

    def repository(self, finding: Finding) -> str | None:
        """Make the link that is missing; what else cannot be read goes."""
        _, directory, _, sha = finding.path.split("/")[:4]
        if finding.problem == UNLINKED:
            self._store.repositories.keep(directory.replace("+", "/"), [sha], {})
            return "linked again"
        taken = self._take(finding)
        return taken if f"/{PACKS}/" not in finding.path else None

    def offer(self, finding: Finding) -> str | None:
        """Out of the way."""
        self._take(finding)
        return "it is made again when somebody asks for it"
