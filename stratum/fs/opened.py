"""Commits that are read: of the local store, or of a place, without a store.

What was fetched of a place is shared by all file systems of a process, and its threads: the trees that were read last,
and contents within the bounds of a ``Cache``. A process that was forked begins anew: it uses no connection, lock or
thread of the one that it came from, whatever was open then. It cannot ask object stores where that one has.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from stratum.errors import DamagedError, NotFoundError, UnsupportedError
from stratum.fs.cache import DISK, Cache, DiskCache
from stratum.fs.fetching import Reader, Supplying
from stratum.hydrate.remote import Remote
from stratum.hydrate.supply import Place, Supplies, Supply
from stratum.hydrate.unpacker import UNPACKING
from stratum.oci.descriptor import Descriptor, digest_of
from stratum.oci.places import open_source
from stratum.oci.remote import Source
from stratum.store.catalog import Catalog
from stratum.store.layout import storage_error
from stratum.transfer.artifact import Manifest, read_manifest, read_metadata
from stratum.transfer.catalogs import access_to, source_of, target_of
from stratum.transfer.objects import read_packs
from stratum.transfer.packcatalogs import catalog_of
from stratum.transfer.treeblobs import join_tree
from stratum.tree.contents import objects_of
from stratum.tree.dump import read_dump
from stratum.tree.model import Directory, File

if TYPE_CHECKING:
    from stratum.api.session import Session
    from stratum.oci.access import Access
    from stratum.oci.target import Target
    from stratum.store.metadata import CommitMeta

LANES = 4
"""Requests at the same time."""
_COMMITS_MAX = 8
_KIND = "read"


class Content(Protocol):
    """The content of a file, open."""

    def read(self, start: int, stop: int) -> bytes:
        """Bytes [start, stop), fewer at the end. ``StratumError``."""

    def close(self) -> None:
        """Let go of it."""


class Opened(Protocol):
    """A commit: its hash, the time of the commit, its tree, and the contents of the files in that."""

    @property
    def commit(self) -> str: ...

    @property
    def when(self) -> datetime: ...

    @property
    def root(self) -> Directory: ...

    @property
    def remote(self) -> bool:
        """Whether contents come from elsewhere."""

    def content(self, file: File) -> Content:
        """Open the content of a file of the tree. ``StratumError``."""


@dataclass(frozen=True, slots=True)
class BytesContent:
    """Content that is in memory."""

    data: bytes

    def read(self, start: int, stop: int) -> bytes:
        return self.data[max(0, start) : stop]

    def close(self) -> None:
        return


class ObjectContent:
    """Content in a file of this machine, open as ``fd``, which becomes the content's."""

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def read(self, start: int, stop: int) -> bytes:
        pieces, at = [], start
        try:
            while at < stop and (piece := os.pread(self.fd, stop - at, at)):
                pieces.append(piece)
                at += len(piece)
        except OSError as exc:
            raise storage_error(exc, "read an object") from None
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)

    def __del__(self) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class FetchedContent:
    """Content that is fetched as it is read."""

    reader: Callable[[], Reader]
    digest: bytes
    size: int

    def read(self, start: int, stop: int) -> bytes:
        return self.reader().read(self.digest, self.size, start, stop)

    def close(self) -> None:
        return


# What a process shares


@dataclass(frozen=True, slots=True)
class Caching:
    """How much is kept of what is fetched: bytes in memory and, with a ``directory``, on disk."""

    memory: int
    directory: str | None = None
    disk: int = DISK


