"""The store as a registry: what a server of the OCI distribution API asks, and nothing of HTTP.

A repository is a stratum, with the artifacts of its commits, which are computed (``transfer.offering``), and what
others pushed under that name. Names of repositories that are no names of strata have only the latter.

What a repository of a stratum has are the commits that its tags name, and their ancestors; nothing else of the store
can be had through it. Threads may share all of it.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, NotFoundError
from stratum.oci.descriptor import is_digest
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.refs import is_hash, is_name

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.store import Store
    from stratum.store.offers import Offer

_REMEMBERED = 64
"""Packs whose members are kept in memory."""
_PIECE = 1 << 20


class NoRepositoryError(NotFoundError):
    """There is no such repository: neither a stratum of that name nor anything that was pushed."""


@dataclass(frozen=True, slots=True)
class Served:
    """A manifest: its bytes, media type and digest."""

    data: bytes
    media_type: str
    digest: str


@dataclass(frozen=True, slots=True)
class ServedBlob:
    """A blob of ``size`` bytes. ``read(start, end)`` gives the bytes [start, end) in pieces of at most 1 MiB or so;
    where ``file`` is set, they are those of this file."""

    size: int
    read: Callable[[int, int], Iterator[bytes]]
    file: Path | None = None


@dataclass(frozen=True, slots=True)
class Put:
    """A manifest that was taken: its digest, and that of the manifest that it refers to, if any."""

    digest: str
    subject: str | None


class Upload:
    """A blob on its way. Survives a restart of the server."""

    id: str

    @property
    def offset(self) -> int:
        """Bytes that have arrived."""
        raise NotImplementedError

    def append(self, pieces: Iterator[bytes], start: int) -> int:
        """Add bytes, which must begin where the last ended, or ``ConflictError``; how many there are now."""
        raise NotImplementedError

    def finish(self, digest: str) -> None:
        """Have the blob in the repository. ``RefusedError`` where the bytes are not what the digest says."""
        raise NotImplementedError

    def cancel(self) -> None:
        """Forget it."""
        raise NotImplementedError


class Registry:
    """The repositories of a session's store."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._lock = threading.Lock()
        self._repositories: dict[str, Repository] = {}

    def repositories(self, last: str | None, count: int) -> list[str]:
        """Names of repositories, sorted: at most ``count`` of those behind ``last``."""
        if self._session.no_store_yet:
            return []
        return _page(self._session.store.names(), last, count)

    def repository(self, name: str) -> Repository:
        """The repository with this name, whether it exists or not: every method that reads raises
        ``NoRepositoryError`` then."""
        with self._lock:
            found = self._repositories.get(name)
            if found is None:
                found = Repository(self._session, name)
                if found.exists():
                    self._repositories[name] = found
            return found


