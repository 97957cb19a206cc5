"""Sources: where the objects of a commit can be fetched from, as pulls, pushes and imports leave it written.

::

    sources/<SHA-256 of a manifest>/catalog   what the packs of that artifact hold (``store.catalog``), for all commits
    sources/<SHA-256 of a manifest>/whole     where that is what changed (``store.catalogchange``), of which catalog:
                                              the same file as that of another manifest, a hard link
    sources/lock                              flock, for the moment in which a sources.toml is changed
    commits/<hash>.sources                    [[source]] for each: reference, manifest, tag?, seen, kind, plain_http?,
                                              ca_file?, gone?; then [check] (``store.tables``)
    commits/<hash>.partial                    empty; there where objects of the commit may be unreal

A commit with the marker ``partial`` is **partial**: some of its objects may be missing, and what shows the commit has
to be ready to fetch them. Nobody who shows a commit without the marker is.

The order of writing is always: the catalog, then the list that names it, then the marker, each durable, and only then
may an object be missing. So a power cut leaves a catalog that no commit names, which a garbage collection takes, or a
marker on a commit that is here whole, which costs a mount a moment. Both files of a new commit are there before it has
its name (``store.commits``); where it never gets it, they are taken by a garbage collection, and the marker by whoever
writes the commit with all its objects. The marker goes when all objects were seen here, after a sync.

Whoever reads or writes here holds the store's lock, shared, but for ``is_partial``.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stratum.errors import DamagedError, ExistsError, NotFoundError, StratumError
from stratum.frozen import frozen, replace
from stratum.refs import is_hash
from stratum.store.layout import Layout, storage_error, storing
from stratum.sys.atomic import fsync_dir
from stratum.sys.locks import locked
from stratum.sys.smallfile import READ
from stratum.sys.syscalls import syncfs

if TYPE_CHECKING:
    from stratum.store.catalog import Catalog
    from stratum.store.transaction import Transaction

SOURCES = "sources"
PARTIAL = "partial"
CATALOG = "catalog"
WHOLE = "whole"
LOCK = "lock"

OWN = "store://blobs"
"""The place that the store's own blobs are (``store.blobs``), as a source of a commit."""

SOURCES_MAX = 1000
"""Sources of one commit. Where there are more, those go that were seen longest ago."""
CATALOG_MAX = 8 << 30
"""Bytes of a catalog: more than that of any commit whose tree is within its limit."""

_FILE_MAX = 16 << 20
_TEXT_MAX = 8192
_MANIFEST = r"sha256:[0-9a-f]{64}"
_TIME = r"(?a:\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ)"
_SEARCH = 20
"""To search a catalog takes about as long as to read so many of its lines."""
_KINDS = ("pull", "push", "import", "inherited")


@frozen
class CommitSource:
    """A place that has objects of a commit.

    ``reference`` names the artifact there by its digest, as ``oci.target`` reads it; ``manifest`` is that digest and
    names the catalog; ``tag`` is what it was found under last. ``seen``: when the place was last known to have it, in
    RFC 3339; ``kind``: "pull", "push", "import", or "inherited" from a commit that this one was made of. ``gone``:
    since when it is known not to have it any more. ``plain_http`` and ``ca_file`` say how the place was spoken to.
    """

    reference: str
    manifest: str
    tag: str | None
    seen: str
    kind: str
    plain_http: bool = False
    ca_file: str | None = None
    gone: str | None = None

    @property
    def at_peer(self) -> bool:
        """Whether the place is a peer."""
        return self.reference.startswith("peer://")

    @property
    def is_own(self) -> bool:
        """Whether it is the blobs of the store itself: then nobody else has it by that."""
        return self.place == OWN

    @property
    def place(self) -> str:
        """The reference without the digest, for people."""
        return self.reference.rpartition("@")[0]


def write_sources(sources: Iterable[CommitSource]) -> bytes:
    """The file with the sources. ``UsageError`` where a path is not Unicode."""
    from stratum.store.tables import write_tables

    tables = []
    for source in sources:
        table: dict[str, Any] = {"reference": source.reference, "manifest": source.manifest}
        if source.tag is not None:
            table["tag"] = source.tag
        table |= {"seen": source.seen, "kind": source.kind}
        if source.plain_http:
            table["plain_http"] = True
        if source.ca_file is not None:
            table["ca_file"] = source.ca_file
        if source.gone is not None:
            table["gone"] = source.gone
        tables.append(table)
    return write_tables({"source": tables}, "where the commit comes from")


