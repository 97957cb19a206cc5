"""The store as a registry: what a server of the OCI distribution API asks, and nothing of HTTP.

A repository is a stratum, with the artifacts of its commits, which are computed (``transfer.offering``), and what
others pushed under that name. Names of repositories that are no names of strata have only the latter.

What a repository of a stratum has are the commits that its tags name, and of their ancestors, as the commits tell of
them, those that tags or worktrees of the stratum were at, or that came to it by a push or a sync: what a commit says of
its parent is the word of whoever made it. Nothing else of the store can be had through it. Threads may share all of it.
"""

from __future__ import annotations

import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import ConflictError, DamagedError, NotFoundError, RefusedError
from stratum.oci.anymanifest import digest_name, digest_text, read_any_manifest
from stratum.oci.descriptor import MalformedError
from stratum.oci.mediatypes import MANIFEST_MEDIA_TYPE
from stratum.oci.target import is_repository, is_tag
from stratum.refs import is_hash, is_name
from stratum.store.layout import storage_error
from stratum.store.moves import OWNED
from stratum.store.offers import COMMITS
from stratum.store.repositories import BLOBS, FRESH, MANIFESTS, PACKS
from stratum.store.repositories import COMMITS as PUSHED

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.api.taking import Put
    from stratum.store import Store
    from stratum.store.madepacks import MadePacks
    from stratum.store.offers import Offer, OfferedPack
    from stratum.store.repositories import Pushed
    from stratum.store.uploads import Upload
    from stratum.transfer.offering import RawPack

_REMEMBERED = 64
"""Packs whose members are kept in memory."""
_PIECE = 1 << 20
_TICK = 0.1
"""Seconds: two changes that are less apart may have one time in the file system."""


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
    """A blob of ``size`` bytes. ``read(start, end)`` gives the bytes [start, end) in pieces of at most 1 MiB or so.

    Where nearly all of them are in one file, ``open`` opens that for reading, and ``parts(start, end)`` tells what they
    are: bytes, and ranges [first, last) of the file. Else, where it costs much to make them, ``pack`` is the name by
    which they may be kept (``Registry.made``)."""

    size: int
    read: Callable[[int, int], Iterator[bytes | memoryview]]
    open: Callable[[], int] | None = None
    parts: Callable[[int, int], Iterator[bytes | tuple[int, int]]] = lambda start, end: iter([(start, end)])
    pack: str | None = None