class Repository:
    """One repository."""

    def __init__(self, session: Session, name: str) -> None:
        self.name = name
        self._session = session
        self._lock = threading.RLock()
        self._making: dict[str, threading.Lock] = {}
        self._parents: dict[str, str | None] = {}
        self._blobs: dict[str, str] = {}
        self._indexed: set[str] = set()
        self._packs: OrderedDict[str, Any] = OrderedDict()

    @property
    def _store(self) -> Store:
        return self._session.store

    def exists(self) -> bool:
        """Whether there is such a repository."""
        if self._session.no_store_yet:
            return False
        return is_name(self.name) and self._store.namespaces.exists_name(self.name)

    def tags(self, last: str | None, count: int) -> list[str]:
        """Tags, sorted: at most ``count`` of those behind ``last``."""
        self._check()
        return _page(self._store.tags.names(self.name), last, count)

    def manifest(self, reference: str) -> Served:
        """The manifest that ``reference`` names: a tag, a digest, or a commit's 64 hex digits. ``NotFoundError``, also
        where the commit is not here whole."""
        self._check()
        if is_digest(reference):
            return self._by_digest(reference.removeprefix("sha256:"))
        commit = reference if is_hash(reference) else self._tagged(reference)
        if commit is None or commit not in self._commits():
            raise self._no_manifest(reference)
        return self._served(self._offer(commit))

    def blob(self, digest: str) -> ServedBlob:
        """A blob of one of the manifests here. ``NotFoundError``."""
        self._check()
        sha = digest.removeprefix("sha256:")
        if is_digest(digest):
            commit = self._commit_with(sha)
            if commit is not None:
                return self._blob_of(commit, sha)
        raise NotFoundError(f"{self.name} has no blob {digest}")

    def referrers(self, digest: str, artifact_type: str | None) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to the one with the digest, of a type where one is given."""
        self._check()
        return []

    def put_manifest(self, data: bytes, media_type: str, reference: str) -> Put:
        """Take a manifest, all of whose blobs are here, under a tag or its digest. ``RefusedError``."""
        raise NotImplementedError

    def delete_manifest(self, reference: str) -> None:
        """Remove a tag, or by its digest a manifest with all its tags. ``NotFoundError``, ``ConflictError``."""
        raise NotImplementedError

    def delete_blob(self, digest: str) -> None:
        """Remove a blob that was pushed. ``NotFoundError``."""
        raise NotImplementedError

    def mount(self, digest: str, source: str) -> bool:
        """Have a blob here that the repository ``source`` has; whether that worked. Who may read ``source`` is the
        caller's to know."""
        raise NotImplementedError

    def begin_upload(self) -> Upload:
        """Begin to receive a blob."""
        raise NotImplementedError

    def upload(self, name: str) -> Upload:
        """An upload that was begun. ``NotFoundError``."""
        raise NotImplementedError

    def _check(self) -> None:
        if not self.exists():
            raise NoRepositoryError(f"there is no repository {self.name}")

    def _no_manifest(self, reference: str) -> NotFoundError:
        return NotFoundError(f"{self.name} has no manifest {reference}")

    def _tagged(self, tag: str) -> str | None:
        return self._store.tags.find(self.name, tag) if is_name(tag) else None

    def _commits(self) -> set[str]:
        """The commits that the tags name, and their ancestors, as far as they are here."""
        store, found = self._store, set[str]()
        waiting = list(self._store.tags.list(self.name).values())
        while waiting:
            commit = waiting.pop()
            if commit in found:
                continue
            if commit not in self._parents:
                try:
                    self._parents[commit] = store.commits.parent(commit)
                except (NotFoundError, DamagedError):
                    continue
            found.add(commit)
            parent = self._parents[commit]
            if parent is not None:
                waiting.append(parent)
        return found

    def _offer(self, commit: str) -> Offer:
        """The artifact of a commit, made once, however many ask for it."""
        from stratum.transfer.offering import offered

        with self._lock:
            making = self._making.setdefault(commit, threading.Lock())
        try:
            with making:
                offer = offered(self._store, commit, jobs=self._session.config.jobs)
        finally:
            with self._lock:
                self._making.pop(commit, None)
        self._index(offer)
        return offer

    def _index(self, offer: Offer) -> None:
        with self._lock:
            self._indexed.add(offer.commit)
            for blob in (offer.manifest, *offer.blobs):
                self._blobs[blob.sha] = offer.commit

    def _commit_with(self, sha: str) -> str | None:
        """A commit of the repository whose artifact names the blob, or is the manifest, with this digest."""
        commits = self._commits()
        found = self._blobs.get(sha)
        if found is None or found not in commits:
            with self._lock:
                if self._indexed - commits:
                    self._blobs.clear()
                    self._indexed.clear()
                new = commits - self._indexed
            for commit in new:
                offer = self._store.offers.of(commit)
                if offer is not None:
                    self._index(offer)
            found = self._blobs.get(sha)
        return found if found in commits else None

    def _by_digest(self, sha: str) -> Served:
        commit = self._commit_with(sha)
        if commit is not None:
            offer = self._offer(commit)
            if offer.manifest.sha == sha:
                return self._served(offer)
        raise self._no_manifest(f"sha256:{sha}")

    def _served(self, offer: Offer) -> Served:
        data = self._store.offers.blob(offer.manifest.sha)
        if data is None:
            raise self._no_manifest(offer.commit)
        return Served(data, MANIFEST_MEDIA_TYPE, f"sha256:{offer.manifest.sha}")

    def _blob_of(self, commit: str, sha: str) -> ServedBlob:
        store = self._store
        data = store.offers.blob(sha)
        if data is None and store.trees.has_frame(bytes.fromhex(sha)):
            data = store.trees.frame_file(bytes.fromhex(sha))
        if data is not None:
            kept = data
            return ServedBlob(len(kept), lambda start, end: _pieces(kept, start, end))
        pack = self._pack(sha)
        objects = store.objects
        return ServedBlob(pack.size, lambda start, end: pack.read(objects, start, end))

    def _pack(self, sha: str) -> Any:
        from stratum.transfer.offering import RawPack

        with self._lock:
            if sha in self._packs:
                self._packs.move_to_end(sha)
                return self._packs[sha]
        kept = self._store.offers.pack(sha)
        if kept is None:
            raise NotFoundError(f"{self.name} has no blob sha256:{sha}")
        pack = RawPack(kept.members)
        with self._lock:
            self._packs[sha] = pack
            if len(self._packs) > _REMEMBERED:
                self._packs.popitem(last=False)
        return pack


def _pieces(data: bytes, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _PIECE):
        yield data[at : min(at + _PIECE, end)]


def _page(names: list[str], last: str | None, count: int) -> list[str]:
    return [name for name in names if last is None or name > last][:count]