class _Shared:
    """What one process has."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self.lock = threading.Lock()
        self.pool: Executor = ThreadPoolExecutor(LANES, thread_name_prefix="stratum-fs")
        self.caches: dict[Caching, Cache] = {}
        self.commits: OrderedDict[tuple[object, ...], PlaceCommit] = OrderedDict()

    def cache(self, caching: Caching) -> Cache:
        with self.lock:
            if caching not in self.caches:
                disk = DiskCache(Path(caching.directory), caching.disk) if caching.directory is not None else None
                self.caches[caching] = Cache(caching.memory, disk)
            return self.caches[caching]

    def commit(self, key: tuple[object, ...], make: Callable[[], PlaceCommit]) -> PlaceCommit:
        with self.lock:
            if key in self.commits:
                self.commits.move_to_end(key)
                return self.commits[key]
        made = make()
        with self.lock:
            made = self.commits.setdefault(key, made)
            while len(self.commits) > _COMMITS_MAX:
                self.commits.popitem(last=False)
            return made


_shared = _Shared()


def shared() -> _Shared:
    """What this process has."""
    global _shared  # noqa: PLW0603 - one for each process
    if _shared.pid != os.getpid():
        _shared = _Shared()
    return _shared


class _ObjectStores:
    """Whether this process can ask object stores: what speaks with them has threads, which a fork leaves behind, and
    waits for these for ever."""

    asked = cut_off = False


def _may_ask(target: Target) -> None:
    """``UnsupportedError`` where ``target`` is an object store, and this process was forked from one that asked one."""
    if target.bucket is None or target.bucket.scheme == "file":
        return
    if _ObjectStores.cut_off:
        raise UnsupportedError(
            f"{target.bucket} cannot be asked by a process that was forked from one that had asked an object store",
            hint="start processes by 'spawn' or 'forkserver' (multiprocessing.get_context), as dask does",
        )
    _ObjectStores.asked = True


def _forked() -> None:
    _ObjectStores.cut_off = _ObjectStores.asked


os.register_at_fork(after_in_child=_forked)
os.register_at_fork(after_in_child=UNPACKING._at_fork_reinit)  # type: ignore[attr-defined]  # as the standard library


class _Readers:
    """The reader of a commit, made when it is first wanted in a process."""

    def __init__(self, make: Callable[[], Reader]) -> None:
        self._make = make
        self._reader: tuple[int, Reader] | None = None

    def __call__(self) -> Reader:
        kept = self._reader
        if kept is None or kept[0] != os.getpid():
            kept = self._reader = os.getpid(), self._make()  # of two threads that come at once, one has its own
        return kept[1]


# Of the local store


class LocalCommit:
    """A commit of the store of ``session``; what of it is not there is fetched from its sources, and not kept there."""

    remote = False

    def __init__(self, session: Session, commit: str, caching: Caching, access: Callable[[], Access]) -> None:
        self.commit = commit
        self._session, self._caching, self._access = session, caching, access
        self._meta: CommitMeta | None = None
        self.root = session.store.commits.open_tree(commit)
        self._reader = _Readers(self._new_reader)

    @property
    def when(self) -> datetime:
        if self._meta is None:
            self._meta = self._session.store.commits.meta(self.commit)
        return time_of(self._meta)

    def content(self, file: File) -> Content:
        if file.digest is None:
            return BytesContent(file.content or b"")
        store = self._session.store
        try:
            return ObjectContent(store.objects.open(file.digest))
        except NotFoundError:
            if not store.sources.is_partial(self.commit):
                raise
        return FetchedContent(self._reader, file.digest, file.size)

    def _new_reader(self) -> Reader:
        scratch = Path(tempfile.gettempdir())
        supplies = Supplies(self._session.store, self.commit, partial(access_to, self._access()), scratch)
        for supply in supplies:
            _may_ask(target_of(supply.remote.source))
        return Reader(supplies, shared().cache(self._caching), shared().pool)


# Of a place


class PlaceCommit:
    """A commit in a place, with the tree that it has there, checked: the manifest has the digest that it was asked for
    by, the tree the hash that the manifest names.

    What its packs hold is asked for with the first content that is read.
    """

    remote = True

    def __init__(
        self,
        target: Target,
        manifest: Manifest,
        meta: CommitMeta,
        root: Directory,
        catalog: Callable[[], Catalog],
        supply: Callable[[Catalog], Supply],
        caching: Caching,
    ) -> None:
        self._target, self.root = target, root
        self.commit, self.when = manifest.commit, time_of(meta)
        self._catalog, self._supply, self._caching = catalog, supply, caching
        self._lock = threading.Lock()
        self._listed: Catalog | None = None
        self._reader = _Readers(self._new_reader)

    def content(self, file: File) -> Content:
        if file.digest is None:
            return BytesContent(file.content or b"")
        return FetchedContent(self._reader, file.digest, file.size)

    def _new_reader(self) -> Reader:
        _may_ask(self._target)
        if self._listed is None:
            self._listed = self._catalog()
        supplies = _One(self._supply(self._listed))
        return Reader(supplies, shared().cache(self._caching), shared().pool)


@dataclass(frozen=True, slots=True)
class _One(Supplying):
    """The only place that there is."""

    supply: Supply

    def places(self, digest: bytes, start: int = 0) -> Iterator[Place]:
        number = self.supply.catalog.find(digest) if start == 0 else None
        if number is not None:
            yield Place(self.supply, self.supply.catalog.member(number))


def time_of(meta: CommitMeta) -> datetime:
    """When a commit was made. ``DamagedError``."""
    try:
        when = datetime.fromisoformat(meta.timestamp.replace("Z", "+00:00"))
    except ValueError:
        raise DamagedError(f"commit {meta.metadata_hash} has no valid time") from None
    return when if when.tzinfo is not None else when.replace(tzinfo=timezone.utc)


def resolve_place(target: Target, access: Access) -> tuple[str, bytes]:
    """(digest, bytes) of the manifest that ``target`` names now. ``StratumError``."""
    _may_ask(target)
    with open_source(target, access) as remote:
        data, digest = remote.get_manifest(target.reference)
    return digest, data


def open_place(
    target: Target, manifest: tuple[str, bytes], access: Callable[[], Access], caching: Caching
) -> PlaceCommit:
    """The commit whose ``manifest`` (digest, bytes) ``resolve_place`` found. ``StratumError``: ``DamagedError`` where
    anything does not match."""
    how = access()
    key = (target.place, manifest[0], caching, how.plain_http, how.ca_file)
    return shared().commit(key, lambda: _open(target, manifest, access, caching))


def _open(target: Target, found: tuple[str, bytes], access: Callable[[], Access], caching: Caching) -> PlaceCommit:
    _may_ask(target)
    where, (digest, data) = str(target), found
    manifest = read_manifest(data, where)
    cache = shared().cache(caching)
    with open_source(target, access()) as remote, ThreadPoolExecutor(LANES) as pool:
        meta = read_metadata(_blob(remote, cache, manifest.config), manifest, where)
        blobs = pool.map(partial(_blob, remote, cache), manifest.trees)
        dump, commit, _ = join_tree(blobs, where)
    if commit != manifest.commit:
        raise DamagedError(f"{where}: the tree is commit {commit}, not {manifest.commit} as it is said to be")
    try:
        root = read_dump(dump)
    except DamagedError as exc:
        raise DamagedError(f"{where}: {exc.message}", hint=exc.hint) from None

    def catalog() -> Catalog:
        needed = objects_of(dump)
        with open_source(target, access()) as remote, ThreadPoolExecutor(LANES) as pool:
            packs = read_packs(manifest.packs, partial(_blob, remote, shared().cache(caching)), where, pool)
        return Catalog(catalog_of(packs, needed), f"the index of {where}")

    def supply(listed: Catalog) -> Supply:
        source = source_of(target, digest, _KIND, access())
        return Supply(0, 0, listed, Remote(source, lambda: access_to(access(), source), Path(tempfile.gettempdir())))

    return PlaceCommit(target, manifest, meta, root, catalog, supply, caching)


def _blob(remote: Source, cache: Cache, blob: Descriptor) -> bytes:
    """A blob of a few MiB, verified: from the cache, or from the place."""

    def right(data: bytes) -> bool:
        return len(data) == blob.size and digest_of(data) == blob.digest

    key = f"{blob.hex}.blob"
    data = cache.load(key, right)
    if data is None:
        data = b"".join(remote.read_blob(blob))
        cache.put(key, data)
    return data
