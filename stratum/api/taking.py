"""Taking a manifest that was pushed to a repository: what it names is kept, and a commit appears in its stratum.

The blobs stay as they came. A commit is checked as by a pull, its tree is written, and its objects can be fetched from
these blobs from then on (``oci.ownblobs``): nothing is unpacked, but for objects which the store has from elsewhere and
the pusher has yet to show to have. Packs that the repository itself offered, and which the pusher built upon, are not
kept as blobs: their objects stay.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING, Protocol

from stratum.errors import ConflictError, DamagedError, NotFoundError, RefusedError, UnsupportedError, UsageError
from stratum.oci.anymanifest import AnyManifest, digest_name, digest_text, name_of_bytes, read_any_manifest
from stratum.oci.descriptor import Descriptor, MalformedError
from stratum.oci.remote import Source, verified
from stratum.oci.target import Target, is_tag
from stratum.refs import DEFAULT_TAG, is_hash, is_name
from stratum.store.offers import PACKS
from stratum.store.repositories import FRESH, MANIFESTS, Pushed

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from stratum.oci.referrers import Referrer
    from stratum.store import Store

_SHOWN = 3


class MissingBlobsError(RefusedError):
    """A manifest names what is not in the repository. ``missing`` are their digests."""

    def __init__(self, message: str, missing: list[str]) -> None:
        super().__init__(message, hint="push what it names first", code="MANIFEST_BLOB_UNKNOWN")
        self.missing = missing


class Blob(Protocol):
    """A blob that can be read."""

    @property
    def size(self) -> int:
        """Bytes of it."""

    @property
    def read(self) -> Callable[[int, int], Iterator[bytes | memoryview]]:
        """Its bytes [start, end), in pieces."""


class Repository(Protocol):
    """What is asked of the repository (``api.registry``)."""

    name: str

    @property
    def store(self) -> Store:
        """The store that it is in."""

    @property
    def jobs(self) -> int:
        """How many processes may work for it."""

    def blob(self, digest: str) -> Blob:
        """A blob that it has. ``NotFoundError``."""

    def has_manifest(self, sha: str) -> bool:
        """Whether a manifest was pushed there, or is offered."""

    def offers(self, sha: str) -> bool:
        """Whether a blob is one of an artifact that is computed there."""

    def offered_as(self, sha: str) -> str | None:
        """The commit whose computed manifest this is."""

    def objects(self) -> set[bytes]:
        """The objects that the commits there need."""


@dataclass(frozen=True, slots=True)
class Put:
    """A manifest that was taken: its digest, and that of the manifest that it refers to, if any."""

    digest: str
    subject: str | None


def take_manifest(repository: Repository, data: bytes, media_type: str, reference: str, by: str) -> Put:
    """``Repository.put_manifest``."""
    name, store, sha = repository.name, repository.store, sha256(data).hexdigest()
    called = digest_name(reference) or sha
    if called != sha and called != name_of_bytes(data, reference):
        raise RefusedError(f"the manifest has the digest sha256:{sha}, and not {reference}", code="DIGEST_INVALID")
    tag = reference if is_tag(reference) and not is_hash(reference) else None
    if tag is None and digest_name(reference) is None and not is_hash(reference):
        raise RefusedError(f"{reference[:140]!a} is not a valid tag")
    try:
        manifest = read_any_manifest(data, media_type)
    except MalformedError as exc:
        raise RefusedError(f"the manifest is not taken: {exc}") from None
    commit = manifest.commit if is_name(name) else None
    if is_hash(reference) and commit != reference:
        raise RefusedError(f"the manifest is not that of commit {reference}")
    if tag is not None and is_name(name):
        _check_tag(store, name, tag, commit)
    with store.locks.store(), ExitStack() as stack:  # so that nothing of it is collected before it is named
        store.repositories.ensure(name)
        _keep_named(repository, manifest)
        _keep_bytes(store, name, data, sha)
        if commit is not None:
            stack.enter_context(_Appearing(repository, data, sha, tag))
        names = [called] if commit is None else list({sha, called})
        store.repositories.add_manifest(name, sha, names, subject=manifest.subject, commit=commit)
        if tag is not None:
            if commit is not None:
                store.tags.set(name, tag, commit, force=True, why=f"pushed{f' by {by}' if by else ''}")
            store.repositories.set_tag(name, tag, Pushed(called, commit))
        store.repositories.drop(name, FRESH, manifest.blobs)
    return Put(digest_text(called), digest_text(manifest.subject) if manifest.subject is not None else None)


def _keep_bytes(store: Store, name: str, data: bytes, sha: str) -> None:
    """Have the manifest itself as a blob."""
    with store.begin(f"taking a manifest of {name}") as tx:
        path = tx.new_path("manifest")
        tx.write_file(path, data)
        tx.sync()
        store.blobs.take_in(path, sha, len(data))


def _check_tag(store: Store, name: str, tag: str, commit: str | None) -> None:
    """``RefusedError`` where the tag cannot name the commit, or something that is none."""
    if commit is not None and not is_name(tag):
        raise RefusedError(f"{tag} cannot be the tag of a commit: such a tag begins with a letter or digit")
    if commit is None and is_name(tag) and store.tags.find(name, tag) is not None:
        raise RefusedError(
            f"{name}:{tag} is a commit, and what is pushed is none",
            hint=f"use another tag, or remove that one: stratum untag {name}:{tag}",
        )


def _keep_named(repository: Repository, manifest: AnyManifest) -> None:
    """Have the repository keep all that a manifest names. ``MissingBlobsError`` where something is not there."""
    name, store = repository.name, repository.store
    missing, left_out = list[str](), set[str]()
    packs: dict[str, Path] = {}
    for sha, size in manifest.blobs.items():
        path = store.repositories.blob(name, sha)
        if path is not None:
            if (there := path.lstat().st_size) != size:
                raise RefusedError(
                    f"the blob {digest_text(sha)} has {there} bytes, and not {size}", code="SIZE_INVALID"
                )
        elif not _keep_computed(repository, sha, size, packs):
            missing += [] if sha in manifest.elsewhere else [digest_text(sha)]
            left_out.add(sha)
    missing += [digest_text(sha) for sha in manifest.manifests if not repository.has_manifest(sha)]
    if missing:
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        raise MissingBlobsError(f"{name} lacks {', '.join(missing[:_SHOWN])}{more}, which the manifest names", missing)
    kept = (sha for sha in manifest.blobs if sha not in packs and sha not in left_out)
    store.repositories.keep(name, kept, packs)


def _keep_computed(repository: Repository, sha: str, size: int, packs: dict[str, Path]) -> bool:
    """Have a blob that the repository offers, or a pack whose manifest it has, kept: small ones as they are, of packs
    what they are made of. Whether there is such a blob."""
    name, store = repository.name, repository.store
    if store.repositories.pack(name, sha) is not None:
        packs[sha] = store.repositories.directory(name, PACKS, sha)
        return True
    if not repository.offers(sha):
        return False
    small = store.offers.blob_path(sha)
    if small is None and store.trees.has_frame(bytes.fromhex(sha)):
        frame = store.trees.frame_file(bytes.fromhex(sha))
        small = store.trees.frame_path(bytes.fromhex(sha)) if sha256(frame).hexdigest() == sha else None
    if small is not None:
        store.blobs.take_in(small, sha, size)
        return store.blobs.size(sha) == size
    pack = store.offers.pack(sha)
    if pack is None or pack.pack.size != size or store.residence.missing(dict(pack.members)):
        return False
    packs[sha] = store.offers.path(PACKS, sha)
    return True


class _FromRepository(Source):
    """A manifest that is being taken, and the blobs of its repository."""

    def __init__(self, repository: Repository, data: bytes, sha: str, tag: str | None) -> None:
        self._repository, self._data, self._sha = repository, data, sha
        digest = f"sha256:{sha}" if tag is None else None
        self.target = Target(own=True, repository=repository.name, tag=tag or DEFAULT_TAG, digest=digest)

    @property
    def noted(self) -> Target:
        return Target(own=True, digest=f"sha256:{self._sha}")

    def get_manifest(self, reference: str) -> tuple[bytes, str]:
        return self._data, f"sha256:{self._sha}"

    def list_tags(self) -> list[str]:
        return []

    def list_referrers(self, subject: str, artifact_type: str) -> list[Referrer]:
        return []  # it has none before it is there

    def has_blob(self, blob: Descriptor) -> bool:
        try:
            return self._repository.blob(blob.digest).size == blob.size
        except NotFoundError:
            return False

    def read_blob(self, blob: Descriptor) -> Iterator[bytes]:
        served = self._repository.blob(blob.digest)
        return verified(map(bytes, served.read(0, served.size)), blob, str(self.target))

    def read_range(self, blob: Descriptor, start: int, size: int) -> bytes | None:
        served = self._repository.blob(blob.digest)
        return b"".join(served.read(start, min(start + size, served.size)))


class _Appearing:
    """A block at whose beginning the commit is in the store, with the blobs as its source, which is locked meanwhile.
    ``RefusedError`` where the artifact is not what it has to be."""

    def __init__(self, repository: Repository, data: bytes, sha: str, tag: str | None) -> None:
        self._repository, self._sha = repository, sha
        self._source = _FromRepository(repository, data, sha, tag)

    def __enter__(self) -> None:
        from stratum.transfer.pull import pulled

        repository = self._repository
        self._pulled = pulled(
            repository.store,
            self._source,
            f"sha256:{self._sha}",
            kind="push",
            jobs=repository.jobs,
            lazy=True,
            proving=self._unproven,
        )
        try:
            self._pulled.__enter__()
        except (DamagedError, UnsupportedError, UsageError) as exc:
            raise RefusedError(f"the commit is not taken: {exc.message}", hint=exc.hint) from None

    def __exit__(self, *exc: object) -> bool | None:
        return self._pulled.__exit__(*exc)  # type: ignore[arg-type]  # what a with statement gives is passed on

    def _unproven(self, objects: Mapping[bytes, int]) -> Mapping[bytes, int]:
        """Those of the objects that the store has, and the repository had in no commit: who knows an object's name
        could otherwise read what others brought."""
        store = self._repository.store
        with store.locks.store():
            missing = store.residence.missing(objects)
            here = {digest: size for digest, size in objects.items() if digest not in missing}
            if not here:
                return {}
            known = self._repository.objects()
        return {digest: size for digest, size in here.items() if digest not in known}


def drop_manifest(repository: Repository, reference: str) -> None:
    """``Repository.delete_manifest``."""
    name, store = repository.name, repository.store
    sha = digest_name(reference)
    if sha is None:
        with store.locks.store():
            there = is_name(name) and is_name(reference) and store.tags.find(name, reference) is not None
            if there:
                store.tags.remove(name, reference, why="deleted by who may write to the registry")
            if not store.repositories.remove_tag(name, reference) and not there:
                raise NotFoundError(f"there is no tag {name}:{reference}")
        return
    with store.locks.store():
        commit, pushed = _commit_of(repository, sha)
        tags = [] if commit is None or not is_name(name) else _tags_of(store, name, commit, sha)
        if not pushed and commit is None:
            raise NotFoundError(f"{name} has no manifest {reference}")
        if not pushed and not tags:
            raise ConflictError(
                f"{reference} is of a commit before others of {name}, which have it in their history",
                hint="it goes when their tags go, by 'stratum gc'",
            )
        for tag in tags:
            store.tags.remove(name, tag, expected=commit, why="deleted by who may write to the registry")
        if pushed:
            data = store.repositories.manifest(name, sha)
            subject = read_any_manifest(data).subject if data is not None else None
            store.repositories.remove_manifest(name, sha, subject)


def _commit_of(repository: Repository, sha: str) -> tuple[str | None, bool]:
    """The commit that a manifest is of, if of one; and whether it was pushed."""
    store, name = repository.store, repository.name
    if store.repositories.has(name, MANIFESTS, sha):
        data = store.repositories.manifest(name, sha)
        try:
            return (read_any_manifest(data).commit if data is not None else None), True
        except MalformedError:
            return None, True
    return repository.offered_as(sha), False


def _tags_of(store: Store, name: str, commit: str, sha: str) -> list[str]:
    """The tags of the commit that lead to the manifest, and not to another that was pushed of it."""
    found = []
    for tag, tagged in store.tags.list(name).items() if store.namespaces.exists_name(name) else ():
        pushed = store.repositories.tag(name, tag)
        other = pushed is not None and pushed.commit == commit and pushed.manifest != sha
        if tagged == commit and not other:
            found.append(tag)
    return found
