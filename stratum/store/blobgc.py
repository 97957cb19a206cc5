"""What goes of what others pushed (``store.repositories``), and of artifacts that were computed (``store.offers``).

A pushed manifest stays

- as long as a tag leads to it: of the repository, or of the stratum where it is of a commit; or
- where it was last pushed of a commit that is kept and not here whole, which is fetched from its blobs;
- within ``FRESH_KEPT`` after it was put, as somebody may be about to name it, unless its last tag was deleted;
- while an index that stays names it, or it refers to a manifest that stays, or to the artifact of a commit that is
  kept.

With it stay the blobs that it names, and the objects of computed packs. What else is linked in a repository goes, blobs
that arrived and were never named after ``FRESH_KEPT``, uploads after ``UPLOAD_KEPT``, and repositories in which nothing
is left. A blob goes when no repository has it and no partial commit has it as its source. Whatever looks like a digest
in a manifest counts as named, so that nothing depends on how manifests are read.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from stratum.errors import DamagedError, NotFoundError
from stratum.refs import is_name
from stratum.store import offers
from stratum.store.repositories import BLOBS, COMMITS, FRESH, MANIFESTS, PACKS, REFERRERS, TAGS, UPLOADS, Pushed
from stratum.store.sources import OWN
from stratum.store.uploads import UPLOAD_KEPT
from stratum.sys.atomic import TEMPORARY_PREFIX

if TYPE_CHECKING:
    from stratum.store.store import Store

_DIGEST = re.compile(rb"sha(?:256:([0-9a-f]{64})|512:([0-9a-f]{128}))(?![0-9a-f])")


@dataclass(slots=True)
class GoingBlobs:
    """``files`` go, and free what they take; ``links`` are names that go before: directory -> names; ``repositories``
    are directories in which nothing is left; ``sources`` what commits are told no more: commit -> reference."""

    files: list[Path] = field(default_factory=list)
    links: dict[Path, list[str]] = field(default_factory=dict)
    repositories: list[Path] = field(default_factory=list)
    sources: list[tuple[str, str]] = field(default_factory=list)

    def link(self, path: Path) -> None:
        """One more name that goes."""
        self.links.setdefault(path.parent, []).append(path.name)


def pushed_lately(store: Store) -> Iterator[tuple[str, str]]:
    """(commit, why it is kept) of commits that were pushed within ``FRESH_KEPT``, be there a tag or not."""
    repositories = store.repositories
    for name in filter(is_name, repositories.names()):
        for commit in repositories.files(name, COMMITS):
            manifest = repositories.of_commit(name, commit)
            if manifest is not None and repositories.is_fresh(name, MANIFESTS, manifest):
                yield commit, f"pushed to {name} lately"


def going_blobs(store: Store, kept: Collection[str]) -> GoingBlobs:
    """What goes where the commits ``kept`` stay. The caller holds the store's lock."""
    going = GoingBlobs()
    offered = _offers(store, kept, going)
    stay: set[int | str] | None = set()
    for name in store.repositories.names():
        staying = _Repository(store, name, kept, offered, going).sweep()
        if stay is not None and staying is not None:
            stay |= staying
        else:
            stay = None  # of a repository that cannot be read, all blobs may be
    if stay is not None:
        _blobs(store, kept, stay, going)
    return going


def remove_blobs(store: Store, going: GoingBlobs, drop: Callable[[Iterable[Path]], None]) -> None:
    """Remove it; ``drop`` does that with files. The caller holds the store's lock exclusively."""
    for directory, names in going.links.items():
        store.transactions.discard_all(directory, names)
    if going.sources:
        with store.begin("forgetting blobs") as tx:
            for commit, reference in going.sources:
                if store.commits.exists(commit):
                    store.sources.forget(tx, commit, reference)
    drop(going.files)
    for path in going.repositories:
        store.transactions.discard(path)