def read_sources(data: bytes, where: str) -> list[CommitSource]:
    """What such a file says; ``DamagedError`` names ``where``. Keys that are not known are left out.

    A file without a check is damaged, as one that was cut short between two sources would say too little.
    """
    from stratum.store.tables import is_checked, read_tables

    if not is_checked(data):
        raise _damaged(where, "its check is gone")
    tables = read_tables(data, where).get("source", [])
    if not isinstance(tables, list) or len(tables) > SOURCES_MAX:
        raise _damaged(where, "it holds no list of sources")
    return [_source_of(table, where) for table in tables]


def _source_of(table: object, where: str) -> CommitSource:
    if not isinstance(table, dict):
        raise _damaged(where, "a source is not a table")
    texts: dict[str, Any] = {
        key: table.get(key) for key in ("reference", "manifest", "tag", "seen", "kind", "ca_file", "gone")
    }
    for key, value in texts.items():
        if value is None and key in ("tag", "ca_file", "gone"):
            continue
        if not isinstance(value, str) or not value.isprintable() or not 0 < len(value) <= _TEXT_MAX:
            raise _damaged(where, f"{key} of a source is missing or not a text")
    source = CommitSource(**texts, plain_http=table.get("plain_http", False))
    if not re.fullmatch(_MANIFEST, source.manifest) or not source.reference.endswith(f"@{source.manifest}"):
        raise _damaged(where, "a source does not name a manifest by its digest")
    if not all(re.fullmatch(_TIME, time) for time in (source.seen, source.gone) if time is not None):
        raise _damaged(where, "a source was seen at no time")
    if source.kind not in _KINDS or not isinstance(source.plain_http, bool):
        raise _damaged(where, "a source is of no known kind")
    if source.ca_file is not None and not source.ca_file.startswith("/"):
        raise _damaged(where, "the certificates of a source have no absolute path")
    return source


def _damaged(where: str, why: str) -> DamagedError:
    return DamagedError(f"{where} is damaged: {why}", hint="pull the commit again, or run 'stratum fsck --repair'")