class Registry:
    """The repositories of a session's store. ``made`` are the packs that are kept as they are made for others."""

    def __init__(self, session: Session, made: MadePacks | None = None) -> None:
        self.made = made
        self._session = session
        self._lock = threading.Lock()
        self._repositories: dict[str, Repository] = {}

    def repositories(self, last: str | None, count: int) -> list[str]:
        """Names of repositories, sorted: at most ``count`` of those behind ``last``."""
        store = _store_of(self._session)
        if store is None:
            return []
        return _page(sorted({*store.names(), *store.repositories.names()}), last, count)

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
        self._reached: tuple[tuple[float, ...], float, set[str]] = ((), 0.0, set())
        self._packs: OrderedDict[str, RawPack] = OrderedDict()

    @property
    def store(self) -> Store:
        """The store that it is in."""
        return self._session.store

    @property
    def jobs(self) -> int:
        """How many processes may work for one request."""
        return self._session.config.jobs

    def exists(self) -> bool:
        """Whether there is such a repository."""
        store = _store_of(self._session) if is_repository_name(self.name) else None
        return store is not None and (store.namespaces.exists_name(self.name) or store.repositories.exists(self.name))

    def tags(self, last: str | None, count: int) -> list[str]:
        """Tags, sorted: at most ``count`` of those behind ``last``."""
        self._check()
        store = self.store
        found = set(store.tags.names(self.name) if store.namespaces.exists_name(self.name) else ())
        found.update(tag for tag, pushed in store.repositories.tags(self.name).items() if self._counts(pushed))
        return _page(sorted(found), last, count)

    def _counts(self, pushed: Pushed) -> bool:
        """Whether it is a tag without the stratum's having it."""
        return pushed.commit is None

    def manifest(self, reference: str) -> Served:
        """The manifest that ``reference`` names: a tag, a digest, or a commit's 64 hex digits. ``NotFoundError``, also
        where the commit is not here whole."""
        self._check()
        sha = digest_name(reference)
        if sha is not None:
            return self._by_digest(sha)
        store, name = self.store, self.name
        pushed = store.repositories.tag(name, reference) if is_tag(reference) else None
        commit = reference if is_hash(reference) else None
        if commit is None and is_name(name) and is_name(reference):
            commit = store.tags.find(name, reference)
        if pushed is not None and pushed.commit == commit:
            return self._pushed(pushed.manifest)
        if commit is None:
            raise self._no_manifest(reference)
        manifest = store.repositories.of_commit(name, commit)
        if manifest is not None:
            return self._pushed(manifest)
        if commit not in self._commits():
            raise self._no_manifest(reference)
        return self._served(self._offer(commit))

    def stand(self, reference: str) -> object:
        """Something else whenever ``manifest`` may be, which is found out at once."""
        if not is_tag(reference) or not self.exists():
            return None
        store, name = self.store, self.name
        pushed = store.repositories.tag(name, reference)
        commit = store.tags.find(name, reference) if is_name(name) and is_name(reference) else None
        return pushed and pushed.manifest, commit

    def blob(self, digest: str) -> ServedBlob:
        """A blob of one of the manifests here. ``NotFoundError``."""
        self._check()
        sha = digest_name(digest)
        if sha is not None:
            path = self.store.repositories.blob(self.name, sha)
            if path is not None:
                return _of_file(path)
            if self.store.repositories.has(self.name, PACKS, sha):
                pack = self._pack(sha, partial(self.store.repositories.pack, self.name))
                if pack is not None:
                    return self._computed(sha, pack)
            commit = self._commit_with(sha)
            if commit is not None:
                return self._blob_of(commit, sha)
        raise NotFoundError(f"{self.name} has no blob {digest}")

    def referrers(self, digest: str, artifact_type: str | None) -> list[dict[str, Any]]:
        """Descriptors of the manifests that refer to the one with the digest, of a type where one is given."""
        self._check()
        found, repositories = list[dict[str, Any]](), self.store.repositories
        subject = digest_name(digest)
        for sha in repositories.referrers(self.name, subject) if subject is not None else ():
            try:
                data = repositories.manifest(self.name, sha)
                manifest = read_any_manifest(data) if data is not None else None
            except (DamagedError, MalformedError):  # fsck tells
                continue
            if data is None or manifest is None or artifact_type not in (None, manifest.artifact_type):
                continue
            entry: dict[str, Any] = {"mediaType": manifest.media_type, "digest": digest_text(sha), "size": len(data)}
            entry |= {"artifactType": manifest.artifact_type} if manifest.artifact_type else {}
            entry |= {"annotations": manifest.annotations} if manifest.annotations else {}
            found.append(entry)
        return found

    def put_manifest(self, data: bytes, media_type: str, reference: str, *, by: str | None = None) -> Put:
        """Take a manifest, all of whose blobs are here, under a tag or its digest. A commit appears in the stratum.
        ``by`` says who pushed it. ``RefusedError`` where it is not what it has to be; ``MissingBlobsError``."""
        from stratum.api.taking import take_manifest

        self._check_name()
        return take_manifest(self, data, media_type, reference, by or "")

    def delete_manifest(self, reference: str) -> None:
        """Remove a tag, or by its digest a manifest with all its tags. ``NotFoundError``; ``ConflictError`` where a tag
        is pinned, or the manifest is of a commit that others have in their history."""
        from stratum.api.taking import drop_manifest

        self._check()
        drop_manifest(self, reference)

    def delete_blob(self, digest: str) -> None:
        """Remove a blob that was pushed. ``NotFoundError``; ``ConflictError`` where a manifest here names it."""
        self._check()
        sha, repositories = digest_name(digest), self.store.repositories
        with self.store.locks.store():
            if sha is not None and repositories.has(self.name, BLOBS, sha) and self._is_named(sha):
                raise ConflictError(f"a manifest of {self.name} names the blob {digest}: that is to be deleted first")
            gone = [part for part in (BLOBS, FRESH) if sha is not None and repositories.drop(self.name, part, [sha])]
        if not gone:
            raise NotFoundError(f"nobody pushed a blob {digest} to {self.name}")

    def _is_named(self, sha: str) -> bool:
        """Whether a manifest that was pushed names the blob."""
        repositories = self.store.repositories
        for manifest in repositories.files(self.name, MANIFESTS):
            with suppress(DamagedError, MalformedError):  # fsck tells
                data = repositories.manifest(self.name, manifest)
                if data is not None and sha in read_any_manifest(data).blobs:
                    return True
        return False

    def mount(self, digest: str, source: str) -> bool:
        """Have a blob here that the repository ``source`` has; whether that worked. Who may read ``source`` is the
        caller's to know."""
        self._check_name()
        sha = digest_name(digest)
        if sha is None or not is_repository_name(source):
            return False
        with self.store.locks.store():
            return self.store.repositories.mount(self.name, sha, source)

    def begin_upload(self) -> Upload:
        """Begin to receive a blob."""
        self._check_name()
        return self.store.uploads.begin(self.name)

    def upload(self, upload_id: str) -> Upload:
        """An upload that was begun. ``NotFoundError``."""
        self._check()
        return self.store.uploads.get(self.name, upload_id)

    # What who takes manifests asks

    def has_manifest(self, sha: str) -> bool:
        """Whether a manifest was pushed here, or is offered."""
        return self.store.repositories.has(self.name, MANIFESTS, sha) or self.offered_as(sha) is not None

    def offers(self, sha: str) -> bool:
        """Whether a blob is one of an artifact that is computed here."""
        return self._commit_with(sha) is not None

    def offered_as(self, sha: str) -> str | None:
        """The commit whose computed manifest this is."""
        commit = self._commit_with(sha)
        offer = self.store.offers.of(commit) if commit is not None else None
        return commit if offer is not None and offer.manifest.sha == sha else None

    def objects(self) -> set[bytes]:
        """The objects that the commits here need. ``DamagedError`` where that cannot be known."""
        from stratum.store.needed import Needed

        needed = Needed(self.store.layout, self.store.trees)
        needed.add(sorted(self._commits()))
        return needed.objects

    def _check_name(self) -> None:
        """Before anything is written: then a store is made where there is none yet."""
        if not is_repository_name(self.name):
            raise RefusedError(f"{self.name[:140]!a} is not a valid name of a repository", code="NAME_INVALID")
        self._session.create_store()

    def _check(self) -> None:
        if not self.exists():
            raise NoRepositoryError(f"there is no repository {self.name}")

    def _no_manifest(self, reference: str) -> NotFoundError:
        return NotFoundError(f"{self.name} has no manifest {reference}")

    def _commits(self) -> set[str]:
        """The commits of the stratum that are here."""
        if not self.store.namespaces.exists_name(self.name):
            return set()
        stamp = self._stamp()
        known, since, found = self._reached
        if known != stamp or since - stamp[0] < _TICK:  # what changed in the same moment may not be in it
            found, since = self._walked(), time.time()
            self._reached = stamp, since, found
        return found

    def _stamp(self) -> tuple[float, ...]:
        """When a tag or a move was made last, or a commit got its name, and what tells it besides."""
        infos: list[os.stat_result] = []
        layout, pushed = self.store.layout, self.store.repositories.directory(self.name, PUSHED)
        for path in (layout.tags(self.name), layout.moves(self.name) / OWNED, layout.reflog(self.name), pushed):
            with suppress(OSError):
                infos.append(path.lstat())
        latest = max((info.st_ctime for info in infos), default=0.0)
        return (latest, *(number for info in infos for number in (info.st_ino, info.st_ctime_ns, info.st_size)))

    def _walked(self) -> set[str]:
        """The same, looked for."""
        store, found = self.store, set[str]()
        moved = store.moves.commits(self.name)
        own = moved.union(store.reflog.named(self.name), store.repositories.files(self.name, PUSHED))
        waiting = [*store.tags.list(self.name).values(), *moved]
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
            if parent is not None and parent in own:
                waiting.append(parent)
        return found

    def _offer(self, commit: str, *, again: bool = False) -> Offer:
        """The artifact of a commit, made once, however many ask for it; ``again`` where something of it is lost."""
        from stratum.transfer.offering import offered

        with self._lock:
            making = self._making.setdefault(commit, threading.Lock())
        try:
            with making:
                offer = offered(self.store, commit, jobs=self.jobs, again=again)
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
            for commit in new.intersection(self.store.offers.names(COMMITS)):
                offer = self.store.offers.of(commit)
                if offer is not None:
                    self._index(offer)
            found = self._blobs.get(sha)
        return found if found in commits else None

    def _pushed(self, sha: str) -> Served:
        """A manifest as it was pushed."""
        data = self.store.repositories.manifest(self.name, sha)
        if data is None:
            raise self._no_manifest(digest_text(sha))
        try:
            return Served(data, read_any_manifest(data).media_type, digest_text(sha))
        except MalformedError as exc:
            raise DamagedError(f"the manifest {digest_text(sha)} cannot be read: {exc}") from None

    def _by_digest(self, sha: str) -> Served:
        if self.store.repositories.has(self.name, MANIFESTS, sha):
            return self._pushed(sha)
        commit = self._commit_with(sha)
        if commit is not None:
            offer = self._offer(commit)
            if offer.manifest.sha == sha:
                return self._served(offer)
        raise self._no_manifest(digest_text(sha))

    def _served(self, offer: Offer) -> Served:
        data = self.store.offers.blob(offer.manifest.sha)
        if data is None:
            raise self._no_manifest(offer.commit)
        return Served(data, MANIFEST_MEDIA_TYPE, f"sha256:{offer.manifest.sha}")

    def _blob_of(self, commit: str, sha: str, *, again: bool = False) -> ServedBlob:
        """A blob of the artifact of a commit. What of that is lost is made ``again``, once."""
        store = self.store
        data = store.offers.blob(sha)
        if data is None and store.trees.has_frame(bytes.fromhex(sha)):
            data = store.trees.frame_file(bytes.fromhex(sha))
        if data is not None:
            kept = data
            return ServedBlob(len(kept), lambda start, end: _pieces(kept, start, end))
        found = self._pack(sha, store.offers.pack)
        offer = store.offers.of(commit) if found is None else None
        if offer is not None and sha in offer.pushed and store.blobs.size(sha) is not None:
            return _of_file(store.blobs.path(sha))
        if found is None:
            if again or sha not in {blob.sha for blob in self._offer(commit, again=True).blobs}:
                raise NotFoundError(f"{self.name} has no blob sha256:{sha}")
            return self._blob_of(commit, sha, again=True)
        if store.sources.is_partial(commit) and store.residence.missing(dict(found.index.members)):
            raise NotFoundError(f"blob sha256:{sha} of {self.name} is not here whole")
        return self._computed(sha, found)

    def _pack(self, sha: str, read: Callable[[str], OfferedPack | None]) -> RawPack | None:
        """A pack that is computed, remembered or as ``read`` gives it."""
        from stratum.transfer.offering import RawPack

        with self._lock:
            if sha in self._packs:
                self._packs.move_to_end(sha)
                return self._packs[sha]
        kept = read(sha)
        if kept is None:
            return None
        pack = RawPack(kept.members)
        with self._lock:
            self._packs[sha] = pack
            while len(self._packs) > _REMEMBERED:
                self._packs.popitem(last=False)
        return pack

    def _computed(self, sha: str, pack: RawPack) -> ServedBlob:
        objects = self.store.objects.opener
        read, members = partial(pack.read, objects), pack.index.members
        if len(members) > 1:
            return ServedBlob(pack.size, read, pack=sha)
        return ServedBlob(pack.size, read, partial(objects.open, members[0].digest), pack.around)


def _store_of(session: Session) -> Store | None:
    """The store, where there is one by now."""
    try:
        return session.store
    except NotFoundError:
        return None


def is_repository_name(name: str) -> bool:
    """Whether a repository can have this name: what the distribution specification allows, or the name of a stratum."""
    return is_repository(name) or is_name(name)


def _of_file(path: Path) -> ServedBlob:
    def opened() -> int:
        try:
            return os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None

    def read(start: int, end: int) -> Iterator[bytes]:
        with open(opened(), "rb", buffering=0) as file:
            try:
                file.seek(start)
                while start < end and (piece := file.read(min(_PIECE, end - start))):
                    start += len(piece)
                    yield piece
            except OSError as exc:
                raise storage_error(exc, f"read {path}") from None

    return ServedBlob(path.lstat().st_size, read, opened)


def _pieces(data: bytes, start: int, end: int) -> Iterator[bytes]:
    for at in range(start, end, _PIECE):
        yield data[at : min(at + _PIECE, end)]


def _page(names: list[str], last: str | None, count: int) -> list[str]:
    return [name for name in names if last is None or name > last][:count]