class _Repository:
    """What of one repository stays."""

    def __init__(
        self, store: Store, name: str, kept: Collection[str], offered: Collection[str], going: GoingBlobs
    ) -> None:
        self._store, self._repositories = store, store.repositories
        self._name, self._kept, self._offered, self._going = name, kept, offered, going
        self._named: dict[str, set[str]] = {}

    def sweep(self) -> set[int | str] | None:
        """Note what goes; names and inodes of the blobs that stay, None where that cannot be known. One that was pushed
        by its SHA-512 has another name in the store, and in a store that was copied links may be files of their own."""
        name, repositories = self._name, self._repositories
        try:
            self._named = {sha: self._names(sha) for sha in repositories.files(name, MANIFESTS)}
        except DamagedError:
            return None
        live = self._closed(self._roots())
        named = set[str]().union(*(self._named[sha] for sha in live))
        self._drop(MANIFESTS, self._named.keys() - live)
        self._drop(COMMITS, [file for file in self._files(COMMITS) if self._of_commit(file) not in live])
        self._drop(TAGS, [tag for tag in self._files(TAGS) if (found := self._tag(tag)) and found.manifest not in live])
        self._drop(BLOBS, [sha for sha in self._files(BLOBS) if sha not in named])
        self._drop(PACKS, [sha for sha in self._files(PACKS) if sha not in named])
        fresh = [sha for sha in self._files(FRESH) if repositories.is_fresh(name, FRESH, sha) and sha not in named]
        self._drop(FRESH, set(self._files(FRESH)).difference(fresh))
        self._drop_referrers(live)
        uploads = self._uploads()
        if not (live or fresh or uploads):
            self._going.repositories.append(repositories.directory(name))
        blobs = named.intersection(self._files(BLOBS))
        return {*self._inodes(MANIFESTS, live), *self._inodes(BLOBS, blobs), *self._inodes(FRESH, fresh)}

    def _files(self, part: str) -> list[str]:
        return self._repositories.files(self._name, part)

    def _is_partial(self, commit: str) -> bool:
        return self._store.sources.is_partial(commit)

    def _tag(self, tag: str) -> Pushed | None:
        return self._repositories.tag(self._name, tag)

    def _of_commit(self, commit: str) -> str | None:
        return self._repositories.of_commit(self._name, commit)

    def _names(self, sha: str) -> set[str]:
        """All digests in a manifest. ``DamagedError``."""
        return named_in(self._repositories.manifest(self._name, sha) or b"")

    def _roots(self) -> set[str]:
        """The manifests that stay by themselves. Tags that the stratum has not so any more go."""
        store, name, found = self._store, self._name, set[str]()
        tags: Mapping[str, str] = {}
        if is_name(name) and store.namespaces.exists_name(name):
            tags = store.tags.list(name)
        for tag in self._files(TAGS):
            pushed = self._tag(tag)
            if pushed is not None and (pushed.commit is None or tags.get(tag) == pushed.commit):
                found.add(pushed.manifest)
            else:
                self._drop(TAGS, [tag])
        of_tags = set(tags.values())
        for commit in self._files(COMMITS):
            manifest = self._of_commit(commit)
            if manifest is not None and commit in self._kept and (commit in of_tags or self._is_partial(commit)):
                found.add(manifest)
        found.update(sha for sha in self._named if self._repositories.is_fresh(name, MANIFESTS, sha))
        return found & self._named.keys()

    def _closed(self, roots: set[str]) -> set[str]:
        """With what indexes among them name, and what refers to any of them, and so on."""
        live, waiting = set[str](), [*roots]
        for subject in self._offered:
            waiting += self._repositories.referrers(self._name, subject)
        while waiting:
            sha = waiting.pop()
            if sha in live or sha not in self._named:
                continue
            live.add(sha)
            waiting += self._named[sha]
            waiting += self._repositories.referrers(self._name, sha)
        return live

    def _drop(self, part: str, names: Iterable[str]) -> None:
        directory = self._repositories.directory(self._name, part)
        known = self._going.links.setdefault(directory, [])
        known += sorted(set(names).difference(known))
        if not known:
            del self._going.links[directory]

    def _drop_referrers(self, live: Collection[str]) -> None:
        for subject in self._files(REFERRERS):
            directory = self._repositories.directory(self._name, REFERRERS, subject)
            left = [sha for sha in self._files(f"{REFERRERS}/{subject}") if sha in live]
            if not left:
                self._going.repositories.append(directory)
            elif gone := [sha for sha in self._files(f"{REFERRERS}/{subject}") if sha not in live]:
                self._going.links[directory] = gone

    def _uploads(self) -> int:
        """How many uploads go on."""
        count, directory = 0, self._repositories.directory(self._name, UPLOADS)
        for upload in self._files(UPLOADS):
            with suppress(FileNotFoundError):
                if time.time() - (directory / upload).lstat().st_mtime > UPLOAD_KEPT:
                    self._going.files.append(directory / upload)
                else:
                    count += 1
        return count

    def _inodes(self, part: str, names: Iterable[str]) -> Iterator[int | str]:
        directory = self._repositories.directory(self._name, part)
        for name in names:
            yield name
            with suppress(FileNotFoundError):
                yield os.lstat(directory / name).st_ino