class Sources:
    """The sources of the commits of one store."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def is_partial(self, commit: str) -> bool:
        """Whether objects of the commit may be unreal. One look, on the way of every mount."""
        try:
            os.lstat(f"{self._layout.root}/commits/{commit}.{PARTIAL}")
        except FileNotFoundError:
            return False
        except OSError as exc:
            raise storage_error(exc, f"look at commit {commit}") from None
        return True

    def of(self, commit: str) -> list[CommitSource]:
        """The commit's sources, the last recorded first; none where nothing was recorded. ``DamagedError``."""
        path = self._layout.beside(commit, SOURCES)
        if not os.path.lexists(path):  # most commits, and told at once
            return []
        data = self._layout.content_of(path, _FILE_MAX)
        if data is None:
            return []
        return read_sources(data, str(path))

    def any_partial(self) -> bool:
        """Whether the store has a partial commit."""
        return any(self._with(PARTIAL))

    def commits(self) -> Iterator[str]:
        """The commits that have sources recorded, damaged or not, sorted."""
        return self._with(SOURCES)

    def _with(self, what: str) -> Iterator[str]:
        """The commits that have this file beside them."""
        names = self._layout.names_in(self._layout.commits)
        there = set(names)
        return (commit for commit in names if is_hash(commit) and f"{commit}.{what}" in there)

    def manifests(self) -> list[str]:
        """The manifests that there are catalogs of, sorted."""
        return [f"sha256:{name}" for name in self._layout.names_in(self._layout.sources) if is_hash(name)]

    def catalog_path(self, manifest: str) -> Path:
        """Where the catalog of ``manifest`` is or would be."""
        return self._layout.sources / manifest.removeprefix("sha256:") / CATALOG

    def catalog(self, manifest: str) -> Catalog:
        """The catalog of the artifact with this manifest, mapped; it keeps descriptors for as long as it lives.
        ``NotFoundError``; ``DamagedError`` where it is none."""
        from stratum.store.catalog import Catalog
        from stratum.store.catalogchange import ChangedCatalog, is_change

        path = self.catalog_path(manifest)
        data = self._mapped(path)
        if data is None:
            raise NotFoundError(f"the catalog of {manifest} is not in the store", hint="pull the commit again")
        if not is_change(data):
            return Catalog(data, str(path))
        whole = self._mapped(path.with_name(WHOLE))
        if whole is None:
            raise DamagedError(f"{path} is damaged: what it changes is gone", hint="pull the commit again")
        return ChangedCatalog(Catalog(whole, str(path.with_name(WHOLE))), data, str(path))

    def _mapped(self, path: Path) -> memoryview | None:
        """A file of a catalog; None where there is none."""
        import mmap

        try:
            fd = self._layout.open_beneath(path, READ)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or not 0 < info.st_size <= CATALOG_MAX:
                raise DamagedError(f"{path} is not a catalog", hint="pull the commit again")
            return memoryview(mmap.mmap(fd, info.st_size, prot=mmap.PROT_READ))
        except OSError as exc:
            raise storage_error(exc, f"read {path}") from None
        finally:
            os.close(fd)

    def record(
        self, tx: Transaction, commit: str, source: CommitSource, catalog: bytes | None, of: str | None = None
    ) -> None:
        """Note a source of a commit that the store has, in place of what was noted of the same reference, durably.

        ``catalog`` is written where it is not there as it is; None where it is known to be there. ``of`` is
        ``put_catalog``'s.
        """
        if catalog is not None:
            self.put_catalog(tx, source.manifest, catalog, of)
        with self._changing(tx, commit) as sources:
            sources[:] = joined([source], sources)

    def put_catalog(self, tx: Transaction, manifest: str, data: bytes, of: str | None = None) -> None:
        """Have ``data`` be the catalog of ``manifest``, durably; where it is a change (``store.catalogchange``), one of
        the catalog of the manifest ``of``. ``NotFoundError`` where that is gone."""
        path = self.catalog_path(manifest)
        self._make_directory()
        if self._has(manifest, data):
            return
        directory = tx.new_path("source")
        tx.make_directory(directory)
        tx.write_file(directory / CATALOG, data)
        if of is not None:
            self._link_whole(of, directory / WHOLE)
        try:
            tx.place(directory, path.parent)
        except ExistsError:  # somebody else's, or of what was known of it before, or a directory that lost its file
            if not self._has(manifest, data):
                tx.exchange(directory, path.parent)

    def _link_whole(self, of: str, path: Path) -> None:
        """Have at ``path`` the whole catalog that the one of the manifest ``of`` is or changes."""
        catalog = self.catalog_path(of)
        whole = catalog.with_name(WHOLE)
        try:
            with storing(f"link {catalog}"):
                os.link(whole if os.path.lexists(whole) else catalog, path, follow_symlinks=False)
        except StratumError as exc:
            raise NotFoundError(f"the catalog of {of} is not to be had: {exc.message}") from None

    def forget(self, tx: Transaction, commit: str, reference: str) -> None:
        """Take a source from a commit. The caller has made sure that no object of it is lost with that."""
        with self._changing(tx, commit) as sources:
            sources[:] = [source for source in sources if source.reference != reference]

    def seen(self, tx: Transaction, commit: str, reference: str, when: str, *, gone: bool = False) -> None:
        """Note that the place has the artifact ``when`` (RFC 3339), or that it is ``gone`` by then."""
        with self._changing(tx, commit) as sources:
            sources[:] = [_seen(each, when, gone) if each.reference == reference else each for each in sources]

    def set_partial(self, tx: Transaction, commit: str) -> None:
        """Mark the commit, durably, before an object of it may be missing."""
        if not self.is_partial(commit):
            tx.place_file(b"", self._layout.beside(commit, PARTIAL))

    def clear_partial(self, commit: str) -> None:
        """Take the mark away. The caller has seen all objects of the commit here since it took the store's lock; this
        makes their names durable first."""
        with storing(f"change commit {commit}"), suppress(FileNotFoundError):
            directory = self._layout.open_beneath(self._layout.commits, os.O_RDONLY | os.O_DIRECTORY)
            try:
                syncfs(directory)
                os.unlink(f"{commit}.{PARTIAL}", dir_fd=directory)
                os.fsync(directory)
            finally:
                os.close(directory)

    def begin(self, tx: Transaction, commit: str, new: Iterable[CommitSource], *, partial: bool) -> None:
        """Note all of this of a commit that is about to get its name. The catalogs of the sources are in the store, and
        so are all its objects, with durable names, where it is not ``partial``."""
        listed = joined(new, ())
        if listed:
            with self._changing(tx, commit) as sources:
                sources[:] = joined(listed, sources)
        if partial:
            self.set_partial(tx, commit)
        elif self.is_partial(commit):  # of one that never got its name, or is getting it in this moment
            self.clear_partial(commit)

    def _changing(self, tx: Transaction, commit: str) -> _Changing:
        self._make_directory()
        return _Changing(self, self._layout, tx, commit)

    def _has(self, manifest: str, data: bytes) -> bool:
        """Whether the catalog of ``manifest`` can be read and is ``data``."""
        try:
            same = self._layout.read_beneath(self.catalog_path(manifest), len(data)) == data
            return same and self.catalog(manifest) is not None
        except (OSError, DamagedError, NotFoundError):
            return False

    def _make_directory(self) -> None:
        path = self._layout.sources
        with storing(f"make {path}"):
            with suppress(FileExistsError):
                path.mkdir(mode=0o755)
                fsync_dir(self._layout.root)
            if not stat.S_ISDIR(path.lstat().st_mode):
                raise DamagedError(f"{path} is not a directory", hint="run 'stratum fsck --repair'")


class _Changing:
    """A block that changes the list of a commit's sources, one process at a time. A list that is damaged is begun
    anew where something is added to it."""

    def __init__(self, sources: Sources, layout: Layout, tx: Transaction, commit: str) -> None:
        self._sources = sources
        self._tx = tx
        self._commit = commit
        self._path = layout.beside(commit, SOURCES)
        self._lock = locked(layout.sources / LOCK, what="the list of sources")

    def __enter__(self) -> list[CommitSource]:
        with storing(f"change {self._path}"):
            self._lock.acquire()
        try:
            self._before = self._sources.of(self._commit)
        except DamagedError:
            self._before = []
        except BaseException:
            self._lock.release()
            raise
        self._list = list(self._before)
        return self._list

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        try:
            if kind is None and self._list != self._before:
                self._tx.place_file(write_sources(self._list), self._path)
        finally:
            self._lock.release()


def joined(first: Iterable[CommitSource], then: Iterable[CommitSource]) -> list[CommitSource]:
    """Both lists as one, each reference once: what stands first counts. Of too many, the longest unseen go."""
    found: dict[str, CommitSource] = {}
    for source in (*first, *then):
        found.setdefault(source.reference, source)
    if len(found) <= SOURCES_MAX:
        return list(found.values())
    kept = sorted(found.values(), key=lambda source: (source.gone is None, source.seen), reverse=True)[:SOURCES_MAX]
    return [source for source in found.values() if source in kept]


def not_listed(objects: Mapping[bytes, int], catalog: bytes | Catalog) -> dict[bytes, int]:
    """Those of ``objects`` (digest -> size) that the catalog does not list. ``DamagedError`` where it is none."""
    from stratum.store.catalog import Catalog

    if isinstance(catalog, bytes):
        catalog = Catalog(catalog)
    if len(objects) * _SEARCH > len(catalog):
        left = dict(objects)
        for digest, size in catalog.digests():
            if left.get(digest) == size:
                del left[digest]
        return left
    found = ((digest, size, catalog.find(digest)) for digest, size in objects.items())
    return {digest: size for digest, size, number in found if number is None or catalog.member(number).size != size}


def _seen(source: CommitSource, when: str, gone: bool) -> CommitSource:
    if gone:
        return replace(source, gone=source.gone or when)
    return replace(source, seen=when, gone=None)