def named_in(manifest: bytes) -> set[str]:
    """Whatever a manifest names by a digest, be it as what it may: the hex digits."""
    return {(short or long).decode() for short, long in _DIGEST.findall(manifest)}


def _blobs(store: Store, kept: Collection[str], stay: set[int | str], going: GoingBlobs) -> None:
    """The blobs that no repository has, but for those that partial commits are fetched from."""
    try:
        sources = [(commit, manifest) for commit in kept for manifest in _own_sources(store, commit)]
    except DamagedError:
        return  # it is not known which are needed; fsck tells
    needed = set[str]()
    for commit, manifest in sources:
        if store.sources.is_partial(commit):
            sha = manifest.removeprefix("sha256:")
            needed.add(sha)
            with suppress(NotFoundError), open(store.blobs.open(sha), "rb") as file:
                needed |= named_in(file.read())
    gone = set[str]()
    for sha in store.blobs.list():
        path = store.blobs.path(sha)
        with suppress(FileNotFoundError):
            if sha not in needed and sha not in stay and path.lstat().st_ino not in stay:
                gone.add(sha)
                going.files.append(path)
    lost = [(commit, manifest) for commit, manifest in sources if manifest.removeprefix("sha256:") in gone]
    going.sources += [(commit, f"{OWN}@{manifest}") for commit, manifest in lost]
    for directory, _ in store.blobs.directories():
        for name in store.layout.names_in(directory):
            if name.startswith(TEMPORARY_PREFIX):
                going.files.append(directory / name)


def _own_sources(store: Store, commit: str) -> list[str]:
    """The manifests by which a commit is in the store's own blobs. ``DamagedError``."""
    return [source.manifest for source in store.sources.of(commit) if source.is_own]


def _offers(store: Store, kept: Collection[str], going: GoingBlobs) -> set[str]:
    """The manifests of the offers that stay; what goes of the others is noted."""
    kinds = {kind: store.offers.names(kind) for kind in offers.DIRECTORIES}
    manifests, named, lists = set[str](), set[str](), set[str]()
    for commit in kinds[offers.COMMITS]:
        offer = store.offers.of(commit) if commit in kept else None
        if offer is None:
            going.files.append(store.offers.path(offers.COMMITS, commit))
            continue
        manifests.add(offer.manifest.sha)
        named.update((offer.manifest.sha, *(blob.sha for blob in offer.blobs)))
    for sha in kinds[offers.PACKS]:
        listed = store.offers.listed_as(sha) if sha in named else None
        if listed is None:
            going.files.append(store.offers.path(offers.PACKS, sha))
        else:
            lists.add(listed)
    for name in kinds[offers.LISTS]:
        if name not in lists:
            going.link(store.offers.path(offers.LISTS, name))
    going.files += [store.offers.path(offers.BLOBS, sha) for sha in kinds[offers.BLOBS] if sha not in named]
    return manifests
